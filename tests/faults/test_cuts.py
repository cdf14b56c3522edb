"""Connections that are reset, killed, or lose their scripts while jobs run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.faults import outage_lines
from support.proxy import BLOCKING, Proxy

from bullpy import Queue

JOBS = 300
CONCURRENCY = 20


async def disturb(every: float, fault: Callable[[], Any]) -> None:
    """Do that again and again, until cancelled."""
    while True:
        await asyncio.sleep(every)
        result = fault()
        if isinstance(result, Awaitable):
            await result


async def run_jobs_while(
    crew: Any,
    direct: Queue,
    fault: Callable[[], Any],
    log: pytest.LogCaptureFixture,
    *,
    every: float,
    work: float,
    extra: float,
) -> None:
    """Run 300 jobs under a repeated fault, of which the log tells once per outage at most.

    Args:
        extra: Seconds over what the jobs take undisturbed.
    """
    await crew.hire(work, concurrency=CONCURRENCY)
    await direct.add_bulk([{"name": "job", "data": number} for number in range(JOBS)])
    began = time.monotonic()
    disturber = asyncio.create_task(disturb(every, fault))
    try:
        await crew.ledger.until_completed(JOBS, JOBS / CONCURRENCY * work + extra)
    finally:
        disturber.cancel()
    took = time.monotonic() - began
    lines = outage_lines(log, crew.url)
    print(f"{took:.1f} s, {took / every:.0f} faults, told in {len(lines)} lines")
    # A connection that is back at the next attempt is one line, and one in ten seconds at most.
    assert len(lines) <= took / 10 + 1, lines
    counts = await direct.get_job_counts()
    assert counts["completed"] == JOBS
    assert counts["failed"] == counts["active"] == counts["waiting"] == 0
    assert not crew.ledger.failed
    assert not crew.ledger.stalled
    assert set(crew.ledger.started.values()) == {1}
    assert set(crew.ledger.completed.values()) == {1}


# Required: each cut costs at most 0.3 s (upstream: 2 s). The machine may be busy, so the
# deadline leaves that much again.
async def test_reset_every_two_seconds_loses_nothing_and_costs_little(
    proxy: Proxy, direct: Queue, crew: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await run_jobs_while(crew, direct, proxy.cut, caplog, every=2.0, work=0.4, extra=3 * 0.6 + 2)
    [line] = outage_lines(caplog, proxy.url)
    assert "connected again after 0." in line


# At 3 resets a second upstream collapses to 10 jobs/s.
async def test_reset_every_third_of_a_second_loses_nothing(
    proxy: Proxy, direct: Queue, crew: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await run_jobs_while(crew, direct, proxy.cut, caplog, every=0.3, work=0.15, extra=8)


async def test_clients_killed_every_second_come_back(
    direct: Queue, crew: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def kill() -> None:
        await direct.client.execute_command("CLIENT", "KILL", "TYPE", "normal")

    await run_jobs_while(crew, direct, kill, caplog, every=1.0, work=0.3, extra=5)


async def test_flushed_scripts_are_loaded_again(
    direct: Queue, crew: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def flush() -> None:
        await direct.client.script_flush()

    await run_jobs_while(crew, direct, flush, caplog, every=0.02, work=0.1, extra=6)
    assert not crew.ledger.errors
    assert not outage_lines(caplog, crew.url)


async def test_flushed_scripts_do_not_fail_bulk_adds(
    proxy: Proxy, direct: Queue, queue_name: str
) -> None:
    async with Queue(queue_name, redis=proxy.url) as queue:
        flusher = asyncio.create_task(disturb(0.001, direct.client.script_flush))
        try:
            for _ in range(150):
                await queue.add_bulk([{"name": "job", "data": 1}, {"name": "job", "data": 2}])
        finally:
            flusher.cancel()
        assert await queue.count() == 300


@pytest.mark.parametrize("every", [0.3])
async def test_idle_worker_whose_blocking_connection_is_reset_still_hears_of_jobs(
    proxy: Proxy, direct: Queue, crew: Any, every: float
) -> None:
    await crew.hire()
    disturber = asyncio.create_task(disturb(every, lambda: proxy.cut(BLOCKING)))
    try:
        for number in range(10):
            await asyncio.sleep(0.15)
            job = await direct.add("job", number)
            # Each cut costs at most 0.3 s.
            await crew.ledger.until(lambda job_id=job.id: crew.ledger.started[job_id], 1.0)
    finally:
        disturber.cancel()
