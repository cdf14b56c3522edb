"""Records of live processes: what they say, when they end, and what they cost."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support.node import eventually

from bullpy import EmbeddedServer, Queue, Worker, WorkerSettings, errors, registry
from bullpy.connection.asking import Asker
from bullpy.doctor import diagnose
from bullpy.registry import Record, Registry
from bullpy.settings import RedisSettings

BEAT = 0.1

Read = Callable[[], Awaitable[Registry]]


@pytest.fixture
async def read(redis_url: str, queue_name: str) -> AsyncIterator[Read]:
    """Reads the records of the test's queue."""
    asker = await Asker.open(RedisSettings.from_url(redis_url), "test")

    async def ask() -> Registry:
        return await registry.read(asker, [("bull", queue_name)])

    yield ask
    await asker.close()


async def one(read: Read, condition: Callable[[Record], bool], role: str = "worker") -> Record:
    """The record of the queue's only process of that role, once it is so."""

    async def look() -> Record | None:
        found = await read()
        records = [record for record in found.records if record.role == role]
        assert len(records) <= 1
        return next(filter(condition, records), None)

    return await eventually(look)


def settings(**more: Any) -> WorkerSettings:
    return WorkerSettings(heartbeat=BEAT, **more)


async def echo(job: Any) -> Any:
    return job.data


async def test_worker_says_who_it_is_and_what_it_does(
    queue: Queue, start_worker: Any, queue_name: str, redis_url: str, read: Read
) -> None:
    async def fail(job: Any) -> None:
        raise ValueError("no token=abcdef123456 for you")

    held = asyncio.Event()

    async def work(job: Any) -> Any:
        await (fail(job) if job.name == "bad" else held.wait())

    worker = await start_worker(
        work, settings=settings(concurrency=3, limiter=(100, 1), drain_delay=2)
    )
    await queue.add("bad")
    job = await queue.add("good")
    record = await one(read, lambda record: record.busy == 1 and record.failed == 1)
    assert (record.role, record.state, record.lang) == ("worker", "running", "python")
    assert (record.id, record.name) == (worker.id, worker.workerName)
    assert (record.pid, record.cwd) == (os.getpid(), str(Path.cwd()))
    assert (record.prefix, record.queue) == ("bull", queue_name)
    assert {"bullpy", "bullmq", "redis", "python"} <= record.versions.keys()
    assert [held.id for held in record.active] == [job.id]
    assert record.fingerprint == (await queue.fingerprint()).value
    assert record.options["concurrency"] == record.concurrency == 3
    assert record.options["limiter"] == {"max": 100, "duration": 1}
    assert record.options["drain_delay"] == 2
    assert record.rss > 1_000_000
    assert abs(record.clock_offset) < 1
    assert record.last_fetch is not None
    assert abs(record.last_fetch - time.time()) < 5
    assert record.last_failure is not None
    assert "***" in record.last_failure.text
    assert "abcdef" not in record.model_dump_json()
    assert record.ended is None
    listed = {str(each["id"]): each["name"] for each in await queue.client.client_list()}
    assert listed[str(record.clients[0])] == worker.clientName
    held.set()
    done = await one(read, lambda record: record.processed == 1)
    assert done.last_job is not None
    assert done.last_job.job == job.id
    assert [record.id for record in (await read()).live()] == [worker.id]


async def test_states_are_told(queue: Queue, start_worker: Any, read: Read) -> None:
    worker: Worker = await start_worker(echo, settings=settings(limiter=(1, 60)))
    await one(read, lambda record: record.state == "waiting")
    await worker.pause()
    await one(read, lambda record: record.state == "paused")
    worker.resume()
    await one(read, lambda record: record.state == "waiting")
    await queue.add_bulk([{"name": "now"}, {"name": "later"}])
    await one(read, lambda record: record.state == "limited")


async def test_jobs_that_run_at_the_end_are_told_as_draining(
    queue: Queue, start_worker: Any, read: Read
) -> None:
    held = asyncio.Event()

    async def hold(job: Any) -> None:
        await held.wait()

    worker: Worker = await start_worker(hold, settings=WorkerSettings(heartbeat=60))
    await queue.add("slow")
    async with asyncio.timeout(10):
        await worker._slots.busy()  # type: ignore[union-attr]
    closing = asyncio.create_task(worker.close())
    record = await one(read, lambda record: record.state == "draining")
    assert record.busy == 1
    held.set()
    await closing
    assert (await one(read, lambda record: record.ended is not None)).state == "closed"


async def test_closed_worker_leaves_its_last_words_for_an_hour(
    queue: Queue, start_worker: Any, read: Read, queue_name: str
) -> None:
    worker: Worker = await start_worker(echo, settings=settings())
    await one(read, lambda record: True)
    await worker.close()
    found = await read()
    assert found.live() == ()
    (record,) = found.gone()
    assert record.ended is not None
    assert (record.ended.reason, record.ended.code) == ("closed by the program", None)
    assert not record.is_lost(found.at)
    key = registry.key_of("bull", queue_name, worker.id)
    assert 3590 < await queue.client.pttl(key) / 1000 < 3601


async def test_worker_that_cannot_start_says_why(
    queue_name: str, redis_url: str, read: Read
) -> None:
    worker = Worker(queue_name, redis=redis_url, settings=settings())

    @worker.lifespan
    async def lifespan(worker: Worker) -> AsyncIterator[dict[str, Any]]:
        raise RuntimeError("DATABASE_URL is not set")
        yield {}

    worker.processor()(echo)
    with pytest.raises(RuntimeError):
        await worker.run()
    record = await one(read, lambda record: True)
    assert record.ended is not None
    assert record.ended.reason.startswith("could not start: ")
    assert "DATABASE_URL is not set" in record.ended.reason


async def test_worker_whose_record_stops_is_lost_and_still_told(
    queue: Queue, start_worker: Any, read: Read
) -> None:
    worker: Worker = await start_worker(echo, settings=settings())
    await one(read, lambda record: True)
    worker._heartbeat._task.cancel()  # type: ignore[union-attr]

    async def lost() -> tuple[Record, ...]:
        found = await read()
        return tuple(record for record in found.gone() if record.is_lost(found.at))

    (record,) = await eventually(lost)
    assert record.id == worker.id
    assert record.ended is None


async def test_emptied_database_has_the_record_and_its_lists_again(
    own_server: EmbeddedServer, queue_name: str
) -> None:
    async with Queue(queue_name, redis=own_server.url) as queue:
        worker = Worker(
            queue_name, echo, {"autorun": False}, redis=own_server.url, settings=settings()
        )
        running = asyncio.create_task(worker.run())
        asker = await Asker.open(RedisSettings.from_url(own_server.url), "test")

        async def live() -> bool:
            found = await registry.read(asker, [("bull", queue_name)])
            return bool(found.live()) and await registry.queues(asker, "bull") == [queue_name]

        await eventually(live)
        await queue.client.flushall()
        await eventually(live)
        await asker.close()
        await worker.close()
        await running


async def commands(queue: Queue) -> int:
    stats: dict[str, Any] = await queue.client.info("commandstats")
    names = ("set", "zadd", "zremrangebyrank", "zremrangebyscore", "pexpire", "get", "time")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in names)


async def test_a_minute_of_heartbeats_is_below_ten_commands(own_server: EmbeddedServer) -> None:
    """Three beats follow the first record in the first minute, and four are in each further one."""
    async with Queue("q", redis=own_server.url) as queue:
        before = await commands(queue)
        worker = Worker(
            "q",
            echo,
            {"autorun": False},
            redis=own_server.url,
            settings=settings(stalled_interval=300, drain_delay=60),
        )
        running = asyncio.create_task(worker.run())
        await worker.wait_until_ready()
        key, seen = registry.key_of("bull", "q", worker.id), set[float]()

        async def beats() -> bool:
            raw = await queue.client.execute_command("GETRANGE", key, 0, -1)
            if raw:
                seen.add(Record.model_validate_json(raw).seen)
            return len(seen) >= 4

        await eventually(beats)
        first_minute = await commands(queue) - before
        # What the worker itself sends at its start: the stalled check sets its key, in a script.
        assert first_minute <= 9 + 3, first_minute
        before, count = await commands(queue), len(seen)
        seen_before = set(seen)

        async def twenty() -> bool:
            await beats()
            return len(seen - seen_before) >= 20

        await eventually(twenty)
        sent = await commands(queue) - before
        assert sent / len(seen - seen_before) * 4 < 10, (sent, count)
        await worker.close()
        await running


async def test_pause_is_told_at_once(queue: Queue, start_worker: Any, read: Read) -> None:
    worker = await start_worker(echo, settings=WorkerSettings(heartbeat=600))
    await one(read, lambda record: record.state == "waiting")
    await worker.pause()
    await one(read, lambda record: record.state == "paused")
    worker.resume()
    await one(read, lambda record: record.state == "waiting")


async def test_many_workers_of_a_process_beat_less_often_each(
    queue: Queue, start_worker: Any, read: Read
) -> None:
    for _ in range(4):
        await start_worker(echo, settings=settings())

    async def agree() -> bool:
        live = (await read()).live()
        return len(live) == 4 and {record.heartbeat for record in live} == {2 * BEAT}

    assert await eventually(agree)


async def test_heartbeat_of_0_leaves_nothing(queue: Queue, start_worker: Any, read: Read) -> None:
    worker: Worker = await start_worker(echo, settings=WorkerSettings(heartbeat=0))
    await worker.close()
    assert (await read()).records == ()


async def test_user_without_the_keys_works_on_and_is_refused_once(
    own_server: EmbeddedServer,
) -> None:
    async with Queue("q", redis=own_server.url) as admin:
        await admin.client.execute_command(
            *("ACL", "SETUSER", "w", "on", ">pw", "~bull:*", "+@all", "-@dangerous"),
            *("+info", "+client"),
        )
        url = own_server.url.replace("redis://", "redis://w:pw@")
        seen: list[Exception] = []
        worker = Worker("q", echo, {"autorun": False}, redis=url, settings=settings())
        worker.on("error", seen.append)
        running = asyncio.create_task(worker.run())
        await worker.wait_until_ready()

        async def refusals() -> int:
            stats: dict[str, Any] = await admin.client.info("errorstats")
            return int(stats.get("errorstat_NOPERM", {}).get("count", 0))

        await eventually(refusals)
        job = await admin.add("x", 1)
        assert await job.wait_until_finished(timeout=10) == 1
        async with Queue("q", redis=url) as producer:
            await producer.add("x", 2)
            await producer.add("x", 3)
        found = await diagnose(["q"], redis=own_server.url, interval=0.3)
        assert "acl-denied" not in [verdict.code for verdict in found.verdicts]
        await worker.close()
        await running
        assert await refusals() <= 2
        assert seen == []


async def test_full_server_costs_the_worker_nothing_but_its_record(
    own_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with Queue("q", redis=own_server.url) as admin:
        worker = Worker("q", echo, {"autorun": False}, redis=own_server.url, settings=settings())
        running = asyncio.create_task(worker.run())
        await worker.wait_until_ready()
        await admin.client.config_set("maxmemory", 1)
        try:

            async def refused() -> bool:
                stats: dict[str, Any] = await admin.client.info("errorstats")
                return int(stats.get("errorstat_OOM", {}).get("count", 0)) >= 2

            await eventually(refused)
            before = time.monotonic()
            await worker.close()
            assert time.monotonic() - before < 2
            await running
        finally:
            await admin.client.config_set("maxmemory", 0)
    assert [each for each in caplog.records if each.name == "bullpy.heartbeat"] == []


async def test_stopped_server_does_not_hold_the_end(own_server: EmbeddedServer) -> None:
    worker = Worker("q", echo, {"autorun": False}, redis=own_server.url, settings=settings())
    running = asyncio.create_task(worker.run())
    await worker.wait_until_ready()
    await asyncio.to_thread(own_server.stop)
    before = time.monotonic()
    await worker.close()
    await running
    assert time.monotonic() - before < 4


async def test_producer_is_seen_once_it_adds(
    queue_name: str, redis_url: str, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BULLPY_HEARTBEAT", str(BEAT))
    async with Queue(queue_name, redis=redis_url) as queue:
        assert (await read()).records == ()
        await queue.add("a")
        first = await one(read, lambda record: True, "producer")
        assert (first.role, first.added, first.pid) == ("producer", 1, os.getpid())
        async with Queue(queue_name, redis=redis_url) as another:
            await another.add_bulk([{"name": "b"}, {"name": "c"}])

            async def more() -> Record:
                await another.add("d")
                return await one(read, lambda record: True, "producer")

            async def counted() -> bool:
                return (await more()).added >= 4

            await eventually(counted)
        await queue.obliterate(force=True)


async def test_producer_writes_no_more_than_once_per_heartbeat(own_server: EmbeddedServer) -> None:
    async with Queue("q", redis=own_server.url) as queue:
        await queue.add("first")

        async def listed() -> bool:
            return await queue.client.exists(registry.queues_of("bull")) == 1

        await eventually(listed)
        stats: dict[str, Any] = await queue.client.info("commandstats")
        before = stats["cmdstat_set"]["calls"]
        for _ in range(200):
            await queue.add("more")
        stats = await queue.client.info("commandstats")
        assert stats["cmdstat_set"]["calls"] == before


def test_keys_of_the_registry_are_known_as_such() -> None:
    assert registry.is_own(registry.key_of("{bull}", "q", "0a" * 16))
    assert registry.is_own(registry.index_of("bull", "q"))
    assert registry.is_own(registry.queues_of("bull"))
    assert not registry.is_own("bullpy:q:wait")


async def test_id_that_is_no_text_hides_no_other_record(
    queue: Queue, read: Read, queue_name: str
) -> None:
    await queue.client.zadd(registry.index_of("bull", queue_name), {b"\xff": 9e15})
    assert (await read()).records == ()


async def test_wrong_heartbeat_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULLPY_HEARTBEAT", "-1")
    with pytest.raises(errors.ConfigurationError, match="heartbeat"):
        Queue("q", redis="redis://127.0.0.1:1")


async def test_what_is_no_record_is_left_out(queue: Queue, read: Read, queue_name: str) -> None:
    await queue.client.zadd(registry.index_of("bull", queue_name), {"x": 1, "y": 2})
    await queue.client.set(registry.key_of("bull", queue_name, "x"), "not JSON", ex=60)
    assert (await read()).records == ()
