// What a Node worker of a test does with its jobs. `start` chooses one by name;
// "by-name" takes each job's own name instead.

import { setTimeout as pause } from 'node:timers/promises';

/**
 * The processors by name.
 *
 * @param bullmq the generation of the package the worker uses
 * @param params the parameters of the request; `job.data` may override `ms`
 * @param context {worker(), addChild(job, child), released}: `released` is a promise
 *   that the operation worker.release resolves
 */
export function behaviours(bullmq, params, context) {
  const milliseconds = (job) => job.data?.ms ?? params.ms ?? 100;
  const fail = (job) => {
    throw new Error(params.message ?? job.data?.message ?? 'boom');
  };

  const table = {
    echo: async (job) => ({ echo: job.data }),
    return: async () => params.value,
    'return-data': async (job) => job.data,
    fail: async (job) => fail(job),
    'fail-times': async (job) => {
      if (job.attemptsMade < (params.times ?? 1)) fail(job);
      return { attemptsMade: job.attemptsMade };
    },
    unrecoverable: async () => {
      throw new bullmq.UnrecoverableError(params.message ?? 'no more');
    },
    'throw-string': async () => {
      throw params.message ?? 'just a string';
    },
    'throw-undefined': async () => {
      throw undefined;
    },
    sleep: async (job) => {
      await pause(milliseconds(job));
      return { slept: milliseconds(job) };
    },
    // Holds the event loop, as CPU-bound work does.
    block: async (job) => {
      const until = Date.now() + milliseconds(job);
      while (Date.now() < until);
      return { blocked: milliseconds(job) };
    },
    // Runs until the test says so.
    hold: async (job) => {
      await context.released;
      return { held: job.id };
    },
    // The process ends in the middle of the job, with no chance to tidy up.
    die: async () => process.kill(process.pid, 'SIGKILL'),
    progress: async (job) => {
      for (const value of params.values ?? [10, 50, 100]) await job.updateProgress(value);
      return { progressed: true };
    },
    log: async (job) => {
      for (const row of params.rows ?? ['first', 'second']) await job.log(row);
      return { logged: true };
    },
    'update-data': async (job) => {
      await job.updateData(params.value);
      return { updated: true };
    },
    'children-values': async (job) => ({ children: await job.getChildrenValues() }),
    'ignored-failures': async (job) => ({ ignored: await job.getIgnoredChildrenFailures() }),
    'delay-once': async (job, token) => {
      if (job.data?.delayed) return { delayed: true };
      await job.updateData({ ...job.data, delayed: true });
      await job.moveToDelayed(Date.now() + milliseconds(job), token);
      throw new bullmq.DelayedError();
    },
    'spawn-child': async (job, token) => {
      if (!job.data?.spawned) {
        await context.addChild(job, params.child);
        await job.updateData({ ...job.data, spawned: true });
      }
      if (await job.moveToWaitingChildren(token)) throw new bullmq.WaitingChildrenError();
      return { children: await job.getChildrenValues() };
    },
    'rate-limit-once': async (job) => {
      if (!job.data?.limited) {
        await job.updateData({ ...job.data, limited: true });
        await context.worker().rateLimit(milliseconds(job));
        throw bullmq.Worker.RateLimitError();
      }
      return { limited: true };
    },
  };

  table['by-name'] = async (job, token, signal) => {
    const processor = Object.hasOwn(table, job.name) ? table[job.name] : undefined;
    if (!processor || job.name === 'by-name') throw new Error(`no behaviour named ${job.name}`);
    return processor(job, token, signal);
  };
  return table;
}
