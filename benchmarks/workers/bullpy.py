"""bullpy as its users run it: `run(worker)`, which takes uvloop where it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import bullpy
from benchmarks.workers.common import (
    Control,
    Stopwatch,
    Task,
    add_all,
    now_ms,
    run_producer,
    say,
    say_ready,
    task,
)
from bullpy.running import run_async


def main() -> None:
    todo = task()
    if todo.mode == "add":
        run_producer(_produce(todo), uvloop=todo.uvloop)
        return
    worker = bullpy.Worker(todo.queue, redis=todo.url, concurrency=todo.concurrency)
    if todo.mode == "latency":
        _report_starts(worker)
    else:
        _count_jobs(worker, todo.jobs)
    if todo.uvloop:
        bullpy.run(worker)
    else:
        asyncio.run(run_async(worker))


def _count_jobs(worker: bullpy.Worker, jobs: int) -> None:
    watch = Stopwatch(jobs)

    @worker.processor()
    async def process(job: bullpy.Job[Any]) -> dict[str, int]:
        return {"ok": 1}

    @worker.lifespan
    async def gate(worker: bullpy.Worker) -> AsyncIterator[None]:
        """Connected, but before the first fetch: a lifespan starts there."""
        control = Control()
        await worker.whoami()
        say_ready(bullpy.__version__)
        await control.go()
        watch.start()
        yield None

    @worker.on("completed")
    def count(job: bullpy.Job[Any], result: object) -> None:
        watch.one_more()


def _report_starts(worker: bullpy.Worker) -> None:
    @worker.processor()
    async def process(job: bullpy.Job[Any]) -> None:
        say("start", at=now_ms(), n=job.data["n"])

    @worker.on("ready")
    def ready() -> None:
        Control()
        say_ready(bullpy.__version__)


async def _produce(todo: Task) -> None:
    control = Control()
    async with bullpy.Queue(todo.queue, redis=todo.url) as queue:
        await queue.whoami()
        say_ready(bullpy.__version__)
        await control.go()
        await add_all(queue.add, todo.jobs, todo.concurrency, Stopwatch(todo.jobs))


main()
