"""What the worker processes share: their task, their stopwatch, and how they talk to the parent.

A worker process prints JSON lines, `{"event": "ready" | "start" | "done", ...}`, and reads
lines: `go` starts the measured work, `stop` or the end of stdin ends the process, so that
none stays behind when the parent is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

PAYLOAD = {
    "jobId": "0b8e6c1c-1111-4222-8333-444455556666",
    "fileKey": "uploads/a/b/c.wav",
    "fileName": "c.wav",
    "mode": "genre",
}
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
        mode: `process` jobs that wait, `add` jobs, or report the start of each job (`latency`).
    """

    url: str
    queue: str
    mode: str
    jobs: int
    concurrency: int
    uvloop: bool


def task() -> Task:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--mode", choices=["process", "add", "latency"], required=True)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--no-uvloop", dest="uvloop", action="store_false")
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


class Control:
    """The parent's lines, read in a thread that costs nothing while there is none."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._go = asyncio.Event()
        threading.Thread(target=self._read, daemon=True).start()

    async def go(self) -> None:
        """Wait until the measurement begins."""
        await self._go.wait()

    def _read(self) -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                break
            if line.strip() == "go":
                self._loop.call_soon_threadsafe(self._go.set)
        os._exit(0)


class Stopwatch:
    """From `start` to the last job: wall time, and CPU time of all threads of this process."""

    def __init__(self, jobs: int) -> None:
        self.left = jobs
        self._jobs = jobs
        self._started = 0.0
        self._cpu = 0.0

    def start(self) -> None:
        self._cpu = _cpu_seconds()
        self._started = time.perf_counter()

    def one_more(self) -> None:
        """Count a job; says `done` after the last."""
        self.left -= 1
        if self.left == 0:
            seconds = time.perf_counter() - self._started
            cpu = _cpu_seconds() - self._cpu
            say("done", jobs=self._jobs, seconds=seconds, cpu=cpu)


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
