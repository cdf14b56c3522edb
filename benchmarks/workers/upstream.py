"""The upstream port, PyPI `bullmq`, on asyncio's own loop, which is what its users get.

For throughput it gets `socket_timeout=30`: redis-py 8 has a default of 5 s, as long as the
worker's blocking wait, and every wait on an empty queue would end in a time-out with growing
pauses. For latency it keeps its defaults: there, those pauses are what is measured.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from typing import Any

import bullmq

from benchmarks.workers.common import (
    Control,
    Stopwatch,
    Task,
    add_all,
    add_in_bulk,
    now_ms,
    say,
    say_ready,
    task,
)

VERSION = importlib.metadata.version("bullmq")


async def main(todo: Task) -> None:
    control = Control()
    modes = {"process": _process, "latency": _report_starts, "add": _produce, "bulk": _produce}
    await modes[todo.mode](todo, control)


async def _process(todo: Task, control: Control) -> None:
    watch = Stopwatch(todo.jobs)

    async def process(job: bullmq.Job, token: str) -> dict[str, int]:
        return {"ok": 1}

    options: Any = {
        "connection": f"{todo.url}?socket_timeout=30",
        "concurrency": todo.concurrency,
        "autorun": False,
    }
    worker = bullmq.Worker(todo.queue, process, options)
    worker.on("completed", lambda job, result: watch.one_more())
    await asyncio.gather(worker.client.ping(), worker.bclient.ping())
    say_ready(VERSION)
    await control.go()
    watch.start()
    await worker.run()


async def _report_starts(todo: Task, control: Control) -> None:
    async def process(job: bullmq.Job, token: str) -> None:
        say("start", at=now_ms(), n=job.data["n"])

    options: Any = {"connection": todo.url, "concurrency": todo.concurrency, "autorun": False}
    worker = bullmq.Worker(todo.queue, process, options)
    await asyncio.gather(worker.client.ping(), worker.bclient.ping())
    say_ready(VERSION)
    await worker.run()


async def _produce(todo: Task, control: Control) -> None:
    options: Any = {"connection": f"{todo.url}?socket_timeout=30"}
    queue = bullmq.Queue(todo.queue, options)
    await queue.client.ping()
    say_ready(VERSION)
    await control.go()
    watch = Stopwatch(todo.jobs)
    if todo.mode == "bulk":
        await add_in_bulk(queue.addBulk, todo.jobs, todo.concurrency, watch)
    else:
        await add_all(queue.add, todo.jobs, todo.concurrency, watch)
    await queue.close()


asyncio.run(main(task()))
