"""Adds the Python part of the plan: `python -m benchmarks.torture.producer URL PLAN ACKED`.

`PLAN` has a line of JSON per entry; `ACKED` gets the id of each entry that was acknowledged. An
entry is added again, with the same ids, until it is acknowledged. Stdin takes `{"id", "op"}` with
`start`, `pause`, `resume`, and `wait`, which is answered when all entries are acknowledged; stdout
says `{"id"}` when it is done. The end of stdin ends the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.torture.plan import SCHEDULERS
from benchmarks.torture.program import QUEUE
from bullpy import FlowProducer, Queue, errors
from bullpy.settings import RedisSettings

PAUSE_BEFORE_RETRY = 0.2
COMMAND_TIMEOUT = 3.0
"""Seconds until a connection that swallows everything is given up."""

POISON = "{not json"
HOUR = 3600.0


class Producer:
    """The plan's entries, each added at its time."""

    def __init__(self, url: str, plan: Path, acked: Path) -> None:
        settings = RedisSettings.of(url).model_copy(update={"command_timeout": COMMAND_TIMEOUT})
        self._queue = Queue(QUEUE, redis=settings)
        self._flows = FlowProducer(redis=settings)
        self._entries = [json.loads(line) for line in plan.read_text().splitlines()]
        self._acked = acked
        self._adding: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to add."""
        self._adding = asyncio.create_task(self._add_all())

    async def wait(self) -> None:
        """Wait until all is added."""
        assert self._adding is not None
        await asyncio.shield(self._adding)

    async def pause(self) -> None:
        """Pause the queue."""
        await _insist(self._queue.pause)

    async def resume(self) -> None:
        """Resume it."""
        await _insist(self._queue.resume)

    async def _add_all(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for scheduler_id, scheduler in SCHEDULERS.items():
                if scheduler["producer"] == "python":
                    group.create_task(self._schedule(scheduler_id, scheduler["repeat"]))
            for entry in self._entries:
                await asyncio.sleep(began + entry["at"] - loop.time())
                group.create_task(self._add(entry))

    async def _add(self, entry: dict[str, Any]) -> None:
        if entry["kind"] == "poison":
            await self._poison(entry)
        elif entry["children"]:
            await _insist(lambda: self._flows.add(_node(entry)))
        else:
            opts = {**entry["opts"], "jobId": entry["id"]}
            await _insist(lambda: self._queue.add(entry["name"], entry["data"], opts))
        with self._acked.open("a") as file:
            file.write(f"{entry['id']}\n")

    async def _poison(self, entry: dict[str, Any]) -> None:
        """Add it where no worker gets it, spoil it, and only then let workers have it."""
        job_id, key = entry["id"], f"bull:{QUEUE}:{entry['id']}"
        opts = {**entry["opts"], "jobId": job_id}
        await _insist(lambda: self._queue.add(entry["name"], {}, opts, delay=HOUR))
        await _insist(lambda: self._queue.client.hset(key, "data", POISON))

        async def promote() -> None:
            try:
                await self._queue.backend.promote(job_id)
            except errors.JobStateError:
                # A call whose reply was lost has done it.
                return

        await _insist(promote)

    async def _schedule(self, scheduler_id: str, repeat: dict[str, Any]) -> None:
        data = {"work": 0.01, "fails": 0}
        await _insist(
            lambda: self._queue.upsertJobScheduler(scheduler_id, repeat, "plain", data, {})
        )


async def _insist(call: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await call()
            return
        except errors.RedisError:
            await asyncio.sleep(PAUSE_BEFORE_RETRY)


def _node(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": entry["name"],
        "queueName": QUEUE,
        "data": entry["data"],
        "opts": {**entry["opts"], "jobId": entry["id"]},
        "children": [_node(child) for child in entry["children"]],
    }


async def _main(url: str, plan: str, acked: str) -> None:
    producer = Producer(url, Path(plan), Path(acked))
    loop = asyncio.get_running_loop()

    async def answer(request: dict[str, Any]) -> None:
        await getattr(producer, request["op"])()
        print(json.dumps({"id": request["id"]}), flush=True)

    under_way: set[asyncio.Task[None]] = set()

    def begin(line: str) -> None:
        task = loop.create_task(answer(json.loads(line)))
        under_way.add(task)
        task.add_done_callback(_crash_of)

    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(begin, line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    await loop.create_future()


def _crash_of(task: asyncio.Task[None]) -> None:
    if task.exception() is not None:
        task.print_stack()
        os._exit(1)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:4]))
