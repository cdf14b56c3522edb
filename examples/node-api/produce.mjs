// Adds one analysis per file name and waits for the results.
//
//   node produce.mjs [--json] [--timeout SECONDS] [--mode MODE] [--genre NAME] FILE...
//
// --json prints one JSON line per analysis to standard output, and what goes on to
// standard error. Ends with 0 when all have finished (a failed analysis is a result
// too), with 1 when some have not in time, with 2 when it was called wrongly.
// Environment: REDIS_URL (required).

import { parseArgs } from 'node:util';

import { Analyses, isFinished } from './analyses.mjs';
import { connect } from './redis.mjs';

const USAGE =
  'usage: node produce.mjs [--json] [--timeout SECONDS] [--mode MODE] [--genre NAME] FILE...';

function readArguments() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        json: { type: 'boolean', default: false },
        timeout: { type: 'string', default: '120' },
        mode: { type: 'string' },
        genre: { type: 'string' },
      },
    });
    const seconds = Number(values.timeout);
    if (!(seconds > 0 && seconds < 1e6)) throw new Error('--timeout: a number of seconds above 0');
    if (positionals.length === 0) throw new Error('no file is named');
    return { ...values, seconds, files: positionals };
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`);
    process.exit(2);
  }
}

const { files, json, seconds, mode, genre } = readArguments();
const out = json ? process.stderr : process.stdout;
const live = Boolean(out.isTTY);
const width = Math.max(...files.map((file) => file.length));
const states = new Map();
let drawn = 0;

function line({ fileName, state, progress, failedReason }) {
  const percent = typeof progress === 'number' ? progress : progress?.percent;
  const share = state === 'active' && percent !== undefined ? ` ${percent} %` : '';
  const reason = state === 'failed' ? `: ${failedReason}` : '';
  return `${fileName.padEnd(width)}  ${state}${share}${reason}`.split('\n', 1)[0];
}

// On a terminal, one row per file that is rewritten in place; otherwise a line a change.
function show(analysis) {
  const before = states.get(analysis.id);
  states.set(analysis.id, analysis);
  if (!live) {
    if (!before || line(before) !== line(analysis)) out.write(`${line(analysis)}\n`);
    return;
  }
  const columns = out.columns || 80;
  const rows = [...states.values()].map((row) => `\x1b[2K${line(row).slice(0, columns - 1)}\n`);
  out.write(`${drawn ? `\x1b[${drawn}A` : ''}${rows.join('')}`);
  drawn = rows.length;
}

const number = (value, digits) => (typeof value === 'number' ? value.toFixed(digits) : '-');

function printResult(analysis) {
  if (json) {
    const { id, fileName, state, result, failedReason } = analysis;
    process.stdout.write(`${JSON.stringify({ id, fileName, state, result, failedReason })}\n`);
    return;
  }
  const { fileName, state, result, failedReason } = analysis;
  const text =
    state === 'completed'
      ? `${number(result?.loudness?.integrated, 1)} LUFS  ` +
        `${number(result?.loudness?.lra, 1)} LU  ${number(result?.truePeak?.maxDbtp, 1)} dBTP`
      : `${state}${failedReason ? `: ${failedReason}` : ''}`;
  process.stdout.write(`${fileName.padEnd(width)}  ${text}\n`);
}

const analyses = new Analyses(connect());
const ours = new Set();

function finish(code) {
  for (const id of ours) {
    const analysis = states.get(id);
    if (isFinished(analysis)) printResult(analysis);
    else if (code === 1) console.error(`${analysis.fileName}: ${analysis.state}, not finished`);
  }
  // Written out before the process ends, also when standard output is a pipe.
  process.stdout.write('', () => process.exit(code));
}

setTimeout(() => {
  console.error(`not everything was finished within ${seconds} s; is a worker running?`);
  finish(1);
}, seconds * 1_000);
process.on('SIGINT', () => process.exit(130));
process.stdout.on('error', () => process.exit(1));

let added = false;
function check() {
  if (added && [...ours].every((id) => isFinished(states.get(id)))) {
    analyses.close().finally(() => finish(0));
  }
}

// Events of other producers' jobs pass by here as well. Ours are known by the file
// name, which Analyses.add notes before the job is added.
analyses.onChange((analysis) => {
  if (!analysis.fileName) return;
  ours.add(analysis.id);
  show(analysis);
  check();
});

try {
  await analyses.follow();
  await Promise.all(files.map((fileName) => analyses.add({ fileName, mode, genre })));
  added = true;
  check();
} catch (error) {
  console.error(`the jobs could not be added: ${error.message}`);
  process.exit(1);
}
