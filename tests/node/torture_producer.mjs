// Adds the Node part of the torture test's plan with bullmq 6; see
// benchmarks/torture/producer.py, which is the same in Python, for what it reads and says.
//
//   node torture_producer.mjs URL PLAN ACKED QUEUE SCHEDULERS

import { appendFileSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { FlowProducer, Queue } from 'bullmq6';
import { Redis } from 'ioredis';

const PAUSE_BEFORE_RETRY_MS = 200;
const COMMAND_TIMEOUT_MS = 3_000;
const MAX_EVENTS = 10_000_000;

const [url, planFile, ackedFile, queueName, schedulersText] = process.argv.slice(2);
const entries = readFileSync(planFile, 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line));
const schedulers = Object.entries(JSON.parse(schedulersText));

const connection = new Redis(url, {
  maxRetriesPerRequest: null,
  commandTimeout: COMMAND_TIMEOUT_MS,
  retryStrategy: (times) => Math.min(50 * times, 1_000),
});
connection.on('error', () => {});
const options = { connection, streams: { events: { maxLen: MAX_EVENTS } } };
const queue = new Queue(queueName, options);
queue.on('error', () => {});

async function insist(call) {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      process.stderr.write(`${new Date().toISOString()} ${error.message}\n`);
      // ioredis keeps a connection that no longer answers.
      if (/timed out/i.test(error.message)) connection.disconnect(true);
      await sleep(PAUSE_BEFORE_RETRY_MS);
    }
  }
}

const node = ({ id, name, data, opts, children }) => ({
  name,
  queueName,
  data,
  opts: { ...opts, jobId: id },
  children: children.map(node),
});

// On a connection of its own. After SCRIPT FLUSH ioredis goes on using the hashes of scripts in
// transactions, and FlowProducer.add tells of no error but the root's: the children are missing.
async function addFlow(entry) {
  const own = connection.duplicate();
  own.on('error', () => {});
  const flows = new FlowProducer({ ...options, connection: own });
  flows.on('error', () => {});
  try {
    await flows.add(node(entry));
  } finally {
    own.disconnect();
  }
}

async function add(entry) {
  const { id, name, data, opts, children } = entry;
  if (children.length) await insist(() => addFlow(entry));
  else await insist(() => queue.add(name, data, { ...opts, jobId: id }));
  appendFileSync(ackedFile, `${id}\n`);
}

let adding;

async function addAll() {
  const began = performance.now();
  const added = schedulers.map(([id, { repeat }]) =>
    insist(() => queue.upsertJobScheduler(id, repeat, { name: 'plain', data: { work: 0.01, fails: 0 } })),
  );
  for (const entry of entries) {
    const wait = began + entry.at * 1000 - performance.now();
    if (wait > 0) await sleep(wait);
    added.push(add(entry));
  }
  await Promise.all(added);
}

const operations = {
  start: async () => {
    adding = addAll();
  },
  wait: () => adding,
  pause: () => insist(() => queue.pause()),
  resume: () => insist(() => queue.resume()),
};

const lines = createInterface({ input: process.stdin, crlfDelay: Infinity });
lines.on('line', async (line) => {
  const { id, op } = JSON.parse(line);
  await operations[op]();
  process.stdout.write(`${JSON.stringify({ id })}\n`);
});
lines.on('close', () => process.exit(0));
