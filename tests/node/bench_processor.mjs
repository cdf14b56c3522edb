// The sandboxed processor of bench_worker.mjs, for child processes and worker threads.
// Times are milliseconds of the monotonic clock, which all processes of a machine share.

import { writeFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

const now = () => Number(process.hrtime.bigint()) / 1e6;

export default async function runJob(job) {
  if (job.name === 'entered') return now();
  if (job.name === 'crash') {
    writeFileSync(job.data.file, String(now()));
    // A thread cannot abort without its whole process; its exit is the most it can do.
    if (isMainThread) process.abort();
    process.exit(1);
  }
  return { ok: 1 };
}
