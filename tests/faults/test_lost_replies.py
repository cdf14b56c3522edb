"""The server did what it was told, and its answer never arrived."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from support.proxy import BLOCKING, Proxy, carries_job

from bullpy import Queue, RateLimited, Retry, Snooze
from bullpy.job import Job


async def job_of(queue: Queue, job_id: str) -> Job[Any]:
    job = await queue.get_job(job_id)
    assert job is not None
    return job


async def test_lost_fetch_runs_the_job_at_once_and_uses_no_stall(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    await crew.hire()
    rule = proxy.lose_reply("moveToActive", where=carries_job)
    job = await direct.add("job", 1)
    # Required: within 1 s (upstream 77 s, and a stall used).
    await crew.ledger.until_completed(1, 1.0)
    assert rule.hits == 1
    stored = await job_of(direct, job.id)
    assert crew.ledger.started[job.id] == 1
    assert stored.stalled_counter == 0
    assert stored.attempts_started == 1
    assert await stored.get_state() == "completed"


async def test_adopted_job_gets_a_whole_new_lock(proxy: Proxy, direct: Queue, crew: Any) -> None:
    # The outage uses up most of the lock's 3 s; the next renewal is 0.75 s away at least.
    await crew.hire(3.5, redis={"retry_max": 0.1}, lock_duration=3.0, stalled_interval=0.2)
    rule = proxy.lose_reply("moveToActive", where=carries_job)
    job = await direct.add("job", 1)
    await asyncio.wait_for(rule.hit.wait(), 2.0)
    await proxy.refuse()
    with pytest.raises(AssertionError):
        await crew.ledger.until(lambda: crew.ledger.started, 2.4)
    await proxy.accept()
    await crew.ledger.until_completed(1, 8.0)
    assert crew.ledger.started[job.id] == 1
    assert not crew.ledger.stalled


@pytest.mark.parametrize("script", ["moveToActive", "moveToFinished"])
async def test_job_whose_fetch_was_lost_in_an_outage_longer_than_its_lock_runs_at_once(
    proxy: Proxy, direct: Queue, crew: Any, script: str
) -> None:
    await crew.hire()
    rule = proxy.lose_reply(script, where=carries_job)
    added = await direct.add_bulk([{"name": "job", "data": number} for number in range(3)])
    await asyncio.wait_for(rule.hit.wait(), 2.0)
    # The stalled check has noticed all jobs in an outage that outlasts their locks.
    await proxy.refuse()
    for job in added:
        await direct.client.delete(f"{direct.toKey(job.id)}:lock")
        await direct.client.sadd(direct.toKey("stalled"), job.id)
    await proxy.accept()
    await crew.ledger.until_completed(3, 3.0)
    assert set(crew.ledger.started.values()) == {1}
    assert not crew.ledger.stalled
    assert not crew.ledger.failed
    assert (await job_of(direct, added[2].id)).stalled_counter == 0


async def test_many_lost_fetches_never_fail_a_job_that_never_ran(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    await crew.hire(concurrency=3, max_stalled_count=1, stalled_interval=0.5)
    rule = proxy.lose_reply("moveToActive", times=10, where=carries_job)
    for number in range(10):
        await direct.add("job", number)
        await crew.ledger.until_completed(number + 1, 3.0)
    assert rule.hits == 10
    assert not crew.ledger.failed
    assert not crew.ledger.stalled
    assert set(crew.ledger.started.values()) == {1}


async def test_lost_reply_of_finishing_counts_once_and_goes_on(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    await crew.hire(0.05)
    rule = proxy.lose_reply("moveToFinished")
    job = await direct.add("job", 1)
    await crew.ledger.until_completed(1, 2.0)
    following = await direct.add("job", 2)
    await crew.ledger.until(lambda: crew.ledger.completed[following.id], 1.0)
    assert rule.hits == 1
    assert crew.ledger.started == {job.id: 1, following.id: 1}
    assert crew.ledger.completed == {job.id: 1, following.id: 1}
    assert not crew.ledger.failed
    assert (await job_of(direct, job.id)).return_value == job.id


async def test_lost_reply_of_finishing_that_brought_the_next_job_runs_that_job_at_once(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    rule = proxy.lose_reply("moveToFinished", times=3, where=carries_job)
    await direct.add_bulk([{"name": "job", "data": number} for number in range(8)])
    await crew.hire(0.05)
    await crew.ledger.until_completed(8, 4.0)
    assert rule.hits == 3
    assert set(crew.ledger.started.values()) == {1}
    assert not crew.ledger.stalled
    assert [await _stalled(direct, job_id) for job_id in crew.ledger.started] == [0] * 8


async def _stalled(queue: Queue, job_id: str) -> int:
    return (await job_of(queue, job_id)).stalled_counter


async def test_lost_reply_of_removing_finish_counts_as_completed(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    # Nothing is left of the job afterwards that would tell how it ended.
    await crew.hire()
    proxy.lose_reply("moveToFinished")
    job = await direct.add("job", 1, remove_on_complete=True)
    await crew.ledger.until_completed(1, 2.0)
    assert crew.ledger.completed[job.id] == 1
    assert not crew.ledger.failed


async def test_failure_whose_reply_is_lost_is_told_and_counted_once(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    async def work(job: Any) -> None:
        raise ValueError(job.data)

    await crew.hire(work)
    proxy.lose_reply("moveToFinished")
    job = await direct.add("job", "broken")
    await crew.ledger.until(lambda: crew.ledger.failed, 2.0)
    stored = await job_of(direct, job.id)
    assert await stored.get_state() == "failed"
    assert stored.attempts_made == 1
    assert len(crew.ledger.failed[job.id]) == 1


@pytest.mark.parametrize(
    ("signal", "script"),
    [
        (Retry("again"), "retryJob"),
        (Retry("again", delay=0.3), "moveToDelayed"),
        (Snooze(0.3), "moveToDelayed"),
        (RateLimited(0.3), "moveJobFromActiveToWait"),
    ],
)
async def test_job_whose_steering_lost_its_reply_runs_again_once(
    proxy: Proxy, direct: Queue, crew: Any, signal: Exception, script: str
) -> None:
    async def work(job: Any) -> str:
        if crew.ledger.started[job.id] == 1:
            raise signal
        return "done"

    await crew.hire(work)
    rule = proxy.lose_reply(script)
    job = await direct.add("job", 1, attempts=2)
    await crew.ledger.until_completed(1, 3.0)
    assert rule.hits == 1
    assert crew.ledger.started[job.id] == 2
    stored = await job_of(direct, job.id)
    assert stored.attempts_made == (2 if isinstance(signal, Retry) else 1)
    assert stored.stalled_counter == 0
    assert not [error for _, error in crew.ledger.errors if "slot" in str(error)]
    # The worker still has its slot.
    await direct.add("job", 2)
    await crew.ledger.until(lambda: len(crew.ledger.started) == 2, 2.0)


async def test_lost_marker_does_not_leave_the_job_waiting(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    await crew.hire()
    rule = proxy.lose_reply("BZPOPMIN", where=lambda reply: reply.startswith(b"*3"))
    await direct.add("job", 1)
    await crew.ledger.until_completed(1, 1.0)
    assert rule.hits == 1


async def test_lost_reply_of_a_renewal_costs_no_lock(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    renewed = asyncio.Event()

    async def work(_: Any) -> None:
        async with asyncio.timeout(5):
            await renewed.wait()

    worker = await crew.hire(work, lock_duration=1.5, stalled_interval=0.4)
    rule = proxy.lose_reply("extendLocks", times=2)
    worker.on("locksRenewed", lambda _: rule.spent and renewed.set())
    job = await direct.add("job", 1)
    await crew.ledger.until_completed(1, 5.0)
    assert rule.hits == 2
    assert crew.ledger.started[job.id] == 1
    assert not crew.ledger.stalled


async def test_lost_reply_of_progress_is_not_the_jobs_failure(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    async def work(job: Any) -> None:
        await job.update_progress(50)
        await job.log("half way")

    await crew.hire(work)
    rules = [proxy.lose_reply("updateProgress"), proxy.lose_reply("addLog")]
    job = await direct.add("job", 1)
    await crew.ledger.until(lambda: crew.ledger.completed or crew.ledger.failed, 2.0)
    assert not crew.ledger.failed
    assert [rule.hits for rule in rules] == [1, 1]
    assert (await job_of(direct, job.id)).progress == 50


async def test_storm_of_lost_replies_runs_every_job_once(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    await crew.hire(0.02, concurrency=5)
    numbers = iter(range(1_000_000))
    rules = [
        proxy.lose_reply(name, times=None, where=lambda _: next(numbers) % 17 == 0)
        for name in ("moveToActive", "moveToFinished", "BZPOPMIN")
    ]
    began = time.monotonic()
    for start in range(0, 200, 20):
        await direct.add_bulk([{"name": "job", "data": n} for n in range(start, start + 20)])
        await crew.ledger.until_completed(start + 1, 10.0)
    await crew.ledger.until_completed(200, 15.0)
    assert sum(rule.hits for rule in rules) >= 10
    assert set(crew.ledger.started.values()) == {1}
    assert set(crew.ledger.completed.values()) == {1}
    assert not crew.ledger.failed
    assert not crew.ledger.stalled
    assert time.monotonic() - began < 25
    assert proxy.cut(BLOCKING) <= 1
