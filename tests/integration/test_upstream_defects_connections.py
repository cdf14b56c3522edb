"""Outages, names and connection options: a worker never goes silent because of them."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from support.implementations import Implementation, eventually

from bullpy import EmbeddedServer


@pytest.fixture
async def impl_alone(
    implementation: str, own_server: EmbeddedServer, queue_name: str
) -> AsyncIterator[Implementation]:
    """The implementation under test on a server that no other test uses."""
    made = Implementation(implementation, own_server.url, queue_name)
    yield made
    own_server.start()
    await made.close()


async def echo(job: Any, token: str) -> Any:
    return job.data


async def test_worker_that_starts_before_redis_says_so_and_runs_jobs_soon_after(
    impl_alone: Implementation, own_server: EmbeddedServer
) -> None:
    """With Redis down at the start there are error events, and work within 2 s of its start."""
    impl = impl_alone
    own_server.stop()
    ran = asyncio.Event()

    async def process(job: Any, token: str) -> None:
        ran.set()

    worker = impl.idle_worker(process)
    told = asyncio.Event()
    worker.on("error", lambda *args: told.set())
    impl.run(worker)
    async with asyncio.timeout(2):
        await told.wait()
    # Past upstream's pauses of 2 and 4 s, into the one of 8 s.
    await asyncio.sleep(6.5)
    await asyncio.to_thread(own_server.start)
    client = redis.asyncio.Redis.from_url(own_server.url)
    async with client:
        up_at = time.monotonic()
        queue = impl.queue()
        async with asyncio.timeout(2):
            await queue.add("n", {})
            await ran.wait()
    assert time.monotonic() - up_at < 2


async def test_add_fails_in_time_when_redis_is_down(
    impl_alone: Implementation, own_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer hears that Redis is down instead of hanging for minutes."""
    monkeypatch.setenv("BULLPY_REDIS_COMMAND_TIMEOUT", "1")
    own_server.stop()
    adding = impl_alone.background(impl_alone.queue().add("n", {}))
    await asyncio.wait({adding}, timeout=3)
    assert adding.done(), "add() still hangs"
    assert isinstance(adding.exception(), OSError)


@pytest.mark.parametrize("name", ["sp ace", "ünï-日本"])
async def test_queue_names_with_spaces_and_letters_of_any_script_work(
    impl: Implementation, name: str
) -> None:
    """A queue's name may be anything that Node takes."""
    name = f"{name} {impl.queue_name}"
    impl.worker(echo, name)
    job = await impl.queue(name).add("n", 1)
    await eventually(job.isCompleted, because="the job was not processed")


async def test_node_sees_the_worker_and_who_processed_a_job(impl: Implementation) -> None:
    """The connection is named as Node's getWorkers reads it, and jobs carry the worker's name."""
    impl.worker(echo, worker_name="w-1")
    queue = impl.queue()
    job = await queue.add("n", 1)
    await eventually(job.isCompleted)
    assert await queue.client.hget(queue.toKey(job.id), "pb") == "w-1"
    encoded = base64.b64encode(impl.queue_name.encode()).decode()

    async def is_listed() -> bool:
        names = [client["name"] for client in await queue.client.client_list()]
        return f"bull:{encoded}:w:w-1" in names

    await eventually(is_listed, because="no connection has the name that Node looks for")


async def test_each_worker_is_listed_once(impl: Implementation) -> None:
    """One worker is one entry, however many connections it has."""
    queue = impl.queue()
    impl.worker(echo, worker_name="w-1")
    job = await queue.add("n", 1)
    await eventually(job.isCompleted)
    await eventually(queue.get_workers)
    assert await queue.get_workers_count() == 1


async def test_queue_events_follow_again_after_redis_was_restarted(
    impl_alone: Implementation, own_server: EmbeddedServer
) -> None:
    """An error that redis-py does not retry away does not end the following of events."""
    impl = impl_alone
    client = redis.asyncio.Redis.from_url(
        own_server.url, decode_responses=True, retry=Retry(NoBackoff(), 1)
    )
    events = impl.events(connection=client)
    failed = asyncio.Event()
    seen: list[str] = []
    events.on("error", lambda error: failed.set())
    events.on("added", lambda args, _id: seen.append(args["jobId"]))
    await eventually(lambda: events.running)
    await asyncio.to_thread(own_server.stop)
    async with asyncio.timeout(3):
        await failed.wait()
    await asyncio.to_thread(own_server.start)
    queue = impl.queue()
    job = await queue.add("n", {})
    await eventually(lambda: job.id in seen, because="the event was not heard")
    await client.aclose()


async def test_queue_events_follow_again_after_an_error_reply(impl: Implementation) -> None:
    """An error reply to one read does not end the following of events."""
    queue = impl.queue()
    await queue.client.set(queue.toKey("events"), "not a stream")
    events = impl.events()
    failed = asyncio.Event()
    seen: list[str] = []
    events.on("error", lambda error: failed.set())
    events.on("added", lambda args, _id: seen.append(args["jobId"]))
    async with asyncio.timeout(3):
        await failed.wait()
    await queue.client.delete(queue.toKey("events"))

    async def heard_one() -> bool:
        await queue.add("n", {})
        return bool(seen)

    await eventually(heard_one, because="no event was heard")


@pytest.mark.parametrize(
    "option",
    [
        {"retry": Retry(NoBackoff(), 1)},
        {"retry_on_error": [ConnectionError]},
        {"decode_responses": True},
    ],
    ids=lambda option: next(iter(option)),
)
async def test_redis_py_options_that_the_library_sets_itself_are_accepted(
    impl: Implementation, server: EmbeddedServer, option: dict[str, Any]
) -> None:
    """A connection written for redis-py works as it is."""
    connection = {"host": "127.0.0.1", "port": server.port, **option}
    job = await impl.queue(connection=connection).add("n", 1)
    assert await job.getState() == "waiting"


async def test_a_client_that_gives_bytes_does_not_garble_jobs(impl: Implementation) -> None:
    """With `decode_responses=False` a job still arrives with its name and data."""
    seen: list[Any] = []

    async def process(job: Any, token: str) -> None:
        seen.append((job.name, job.data))

    client = redis.asyncio.Redis.from_url(impl.url, decode_responses=False)
    impl.worker(process, connection=client)
    await impl.queue().add("real-name", {"secret": 42})
    await eventually(lambda: seen)
    assert seen == [("real-name", {"secret": 42})]
    await client.aclose()
