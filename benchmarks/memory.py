"""Whether a worker, or a producer, grows while a million jobs go through it.

    python benchmarks/memory.py --json
    python benchmarks/memory.py --jobs 100000 --after 20000

This process adds jobs that do nothing, never more than `--ahead` of what is done, and one worker
process does them. The resident memory of both is read once a second. `growth_mb` is what the
worker grew by from the moment when `--after` jobs were done to the end: until then, allocators and
caches fill.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import harness

from bullpy import EmbeddedServer, Queue

GOAL_MB = 10.0
SLOWEST = 50.0
"""Jobs per second that the worker must reach, or the measurement is given up."""
SHOWN = 20
"""Samples in the output, evenly spread."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory in MB when so many jobs were done."""

    done: int
    worker: float
    producer: float


@dataclass(slots=True)
class Samples:
    """Reads the memory of the worker and of this process, its producer."""

    worker: int
    taken: list[Sample] = field(default_factory=list)

    async def take(self, done: int) -> None:
        worker = await _resident_mb(self.worker)
        self.taken.append(Sample(done, worker, await _resident_mb()))

    def since(self, after: int) -> list[Sample]:
        """Those from the moment on when so many jobs were done; the last one at least."""
        return [one for one in self.taken if one.done >= after] or self.taken[-1:]


def main() -> int:
    options = _options()

    async def measure(server: EmbeddedServer) -> None:
        result = await _measure(server, options)
        if options.json:
            print(json.dumps(result), flush=True)
        else:
            _print_table(result)

    return harness.run(measure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Does a worker grow?")
    parser.add_argument("--jobs", type=harness.positive, default=1_000_000)
    parser.add_argument("--after", type=harness.positive, default=50_000, help="jobs to warm up")
    parser.add_argument("--ahead", type=harness.positive, default=10_000, help="jobs that wait")
    parser.add_argument("--concurrency", type=harness.positive, default=50)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two samples")
    parser.add_argument("--json", action="store_true", help="one object")
    return parser.parse_args()


async def _measure(server: EmbeddedServer, options: argparse.Namespace) -> dict[str, Any]:
    async with (
        Queue("bench-memory", redis=server.url) as queue,
        harness.started(
            "bullpy",
            url=server.url,
            queue=queue.name,
            mode="process",
            jobs=options.jobs,
            concurrency=options.concurrency,
        ) as worker,
    ):
        samples = Samples(worker.pid)
        await worker.tell("go")
        await _feed(queue, options, samples)
        done = await worker.expect("done", 30 + options.jobs / SLOWEST)
        await samples.take(options.jobs)
    return _result(options, done, samples, worker.runtime)


async def _feed(queue: Queue, options: argparse.Namespace, samples: Samples) -> None:
    """Add all jobs, and come back when none waits."""
    added, next_sample = 0, 0.0
    given_up = time.monotonic() + 30 + options.jobs / SLOWEST
    while True:
        counts = await queue.get_job_counts("waiting", "active")
        left = sum(counts.values())
        if time.monotonic() >= next_sample:
            await samples.take(added - left)
            next_sample = time.monotonic() + options.every
            print(f"{samples.taken[-1]}", file=sys.stderr, flush=True)
        if added == options.jobs and not left:
            return
        if time.monotonic() > given_up:
            raise harness.BenchmarkError(f"{left} jobs are left.")
        more = min(options.jobs - added, options.ahead - left, harness.BULK)
        if more > 0:
            await harness.fill(queue, more)
            added += more
        if more < harness.BULK:
            await asyncio.sleep(0.05)


async def _resident_mb(pid: int | None = None) -> float:
    """Of a process; of this one by default."""
    listed = await asyncio.create_subprocess_exec(
        *("ps", "-o", "rss=", "-p", str(pid or os.getpid())),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await listed.communicate()
    return round(int(output) / 1024, 2)


def _result(
    options: argparse.Namespace, done: dict[str, Any], samples: Samples, runtime: str
) -> dict[str, Any]:
    steady = samples.since(options.after)
    first, last = steady[0], steady[-1]
    step = max(1, len(samples.taken) // SHOWN)
    shown = samples.taken[::step]
    return {
        "benchmark": "memory",
        "jobs": options.jobs,
        "concurrency": options.concurrency,
        "after": first.done,
        "growth_mb": round(last.worker - first.worker, 2),
        "peak_growth_mb": round(max(one.worker for one in steady) - first.worker, 2),
        "producer_growth_mb": round(last.producer - first.producer, 2),
        "goal_mb": GOAL_MB,
        "jobs_per_second": round(options.jobs / done["seconds"], 1),
        "cpu_us_per_job": round(done["cpu"] * 1e6 / options.jobs, 1),
        "samples": [[one.done, one.worker, one.producer] for one in [*shown, last]],
        "runtime": runtime,
    }


def _print_table(result: dict[str, Any]) -> None:
    print(harness.table([["jobs done", "worker MB", "producer MB"], *result["samples"]]))
    print()
    figures = ("growth_mb", "peak_growth_mb", "producer_growth_mb", "jobs_per_second")
    print(harness.table([[name, result[name]] for name in figures]))


if __name__ == "__main__":
    sys.exit(main())
