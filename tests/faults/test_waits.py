"""Who waits for a job's end hears of it although its event never came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.faults import eventually
from support.proxy import Proxy

from bullpy import EmbeddedServer, Job, Queue, QueueEvents, ending, errors

SOON = 5.0
"""Seconds within which a waiter must end: reconnecting included, its regular look excluded."""


class Gate:
    """A processor that ends when it is told to."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def work(self, job: Job[Any]) -> Any:
        await self.open.wait()
        if job.data == "bad":
            raise ValueError("no good")
        return {"of": job.id}


@pytest.fixture
async def gate(own_server: EmbeddedServer, crew: Any) -> Gate:
    """Opened by the test; the worker behind it does not go through the proxy."""
    made = Gate()
    await crew.hire(made.work, url=own_server.url)
    return made


@pytest.fixture
async def far(proxy: Proxy, direct: Queue) -> AsyncIterator[Queue]:
    """The queue as the one who waits sees it: through the proxy."""
    async with Queue(direct.name, redis=proxy.url) as queue:
        yield queue


async def begin(job: Job[Any]) -> asyncio.Task[Any]:
    """Wait for the job without a time-out, and be sure that the wait has begun."""
    waiting = asyncio.create_task(job.wait_until_finished())
    events = job.queue.events
    await asyncio.wait_for(events.wait_until_ready(), 3.0)

    async def listens() -> bool:
        return events.listener_count(f"completed:{job.id}") == 1

    await eventually(listens, 3.0)
    # The look at its beginning is answered by then: it was asked on the same socket before.
    await job.queue.count()
    await asyncio.wait({waiting}, timeout=0.1)
    assert not waiting.done()
    return waiting


async def cut_off(proxy: Proxy) -> None:
    await proxy.refuse()
    proxy.cut()


async def forget_events(queue: Queue) -> None:
    """Trim the stream as a busy queue does, until nothing of it is left."""
    await queue.client.xtrim(queue.keys["events"], maxlen=0, approximate=False)


async def done(job: Job[Any], direct: Queue, state: str = "completed") -> None:
    async def is_in_state() -> bool:
        stored = await direct.get_job(job.id)
        return stored is not None and await stored.get_state() == state

    await eventually(is_in_state, 3.0)


async def gone(job: Job[Any], direct: Queue) -> None:
    async def is_gone() -> bool:
        return await direct.get_job(job.id) is None

    await eventually(is_gone, 3.0)


@pytest.mark.parametrize("data", ["good", "bad"])
async def test_end_whose_event_was_trimmed_while_the_reader_was_away_is_found(
    proxy: Proxy, direct: Queue, far: Queue, gate: Gate, data: str
) -> None:
    job = await far.add("job", data)
    waiting = await begin(job)
    await cut_off(proxy)
    gate.open.set()
    await done(job, direct, "completed" if data == "good" else "failed")
    await forget_events(direct)
    await proxy.accept()
    if data == "good":
        assert await asyncio.wait_for(waiting, SOON) == {"of": job.id}
        return
    with pytest.raises(errors.JobFailedError) as raised:
        await asyncio.wait_for(waiting, SOON)
    assert raised.value.failed_reason == "ValueError: no good"


async def test_job_removed_and_trimmed_while_the_reader_was_away_is_told(
    proxy: Proxy, direct: Queue, far: Queue
) -> None:
    job = await far.add("job", 1)
    waiting = await begin(job)
    await cut_off(proxy)
    stored = await direct.get_job(job.id)
    assert stored is not None
    await stored.remove()
    await forget_events(direct)
    await proxy.accept()
    with pytest.raises(errors.JobNotFoundError) as raised:
        await asyncio.wait_for(waiting, SOON)
    assert job.id in str(raised.value)


async def test_result_of_a_job_removed_while_the_reader_was_away_comes_from_its_event(
    proxy: Proxy, direct: Queue, far: Queue, gate: Gate
) -> None:
    job = await far.add("job", 1, remove_on_complete=True)
    waiting = await begin(job)
    await cut_off(proxy)
    gate.open.set()
    await gone(job, direct)
    await proxy.accept()
    assert await asyncio.wait_for(waiting, SOON) == {"of": job.id}


async def test_end_whose_event_was_trimmed_between_two_reads_is_found(
    proxy: Proxy, direct: Queue, far: Queue, gate: Gate
) -> None:
    job = await far.add("job", 1)
    waiting = await begin(job)
    reads = proxy.commands["XREAD"]
    # Each chunk is held back: while the reader has yet to hear of the first event, others come
    # and go, as on a queue that is busier than its reader.
    proxy.delay = 0.4
    await direct.add("other", 1, delay=3600)
    gate.open.set()
    await done(job, direct)
    await forget_events(direct)
    assert proxy.commands["XREAD"] == reads
    await direct.add("another", 1, delay=3600)
    assert await asyncio.wait_for(waiting, SOON) == {"of": job.id}
    assert len(proxy.links) == 2


async def test_job_removed_while_somebody_waits_is_told_at_once(direct: Queue) -> None:
    job = await direct.add("job", 1)
    waiting = await begin(job)
    await job.remove()
    with pytest.raises(errors.JobNotFoundError):
        await asyncio.wait_for(waiting, 1.0)


async def test_wait_goes_on_while_redis_cannot_say_how_the_job_is(
    proxy: Proxy, direct: Queue, far: Queue, gate: Gate
) -> None:
    job = await far.add("job", 1)
    waiting = await begin(job)
    await cut_off(proxy)
    gate.open.set()
    await done(job, direct)
    await forget_events(direct)
    lost = proxy.lose_reply("isFinished", times=2)
    await proxy.accept()
    assert await asyncio.wait_for(waiting, SOON) == {"of": job.id}
    assert lost.hits == 2


async def test_wait_for_a_job_of_a_queue_that_was_obliterated_ends(
    direct: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That takes the stream along, and tells nobody.
    monkeypatch.setattr(ending, "LOOK_ANYWAY", 0.5)
    job = await direct.add("job", 1)
    waiting = await begin(job)
    await direct.obliterate(force=True)
    with pytest.raises(errors.JobNotFoundError):
        await asyncio.wait_for(waiting, 2.0)


async def test_wait_ends_with_its_queue(direct: Queue, proxy: Proxy) -> None:
    queue = Queue(direct.name, redis=proxy.url)
    job = await queue.add("job", 1)
    waiting = await begin(job)
    await queue.close()
    with pytest.raises(errors.WorkerStateError) as raised:
        await asyncio.wait_for(waiting, 1.0)
    assert "closed" in str(raised.value)


async def test_wait_that_never_got_ready_ends_with_its_queue(direct: Queue, proxy: Proxy) -> None:
    queue = Queue(direct.name, redis=proxy.url)
    job = await queue.add("job", 1)
    await proxy.refuse()
    proxy.cut()
    waiting = asyncio.create_task(job.wait_until_finished())
    await asyncio.sleep(0)
    await queue.close()
    with pytest.raises(errors.WorkerStateError):
        await asyncio.wait_for(waiting, 1.0)


async def test_wait_on_events_of_ones_own_ends_with_the_jobs_queue(
    direct: Queue, proxy: Proxy
) -> None:
    queue = Queue(direct.name, redis=proxy.url)
    job = await queue.add("job", 1)
    async with QueueEvents(direct.name, redis=proxy.url) as events:
        await queue.close()
        with pytest.raises(errors.WorkerStateError):
            await asyncio.wait_for(job.wait_until_finished(events=events), 1.0)
