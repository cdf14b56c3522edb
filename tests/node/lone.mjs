// One worker, or one producer, of bullmq in a process of its own: for tests that freeze it,
// kill it, set its clock wrong, or let it fail without end.
//
//   node lone.mjs 3|4|5|6 '<json>'
//
//   queue, prefix, connection    as bullmq takes them; `prefix` is "bull" by default
//   cluster                      [{host, port}, ...] in place of `connection`
//   jobs                         makes it a producer: [[name, data, opts], ...], added at once
//   options, behaviour, params   of a worker, see behaviours.mjs
//   clock                        milliseconds by which its clock is wrong
//   lifetime                     milliseconds after which a worker ends with exit code 1
//
// It prints `ready`, `added <id>` and `processing <id>`, and of its errors only the first.

const [generation, text] = process.argv.slice(2);
const asked = JSON.parse(text);
const { queue, cluster, prefix = 'bull', jobs, options = {}, clock = 0 } = asked;

// Before anything is loaded that keeps a reference to it.
const { now } = Date;
Date.now = () => now() + clock;

const { behaviours } = await import('./behaviours.mjs');
const bullmq = await import(`bullmq${generation}`);
const { Cluster } = await import('ioredis');
const connection = cluster
  ? new Cluster(cluster, { redisOptions: { maxRetriesPerRequest: null } })
  : asked.connection;

let failed = 0;
const report = (error) => {
  if (++failed === 1) say(`error ${error.message}`);
};
process.on('unhandledRejection', report);

function say(line) {
  process.stdout.write(`${line}\n`);
}

async function produce() {
  const producer = new bullmq.Queue(queue, { connection, prefix, ...options });
  producer.on('error', report);
  await producer.waitUntilReady();
  say('ready');
  for (const [name, data, opts] of jobs) say(`added ${(await producer.add(name, data, opts)).id}`);
}

async function work() {
  const context = { released: new Promise(() => {}), worker: () => worker };
  const processor = behaviours(bullmq, asked.params ?? {}, context)[asked.behaviour ?? 'echo'];
  const told = async (job, token) => {
    say(`processing ${job.id}`);
    return processor(job, token);
  };
  const worker = new bullmq.Worker(queue, told, { connection, prefix, ...options, autorun: false });
  worker.on('error', report);
  await worker.waitUntilReady();
  say('ready');
  if (asked.lifetime) setTimeout(() => process.exit(1), asked.lifetime);
  if (options.autorun !== false) await worker.run();
}

process.stdout.on('error', () => process.exit(1));
await (jobs ? produce() : work());
