"""How workers of bullpy share the global concurrency of a queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from support.node import eventually

from bullpy import Job, Queue, Worker

JOB_SECONDS = 0.01


class Fleet:
    """Workers that count their jobs, and how many of them run at a time."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.counts: Counter[str] = Counter()
        self.running = 0
        self.most = 0

    def worker(self, name: str, **options: Any) -> Worker:
        async def process(job: Job[Any]) -> None:
            self.counts[name] += 1
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(JOB_SECONDS)
            self.running -= 1

        redis = self._queue.redisConnection.settings
        return Worker(self._queue.name, process, {"autorun": False}, redis=redis, **options)

    async def flood(self, count: int) -> None:
        await self._queue.add_bulk([{"name": "j", "data": {}} for _ in range(count)])

    async def finished(self, count: int) -> None:
        async def done() -> bool:
            return (await self._queue.get_job_counts("completed"))["completed"] == count

        await eventually(done, timeout=20)


async def test_more_workers_than_places_take_turns(queue: Queue, start_worker: Any) -> None:
    await queue.set_global_concurrency(2)
    fleet = Fleet(queue)
    for name in ("a", "b", "c", "d"):
        await start_worker(worker=fleet.worker(name, concurrency=2))
    await fleet.flood(400)
    await fleet.finished(400)
    assert fleet.most <= 2
    assert min(fleet.counts[name] for name in "abcd") >= 40


async def test_worker_that_comes_later_gets_its_share(queue: Queue, start_worker: Any) -> None:
    await queue.set_global_concurrency(2)
    fleet = Fleet(queue)
    await fleet.flood(300)
    await start_worker(worker=fleet.worker("first", concurrency=2))

    async def has_begun() -> bool:
        return fleet.counts["first"] >= 4

    await eventually(has_begun)
    await start_worker(worker=fleet.worker("second", concurrency=2))
    await fleet.finished(300)
    assert fleet.most <= 2
    assert fleet.counts["second"] >= 100


async def test_worker_alone_uses_all_places(queue: Queue, start_worker: Any) -> None:
    await queue.set_global_concurrency(3)
    fleet = Fleet(queue)
    await start_worker(worker=fleet.worker("only", concurrency=5))
    await fleet.flood(300)
    started = asyncio.get_running_loop().time()
    await fleet.finished(300)
    assert fleet.most == 3
    # 100 rounds of 3; as slow as one at a time would be 3 s.
    assert asyncio.get_running_loop().time() - started < 2.5


async def test_one_place_goes_round(queue: Queue, start_worker: Any) -> None:
    await queue.set_global_concurrency(1)
    fleet = Fleet(queue)
    for name in ("a", "b"):
        await start_worker(worker=fleet.worker(name, concurrency=4))
    await fleet.flood(150)
    await fleet.finished(150)
    assert fleet.most == 1
    assert min(fleet.counts.values()) >= 30
    assert len(fleet.counts) == 2


async def test_worker_that_closes_leaves_its_place_to_the_others(
    queue: Queue, start_worker: Any
) -> None:
    await queue.set_global_concurrency(1)
    fleet = Fleet(queue)
    first = await start_worker(worker=fleet.worker("first"))
    await start_worker(worker=fleet.worker("second"))
    await fleet.flood(60)

    async def has_begun() -> bool:
        return fleet.counts.total() >= 5

    await eventually(has_begun)
    await first.close()
    before = fleet.counts["first"]
    await fleet.finished(60)
    assert fleet.counts["first"] == before
    assert fleet.most == 1
