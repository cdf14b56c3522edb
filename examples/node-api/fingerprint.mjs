// Which queue is this? bullpy's workers say the same of theirs: equal fingerprints mean one and the
// same queue, whatever the URLs are. In a service of your own you need this file and ioredis.
//
//   node fingerprint.mjs QUEUE [--prefix PREFIX] [--serve PORT]     REDIS_URL, HOST (127.0.0.1)

import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { Redis } from 'ioredis';

/** The fingerprint of a queue by what the server answers; `connection` is a client of ioredis. */
export async function fingerprint(connection, { prefix = 'bull', queue }) {
  // In a cluster, INFO would ask any node: this asks the one that has the queue.
  const asked = connection.isCluster
    ? connection.eval("return redis.call('INFO')", 1, `${prefix}:${queue}:meta`)
    : connection.call('INFO');
  const [info, error] = await asked.then((text) => [text], ({ message }) => ['', message]);
  const field = (name) => RegExp(`^${name}:(\\w+)`, 'm').exec(info)?.[1] ?? null;
  const [run_id, replid] = [field('run_id'), field('master_replid')];
  const client = connection.isCluster ? '' : await connection.call('CLIENT', 'INFO').catch(() => '');
  const { host, port, path, db: chosen = 0 } = connection.options;
  const db = Number(/\bdb=(\d+)/.exec(client)?.[1] ?? chosen);
  const server = run_id ?? replid;
  const digest = createHash('sha256').update([server, db, prefix, queue].join('\n')).digest('hex');
  const fp = server && digest.slice(0, 12);
  const where = path ?? (connection.isCluster ? 'cluster' : `redis://${host}:${port}`);
  const line =
    `queue fp=${fp ?? 'unknown'} run_id=${server?.slice(0, 8) ?? 'unknown'} db=${db} ` +
    `prefix=${prefix} queue=${queue} via ${where}${error ? ` (INFO fails: ${error})` : ''}`;
  return { fingerprint: fp, run_id, replid, db, prefix, queue, lang: 'node', line, error };
}

/** A handler for node:http and Express: `app.get('/health/queue', health(redis, { queue }))`. */
export const health = (connection, options, within = 5_000) => async (request, response) => {
  const late = new Promise((resolve) => {
    setTimeout(resolve, within, { error: 'Redis does not answer' }).unref();
  });
  const answer = fingerprint(connection, options).catch((error) => ({ error: error.message }));
  const body = await Promise.race([answer, late]);
  response.writeHead(body.error ? 503 : 200, { 'content-type': 'application/json' });
  response.end(`${JSON.stringify(body)}\n`);
};

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const options = { prefix: { type: 'string' }, serve: { type: 'string' } };
  const { values, positionals: [queue] } = parseArgs({ options, allowPositionals: true });
  if (!queue || !process.env.REDIS_URL) throw new Error('give QUEUE, and REDIS_URL');
  const redis = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: 3 });
  redis.on('error', (error) => console.error(`redis: ${error.message}`));
  console.log((await fingerprint(redis, { prefix: values.prefix, queue })).line);
  if (!values.serve) redis.disconnect();
  else createServer(health(redis, { prefix: values.prefix, queue }))
    .listen(Number(values.serve), process.env.HOST ?? '127.0.0.1', function listening() {
      console.log(`listening on port ${this.address().port}`);
    });
}
