// A Node worker that measures audio files with ffmpeg, a process per job, over the protocol of
// benchmarks/workers/common.py.
//
//   node bench_ffmpeg.mjs --url URL --queue NAME --mode process --jobs N --concurrency N
//                         --scratch FOLDER

import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { Worker } from 'bullmq6';

const { version } = createRequire(import.meta.url)('bullmq6/package.json');
const { values } = parseArgs({
  options: {
    url: { type: 'string' },
    queue: { type: 'string' },
    mode: { type: 'string' },
    jobs: { type: 'string' },
    concurrency: { type: 'string' },
    scratch: { type: 'string' },
  },
});
const jobs = Number(values.jobs);
const say = (event, fields = {}) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);
const running = new Set();

function end() {
  for (const child of running) child.kill('SIGKILL');
  process.exit(0);
}

// The integrated loudness that ffmpeg's summary says, LUFS.
function measure(job) {
  return new Promise((resolve, reject) => {
    const child = spawn('ffmpeg', [
      '-nostdin', '-hide_banner', '-nostats', '-i', join(values.scratch, job.data.fileKey),
      '-af', 'ebur128=peak=true', '-f', 'null', '-',
    ], { stdio: ['ignore', 'ignore', 'pipe'] });
    running.add(child);
    let tail = '';
    child.stderr.on('data', (text) => { tail = (tail + text).slice(-4000); });
    child.on('error', reject);
    child.on('close', (code) => {
      running.delete(child);
      const found = /Summary:[^]*?I:\s+(-?[\d.]+) LUFS/.exec(tail);
      if (code !== 0 || !found) reject(new Error(`ffmpeg ended with ${code}: ${tail}`));
      else resolve({ loudness: { integrated: Number(found[1]) } });
    });
  });
}

const go = new Promise((resolve) => {
  const lines = createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    if (line.trim() === 'go') resolve();
    if (line.trim() === 'stop') end();
  });
  lines.on('close', end);
});

const worker = new Worker(values.queue, measure, {
  connection: { url: values.url, maxRetriesPerRequest: null },
  concurrency: Number(values.concurrency),
  autorun: false,
});
let left = jobs;
let started;
let first;
worker.on('error', (error) => process.stderr.write(`${error.stack}\n`));
worker.on('failed', (job, error) => say('failed', { error: error.message }));
worker.on('completed', () => {
  const seconds = (performance.now() - started) / 1000;
  first ??= seconds;
  left -= 1;
  // The work is done by child processes: this one's CPU time says nothing.
  if (left === 0) say('done', { jobs, seconds, first, cpu: 0 });
});
await worker.waitUntilReady();
say('ready', { version, runtime: `node ${process.versions.node}` });
await go;
started = performance.now();
await worker.run();
