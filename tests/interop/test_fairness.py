"""Who gets the jobs of a queue with a global concurrency, beside workers of Node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.node import Node, NodeWorker, eventually

from bullpy import Job, Queue, Worker
from bullpy.engine.calls import Calls
from bullpy.engine.fetched import Appetite
from bullpy.places import KNOCK
from bullpy.settings import WorkerSettings

LIMIT = 2
JOB_MS = 20


class Mine:
    """A processor that takes a while, and tells what it saw."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.names: list[str] = []
        self.left_at_first = 0
        self.most_active = 0

    async def __call__(self, job: Job[Any]) -> None:
        if not self.names:
            self.left_at_first = await self._queue.client.llen(self._queue.keys["wait"])
        self.names.append(job.name)
        active = await self._queue.client.llen(self._queue.keys["active"])
        self.most_active = max(self.most_active, active)
        await asyncio.sleep(JOB_MS / 1000)


async def flood(queue: Queue, count: int, **opts: Any) -> None:
    await queue.add_bulk([{"name": "flood", "data": {}, "opts": opts} for _ in range(count)])


async def all_done(queue: Queue, count: int) -> None:
    async def done() -> bool:
        return (await queue.get_job_counts("completed"))["completed"] == count

    await eventually(done, timeout=20)


async def start_theirs(node: Node) -> NodeWorker:
    return await node.start_worker("sleep", {"concurrency": LIMIT}, ms=JOB_MS)


@pytest.mark.parametrize("first", ["node", "bullpy"])
async def test_idle_workers_of_both_languages_share_a_flood(
    node: Node, queue: Queue, start_worker: Any, first: str
) -> None:
    await queue.set_global_concurrency(LIMIT)
    mine = Mine(queue)
    if first == "node":
        theirs = await start_theirs(node)
        await start_worker(mine, concurrency=LIMIT)
    else:
        await start_worker(mine, concurrency=LIMIT)
        theirs = await start_theirs(node)
    await flood(queue, 120)
    await all_done(queue, 120)
    assert len(mine.names) + len(await theirs.processed()) == 120
    # Half and half at once, or after the half second in which the first has all places.
    assert 20 <= len(mine.names) <= 80
    assert mine.most_active <= LIMIT


async def test_bullpy_gets_a_place_although_node_has_them_all(
    node: Node, queue: Queue, start_worker: Any
) -> None:
    await queue.set_global_concurrency(LIMIT)
    await flood(queue, 240)
    theirs = await start_theirs(node)
    await theirs.event("completed", count=4)
    mine = Mine(queue)
    await start_worker(mine, concurrency=LIMIT)
    # However long that took: as many jobs are left to share as there were.
    before = len(await theirs.processed())
    await flood(queue, before)
    await all_done(queue, 240 + before)
    assert len(mine.names) + len(await theirs.processed()) == 240 + before
    # Node alone for half a second, which is about 50 jobs, and more where the worker waits for a
    # busy machine; then half and half.
    assert mine.left_at_first >= 100
    assert 0.35 <= len(mine.names) / mine.left_at_first <= 0.65
    assert mine.most_active <= LIMIT
    assert await queue.client.hmget(queue.keys["meta"], "max", "duration") == [None, None]
    assert await queue.client.get(queue.keys["limiter"]) is None


async def test_knock_of_a_worker_that_dies_ends_by_itself(node: Node, queue: Queue) -> None:
    await queue.set_global_concurrency(LIMIT)
    await flood(queue, 40)
    theirs = await start_theirs(node)
    await theirs.event("active", count=LIMIT)
    calls = Calls(queue, queue.backend, WorkerSettings(), "dies")

    async def knocked() -> bool:
        await calls.fetch("0" * 32 + ":1", Appetite.STARVES)
        return await queue.client.get(queue.keys["limiter"]) == str(KNOCK)

    await eventually(knocked)
    await all_done(queue, 40)
    assert await queue.client.hmget(queue.keys["meta"], "max", "duration") == [None, None]


async def test_nobody_knocks_where_a_rate_limit_is_set(node: Node, queue: Queue) -> None:
    await queue.set_global_concurrency(LIMIT)
    await queue.set_global_rate_limit(1000, 60)
    await flood(queue, 10)
    theirs = await node.start_worker("hold", {"concurrency": LIMIT})
    await theirs.event("active", count=LIMIT)
    calls = Calls(queue, queue.backend, WorkerSettings(), "starves")
    assert (await calls.fetch("0" * 32 + ":1", Appetite.STARVES)).job is None
    limits = await queue.client.hmget(queue.keys["meta"], "max", "duration")
    assert limits == ["1000", "60000"]
    assert await queue.client.get(queue.keys["limiter"]) == str(LIMIT)
    await theirs.release()


async def test_rate_limit_that_is_set_during_a_knock_stays(node: Node, queue: Queue) -> None:
    await queue.set_global_concurrency(LIMIT)
    await flood(queue, 6)
    theirs = await node.start_worker("hold", {"concurrency": LIMIT})
    await theirs.event("active", count=LIMIT)
    calls = Calls(queue, queue.backend, WorkerSettings(), "starves")
    await calls.fetch("0" * 32 + ":1", Appetite.STARVES)
    assert await queue.client.get(queue.keys["limiter"]) == str(KNOCK)
    await queue.set_global_rate_limit(1000, 60)
    await theirs.release()
    await theirs.event("completed", count=LIMIT)
    await calls.fetch("0" * 32 + ":2", Appetite.STARVES)
    limits = await queue.client.hmget(queue.keys["meta"], "max", "duration")
    assert limits == ["1000", "60000"]


@pytest.mark.parametrize("added_by", ["node", "bullpy"])
async def test_prioritized_job_waits_no_longer_than_those_that_run(
    node: Node, queue: Queue, start_worker: Any, added_by: str
) -> None:
    await flood(queue, 40, priority=10)
    mine = Mine(queue)
    seen = asyncio.Event()
    worker = Worker(queue.name, mine, {"autorun": False}, redis=queue.redisConnection.settings)
    worker.concurrency = 2
    worker.on("completed", lambda *_: seen.set())
    await start_worker(worker=worker)
    await seen.wait()
    if added_by == "node":
        await node.add("urgent", {}, {"priority": 1})
    else:
        await queue.add("urgent", priority=1)
    started = len(mine.names)
    await all_done(queue, 41)
    # Those that run when it is added, and those that their ends fetch before it is there.
    assert mine.names.index("urgent") <= started + 2


async def test_node_starts_bullpys_prioritized_job_next(node: Node, queue: Queue) -> None:
    await flood(queue, 40, priority=10)
    theirs = await start_theirs(node)
    await theirs.event("completed", count=4)
    await queue.add("urgent", priority=1)
    started = len(await theirs.processed())
    await all_done(queue, 41)
    names = [entry["name"] for entry in await theirs.processed()]
    assert names.index("urgent") <= started + 2
