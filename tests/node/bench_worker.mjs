// The Node side of the benchmarks: bullmq 6, over the protocol of benchmarks/workers/common.py.
//
//   node bench_worker.mjs --url URL --queue NAME --mode process|share|add|bulk|latency|first|crash
//                         [--jobs N] [--concurrency N] [--auto-pipelining]
//                         [--isolation loop|process|thread] [--scratch FOLDER]
//
// With --isolation process or thread, bench_processor.mjs is a sandboxed processor.
//
// It prints {"event": "ready" | "start" | "done" | "measured", ...} lines; "go" on stdin starts
// the measured work, "report" asks for figures in between, "stop" or the end of stdin ends the
// process.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { Queue, Worker } from 'bullmq6';

const JOB_NAME = 'process-audio';
const PAYLOAD = {
  jobId: '0b8e6c1c-1111-4222-8333-444455556666',
  fileKey: 'uploads/a/b/c.wav',
  fileName: 'c.wav',
  mode: 'genre',
};
const JOB_OPTIONS = {
  attempts: 3,
  backoff: { type: 'exponential', delay: 2000 },
  removeOnComplete: 10,
  removeOnFail: 5,
};

const { version } = createRequire(import.meta.url)('bullmq6/package.json');
const { values } = parseArgs({
  options: {
    url: { type: 'string' },
    queue: { type: 'string' },
    mode: { type: 'string' },
    jobs: { type: 'string', default: '0' },
    concurrency: { type: 'string', default: '1' },
    'auto-pipelining': { type: 'boolean', default: false },
    isolation: { type: 'string', default: 'loop' },
    scratch: { type: 'string', default: '.' },
  },
});
const jobs = Number(values.jobs);
const concurrency = Number(values.concurrency);
const connection = {
  url: values.url,
  maxRetriesPerRequest: null,
  enableAutoPipelining: values['auto-pipelining'],
};

const say = (event, fields = {}) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);
const sayReady = () => say('ready', { version, runtime: `node ${process.versions.node}` });

// Date.now() has whole milliseconds and timeOrigin is read once, at a busy moment; so the
// offset of performance.now() to the machine's clock is the median of many readings of both.
function clockOffset() {
  const offsets = [];
  const until = performance.now() + 50;
  while (performance.now() < until) {
    const before = performance.now();
    offsets.push(Date.now() + 0.5 - before);
  }
  offsets.sort((a, b) => a - b);
  return offsets[Math.floor(offsets.length / 2)];
}

let left = jobs;
let started;
let first;
let cpu;
let last = 0;

function start() {
  cpu = process.cpuUsage();
  started = performance.now();
}

function oneMore(count = 1) {
  if (left === jobs) first = (performance.now() - started) / 1000;
  left -= count;
  last = Number(process.hrtime.bigint()) / 1e9;
  if (left === 0) {
    const seconds = (performance.now() - started) / 1000;
    const used = process.cpuUsage(cpu);
    say('done', { jobs, seconds, first, cpu: (used.user + used.system) / 1e6 });
  }
}

function report() {
  const used = process.cpuUsage(cpu);
  say('report', { jobs: jobs - left, cpu: (used.user + used.system) / 1e6, last });
}

const PROCESSOR = new URL('./bench_processor.mjs', import.meta.url);
const JOB_TIMEOUT = 30000;
const monotonic = () => Number(process.hrtime.bigint()) / 1e6;

function makeWorker(queue, processor, options = {}) {
  const sandboxed = values.isolation !== 'loop';
  const worker = new Worker(queue, sandboxed ? PROCESSOR : processor, {
    connection, concurrency, useWorkerThreads: values.isolation === 'thread', ...options,
  });
  worker.on('error', (error) => process.stderr.write(`${error.stack}\n`));
  return worker;
}

// A queue, its worker, and what becomes of the jobs, one at a time.
async function makeLine(name, options = {}) {
  const queue = new Queue(name, { connection });
  await queue.waitUntilReady();
  const worker = makeWorker(name, undefined, options);
  const next = (event, take) => new Promise((resolve, reject) => {
    const late = setTimeout(
      () => reject(new Error(`no job ${event} within ${JOB_TIMEOUT} ms`)), JOB_TIMEOUT,
    );
    worker.once(event, (job, told) => { clearTimeout(late); resolve(take(told)); });
  });
  return {
    worker,
    add: (job, data = {}) => queue.add(job, data, { removeOnComplete: true, removeOnFail: true }),
    result: () => next('completed', (value) => value),
    failure: () => next('failed', () => monotonic()),
    close: async () => { await worker.close(); await queue.close(); },
  };
}

// Milliseconds to the first call: from the start of a worker, and from its being ready.
async function measureFirst() {
  const found = { start_to_first: [], ready_to_first: [], warm: [] };
  for (let n = 0; n < jobs; n += 1) {
    let line = await makeLine(`${values.queue}-start-${n}`, { autorun: false });
    await line.worker.waitUntilReady();
    await line.add('entered');
    let result = line.result();
    let since = monotonic();
    line.worker.run();
    found.start_to_first.push((await result) - since);
    await line.close();

    line = await makeLine(`${values.queue}-ready-${n}`);
    await line.worker.waitUntilReady();
    for (const what of ['ready_to_first', 'warm']) {
      result = line.result();
      since = monotonic();
      await line.add('entered');
      found[what].push((await result) - since);
    }
    await line.close();
  }
  return found;
}

// Milliseconds from a crash, and from its job's `failed`, to the next job's call.
async function measureCrash() {
  const found = { crash_to_next: [], noticed_to_next: [] };
  const note = join(values.scratch, 'crashed');
  const line = await makeLine(values.queue);
  let result = line.result();
  await line.add('entered');
  await result;
  for (let n = 0; n < jobs; n += 1) {
    const failure = line.failure();
    result = line.result();
    await line.add('crash', { file: note });
    await line.add('entered');
    const noticed = await failure;
    const entered = await result;
    found.crash_to_next.push(entered - Number(readFileSync(note, 'utf8')));
    found.noticed_to_next.push(entered - noticed);
  }
  await line.close();
  return found;
}

const go = new Promise((resolve) => {
  const lines = createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    if (line.trim() === 'go') resolve();
    if (line.trim() === 'report') report();
    if (line.trim() === 'stop') process.exit(0);
  });
  lines.on('close', () => process.exit(0));
});

const modes = {
  async process() {
    const worker = makeWorker(values.queue, async () => ({ ok: 1 }), { autorun: false });
    worker.on('completed', () => {
      oneMore();
      // Its share is done, the rest stays.
      if (left === 0 && values.mode === 'share') worker.pause(true);
    });
    await worker.waitUntilReady();
    sayReady();
    await go;
    start();
    await worker.run();
  },

  async latency() {
    const offset = clockOffset();
    const nowMs = () => offset + performance.now();
    const processor = async (job) => { say('start', { at: nowMs(), n: job.data.n }); };
    const worker = new Worker(values.queue, processor, { connection, concurrency });
    worker.on('error', (error) => process.stderr.write(`${error.stack}\n`));
    await worker.waitUntilReady();
    sayReady();
  },

  async add() {
    const queue = new Queue(values.queue, { connection });
    await queue.waitUntilReady();
    sayReady();
    await go;
    start();
    let next = 0;
    const lane = async () => {
      while (next < jobs) {
        const i = next;
        next += 1;
        await queue.add(JOB_NAME, { ...PAYLOAD, i }, JOB_OPTIONS);
        oneMore();
      }
    };
    await Promise.all(Array.from({ length: Math.min(jobs, concurrency) }, lane));
  },

  async bulk() {
    const queue = new Queue(values.queue, { connection });
    await queue.waitUntilReady();
    sayReady();
    await go;
    start();
    for (let begin = 0; begin < jobs; begin += concurrency) {
      const count = Math.min(concurrency, jobs - begin);
      await queue.addBulk(Array.from({ length: count }, (_, n) => (
        { name: JOB_NAME, data: { ...PAYLOAD, i: begin + n }, opts: JOB_OPTIONS }
      )));
      oneMore(count);
    }
  },

  async first() {
    sayReady();
    await go;
    say('measured', await measureFirst());
  },

  async crash() {
    sayReady();
    await go;
    say('measured', await measureCrash());
  },
};

// Many of them share the jobs of one queue; it ends with the process.
modes.share = modes.process;

await modes[values.mode]();
