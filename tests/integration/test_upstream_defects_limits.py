"""Limits are kept, and a limited worker goes on as soon as the limit lets it."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

from support.implementations import Implementation


class Starts:
    """Notes when jobs start and how many run at a time."""

    def __init__(self, expected: int, takes: float = 0.0) -> None:
        self.times: list[float] = []
        self.most_at_once = 0
        self.all_done = asyncio.Event()
        self._expected = expected
        self._takes = takes
        self._running = 0
        self._done = 0

    async def process(self, job: Any, token: str) -> None:
        self.times.append(time.monotonic())
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        await asyncio.sleep(self._takes)
        self._running -= 1
        self._done += 1
        if self._done == self._expected:
            self.all_done.set()

    async def finish(self, within: float) -> None:
        try:
            async with asyncio.timeout(within):
                await self.all_done.wait()
        except TimeoutError:
            raise AssertionError(f"{self._done} of {self._expected} in {within} s") from None

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in pairwise(sorted(self.times))]


async def add(impl: Implementation, count: int) -> None:
    await impl.queue().addBulk([{"name": "n", "data": {}, "opts": {}} for _ in range(count)])


async def test_limiter_waits_as_long_as_the_limit_says(impl: Implementation) -> None:
    """The worker sleeps for what is left of the limit, no longer."""
    starts = Starts(4)
    await add(impl, 4)
    impl.worker(starts.process, limiter={"max": 1, "duration": 500})
    await starts.finish(within=3)
    assert min(starts.gaps) > 0.4
    assert max(starts.gaps) < 1.0


async def test_limiter_holds_over_several_workers(impl: Implementation) -> None:
    """The limit is the queue's, whoever fetches."""
    starts = Starts(6)
    await add(impl, 6)
    for _ in range(2):
        impl.worker(starts.process, concurrency=3, limiter={"max": 2, "duration": 500})
    await starts.finish(within=2.5)
    in_order = sorted(starts.times)
    assert in_order[2] - in_order[0] > 0.4
    assert in_order[4] - in_order[2] > 0.4


async def test_global_concurrency_is_kept_without_idle_pauses(impl: Implementation) -> None:
    """The next job starts when the one before it ends."""
    starts = Starts(6, takes=0.1)
    await impl.queue().setGlobalConcurrency(1)
    await add(impl, 6)
    for _ in range(2):
        impl.worker(starts.process, concurrency=2)
    await starts.finish(within=4)
    assert starts.most_at_once == 1


async def test_global_rate_limit_is_kept_without_idle_pauses(impl: Implementation) -> None:
    """The queue's own rate limit is waited for like the worker's."""
    starts = Starts(4)
    await impl.queue().setGlobalRateLimit(1, 400)
    await add(impl, 4)
    impl.worker(starts.process, concurrency=2)
    await starts.finish(within=3)
    assert min(starts.gaps) > 0.3
