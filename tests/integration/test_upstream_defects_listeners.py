"""Whatever a listener does, jobs, locks and the worker go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.implementations import Implementation, eventually


async def echo(job: Any, token: str) -> Any:
    return job.data


def broken(*args: Any) -> None:
    raise RuntimeError("a listener that is broken")


def takes_two(error: Exception, job: Any) -> None:
    """As some write it: upstream emits `error` with one argument or with two."""


async def test_jobs_run_although_an_active_listener_raises(impl: Implementation) -> None:
    """What a listener of `active` raises keeps no job from running."""
    worker = impl.idle_worker(echo)
    worker.on("active", broken)
    impl.run(worker)
    queue = impl.queue()
    for number in range(3):
        await queue.add("n", number)

    async def all_completed() -> bool:
        return (await queue.getJobCounts("completed"))["completed"] == 3

    await eventually(all_completed, because="the jobs were not completed")


async def test_completing_is_not_repeated_when_a_completed_listener_raises(
    impl: Implementation,
) -> None:
    """A job whose listener raised is completed, and no error is told about it."""
    worker = impl.idle_worker(echo)
    told: list[str] = []
    worker.on("completed", broken)
    worker.on("failed", lambda *args: told.append("failed"))
    worker.on("error", lambda *args: told.append(str(args[0])))
    impl.run(worker)
    queue = impl.queue()
    first = await queue.add("n", 1)
    await eventually(first.isCompleted)
    second = await queue.add("n", 2)
    await eventually(second.isCompleted)
    assert told == []


async def test_async_listeners_are_awaited(impl: Implementation) -> None:
    """An `async def` listener runs to its end."""
    worker = impl.idle_worker(echo)
    heard = asyncio.Event()

    async def listener(job: Any, result: Any, *rest: Any) -> None:
        await asyncio.sleep(0)
        heard.set()

    worker.on("completed", listener)
    impl.run(worker)
    await impl.queue().add("n", 1)
    async with asyncio.timeout(3):
        await heard.wait()


@pytest.mark.parametrize("listener", [broken, takes_two])
async def test_worker_goes_on_although_an_error_listener_raises(
    impl: Implementation, listener: Any
) -> None:
    """A listener of `error` that raises, or takes two arguments, does not stop the worker."""
    queue = impl.queue()
    prioritized = queue.toKey("prioritized")
    await queue.client.set(prioritized, "of the wrong type, so that fetching fails")
    worker = impl.idle_worker(echo)
    told = asyncio.Event()
    worker.on("error", lambda *args: told.set())
    worker.on("error", listener)
    impl.run(worker)
    async with asyncio.timeout(3):
        await told.wait()
    await queue.client.delete(prioritized)
    sound = await queue.add("sound", {})
    await eventually(sound.isCompleted, because="the next job was not completed")
    assert worker.running


async def test_locks_are_renewed_although_an_error_listener_raises(impl: Implementation) -> None:
    """A renewal that failed and a listener that raised about it cost no other job its lock."""
    queue = impl.queue()
    let_go = asyncio.Event()
    lasting_started = asyncio.Event()

    async def process(job: Any, token: str) -> None:
        if job.name == "loses its lock":
            await queue.client.delete(f"{queue.toKey(job.id)}:lock")
        else:
            lasting_started.set()
        await let_go.wait()

    worker = impl.idle_worker(process, concurrency=2, lockDuration=600)
    worker.on("error", broken)
    impl.run(worker)
    lasting = await queue.add("lasts", {})
    await queue.add("loses its lock", {})
    async with asyncio.timeout(3):
        await lasting_started.wait()
    lock = f"{queue.toKey(lasting.id)}:lock"
    await asyncio.sleep(1.5)  # two and a half lock durations
    try:
        assert await queue.client.exists(lock), "the lock of a running job expired"
    finally:
        let_go.set()


async def test_stalled_check_goes_on_although_an_error_listener_raises(
    impl: Implementation,
) -> None:
    """After a check that failed and a listener that raised about it, the next check is made."""
    queue = impl.queue()
    worker = impl.idle_worker(echo, stalledInterval=300)
    worker.on("error", broken)
    failed = asyncio.Event()
    worker.on("error", lambda *args: failed.set())
    stalled_key = queue.toKey("stalled")
    await queue.client.set(stalled_key, "not a set")
    impl.run(worker)

    async def check_failed() -> bool:
        # The first listener raised: with upstream no other listener hears of it.
        return failed.is_set() or bool(await queue.client.exists(queue.toKey("stalled-check")))

    await eventually(check_failed)
    await queue.client.delete(stalled_key, queue.toKey("stalled-check"))
    orphan = await queue.add("orphan", {})
    await eventually(orphan.isCompleted)
    # A job whose worker is gone: active, without a lock.
    await queue.pause()
    lost = await queue.add("lost", {})
    await queue.client.lrem(queue.toKey("wait"), 0, lost.id)
    await queue.client.lpush(queue.toKey("active"), lost.id)
    await queue.client.sadd(stalled_key, lost.id)
    await queue.resume()
    await eventually(lost.isCompleted, because="the stalled job was not recovered")
