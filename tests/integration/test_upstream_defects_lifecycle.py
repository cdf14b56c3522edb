"""Starting, closing and cancelling: nothing is cut off, doubled or left behind."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from support.implementations import DRAIN_DELAY, Implementation, eventually, in_thread


async def test_close_does_not_return_while_a_job_runs(impl: Implementation) -> None:
    """Closing just after a completion waits for the job that was fetched meanwhile.

    The moment matters, so it is tried at several distances from the completion.
    """
    left_running: list[str] = []
    for attempt in range(10):
        name = impl.new_name()
        running: set[str] = set()
        first_done = asyncio.Event()

        async def process(job: Any, token: str, *, running: set[str] = running) -> None:
            running.add(job.id)
            await asyncio.sleep(0.05)
            running.discard(job.id)

        queue = impl.queue(name)
        await queue.addBulk([{"name": "n", "data": {}, "opts": {}} for _ in range(4)])
        worker = impl.idle_worker(process, name)
        worker.on("completed", lambda *args, done=first_done: done.set())
        impl.run(worker)
        async with asyncio.timeout(3):
            await first_done.wait()
            await asyncio.sleep(attempt * 0.0001)
            await worker.close()
        left_running += running
        counts = await queue.getJobCounts("active")
        left_running += [f"active in round {attempt}"] * counts["active"]
    assert left_running == []


async def test_closing_twice_closes_once(impl: Implementation) -> None:
    """`closed` is told once, and the second call waits for the first."""

    async def echo(job: Any, token: str) -> Any:
        return job.data

    worker = impl.idle_worker(echo)
    told: list[str] = []
    worker.on("closed", lambda *args: told.append("closed"))
    impl.run(worker)
    job = await impl.queue().add("n", 1)
    await eventually(job.isCompleted)
    await worker.close()
    await worker.close()
    assert told == ["closed"]


async def test_forced_close_hands_the_job_back(impl: Implementation) -> None:
    """After `close(True)` an unfinished job waits for another worker, without a lock."""
    started = asyncio.Event()

    async def hang(job: Any, token: str) -> None:
        started.set()
        await asyncio.Event().wait()

    queue = impl.queue()
    worker = impl.worker(hang)
    job = await queue.add("n", {}, {"attempts": 3})
    async with asyncio.timeout(3):
        await started.wait()
        await worker.close(True)
    assert await job.getState() == "waiting"
    assert not await queue.client.exists(f"{queue.toKey(job.id)}:lock")
    # Being handed back used no attempt and counts as no stall.
    stored = await queue.client.hmget(queue.toKey(job.id), "atm", "stc")
    assert stored in ([None, None], ["0", None])


async def test_cancelled_error_in_a_processor_is_that_jobs_failure(impl: Implementation) -> None:
    """A processor that awaits something cancelled fails its job, and nothing else."""
    slow_may_end = asyncio.Event()

    async def process(job: Any, token: str) -> Any:
        if job.name == "cancelled":
            sub_task = asyncio.ensure_future(asyncio.Event().wait())
            sub_task.cancel()
            await sub_task
        if job.name == "slow":
            await slow_may_end.wait()
        return job.data

    queue = impl.queue()
    slow = await queue.add("slow", 1)
    worker = impl.worker(process, concurrency=2)
    await eventually(slow.isActive)
    cancelled = await queue.add("cancelled", 2)
    next_one = await queue.add("next", 3)
    await eventually(cancelled.isFailed, because="the job did not fail")
    slow_may_end.set()
    await eventually(slow.isCompleted, because="its neighbour was cancelled")
    await eventually(next_one.isCompleted, because="the worker ended")
    assert worker.running


async def test_worker_may_be_created_before_any_event_loop_runs(impl: Implementation) -> None:
    """A worker made at module level runs in the loop that comes later."""
    url, name, library = impl.url, impl.queue_name, impl.library
    processed: list[Any] = []

    async def process(job: Any, token: str) -> None:
        processed.append(job.data)

    def make_and_run() -> None:
        # A thread of its own: here no loop exists, as when a module is imported.
        worker = library.Worker(
            name, process, {"connection": url, "drainDelay": DRAIN_DELAY, "autorun": True}
        )

        async def main() -> None:
            running = asyncio.ensure_future(worker.run())
            await eventually(lambda: processed)
            await worker.close()
            await running

        asyncio.run(main())

    await impl.queue().add("n", 1)
    async with asyncio.timeout(8):
        await asyncio.to_thread(make_and_run)
    assert processed == [1]


@pytest.mark.parametrize("concurrency", [0, -1, float("inf")])
async def test_concurrency_that_cannot_work_is_refused(
    impl: Implementation, concurrency: float
) -> None:
    """Zero slots would be a loop without a pause; Node refuses them too."""

    async def echo(job: Any, token: str) -> Any:
        return job.data

    with pytest.raises(ValueError, match="concurrency"):
        impl.idle_worker(echo, concurrency=concurrency)


async def test_jobs_that_run_at_the_same_time_have_different_tokens(impl: Implementation) -> None:
    """The token is what tells whose lock it is, so no two jobs held at a time share one."""
    tokens: list[str] = []
    all_running = asyncio.Event()

    async def process(job: Any, token: str) -> None:
        tokens.append(token)
        if len(tokens) == 4:
            all_running.set()
        await all_running.wait()

    await impl.queue().addBulk([{"name": "n", "data": {}, "opts": {}} for _ in range(4)])
    impl.worker(process, concurrency=4)
    async with asyncio.timeout(3):
        await all_running.wait()
    assert len(set(tokens)) == 4


async def test_blocked_event_loop_does_not_lose_its_job(impl: Implementation) -> None:
    """A processor that blocks the loop for longer than the lock lasts runs once.

    A second worker, on a loop of its own, would take the job as stalled.
    """
    runs: list[str] = []
    blocked = asyncio.Event()
    options = {"lockDuration": 600, "stalledInterval": 200}

    async def block(job: Any, token: str) -> str:
        runs.append("first")
        blocked.set()
        time.sleep(2)  # noqa: ASYNC251 - blocking is what this is about
        return "first"

    async def rival() -> None:
        other = Implementation(impl.name, impl.url, impl.queue_name)

        async def take(job: Any, token: str) -> str:
            runs.append("second")
            return "second"

        other.worker(take, **options)
        await asyncio.sleep(3)
        await other.close()

    queue = impl.queue()
    job = await queue.add("n", {})
    worker = impl.worker(block, **options)
    ended = asyncio.Event()
    worker.on("completed", lambda *args: ended.set())
    worker.on("failed", lambda *args: ended.set())
    async with asyncio.timeout(3):
        await blocked.wait()
    await in_thread(rival)
    assert runs == ["first"]
    await eventually(job.isCompleted)
