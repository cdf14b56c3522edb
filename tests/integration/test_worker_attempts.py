"""What processors raise, what it does to the attempts of their job, and limits."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.outcomes import failure_of, result_of

from bullpy import (
    Backoff,
    DelayedError,
    Discard,
    Job,
    Queue,
    RateLimit,
    RateLimited,
    Retry,
    Snooze,
    UnrecoverableError,
    WaitForChildren,
    WaitingChildrenError,
)

StartWorker = Callable[..., Any]


def failing(*outcomes: BaseException | None) -> tuple[Any, list[float]]:
    """A processor that raises these one after the other (None returns), and when it ran."""
    starts: list[float] = []

    async def process(job: Job[Any]) -> str:
        outcome = outcomes[min(len(starts), len(outcomes) - 1)]
        starts.append(time.monotonic())
        if outcome is not None:
            raise outcome
        return "done"

    return process, starts


async def test_attempts_are_used_up_then_the_job_fails(
    queue: Queue, start_worker: StartWorker
) -> None:
    process, starts = failing(ValueError("boom"))
    await start_worker(process)
    job = await queue.add("n", {}, attempts=3)
    assert await failure_of(job) == "ValueError: boom"
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert (len(starts), stored.attempts_made, len(stored.stacktrace)) == (3, 3, 3)
    assert "ValueError: boom" in stored.stacktrace[0]


async def test_jitter_shortens_the_delay_at_most_by_its_share(
    queue: Queue, start_worker: StartWorker
) -> None:
    process, starts = failing(ValueError(), ValueError(), ValueError(), None)
    await start_worker(process)
    await result_of(await queue.add("n", {}, attempts=4, backoff=Backoff.fixed(0.3, jitter=0.5)))
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert all(0.14 < gap < 0.6 for gap in gaps), gaps


@pytest.mark.parametrize("is_async", [False, True])
async def test_custom_backoff_decides_when_and_whether(
    queue: Queue, start_worker: StartWorker, is_async: bool
) -> None:
    asked: list[tuple[int, str, str]] = []

    def strategy(made: int, kind: str, error: BaseException, job: Job[Any]) -> Any:
        asked.append((made, kind, str(error)))
        delay = 50 if made == 1 else -1

        async def later() -> int:
            return delay

        return later() if is_async else delay

    process, starts = failing(ValueError("boom"))
    await start_worker(process, backoff_strategy=strategy)
    job = await queue.add("n", {}, attempts=9, backoff=Backoff.custom("mine"))
    await failure_of(job)
    assert asked == [(1, "mine", "boom"), (2, "mine", "boom")]
    assert len(starts) == 2


async def test_retry_uses_an_attempt_and_its_own_delay(
    queue: Queue, start_worker: StartWorker
) -> None:
    process, starts = failing(Retry("not yet", delay=0.2), None)
    await start_worker(process)
    job = await queue.add("n", {}, attempts=2, backoff=60)
    assert await result_of(job) == "done"
    assert 0.15 < starts[1] - starts[0] < 0.6
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert stored.attempts_made == 2


@pytest.mark.parametrize("error", [Discard("no more"), UnrecoverableError("no more")], ids=repr)
async def test_discard_fails_at_once(
    queue: Queue, start_worker: StartWorker, error: Exception
) -> None:
    process, starts = failing(error)
    await start_worker(process)
    assert "no more" in await failure_of(await queue.add("n", {}, attempts=5))
    assert len(starts) == 1


async def test_snooze_uses_no_attempt(queue: Queue, start_worker: StartWorker) -> None:
    process, starts = failing(Snooze(0.1), Snooze(0.1), None)
    await start_worker(process)
    job = await queue.add("n", {}, attempts=1)
    assert await result_of(job) == "done"
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert (stored.attempts_made, stored.attempts_started, len(starts)) == (1, 3, 3)


async def test_delayed_error_leaves_the_job_where_the_processor_put_it(
    queue: Queue, start_worker: StartWorker
) -> None:
    runs: list[float] = []

    async def process(job: Job[Any]) -> str:
        runs.append(time.monotonic())
        if len(runs) == 1:
            await job.move_to_delayed(0.2)
            raise DelayedError
        return "done"

    await start_worker(process)
    assert await result_of(await queue.add("n", {})) == "done"
    assert 0.15 < runs[1] - runs[0] < 0.6


@pytest.mark.parametrize("way", ["WaitForChildren", "WaitingChildrenError"])
async def test_a_job_may_wait_for_children_that_it_added(
    queue: Queue, start_worker: StartWorker, way: str
) -> None:
    async def process(job: Job[Any]) -> Any:
        if job.name == "child":
            return job.data
        if job.data == "first":
            await job.update_data("second")
            parent = {"id": job.id, "queue": queue.qualifiedName}
            await queue.add("child", 1, parent=parent)
            await queue.add("child", 2, parent=parent)
            if way == "WaitForChildren":
                raise WaitForChildren
            assert await job.moveToWaitingChildren(job.token, {})
            raise WaitingChildrenError
        return sorted((await job.get_children_values()).values())

    await start_worker(process, concurrency=2)
    assert await result_of(await queue.add("parent", "first")) == [1, 2]


# -- limits ----------------------------------------------------------------------------------


async def test_rate_limited_puts_the_job_back_without_an_attempt(
    queue: Queue, start_worker: StartWorker
) -> None:
    process, starts = failing(RateLimited(0.4), None)
    await start_worker(process, limiter=RateLimit(1000, 1))
    job = await queue.add("n", {}, attempts=1)
    assert await result_of(job) == "done"
    assert 0.35 < starts[1] - starts[0] < 1
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert stored.attempts_made == 1


async def test_queue_rate_limit_holds_all_workers_for_its_time(
    queue: Queue, start_worker: StartWorker
) -> None:
    process, starts = failing(None)
    await queue.rate_limit(0.5)
    since = time.monotonic()
    await start_worker(process, limiter=RateLimit(1000, 1))
    await result_of(await queue.add("n", {}))
    assert 0.4 < starts[0] - since < 1.2


async def test_global_concurrency_wakes_other_workers(
    queue: Queue, start_worker: StartWorker
) -> None:
    """The worker that had to wait takes its share when the limit lets it."""
    active, most = 0, 0

    async def process(job: Job[Any]) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.03)
        active -= 1

    await queue.set_global_concurrency(2)
    for _ in range(2):
        await start_worker(process, concurrency=4)
    jobs = await queue.add_bulk([{"name": "n", "data": {}} for _ in range(12)])
    await asyncio.gather(*(result_of(job) for job in jobs))
    assert most == 2


@pytest.mark.parametrize("delay", [float("nan"), float("inf")])
@pytest.mark.parametrize("how", ["strategy", "Retry"])
async def test_delay_that_is_no_number_fails_the_job_instead_of_its_slot(
    queue: Queue, start_worker: Any, delay: float, how: str
) -> None:
    async def process(_job: Job[Any]) -> None:
        raise Retry("again", delay=delay) if how == "Retry" else ValueError("again")

    await start_worker(process, backoff_strategy=lambda *_: delay)
    job = await queue.add("n", attempts=3, backoff=Backoff.custom("odd"))
    assert "no retry" in await failure_of(job)
