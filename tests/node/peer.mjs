// A Node peer for the interop tests: real bullmq, driven over stdin and stdout.
//
//   node peer.mjs 3|4|5|6 <redis-url>
//
// Generations 3 and 4 are there for what old producers and workers do to queues.
//
// The URL may be bullpy's redis+cluster://host:port,host:port or
// redis+sentinel://host:port,host:port/name, for which ioredis has options instead.
//
// It prints {"ready": true, "version": ...}. Each line in is {"id", "op", ...}, each
// line out {"id", "ok": true, "result"} or {"id", "ok": false, "error": {name, message}};
// requests run side by side, so replies may come in another order. A result that is
// `undefined` is left out. {"event": ...} lines come unasked. The end of stdin ends it.
//
//   queue.<method>    queue, args          any method or getter of Queue
//   job.<method>      queue, jobId, args   any method or getter of Job; job.get: the job itself
//   flow.<method>     args                 FlowProducer: add, addBulk, getFlow
//   events.start      queue                follow events from now on; nothing added later is missed
//   events.waitFor    queue, event, jobId, after, count, timeout
//   events.log        queue, after, event, jobId
//   events.stop       queue
//   wait              queue, jobId, ttl    job.waitUntilFinished; its error is the reply's
//   worker.start      queue, options, behaviour, params, worker    see behaviours.mjs
//   worker.stop       worker, force
//   worker.release    worker               lets the jobs of behaviour "hold" finish
//   worker.log        worker, after, event, jobId
//   worker.waitFor    worker, event, jobId, after, count, timeout
//   worker.call       worker, method, args any method or getter of Worker
//   fingerprint       queue                what examples/node-api/fingerprint.mjs says of it
//   redis             args                 one Redis command
//   exit                                   close everything, then end
//
// `prefix` (default "bull") and `options` (of Queue, FlowProducer, QueueEvents) go with
// every operation that names a queue. Durations are milliseconds.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { Cluster, Redis } from 'ioredis';

import { behaviours } from './behaviours.mjs';
import { EventLog } from './log.mjs';
import { decode, encode, encodeError } from './wire.mjs';

const WORKER_EVENTS = [
  'active', 'closed', 'closing', 'completed', 'drained', 'error', 'failed', 'paused', 'progress',
  'ready', 'resumed', 'stalled', 'lockRenewalFailed',
];
const CLOSING_MS = 3_000;

const [generation, url] = process.argv.slice(2);
if (!['3', '4', '5', '6'].includes(generation) || !url) {
  process.stderr.write('usage: node peer.mjs 3|4|5|6 <redis-url>\n');
  process.exit(2);
}
const bullmq = await import(`bullmq${generation}`);
const { version } = createRequire(import.meta.url)(`bullmq${generation}/package.json`);
const [, kind, nodes, name] = /^redis\+(cluster|sentinel):\/\/([^/]+)\/?([^/]*)/.exec(url) ?? [];
const connection = connectionOf(kind);
const redis = kind === 'cluster' ? connection : new Redis(...(kind ? [] : [url]), connection);
redis.on('error', (error) => report('redis', error));

const queues = new Map();
const flows = new Map();
const followers = new Map();
const workers = new Map();
let ending = false;

// --- operations ----------------------------------------------------------------

const operations = {
  'events.start': async (request) => {
    await follower(request);
  },
  'events.waitFor': async (request) => (await follower(request)).log.waitFor(request),
  'events.log': async (request) => (await follower(request)).log.list(request),
  'events.stop': async (request) => {
    const started = await followers.get(keyOf(request));
    followers.delete(keyOf(request));
    await started?.queueEvents.close();
  },
  wait: async (request) => {
    const job = await jobOf(request);
    const { queueEvents } = await follower(request);
    return job.waitUntilFinished(queueEvents, request.ttl);
  },
  'worker.start': startWorker,
  'worker.stop': async ({ worker, force }) => {
    const started = workerOf(worker);
    if (force) started.release();
    await started.worker.close(force);
  },
  'worker.release': async ({ worker }) => workerOf(worker).release(),
  'worker.log': async (request) => workerOf(request.worker).log.list(request),
  'worker.waitFor': async (request) => workerOf(request.worker).log.waitFor(request),
  'worker.call': async ({ worker, method, args }) =>
    callOrGet(workerOf(worker).worker, method, args),
  fingerprint: async (request) => {
    const { fingerprint } = await import('../../examples/node-api/fingerprint.mjs');
    const { queue, prefix } = request;
    const asked = queueOf(request);
    // Version 6 keeps it in the backend.
    return fingerprint(await (asked.client ?? asked.backend.client), { queue, prefix });
  },
  redis: async ({ args }) => redis.call(...args),
  exit: async () => {
    setImmediate(end, 0);
  },
};

async function run(request) {
  const { op } = request;
  if (Object.hasOwn(operations, op)) return operations[op](request);
  const [kind, method] = String(op).split('.', 2);
  if (kind === 'queue') return callOrGet(queueOf(request), method, request.args);
  if (kind === 'flow') return callOrGet(flowOf(request), method, request.args);
  if (kind === 'job') {
    const job = await jobOf(request);
    return method === 'get' ? job : callOrGet(job, method, request.args);
  }
  throw new Error(`unknown operation ${op}`);
}

async function callOrGet(target, name, args = []) {
  if (!(name in target)) {
    throw new TypeError(`bullmq ${version}: ${target.constructor.name} has no member ${name}`);
  }
  return typeof target[name] === 'function' ? target[name](...args) : target[name];
}

function connectionOf(several) {
  const addresses = nodes?.split(',').map((node) => {
    const [host, port] = node.split(':');
    return { host, port: Number(port) };
  });
  if (several === 'cluster') {
    return new Cluster(addresses, { redisOptions: { maxRetriesPerRequest: null } });
  }
  if (several === 'sentinel') return { sentinels: addresses, name, maxRetriesPerRequest: null };
  return { url, maxRetriesPerRequest: null };
}

// --- what requests name ----------------------------------------------------------

function keyOf({ queue, prefix = 'bull', options }) {
  return JSON.stringify([prefix, queue, options ?? null]);
}

function queueOf(request) {
  if (typeof request.queue !== 'string') throw new TypeError('the request names no queue');
  const key = keyOf(request);
  if (!queues.has(key)) {
    const { queue, prefix = 'bull', options } = request;
    const made = new bullmq.Queue(queue, { connection, prefix, ...options });
    made.on('error', (error) => report(`queue ${queue}`, error));
    queues.set(key, made);
  }
  return queues.get(key);
}

function flowOf({ prefix = 'bull', options }) {
  const key = JSON.stringify([prefix, options ?? null]);
  if (!flows.has(key)) {
    const made = new bullmq.FlowProducer({ connection, prefix, ...options });
    made.on('error', (error) => report('flow producer', error));
    flows.set(key, made);
  }
  return flows.get(key);
}

async function jobOf(request) {
  const job = await bullmq.Job.fromId(queueOf(request), request.jobId);
  if (job) return job;
  const error = new Error(`no job ${request.jobId} in queue ${request.queue}`);
  error.name = 'JobNotFound';
  throw error;
}

function workerOf(name) {
  const started = workers.get(name);
  if (!started) throw new Error(`no worker ${name} was started`);
  return started;
}

// The follower starts behind the last event there is now. "From the end" would mean
// the moment its first read reaches the server, and what is added before that is lost.
function follower(request) {
  const key = keyOf(request);
  if (!followers.has(key)) {
    const starting = startFollower(request);
    followers.set(key, starting);
    starting.catch(() => followers.delete(key));
  }
  return followers.get(key);
}

async function startFollower({ queue, prefix = 'bull', options }) {
  const last = await redis.xrevrange(`${prefix}:${queue}:events`, '+', '-', 'COUNT', 1);
  const queueEvents = new bullmq.QueueEvents(queue, {
    connection,
    prefix,
    lastEventId: last.length ? last[0][0] : '0-0',
    ...options,
    autorun: false,
  });
  const log = new EventLog();
  queueEvents.on('error', (error) => report(`events ${queue}`, error));
  recordAll(queueEvents, log);
  await queueEvents.waitUntilReady();
  queueEvents.run().catch((error) => report(`events ${queue}`, error));
  return { queueEvents, log };
}

// Every event of the stream passes through emit, also those this file has never heard of.
function recordAll(queueEvents, log) {
  const emit = queueEvents.emit.bind(queueEvents);
  queueEvents.emit = (event, ...args) => {
    if (event === 'drained') log.push({ event, eventId: args[0] });
    else if (!event.includes(':') && typeof args[1] === 'string') {
      log.push({ event, jobId: args[0]?.jobId, args: args[0], eventId: args[1] });
    }
    return emit(event, ...args);
  };
}

// --- workers -----------------------------------------------------------------------

async function startWorker({ queue, prefix = 'bull', options, behaviour, params, worker: asked }) {
  const name = asked ?? `worker-${workers.size + 1}`;
  if (workers.has(name)) throw new Error(`a worker ${name} was started already`);
  const log = new EventLog();
  let release;
  const released = new Promise((resolve) => {
    release = resolve;
  });
  let worker;
  const context = {
    released,
    worker: () => worker,
    addChild: (job, child) =>
      queueOf({ queue: child?.queue ?? queue, prefix }).add(child?.name ?? 'child', child?.data ?? {}, {
        ...child?.opts,
        parent: { id: job.id, queue: job.queueQualifiedName },
      }),
  };
  const processor = behaviours(bullmq, params ?? {}, context)[behaviour ?? 'echo'];
  if (!processor) throw new Error(`no behaviour named ${behaviour}`);

  const recorded = async (job, token, signal) => {
    const { id: jobId, name: jobName, attemptsMade, data } = job;
    log.push({ event: 'processing', jobId, name: jobName, attemptsMade, data });
    return processor(job, token, signal);
  };
  worker = new bullmq.Worker(queue, recorded, { connection, prefix, ...options, autorun: false });
  for (const event of WORKER_EVENTS) worker.on(event, (...args) => log.push(told(event, args)));
  worker.on('error', (error) => report(`worker ${name}`, error));
  await worker.waitUntilReady();
  workers.set(name, { worker, log, release });
  if (options?.autorun !== false) worker.run().catch((error) => report(`worker ${name}`, error));
  return { worker: name, id: worker.id };
}

function told(event, args) {
  const job = args.find((arg) => arg instanceof bullmq.Job);
  const error = args.find((arg) => arg instanceof Error);
  const jobId = job?.id ?? (event === 'stalled' || event === 'lockRenewalFailed' ? args[0] : undefined);
  const rest = args.filter((arg) => arg !== job && arg !== error);
  return { event, jobId, name: job?.name, error: error && encodeError(error), args: rest };
}

// --- the protocol ------------------------------------------------------------------

async function describe(job) {
  const { id, name, data, opts, progress, returnvalue, failedReason, stacktrace } = job;
  const { attemptsMade, attemptsStarted, stalledCounter, processedBy, processedOn } = job;
  const { finishedOn, timestamp, delay, priority, parentKey, deduplicationId, repeatJobKey } = job;
  return {
    id, name, data, opts, progress, returnvalue, failedReason, stacktrace,
    attemptsMade, attemptsStarted, stalledCounter, processedBy, processedOn,
    finishedOn, timestamp, delay, priority, parentKey, deduplicationId, repeatJobKey,
    queueName: job.queueName,
    state: id === undefined ? undefined : await job.getState(),
  };
}

function send(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

function report(source, error) {
  if (!ending) send({ event: 'error', source, error: encodeError(error) });
}

async function answer(line) {
  let id = null;
  try {
    const request = JSON.parse(line);
    id = request.id ?? null;
    const result = await run(decode(request));
    const encoded = await encode(result, (value) => value instanceof bullmq.Job, describe);
    send({ id, ok: true, result: encoded });
  } catch (error) {
    send({ id, ok: false, error: encodeError(error) });
  }
}

// Leaves no process and no connection behind, and does not wait for a dead server.
async function end(code) {
  if (ending) return;
  ending = true;
  setTimeout(() => process.exit(code), CLOSING_MS);
  for (const { release } of workers.values()) release();
  const started = await Promise.allSettled(followers.values());
  const opened = started.filter((item) => item.value).map((item) => item.value.queueEvents);
  await Promise.allSettled([...workers.values()].map(({ worker }) => worker.close(true)));
  await Promise.allSettled(
    [...queues.values(), ...flows.values(), ...opened].map((item) => item.close()),
  );
  redis.disconnect();
  process.exit(code);
}

process.on('unhandledRejection', (error) => report('unhandled rejection', error));
process.on('SIGTERM', () => end(0));
process.on('SIGINT', () => end(0));
process.stdout.on('error', () => process.exit(1));

const lines = createInterface({ input: process.stdin, crlfDelay: Infinity });
lines.on('line', (line) => {
  if (line.trim()) answer(line);
});
lines.on('close', () => end(0));
await redis.ping();
send({ ready: true, version });
