"""What the worker processes share: their task, their stopwatch, and how they talk to the parent.

A worker process prints JSON lines, `{"event": "ready" | "start" | "done" | "measured", ...}`,
and reads lines: `go` starts the measured work, `report` asks for figures in between, `stop` or
the end of stdin ends the process, so that none stays behind when the parent is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAYLOAD = {
    "jobId": "0b8e6c1c-1111-4222-8333-444455556666",
    "fileKey": "uploads/a/b/c.wav",
    "fileName": "c.wav",
    "mode": "genre",
}
MODES = ["process", "share", "add", "bulk", "latency", "calls", "first", "crash", "lag"]
JOB_NAME = "process-audio"
JOB_OPTIONS = {
    "attempts": 3,
    "backoff": {"type": "exponential", "delay": 2000},
    "removeOnComplete": 10,
    "removeOnFail": 5,
}


@dataclass(frozen=True, slots=True)
class Task:
    """What the parent asks of a worker process.

    Attributes:
        mode: `process` jobs that wait; process a `share` of them, which is `jobs` of them, or
            all that it gets until it is asked to `report`; `add` jobs, `concurrency` at a time,
            or in `bulk`, so many in one call; or report the start of each job (`latency`); for
            benchmarks/isolation.py `calls`, `first`, `crash` or `lag`.
        workers: How many `Worker` objects do the jobs of `process` and `share`, in bullpy.
        jobs: How many of what is measured: jobs, calls, starts, crashes.
        isolation: Where the processor runs; what there is depends on the worker.
        seconds: For how long each job of `lag` is busy.
        scratch: A folder in which a crash leaves when it took place.
    """

    url: str
    queue: str
    mode: str
    jobs: int
    concurrency: int
    uvloop: bool
    isolation: str
    workers: int
    seconds: float
    scratch: Path


def task() -> Task:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--no-uvloop", dest="uvloop", action="store_false")
    parser.add_argument("--isolation", default="loop")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--scratch", type=Path, default=Path())
    return Task(**vars(parser.parse_args()))


def say(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def say_ready(version: str) -> None:
    python = ".".join(map(str, sys.version_info[:3]))
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    say("ready", version=version, runtime=f"python {python} {loop}")


def now_ms() -> float:
    """Milliseconds of the machine's clock, with fractions; the parent reads the same one."""
    return time.time() * 1000


def _exit() -> None:
    os._exit(0)


class Control:
    """The parent's lines, read in a thread that costs nothing while there is none.

    Args:
        end: Ends the process.
    """

    def __init__(self, end: Callable[[], None] = _exit) -> None:
        self._loop = asyncio.get_running_loop()
        self._go = asyncio.Event()
        self._end = end
        self.on_report: Callable[[], None] | None = None
        threading.Thread(target=self._read, daemon=True).start()

    async def go(self) -> None:
        """Wait until the measurement begins."""
        await self._go.wait()

    def _read(self) -> None:
        # Not sys.stdin: a process that is forked meanwhile closes it, and would wait for its lock.
        with open(0, closefd=False) as lines:
            for line in lines:
                if line.strip() == "stop":
                    break
                if line.strip() == "go":
                    self._loop.call_soon_threadsafe(self._go.set)
                if line.strip() == "report" and self.on_report is not None:
                    self._loop.call_soon_threadsafe(self.on_report)
        self._end()


class Stopwatch:
    """From `start` to the last job: wall time, and CPU time of all threads of this process.

    `first` is the wall time to the first job, which may have waited for a child process.
    """

    def __init__(self, jobs: int) -> None:
        self.left = jobs
        self._jobs = jobs
        self._started = 0.0
        self._first = 0.0
        self._cpu = 0.0
        self._last = 0.0

    def start(self) -> None:
        self._cpu = _cpu_seconds()
        self._started = time.perf_counter()

    def one_more(self) -> None:
        """Count a job; says `done` after the last."""
        self.more(1)

    def more(self, jobs: int) -> None:
        """Count jobs; says `done` after the last."""
        if self.left == self._jobs:
            self._first = time.perf_counter() - self._started
        self.left -= jobs
        self._last = time.monotonic()
        if self.left == 0:
            seconds = time.perf_counter() - self._started
            cpu = _cpu_seconds() - self._cpu
            say("done", jobs=self._jobs, seconds=seconds, first=self._first, cpu=cpu)

    def report(self) -> None:
        """Say how many jobs there were, and when the last one ended on the monotonic clock."""
        cpu = _cpu_seconds() - self._cpu
        say("report", jobs=self._jobs - self.left, cpu=cpu, last=self._last)


SHORTEST_NAP, LONGEST_NAP = 0.001, 0.005
"""Seconds that the probe of an event loop sleeps."""


async def lateness(until: Callable[[], bool]) -> list[float]:
    """By how many milliseconds the running event loop wakes naps too late, again and again."""
    moments = random.Random(1)
    found: list[float] = []
    while not until():
        nap = moments.uniform(SHORTEST_NAP, LONGEST_NAP)
        due = time.monotonic() + nap
        await asyncio.sleep(nap)
        found.append((time.monotonic() - due) * 1000)
    return found


def spread(milliseconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    ordered = sorted(milliseconds)
    return {
        "p50": round(ordered[len(ordered) // 2], 4),
        "p99": round(ordered[int(len(ordered) * 0.99)], 4),
        "max": round(ordered[-1], 4),
        "samples": len(ordered),
    }


async def add_all(
    add: Callable[[str, dict[str, Any], dict[str, Any]], Awaitable[object]],
    jobs: int,
    in_flight: int,
    watch: Stopwatch,
) -> None:
    """Add jobs one by one, `in_flight` of them at a time."""
    numbers = iter(range(jobs))

    async def lane() -> None:
        for i in numbers:
            await add(JOB_NAME, {**PAYLOAD, "i": i}, JOB_OPTIONS)
            watch.one_more()

    watch.start()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(jobs, in_flight)):
            group.create_task(lane())


async def add_in_bulk(
    add_bulk: Callable[[Any], Awaitable[object]], jobs: int, each: int, watch: Stopwatch
) -> None:
    """Add jobs, `each` of them in one call, one call after the other."""
    watch.start()
    for first in range(0, jobs, each):
        numbers = range(first, min(first + each, jobs))
        await add_bulk(
            [{"name": JOB_NAME, "data": {**PAYLOAD, "i": i}, "opts": JOB_OPTIONS} for i in numbers]
        )
        watch.more(len(numbers))


def run_producer(main: Coroutine[Any, Any, None], *, uvloop: bool) -> None:
    """Run a coroutine, under uvloop where it is wanted and installed."""
    factory = None
    if uvloop and importlib.util.find_spec("uvloop"):
        import uvloop as fast

        factory = fast.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
