// The Node side of the benchmarks: bullmq 6, over the protocol of benchmarks/workers/common.py.
//
//   node bench_worker.mjs --url URL --queue NAME --mode process|add|latency
//                         [--jobs N] [--concurrency N] [--auto-pipelining]
//
// It prints {"event": "ready" | "start" | "done", ...} lines; "go" on stdin starts the measured
// work, "stop" or the end of stdin ends the process.

import { createRequire } from 'node:module';
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
let cpu;

function start() {
  cpu = process.cpuUsage();
  started = performance.now();
}

function oneMore() {
  left -= 1;
  if (left === 0) {
    const seconds = (performance.now() - started) / 1000;
    const used = process.cpuUsage(cpu);
    say('done', { jobs, seconds, cpu: (used.user + used.system) / 1e6 });
  }
}

const go = new Promise((resolve) => {
  const lines = createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    if (line.trim() === 'go') resolve();
    if (line.trim() === 'stop') process.exit(0);
  });
  lines.on('close', () => process.exit(0));
});

const modes = {
  async process() {
    const worker = new Worker(values.queue, async () => ({ ok: 1 }), {
      connection, concurrency, autorun: false,
    });
    worker.on('completed', oneMore);
    worker.on('error', (error) => process.stderr.write(`${error.stack}\n`));
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
};

await modes[values.mode]();
