// The one Redis connection of this process, shared by everything that needs one.
//
// REDIS_URL is the very string the Python worker gets. Options in the URL, such as
// ?family=6, win over those below.

import { Redis } from 'ioredis';

const OPTIONS = {
  maxRetriesPerRequest: null,
  connectTimeout: 45_000,
  commandTimeout: 15_000,
  keepAlive: 120_000,
  retryStrategy: (attempt) => Math.min(attempt * 2_000, 30_000),
  enableAutoPipelining: true,
  lazyConnect: true,
  enableReadyCheck: false,
  family: 4,
};

let lastTold;

/** A client for REDIS_URL, which is required. */
export function connect() {
  const url = process.env.REDIS_URL;
  if (!url) {
    console.error('REDIS_URL is not set, for example: REDIS_URL=redis://127.0.0.1:6379');
    process.exit(2);
  }
  const redis = new Redis(url, OPTIONS);
  redis.on('error', tell);
  return redis;
}

/** Tells an error, unless it is the same as the last one: a client that retries repeats itself. */
export function tell(error) {
  const message = error.message || error.code || String(error);
  if (message === lastTold) return;
  lastTold = message;
  console.error(`redis: ${message}`);
}
