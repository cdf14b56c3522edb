// A small HTTP API in front of the queue `audio-analyzer`.
//
//   POST /analyses {"fileName": "song.wav"}   202 {"id", "state"}
//   GET  /analyses/<id>                       200 {"id", "fileName", "state", "progress", ...}
//   GET  /health/queue                        200 {"fingerprint", "run_id", "db", "prefix", ...}
//
// Environment: REDIS_URL (required), PORT (3000; 0 takes a free one), HOST (127.0.0.1).

import { createServer } from 'node:http';

import { Analyses, QUEUE } from './analyses.mjs';
import { fingerprint } from './fingerprint.mjs';
import { connect } from './redis.mjs';

const BODY_LIMIT = 64 * 1024;
const ANSWER_WITHIN_MS = 15_000;
const CLOSE_WITHIN_MS = 5_000;
const MODES = ['genre', 'reference', 'comparison'];
const PORT = Number(process.env.PORT ?? 3000);
const HOST = process.env.HOST ?? '127.0.0.1';

class HttpError extends Error {
  constructor(status, message, headers = {}) {
    super(message);
    Object.assign(this, { status, headers });
  }
}

const redis = connect();
const analyses = new Analyses(redis);

async function route(request) {
  const [pathname] = request.url.split('?', 1);
  if (pathname === '/analyses') {
    allow(request, ['POST']);
    const id = await analyses.add(checked(await readJson(request)));
    return { status: 202, body: { id, state: 'waiting' }, headers: { location: `/analyses/${id}` } };
  }
  if (pathname === '/health/queue') {
    allow(request, ['GET', 'HEAD']);
    const body = await fingerprint(redis, { queue: QUEUE });
    return { status: body.error ? 503 : 200, body };
  }
  const [, id] = /^\/analyses\/([^/]+)$/.exec(pathname) ?? [];
  if (id === undefined) throw new HttpError(404, `there is nothing at ${pathname}`);
  allow(request, ['GET', 'HEAD']);
  const analysis = await analyses.get(decoded(id));
  if (!analysis) throw new HttpError(404, `there is no analysis ${id}`);
  return { status: 200, body: analysis };
}

function allow(request, methods) {
  if (methods.includes(request.method)) return;
  const message = `${request.method} is not possible here, only ${methods.join(', ')}`;
  throw new HttpError(405, message, { allow: methods.join(', ') });
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new HttpError(400, 'the id in the path is not valid URL encoding');
  }
}

async function readJson(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > BODY_LIMIT) throw new HttpError(413, `a body has at most ${BODY_LIMIT} bytes`);
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    throw new HttpError(400, 'the body is not JSON');
  }
}

function checked(body) {
  if (body === null || typeof body !== 'object' || Array.isArray(body)) {
    throw new HttpError(400, 'the body is not a JSON object');
  }
  const { fileName, fileKey = fileName, mode = 'genre' } = body;
  for (const [field, value] of Object.entries({ fileName, fileKey })) {
    if (typeof value !== 'string' || value === '') {
      throw new HttpError(400, `${field}: a file name is needed`);
    }
  }
  if (!/\.(wav|flac|mp3)$/i.test(fileKey)) {
    throw new HttpError(400, 'fileKey: only .wav, .flac and .mp3 files can be analysed');
  }
  if (!MODES.includes(mode)) throw new HttpError(400, `mode: one of ${MODES.join(', ')}`);
  return body;
}

// A client of Redis waits as long as Redis is away. A caller of HTTP should not.
async function inTime(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    const error = new HttpError(503, 'Redis does not answer; try again later');
    timer = setTimeout(() => reject(error), ANSWER_WITHIN_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function handle(request, response) {
  let answer;
  try {
    answer = await inTime(route(request));
  } catch (error) {
    if (!(error instanceof HttpError)) console.error(error);
    const { status = 500, headers } = error instanceof HttpError ? error : {};
    const message = status === 500 ? 'something went wrong on the server' : error.message;
    answer = { status, headers, body: { error: message } };
  }
  const body = `${JSON.stringify(answer.body)}\n`;
  response.writeHead(answer.status, {
    'content-type': 'application/json; charset=utf-8',
    'content-length': Buffer.byteLength(body),
    // An unread rest of a body would be taken for the next request.
    ...(request.complete ? {} : { connection: 'close' }),
    ...answer.headers,
  });
  response.end(request.method === 'HEAD' ? undefined : body);
}

const server = createServer(handle);

let stopping = false;
async function stop() {
  if (stopping) return;
  stopping = true;
  setTimeout(() => process.exit(1), CLOSE_WITHIN_MS).unref();
  const closed = new Promise((resolve) => {
    server.close(resolve);
  });
  server.closeIdleConnections();
  await closed;
  await analyses.close();
  process.exit(0);
}
process.on('SIGTERM', stop);
process.on('SIGINT', stop);

// Without its events this API knows no results: it answers when Redis is there.
let following = false;
while (!following && !stopping) {
  try {
    await analyses.follow();
    console.log((await fingerprint(redis, { queue: QUEUE })).line);
    following = true;
  } catch (error) {
    console.error(`redis: ${error.message}; trying again`);
  }
}
server.on('error', (error) => {
  console.error(`cannot listen on ${HOST}:${PORT}: ${error.message}`);
  process.exit(1);
});
server.listen(PORT, HOST, () => {
  if (stopping) return;
  const { address, port } = server.address();
  console.log(`listening on http://${address.includes(':') ? `[${address}]` : address}:${port}`);
});
