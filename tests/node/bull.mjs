// The legacy package `bull`, version 4: a worker, or a producer, for what it does to BullMQ queues.
//
//   node bull.mjs '<json>'
//
//   queue, url      the queue, and where Redis is
//   jobs            makes it a producer: [[name, data, opts], ...], added at once
//   name            the only jobs that the worker has a handler for
//
// It prints `added <id>` for each job, then `ready`, and lives until it is killed.

import Bull from 'bull';

const { queue, url, jobs, name } = JSON.parse(process.argv[2]);
const bull = new Bull(queue, url);
bull.on('error', (error) => process.stderr.write(`${error.message}\n`));
await bull.isReady();
if (jobs) {
  for (const [each, data, opts] of jobs) {
    process.stdout.write(`added ${(await bull.add(each, data, opts)).id}\n`);
  }
} else {
  bull.process(name, async () => ({ handled: true })).catch(() => {});
}
process.stdout.write('ready\n');
