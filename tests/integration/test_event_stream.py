"""A queue's event stream stays small in bytes, and those who follow it miss nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr
from support.faults import eventually
from support.outcomes import result_of

from bullpy import EmbeddedServer, Job, Queue, QueueEvents, RedisSettings, Worker, WorkerSettings

RESULT = "x" * 20_000
JOBS = 300
LIMIT = 1_000_000


@pytest.fixture
async def queue(own_server: EmbeddedServer, queue_name: str) -> AsyncIterator[Queue]:
    async with Queue(queue_name, redis=own_server.url) as opened:
        yield opened


async def large(job: Job[Any]) -> str:
    return RESULT if job.name == "large" else ""


async def run_jobs(
    queue: Queue, events_limit: int | str, *, redis: RedisSettings | None = None, small: int = 0
) -> list[str]:
    """Run jobs with large results, and then some with small ones; gives the ids heard of."""
    settings = WorkerSettings(events_limit=events_limit)
    where = redis or queue.redisConnection.settings
    worker = Worker(queue.name, large, {"autorun": False}, redis=where, settings=settings)
    heard: dict[str, int] = {}
    done = asyncio.Event()

    def completed(args: dict[str, Any], _id: str) -> None:
        heard[args["jobId"]] = len(args["returnvalue"])
        if len(heard) == JOBS + small:
            done.set()

    async with QueueEvents(queue.name, redis=queue.redisConnection.settings) as events:
        events.on("completed", completed)
        running = asyncio.create_task(worker.run())
        names = ["large"] * JOBS + ["small"] * small
        opts = {"removeOnComplete": True}
        jobs = await queue.add_bulk([{"name": name, "opts": opts} for name in names])
        async with asyncio.timeout(30):
            await done.wait()
        await worker.close()
        await running
    sizes = [0 if job.name == "small" else len(RESULT) for job in jobs]
    assert heard == dict(zip([job.id for job in jobs], sizes, strict=True))
    return [job.id for job in jobs]


async def size(queue: Queue) -> int:
    return await queue.client.memory_usage(queue.keys["events"], samples=0)


async def test_events_with_large_results_are_dropped_beyond_the_limit(queue: Queue) -> None:
    await run_jobs(queue, 0)
    # As BullMQ leaves it: all results once more, below the 10,000 events that it keeps.
    assert await size(queue) > JOBS * len(RESULT)

    await run_jobs(queue, LIMIT)

    # An eighth may be written before it is looked at again, and as much while it is.
    async def is_small() -> bool:
        return await size(queue) < LIMIT * 1.25

    assert await eventually(is_small, 5.0)
    length = await queue.client.xlen(queue.keys["events"])
    assert length >= 100


async def test_limit_counts_the_events_that_are_large(queue: Queue) -> None:
    await run_jobs(queue, "1MB", small=400)
    assert await size(queue) < LIMIT * 1.25


async def test_queue_that_wants_more_events_keeps_more(queue: Queue) -> None:
    await queue.client.hset(queue.keys["meta"], "opts.maxLenEvents", 100_000)
    await run_jobs(queue, LIMIT)
    assert await size(queue) > JOBS * len(RESULT)


async def test_waiting_for_each_job_ends_although_events_are_dropped(
    queue: Queue, own_server: EmbeddedServer
) -> None:
    settings = WorkerSettings(events_limit=100_000, concurrency=4)
    worker = Worker(queue.name, large, {"autorun": False}, redis=own_server.url, settings=settings)
    async with worker:
        running = asyncio.create_task(worker.run())
        jobs = [await queue.add("large", remove_on_complete=5) for _ in range(100)]
        assert await asyncio.gather(*(result_of(job, 20) for job in jobs[-5:])) == [RESULT] * 5
        await worker.close()
        await running


async def test_server_that_does_not_tell_sizes_is_left_alone(
    queue: Queue, own_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.client.execute_command(
        *("ACL", "SETUSER", "plain", "on", ">pass", "~*", "&*", "+@all", "-memory")
    )
    redis = RedisSettings.of(own_server.url).model_copy(
        update={"username": "plain", "password": SecretStr("pass")}
    )
    with caplog.at_level(logging.WARNING, "bullpy.worker"):
        await run_jobs(queue, LIMIT, redis=redis)
    told = [record for record in caplog.records if "event stream" in record.getMessage()]
    assert len(told) == 1
    assert "1.0 MB" in told[0].getMessage()
