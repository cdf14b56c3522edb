"""Redis answers a command with an error. That is never a job's failure, and never a spin."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
from support.faults import eventually, outage_lines
from support.proxy import Proxy

from bullpy import Queue, RateLimited, errors

REFUSALS = [
    "-READONLY You can't write against a read only replica.",
    "-OOM command not allowed when used memory > 'maxmemory'.",
    "-MISCONF Errors writing to the AOF file: No space left on device",
    "-LOADING Redis is loading the dataset in memory",
    "-NOPERM User default has no permissions to run the 'evalsha' command",
    "-CLUSTERDOWN The cluster is down",
    "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "-BUSY Redis is busy running a script.",
    "-ERR unexpected",
]

COMMANDS_PER_SECOND = 20
"""Required while a command is refused: fewer than this, and one error event a second and kind."""


@pytest.mark.parametrize("line", REFUSALS, ids=lambda line: line.split()[0])
async def test_result_is_held_until_redis_takes_it(
    proxy: Proxy, direct: Queue, crew: Any, line: str
) -> None:
    # Upstream: 10 of 10 such jobs ended as failed, with Redis's text as their reason.
    await crew.hire()
    rule = proxy.answer("moveToFinished", line, times=2)
    job = await direct.add("job", 1, attempts=3)
    await crew.ledger.until_completed(1, 3.0)
    stored = await direct.get_job(job.id)
    assert stored is not None
    assert rule.hits == 2
    assert await stored.get_state() == "completed"
    assert crew.ledger.started[job.id] == 1
    assert not crew.ledger.failed
    assert stored.attempts_made == 1


async def test_locks_that_are_refused_first_are_the_same_outage(
    proxy: Proxy, direct: Queue, crew: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The lock thread hears of an outage before the event loop, where jobs take their time."""
    await crew.hire(2.6, lock_duration=4.0)
    locks = proxy.answer("extendLocks", REFUSALS[6], times=None)
    proxy.answer("moveToFinished", REFUSALS[6], times=2)
    await direct.add("job", 1)
    await crew.ledger.until(lambda: crew.ledger.errors, 5.0)
    assert locks.hits >= 2, "the lock thread was refused before"
    proxy.heal()
    await crew.ledger.until_completed(1, 5.0)
    assert len(outage_lines(caplog, proxy.url)) == 2, caplog.messages


async def test_failure_is_held_until_redis_takes_it(proxy: Proxy, direct: Queue, crew: Any) -> None:
    async def work(_: Any) -> None:
        raise ValueError("the job's own reason")

    await crew.hire(work)
    proxy.answer("moveToFinished", "-READONLY You can't write against a read only replica.")
    job = await direct.add("job", 1)
    await crew.ledger.until(lambda: crew.ledger.failed, 3.0)
    stored = await direct.get_job(job.id)
    assert stored is not None
    assert stored.failed_reason == "ValueError: the job's own reason"


@pytest.mark.parametrize("command", ["moveToActive", "moveToFinished", "BZPOPMIN"])
async def test_refused_command_neither_spins_nor_floods(
    proxy: Proxy, direct: Queue, crew: Any, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    await crew.hire()
    rule = proxy.answer(command, "-NOPERM no permissions to run this command", times=None)
    await direct.add("job", 1)
    await asyncio.wait_for(rule.hit.wait(), 6.0)
    commands, began = proxy.commands.total(), time.monotonic()
    before = len(crew.ledger.errors)
    # The window in which commands are counted.
    with pytest.raises(AssertionError):
        await crew.ledger.until(lambda: crew.ledger.failed, 4.0)
    took = time.monotonic() - began
    sent = proxy.commands.total() - commands
    kinds = Counter(type(error).__name__ for _, error in crew.ledger.errors[before:])
    assert sent / took < COMMANDS_PER_SECOND, (sent, proxy.commands)
    assert max(kinds.values()) <= took + 1, kinds
    proxy.remove(rule)
    # Required: it goes on within 2 s.
    await crew.ledger.until_completed(1, 2.0)
    following = await direct.add("job", 2)
    await crew.ledger.until(lambda: crew.ledger.completed[following.id], 1.0)

    async def is_over() -> bool:
        return len(outage_lines(caplog, proxy.url)) > 1

    await eventually(is_over, 2.0)
    lost, again = outage_lines(caplog, proxy.url)
    assert "no permissions to run this command" in lost
    assert "asks again after" in again


async def test_server_without_memory_costs_no_job(proxy: Proxy, direct: Queue, crew: Any) -> None:
    await direct.add_bulk([{"name": "job", "data": number} for number in range(100)])
    await direct.client.config_set("maxmemory", 1)
    began = time.monotonic()
    await crew.hire(0.05, concurrency=5, ready=False)
    with pytest.raises(AssertionError):
        await crew.ledger.until_completed(1, 3.0)
    assert 1 <= len(crew.ledger.errors) <= (time.monotonic() - began) * 2 + 2
    await direct.client.config_set("maxmemory", 0)
    await crew.ledger.until_completed(100, 2.0 + 100 / 5 * 0.05 + 2)
    assert not crew.ledger.failed
    assert set(crew.ledger.started.values()) == {1}


async def test_refused_stalled_check_and_renewal_leave_the_worker_alive(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    refusals = [
        proxy.answer("moveStalledJobsToWait", "-NOPERM no", times=3),
        proxy.answer("extendLocks", "-NOPERM no", times=1),
    ]
    await crew.hire(2.0, lock_duration=1.5, stalled_interval=0.3)
    job = await direct.add("job", 1)
    await crew.ledger.until_completed(1, 5.0)
    assert [rule.hits for rule in refusals] == [3, 1]
    assert crew.ledger.started[job.id] == 1
    assert not crew.ledger.stalled


async def test_worker_that_may_not_ask_whether_the_queue_is_paused_still_works(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    for command in ("HEXISTS", "HGET", "HMGET", "getCounts"):
        proxy.answer(command, "-NOPERM no permissions to run this command", times=None)
    await crew.hire()
    await direct.add("job", 1)
    await crew.ledger.until_completed(1, 2.0)
    assert not crew.runs[0].done()


async def test_refused_rate_limit_is_written_later(proxy: Proxy, direct: Queue, crew: Any) -> None:
    async def work(job: Any) -> None:
        if crew.ledger.started[job.id] == 1:
            raise RateLimited(0.3)

    await crew.hire(work)
    rule = proxy.answer("SET", "-OOM command not allowed when used memory > 'maxmemory'.")
    job = await direct.add("job", 1)
    await crew.ledger.until_completed(1, 3.0)
    assert rule.hits == 1
    assert crew.ledger.started[job.id] == 2


@pytest.mark.parametrize("lost", [True, False])
async def test_marker_that_cannot_be_put_back_does_not_end_the_worker(
    proxy: Proxy, direct: Queue, crew: Any, lost: bool
) -> None:
    # The second slot is taken away while the blocking wait for it goes on. The next marker then
    # comes to a worker without a free slot, which puts it back.
    release = asyncio.Event()

    async def work(_: Any) -> None:
        async with asyncio.timeout(10):
            await release.wait()

    worker = await crew.hire(work, concurrency=2)
    await direct.add("job", 1)
    await crew.ledger.until(lambda: crew.ledger.started, 2.0)
    await _is_waiting(direct)
    worker.concurrency = 1
    rule = proxy.lose_reply("ZADD") if lost else proxy.answer("ZADD", "-NOPERM no")
    await direct.add("job", 2)
    await asyncio.wait_for(rule.hit.wait(), 7.0)
    release.set()
    await crew.ledger.until_completed(2, 3.0)
    await direct.add("job", 3)
    await crew.ledger.until_completed(3, 6.0)
    assert not crew.runs[0].done()


async def _is_waiting(queue: Queue) -> None:
    """Wait until a client blocks in BZPOPMIN."""

    async def blocked() -> bool:
        clients = await queue.client.client_list()
        return any(c["cmd"] == "bzpopmin" and "b" in c["flags"] for c in clients)

    await eventually(blocked, 2.0)


async def test_refusals_reach_producers_as_errors_of_bullpy(proxy: Proxy, queue_name: str) -> None:
    async with Queue(queue_name, redis=proxy.url) as queue:
        await queue.add("job", 0)
        oom = "-OOM command not allowed when used memory > 'maxmemory'."
        for call in (
            lambda: queue.add("job", 1),
            lambda: queue.add_bulk([{"name": "job", "data": 1}]),
            queue.isPaused,
        ):
            rules = [proxy.answer(name, oom) for name in ("addStandardJob", "EXEC", "HEXISTS")]
            with pytest.raises(errors.RedisError) as raised:
                await call()
            assert "OOM" in str(raised.value) or "memory" in str(raised.value)
            for rule in rules:
                proxy.remove(rule)
