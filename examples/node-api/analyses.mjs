// Audio analyses: how a job is added, and what its events say about it.

import { randomBytes, randomUUID } from 'node:crypto';
import { Queue, QueueEvents } from 'bullmq';

import { tell } from './redis.mjs';

export const QUEUE = 'audio-analyzer';
const JOB_NAME = 'process-audio';
const REMEMBERED = 1_000;
const FINISHED = new Set(['completed', 'failed']);

// Fields a caller may pass on to the worker beside the file itself.
const OPTIONAL = [
  'analysisType', 'referenceStage', 'soundDestination', 'planContext',
  'genre', 'genreTargets', 'referenceJobId', 'referenceFileKey',
];

export class Analyses {
  #queue;
  #redis;
  #events;
  #known = new Map();
  #listeners = new Set();

  constructor(redis) {
    this.#redis = redis;
    this.#queue = new Queue(QUEUE, { connection: redis });
    this.#queue.on('error', tell);
  }

  /** Follows the queue's events from now on: nothing that is added after this is missed. */
  async follow() {
    const last = await this.#redis.xrevrange(`bull:${QUEUE}:events`, '+', '-', 'COUNT', 1);
    const events = new QueueEvents(QUEUE, {
      connection: this.#redis,
      lastEventId: last.length ? last[0][0] : '0-0',
    });
    this.#events = events;
    events.on('error', tell);
    for (const state of ['waiting', 'active', 'delayed']) {
      events.on(state, ({ jobId }) => this.#learn(jobId, { state }));
    }
    events.on('progress', ({ jobId, data }) => this.#learn(jobId, { progress: data }));
    events.on('completed', ({ jobId, returnvalue }) =>
      this.#learn(jobId, { state: 'completed', result: returnvalue }),
    );
    events.on('failed', ({ jobId, failedReason }) =>
      this.#learn(jobId, { state: 'failed', failedReason }),
    );
    await events.waitUntilReady();
  }

  /** Adds one analysis; returns the id of its BullMQ job. */
  async add({ fileName, fileKey = fileName, mode = 'genre', ...rest }) {
    const id = `audio-${Date.now()}-${randomBytes(4).toString('hex')}`;
    const passedOn = OPTIONAL.filter((field) => rest[field] !== undefined);
    const payload = {
      jobId: randomUUID(),
      externalId: id,
      fileKey,
      fileName,
      mode,
      genre: null,
      genreTargets: null,
      ...Object.fromEntries(passedOn.map((field) => [field, rest[field]])),
    };
    this.#learn(id, { fileName, state: 'waiting', progress: 0 });
    try {
      await this.#queue.add(JOB_NAME, payload, {
        jobId: id,
        priority: 1,
        attempts: 3,
        backoff: { type: 'exponential', delay: 2_000 },
        removeOnComplete: 10,
        removeOnFail: 5,
      });
    } catch (error) {
      this.#known.delete(id);
      throw error;
    }
    return id;
  }

  /**
   * What is known of one analysis, or undefined. Redis keeps ten finished jobs only,
   * so results are remembered here; a job from before this process is asked for.
   */
  async get(id) {
    if (this.#known.has(id)) return this.#known.get(id);
    const job = await this.#queue.getJob(id);
    if (!job) return undefined;
    const state = await job.getState();
    const { progress, failedReason } = job;
    const known = { id, fileName: job.data?.fileName, state, progress };
    if (state === 'completed') known.result = job.returnvalue;
    if (state === 'failed') known.failedReason = failedReason;
    return known;
  }

  /** Calls `listener(analysis)` whenever something new is known; returns its remover. */
  onChange(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async close() {
    // Closing in order talks to the server; where there is none, it would wait for it.
    if (this.#redis.status === 'ready') {
      await Promise.allSettled([this.#events?.close(), this.#queue.close()]);
    }
    this.#redis.disconnect();
  }

  #learn(id, news) {
    const before = this.#known.get(id);
    // The event "waiting" of a job that finished fast can arrive late; it changes nothing.
    if (FINISHED.has(before?.state) && !FINISHED.has(news.state)) return;
    const analysis = { id, ...before, ...news };
    this.#known.set(id, analysis);
    if (this.#known.size > REMEMBERED) this.#known.delete(this.#known.keys().next().value);
    for (const listener of this.#listeners) listener(analysis);
  }
}

export const isFinished = (analysis) => FINISHED.has(analysis.state);
