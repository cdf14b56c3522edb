"""Two project folders: one with the founding product's mistakes, one without any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SECRET = "hunter2Kx9qZ"
"""Stands in every file that can hold one; no output may show it."""

BROKEN: Mapping[str, str] = {
    "Procfile": "web: node api.js\nworker: node workers/audio-worker.js\n",
    "railway.json": """{
  "$schema": "https://railway.app/railway.schema.json",
  "deploy": {
    "startCommand": "node api.js",
    "healthcheckPath": "/health/redis",
    "restartPolicyType": "ON_FAILURE",
    "restartPolicyMaxRetries": 3
  }
}
""",
    "package.json": """{
  "name": "product",
  "scripts": { "start": "node api.js", "combo": "node start-combo.js" },
  "dependencies": { "bullmq": ">=5", "ioredis": "^5.4.1", "express": "^4" }
}
""",
    "start-combo.js": """// Starts API and worker on one service.
const { spawn } = require('child_process');

function start(name, file) {
  const child = spawn('node', [file], { env: process.env });
  child.stdout.on('data', (chunk) => process.stdout.write(`[${name}] ${chunk}`));
  child.on('exit', (code) => {
    console.error(`${name} exited with code ${code}`);
    process.exit(code);
  });
  return child;
}

const api = start('api', './api.js');
const worker = spawn('node', ['./workers/audio-worker.js'], { stdio: 'inherit' });
worker.on('exit', (code) => { process.exit(code); });
""",
    "queue.js": f"""import {"{"} Queue {"}"} from 'bullmq';
import IORedis from 'ioredis';

// The password used to be {SECRET}.
export const connection = new IORedis(process.env.REDIS_URL || 'redis://localhost:6379', {{
  maxRetriesPerRequest: null,
  commandTimeout: 5000,
}});
export const audioQueue = new Queue('audio-analyzer', {{ connection }});
""",
    "workers/audio-worker.js": """import { Worker } from 'bullmq';
import { connection } from '../queue.js';

const worker = new Worker('audio-analyser', async (job) => job.data, {
  connection,
  concurrency: 2,
  removeOnFail: true,
  settings: {
    stalledInterval: 15000, // ignored
    maxStalledCount: 3,
  },
});

worker.on('stalled', (job) => {
  const { jobId } = job.data;
  console.warn('stalled', jobId);
});
""",
    "api.js": """import express from 'express';
import { audioQueue, connection } from './queue.js';

const app = express();
app.post('/jobs', async (req, res) => {
  const job = await audioQueue.add('process-audio', req.body);
  res.json({ id: job.id });
});
app.get('/health/redis', async (req, res) => {
  const keys = await connection.keys('bull:*:waiting');
  const stalled = await audioQueue.getJobs(['stalled']);
  res.status(keys.length + stalled.length ? 200 : 503).end();
});
""",
    "services/api/.env": f"REDIS_URL=redis://app:{SECRET}@redis.internal:6379/0\n"
    f"B2_APP_KEY={SECRET}\n",
    "services/worker/.env": f"REDIS_URL=redis://app:{SECRET}@redis.internal:6379/1\n",
    "services/mailer/.env": f"SMTP_PASSWORD={SECRET}\n",
    "services/mailer/index.js": "new (require('ioredis'))(process.env.REDIS_URL);\n",
}

HEALTHY: Mapping[str, str] = {
    "Procfile": "web: node src/api.js\nworker: node src/worker.js\n"
    "analyzer: bullpy worker app:worker\n",
    "package.json": """{
  "name": "healthy",
  "type": "module",
  "scripts": { "start": "node src/api.js", "dev": "node a & node b" },
  "dependencies": { "bullmq": "^5.61.2", "ioredis": "^5.4.1" }
}
""",
    "package-lock.json": '{"packages": {"node_modules/bullmq": {"version": "5.61.2"}}}',
    "src/connection.js": """import IORedis from 'ioredis';

if (!process.env.REDIS_URL) throw new Error('REDIS_URL is missing');

/* commandTimeout: 5000 starves workers; `KEYS *` belongs nowhere. */
export const connect = (options) =>
  new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null, lazyConnect: true, ...options });
export const producer = new IORedis(process.env.REDIS_URL, {
  commandTimeout: 5_000, // fails fast
  enableOfflineQueue: false,
});
""",
    "src/names.js": "export const QUEUES = { AUDIO: 'audio-analyzer', MAIL: 'mail' };\n",
    "src/queues.js": """import { Queue, QueueEvents } from 'bullmq';
import { connect, producer } from './connection.js';
import { QUEUES } from './names.js';

export const audio = new Queue(QUEUES.AUDIO, {
  connection: producer,
  defaultJobOptions: { attempts: 3, removeOnComplete: 100, removeOnFail: { count: 1000 } },
});
export const mail = new Queue(QUEUES.MAIL, { connection: producer });
export const events = new QueueEvents(QUEUES.MAIL, { connection: connect() });
events.on('stalled', ({ jobId }) => console.warn('stalled', jobId));
""",
    "src/worker.js": r"""import { Worker } from 'bullmq';
import { connect } from './connection.js';
import { QUEUES } from './names.js';

const pattern = /settings: {stalledInterval}['"`]/g; // a regular expression with quotes
const text = "worker.on('stalled', job => job.data)";
const run = async (job) => `${job.name}: ${pattern.test(text) ? '}' : "{"}`;
const worker = new Worker(QUEUES.MAIL, run, {
  connection: connect(),
  stalledInterval: 15000,
  settings: { backoffStrategy: (attempts) => attempts * 1000 },
});
worker.on('stalled', (jobId) => console.warn(`stalled ${jobId}`));
process.on('SIGTERM', async () => { await worker.close(); process.exit(0); });
""",
    "src/api.js": """import { createServer } from 'node:http';
import { audio, mail } from './queues.js';

createServer(async (request, response) => {
  if (request.url === '/health') {
    const counts = await audio.getJobCounts('wait', 'active', 'failed');
    const headers = Object.keys(request.headers);
    response.end(JSON.stringify({ counts, headers: headers.length }));
    return;
  }
  await mail.add('other-name-than-the-queue', {});
  response.end();
}).listen(process.env.PORT);
""",
    "app.py": """from bullpy import Worker

worker = Worker("audio-analyzer", concurrency=4)


@worker.processor("process-audio")
def analyze(job):
    return {"ok": True}
""",
    "requirements.txt": "bullpy>=0.1,<0.2\n",
    "docker-compose.yml": """services:
  redis:
    image: valkey/valkey:8
  api:
    build: .
    command: node src/api.js
    environment: &environment
      REDIS_URL: redis://redis:6379/0
  worker:
    build: .
    command: ["node", "src/worker.js"]
    restart: always
    environment:
      <<: *environment
      LOG_LEVEL: info
""",
    ".env": "REDIS_URL=redis://localhost:6379/0\n",
    ".env.production": f"REDIS_URL=redis://app:{SECRET}@redis.internal:6379/0\n",
    ".env.example": "REDIS_URL=\n",
}


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write the files into the folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder
