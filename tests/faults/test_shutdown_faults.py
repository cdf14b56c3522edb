"""Ending while Redis is away: bounded, and nothing is lost."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest
from support.faults import Program, eventually
from support.proxy import COMMAND, Proxy

from bullpy import Queue

WORKER = """
import asyncio, os
from bullpy import Worker, run

worker = Worker(
    os.environ["QUEUE"], redis=os.environ["REDIS"], shutdown_timeout=1.0, lock_duration=5.0
)

@worker.processor()
async def process(job):
    print("began", job.id, flush=True)
    await asyncio.sleep(job.data)
    print("ended", job.id, flush=True)

worker.on("ready", lambda: print("ready", flush=True))
run(worker)
"""


@pytest.mark.parametrize("work", [0.3, 60], ids=["finished", "unfinished"])
@pytest.mark.parametrize("how", ["refused", "half-open"])
async def test_signal_while_redis_is_away_ends_in_bounded_time(
    proxy: Proxy, direct: Queue, queue_name: str, work: float, how: str
) -> None:
    # Upstream, with one job in flight: not gone after 60 s.
    async with Program(WORKER, QUEUE=queue_name, REDIS=proxy.url) as program:
        await program.says("ready")
        await direct.add("job", work)
        await program.says("began")
        if how == "refused":
            await proxy.refuse()
            proxy.cut()
        else:
            proxy.swallow()
        program.signal(signal.SIGTERM)
        # Required: the grace (1 s), 1 s for `finally` blocks, 3 s for handing back.
        assert await program.ends(1 + 1 + 3 + 2) == 0


@pytest.mark.parametrize("how", ["refused", "half-open"])
async def test_idle_worker_ends_at_once_while_redis_is_away(
    proxy: Proxy, direct: Queue, queue_name: str, how: str
) -> None:
    async with Program(WORKER, QUEUE=queue_name, REDIS=proxy.url) as program:
        await program.says("ready")
        if how == "refused":
            await proxy.refuse()
            proxy.cut()
        else:
            proxy.swallow()
        program.signal(signal.SIGTERM)
        assert await program.ends(3.0) == 0


async def test_worker_that_never_reached_redis_ends_at_once(proxy: Proxy, queue_name: str) -> None:
    await proxy.refuse()
    async with Program(WORKER, QUEUE=queue_name, REDIS=proxy.url) as program:
        await program.says("connection refused")
        program.signal(signal.SIGTERM)
        assert await program.ends(2.0) == 0


async def test_result_is_stored_when_redis_comes_back_within_the_grace(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    worker = await crew.hire(0.5, shutdown_timeout=10)
    job = await direct.add("job", 1)
    await crew.ledger.until(lambda: crew.ledger.started, 2.0)
    await proxy.refuse()
    proxy.cut()
    closing = asyncio.create_task(worker.close())
    await crew.ledger.until(lambda: crew.ledger.ended, 2.0)
    with pytest.raises(AssertionError):
        await crew.ledger.until_completed(1, 0.7)
    await proxy.accept()
    began = time.monotonic()
    await asyncio.wait_for(closing, 3.0)
    assert time.monotonic() - began < 2
    assert crew.ledger.completed[job.id] == 1


async def test_killed_worker_leaves_its_job_to_the_next_one(
    own_server: Any, direct: Queue, crew: Any, queue_name: str
) -> None:
    # Required with lock 5 s: lock and stalled check (upstream, stock timing: 76 s).
    async with Program(WORKER, QUEUE=queue_name, REDIS=own_server.url) as program:
        await program.says("ready")
        job = await direct.add("job", 60)
        await program.says("began")
        program.signal(signal.SIGKILL)
        assert await program.ends(2.0) == -signal.SIGKILL
    # The dead worker's stalled check of 30 s would hold others back.
    await direct.client.delete(f"bull:{queue_name}:stalled-check")
    await crew.hire(url=own_server.url, stalled_interval=0.5)
    await crew.ledger.until_completed(1, 5.0 + 2 * 0.5 + 2)
    assert crew.ledger.stalled == [job.id]
    stored = await direct.get_job(job.id)
    assert stored is not None
    assert stored.stalled_counter == 1
    assert await stored.get_state() == "completed"


async def test_release_whose_reply_is_lost_hands_the_job_back_once(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    worker = await crew.hire(60)
    rule = proxy.lose_reply("moveJobFromActiveToWait")
    job = await direct.add("job", 1)
    await crew.ledger.until(lambda: crew.ledger.started, 2.0)
    await asyncio.wait_for(worker.close(timeout=0.1), 5.0)
    assert rule.hits == 1

    async def waits() -> bool:
        return await job.get_state() == "wait"

    await eventually(waits, 1.0)
    assert await direct.client.llen(f"bull:{direct.name}:wait") == 1
    assert proxy.commands["moveJobFromActiveToWait"] <= 2
    assert not [link for link in proxy.links if link.kind == COMMAND and not link.dead]
