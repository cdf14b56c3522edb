"""What a producer is told when Redis is away, and what Redis holds afterwards."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.faults import eventually
from support.proxy import Proxy

from bullpy import Queue, errors
from bullpy.settings import RedisSettings


def impatient(proxy: Proxy, queue_name: str, timeout: float = 1.0) -> Queue:
    settings = RedisSettings.of(proxy.url).model_copy(update={"command_timeout": timeout})
    return Queue(queue_name, redis=settings)


async def is_cut(queue: Queue) -> bool:
    """Whether the client has noticed; what it sends before that has an unknown fate."""
    return not queue.shared.pipeliner.is_connected


@pytest.mark.parametrize("connected", [True, False])
async def test_add_without_redis_fails_in_time_and_adds_nothing_later(
    proxy: Proxy, direct: Queue, queue_name: str, connected: bool
) -> None:
    async with impatient(proxy, queue_name) as queue:
        if connected:
            await queue.whoami()
        await proxy.refuse()
        proxy.cut()
        await eventually(lambda: is_cut(queue), 2.0)
        began = time.monotonic()
        with pytest.raises(errors.RedisUnavailableError) as raised:
            await queue.add("job", 1)
        took = time.monotonic() - began
        assert 0.9 <= took <= 1.0 * 1.25 + 0.5
        assert not isinstance(raised.value, errors.ReplyLostError)
        assert "nothing was sent" in str(raised.value)
        assert "connection refused" in str(raised.value)
        await proxy.accept()
        # Were it still queued somewhere, it would be sent before this one.
        job = await queue.add("job", 2)
    assert await direct.count() == 1
    assert [waiting.id for waiting in await direct.get_jobs(["wait"])] == [job.id]


async def test_abandoned_add_is_not_sent_when_redis_comes_back(
    proxy: Proxy, direct: Queue, queue_name: str
) -> None:
    async with impatient(proxy, queue_name, 10.0) as queue:
        await proxy.refuse()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.add("job", 1), 0.3)
        await proxy.accept()
        await queue.add("job", 2)
    assert await direct.count() == 1


async def test_add_with_a_job_id_survives_a_lost_reply_and_adds_once(
    proxy: Proxy, direct: Queue, queue_name: str
) -> None:
    async with impatient(proxy, queue_name) as queue:
        rule = proxy.lose_reply("addStandardJob")
        job = await queue.add("job", 1, job_id="mine")
        assert rule.hits == 1
        assert job.id == "mine"
        bulk_rule = proxy.lose_reply("EXEC")
        made = await queue.add_bulk(
            [{"name": "job", "data": n, "opts": {"jobId": f"bulk-{n}"}} for n in range(3)]
        )
        assert bulk_rule.hits == 1
        assert [job.id for job in made] == ["bulk-0", "bulk-1", "bulk-2"]
    assert await direct.count() == 4
    stored = await direct.get_job("mine")
    assert stored is not None
    assert stored.data == 1


async def test_add_without_a_job_id_says_that_the_reply_was_lost(
    proxy: Proxy, direct: Queue, queue_name: str
) -> None:
    async with impatient(proxy, queue_name) as queue:
        for call in (
            lambda: queue.add("job", 1),
            lambda: queue.add_bulk([{"name": "job", "data": 1}, {"name": "job", "data": 2}]),
        ):
            rules = [proxy.lose_reply("addStandardJob"), proxy.lose_reply("EXEC")]
            with pytest.raises(errors.ReplyLostError) as raised:
                await call()
            assert "may have been carried out" in str(raised.value)
            assert sum(rule.hits for rule in rules) == 1
            for rule in rules:
                proxy.remove(rule)
    # The server did what it was told, once.
    assert await direct.count() == 3


async def test_half_open_connection_fails_the_add_in_time_and_the_next_one_works(
    proxy: Proxy, direct: Queue, queue_name: str
) -> None:
    async with impatient(proxy, queue_name) as queue:
        await queue.add("job", 1)
        proxy.swallow_open("command")
        began = time.monotonic()
        with pytest.raises(errors.CommandTimeoutError):
            await queue.add("job", 2)
        assert time.monotonic() - began < 1.0 * 1.5 + 0.5
        await queue.add("job", 3)
    assert await direct.count() == 2


async def test_adds_during_a_short_outage_wait_for_it_to_end(
    proxy: Proxy, direct: Queue, queue_name: str
) -> None:
    async with impatient(proxy, queue_name, 10.0) as queue:
        await queue.whoami()
        await proxy.refuse()
        proxy.cut()
        await eventually(lambda: is_cut(queue), 2.0)
        adds = [asyncio.create_task(queue.add("job", number)) for number in range(50)]
        done, _ = await asyncio.wait(adds, timeout=0.5)
        assert not done
        await proxy.accept()
        # Required: 2 s after Redis is back.
        jobs = await asyncio.wait_for(asyncio.gather(*adds), 2.0)
    assert len({job.id for job in jobs}) == 50
    assert await direct.count() == 50


async def test_waiting_for_a_result_survives_a_cut(
    proxy: Proxy, direct: Queue, crew: object
) -> None:
    async with Queue(direct.name, redis=proxy.url) as queue:
        await crew.hire(1.0)  # type: ignore[attr-defined]
        job = await queue.add("job", 1)
        waiting = asyncio.create_task(job.wait_until_finished(timeout=10))
        await asyncio.wait({waiting}, timeout=0.5)
        proxy.cut()
        assert await asyncio.wait_for(waiting, 5.0) == job.id
