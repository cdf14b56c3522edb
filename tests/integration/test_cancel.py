"""A running job is cancelled from anywhere: `queue.cancel`, or an entry in the cancel stream."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock

import pytest
from support.faults import eventually
from support.outcomes import failure_of, result_of

from bullpy import EmbeddedServer, FlowProducer, Job, Queue, Worker, WorkerSettings, errors
from bullpy.connection.clock import ServerClock
from bullpy.engine import calls
from bullpy.engine.fetched import Fetched
from bullpy.queue import CANCEL_REASON_LIMIT, CANCEL_STREAM

CANCELLED = "The job was cancelled"


def was_cancelled(failed_reason: str, reason: str) -> bool:
    return failed_reason.rstrip(".") == f"{CANCELLED}: {reason}"


class Hold:
    """A processor whose jobs run until they are cancelled, or `released`."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int]] = []
        self.released = asyncio.Event()
        self._began = asyncio.Condition()

    async def __call__(self, job: Job[Any]) -> str:
        async with self._began:
            self.runs.append((job.id, job.attempts_started))
            self._began.notify_all()
        if job.data == "fail first" and job.attempts_started == 1:
            raise ValueError("the first run fails")
        await self.released.wait()
        return "whole"

    async def runs_job(self, job_id: str, attempt: int = 1) -> None:
        """Wait until the job has been started that often."""
        async with asyncio.timeout(10), self._began:
            await self._began.wait_for(lambda: (job_id, attempt) in self.runs)


@pytest.fixture
def hold() -> Hold:
    return Hold()


@pytest.fixture
async def elsewhere(redis_url: str, queue_name: str, queue: Queue) -> AsyncIterator[Queue]:
    """Another view of the test's queue, as another process has it."""
    async with Queue(queue_name, redis=redis_url) as opened:
        yield opened


async def ask(queue: Queue, *fields: object, at: str = "*") -> str:
    """Write to the stream as any Redis client may."""
    key = queue.backend.toKey(CANCEL_STREAM)
    return await queue.client.execute_command("XADD", key, at, *fields)


async def all_is_read(queue: Queue, hold: Hold) -> None:
    """Wait until the worker has read what stands in the stream.

    Entries are read in order, so once a later one had its effect, the earlier ones had theirs.
    """
    probe = await queue.add("probe")
    await hold.runs_job(probe.id)
    await queue.cancel(probe.id)
    await failure_of(probe)


# -- who is cancelled ----------------------------------------------------------------------


async def test_running_job_is_cancelled_from_elsewhere_and_not_retried(
    queue: Queue, elsewhere: Queue, start_worker: Any, hold: Hold
) -> None:
    worker = await start_worker(hold)
    job = await queue.add("job", attempts=3)
    await hold.runs_job(job.id)
    asked = await elsewhere.cancel(job.id, "the wrong file ü 🚀")
    assert was_cancelled(await failure_of(job), "the wrong file ü 🚀")
    assert asked.id == job.id
    assert asked.processed_by == worker.workerName
    assert hold.runs == [(job.id, 1)]


async def test_job_is_cancelled_without_a_reason(
    queue: Queue, start_worker: Any, hold: Hold
) -> None:
    await start_worker(hold)
    job = await queue.add("job")
    await hold.runs_job(job.id)
    await queue.cancel(job.id)
    assert await failure_of(job) == f"{CANCELLED}."


async def test_the_right_one_of_several_workers_and_jobs_is_cancelled(
    queue: Queue, start_worker: Any, hold: Hold
) -> None:
    for _ in range(2):
        await start_worker(hold, concurrency=2)
    jobs = [await queue.add("job") for _ in range(4)]
    for job in jobs:
        await hold.runs_job(job.id)
    await queue.cancel(jobs[2].id, "you")
    assert was_cancelled(await failure_of(jobs[2]), "you")
    hold.released.set()
    for job in jobs[:2] + jobs[3:]:
        assert await result_of(job) == "whole"


async def test_a_thread_hears_of_it_through_should_stop(queue: Queue, start_worker: Any) -> None:
    began, never = threading.Event(), threading.Event()

    def work(job: Job[Any]) -> None:
        began.set()
        while not job.should_stop():
            never.wait(0.01)
        raise RuntimeError("stopped")

    worker = Worker(queue.name, redis=queue.redisConnection.settings)
    worker.processor(isolation="thread")(work)
    await start_worker(worker=worker)
    job = await queue.add("job", attempts=3)
    await asyncio.to_thread(began.wait, 10)
    await queue.cancel(job.id, "enough")
    assert await failure_of(job)


async def test_it_works_with_a_prefix(redis_url: str, start_worker: Any, hold: Hold) -> None:
    async with Queue("cancel", redis=redis_url, prefix="{p}:q") as queue:
        await start_worker(
            worker=Worker(
                "cancel", hold, {"autorun": False}, redis=redis_url, prefix="{p}:q", concurrency=1
            )
        )
        job = await queue.add("job")
        await hold.runs_job(job.id)
        await queue.cancel(job.id)
        assert (await failure_of(job)).startswith(CANCELLED)
        assert await queue.client.exists("{p}:q:cancel:cancel") == 1
        await queue.obliterate(force=True)


# -- what cannot be cancelled --------------------------------------------------------------


async def test_a_job_that_is_not_there_is_an_error(queue: Queue) -> None:
    with pytest.raises(errors.JobNotFoundError, match=f"no job 17 in queue {queue.name}"):
        await queue.cancel("17")
    assert await queue.client.exists(queue.backend.toKey(CANCEL_STREAM)) == 0


async def test_a_job_that_does_not_run_is_an_error_that_says_where_it_is(
    queue: Queue, redis_url: str, start_worker: Any
) -> None:
    async def process(job: Job[Any]) -> None:
        if job.name == "bad":
            raise ValueError("bad")

    async with FlowProducer(redis=redis_url) as flows:
        child = {"name": "child", "queueName": f"{queue.name}-c"}
        node = {"name": "parent", "queueName": queue.name, "children": [child]}
        parent = (await flows.add(node))["job"]
    worker = await start_worker(process)
    completed, failed = await queue.add("good"), await queue.add("bad")
    await result_of(completed)
    await failure_of(failed)
    await worker.close()
    waiting = await queue.add("good")
    prioritized = await queue.add("good", priority=1)
    delayed = await queue.add("good", delay=3600)
    for job, text in [
        (waiting, "waiting; .* Remove it"),
        (prioritized, "waiting, with a priority; .* Remove it"),
        (delayed, "delayed; .* Remove it"),
        (parent, "waiting for its children; .* Remove it"),
        (completed, "completed; .* nothing left to cancel"),
        (failed, "failed; .* nothing left to cancel"),
    ]:
        with pytest.raises(errors.JobStateError, match=f"Job {job.id} is {text}"):
            await queue.cancel(job.id)
    assert await queue.client.exists(queue.backend.toKey(CANCEL_STREAM)) == 0
    async with Queue(f"{queue.name}-c", redis=redis_url) as children:
        await children.obliterate(force=True)


async def test_a_reason_that_is_too_long_is_an_error(queue: Queue) -> None:
    with pytest.raises(errors.ConfigurationError, match="1001 characters; the limit is 1000"):
        await queue.cancel("1", "x" * (CANCEL_REASON_LIMIT + 1))


async def test_a_reason_without_an_encoding_is_placed(
    queue: Queue, start_worker: Any, hold: Hold
) -> None:
    await start_worker(hold)
    job = await queue.add("job")
    await hold.runs_job(job.id)
    await queue.cancel(job.id, "bad \ud800 text")
    assert "bad \\ud800 text" in await failure_of(job)


async def test_obliterate_removes_the_stream(queue: Queue, start_worker: Any, hold: Hold) -> None:
    await start_worker(hold)
    job = await queue.add("job")
    await hold.runs_job(job.id)
    await queue.cancel(job.id)
    await failure_of(job)
    await queue.obliterate(force=True)
    assert await queue.client.keys(f"{queue.qualifiedName}:cancel*") == []


# -- which run is meant --------------------------------------------------------------------


async def test_request_for_an_earlier_run_leaves_the_later_one_alone(
    queue: Queue, start_worker: Any, hold: Hold
) -> None:
    await start_worker(hold, concurrency=2)
    job = await queue.add("job", "fail first", attempts=2)
    await hold.runs_job(job.id, attempt=2)
    await ask(queue, "id", job.id, "ats", 1)
    await all_is_read(queue, hold)
    hold.released.set()
    assert await result_of(job) == "whole"


async def test_request_for_a_removed_job_leaves_a_new_one_with_its_id_alone(
    queue: Queue, start_worker: Any, hold: Hold
) -> None:
    first = await start_worker(hold)
    job = await queue.add("job", job_id="import")
    await hold.runs_job("import")
    await queue.cancel("import")
    await failure_of(job)
    await job.remove()
    await first.close()
    # Its ats is 1 again, and a new worker reads the stream from the beginning.
    await start_worker(hold, concurrency=2)
    job = await queue.add("job", job_id="import")
    await all_is_read(queue, hold)
    hold.released.set()
    assert await result_of(job) == "whole"


async def test_request_that_names_no_run_hits_the_job_that_runs(
    queue: Queue, start_worker: Any, hold: Hold
) -> None:
    await start_worker(hold)
    job = await queue.add("job")
    await hold.runs_job(job.id)
    await ask(queue, "id", job.id, "reason", "from redis-cli")
    assert was_cancelled(await failure_of(job), "from redis-cli")


@pytest.mark.parametrize("fields", [[], ["ats", 1]], ids=["bare", "with ats"])
async def test_request_that_is_older_than_the_run_leaves_it_alone(
    queue: Queue, start_worker: Any, hold: Hold, fields: list[object]
) -> None:
    seconds, _ = await queue.client.time()
    await ask(queue, "id", "import", *fields, at=f"{(seconds - 5) * 1000}-0")
    await start_worker(hold, concurrency=2)
    job = await queue.add("job", job_id="import")
    await all_is_read(queue, hold)
    hold.released.set()
    assert await result_of(job) == "whole"


@pytest.mark.parametrize("off", [-3600.0, 3600.0], ids=["slow", "fast"])
async def test_a_clock_that_is_wrong_changes_nothing(
    queue: Queue, start_worker: Any, hold: Hold, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    # As where an ACL forbids the worker to ask at the start.
    monkeypatch.setattr(ServerClock, "learn", AsyncMock())
    monkeypatch.setattr(ServerClock, "time", lambda _: time.time() + off)
    seconds, _ = await queue.client.time()
    await ask(queue, "id", "later", at=f"{(seconds - 5) * 1000}-0")
    await start_worker(hold, concurrency=2)
    later, job = await queue.add("job", job_id="later"), await queue.add("job")
    await hold.runs_job(later.id)
    await hold.runs_job(job.id)
    await ask(queue, "id", job.id)
    assert (await failure_of(job)).startswith(CANCELLED)
    hold.released.set()
    assert await result_of(later) == "whole"


async def test_request_between_fetch_and_start_is_not_lost(
    queue: Queue, start_worker: Any, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, reached = asyncio.Event(), asyncio.Event()
    confirm = calls.Calls._confirmed

    async def slow(self: calls.Calls, fetched: Fetched, *args: Any) -> Fetched:
        if fetched.job is not None and fetched.job.name == "late":
            reached.set()
            await gate.wait()
        return await confirm(self, fetched, *args)

    monkeypatch.setattr(calls.Calls, "_is_fresh", lambda *_: False)
    monkeypatch.setattr(calls.Calls, "_confirmed", slow)
    worker = await start_worker(hold, concurrency=3)
    busy = await queue.add("busy")
    await hold.runs_job(busy.id)
    late = await queue.add("late")
    await asyncio.wait_for(reached.wait(), 10)
    # Redis calls it active; the worker does not know of it yet, and reads on meanwhile.
    await queue.cancel(late.id, "early")
    await queue.cancel(busy.id)
    await failure_of(busy)
    assert late.id not in [job.id for job in worker.active_jobs]
    gate.set()
    assert was_cancelled(await failure_of(late), "early")


async def test_more_requests_than_one_read_brings_are_read(
    queue: Queue, start_worker: Any, hold: Hold
) -> None:
    await start_worker(hold)
    job = await queue.add("job")
    await hold.runs_job(job.id)
    for number in range(250):
        await ask(queue, "id", f"other-{number}")
    await queue.cancel(job.id)
    assert (await failure_of(job)).startswith(CANCELLED)


# -- life ----------------------------------------------------------------------------------


async def test_cancelling_works_while_the_worker_shuts_down(
    queue: Queue, start_worker: Any, hold: Hold
) -> None:
    worker = await start_worker(hold)
    job = await queue.add("job")
    await hold.runs_job(job.id)
    closing = asyncio.create_task(worker.close(timeout=30))
    await queue.cancel(job.id, "no time")
    assert was_cancelled(await failure_of(job), "no time")
    async with asyncio.timeout(5):
        await closing


async def calls_of(queue: Queue, command: str) -> int:
    stats: dict[str, Any] = await queue.client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


async def test_only_a_busy_worker_reads_the_stream(
    own_server: EmbeddedServer, start_worker: Any, hold: Hold
) -> None:
    async with Queue("q", redis=own_server.url) as queue:
        settings = WorkerSettings(drain_delay=0.2)
        worker = Worker("q", hold, {"autorun": False}, redis=own_server.url, settings=settings)
        await start_worker(worker=worker)

        async def idle_for_long() -> None:
            waits = await calls_of(queue, "bzpopmin")

            async def more() -> bool:
                return await calls_of(queue, "bzpopmin") > waits + 8

            await eventually(more, 10.0)

        await idle_for_long()
        assert await calls_of(queue, "xread") == 0

        job = await queue.add("job")
        await hold.runs_job(job.id)
        began = time.monotonic()

        async def reads() -> bool:
            return await calls_of(queue, "xread") >= 3

        await eventually(reads, 10.0)
        assert time.monotonic() - began >= 1.0

        hold.released.set()
        await asyncio.wait_for(worker._slots.idle(), 5)
        before = await calls_of(queue, "xread")
        await idle_for_long()
        # One read may have been under way.
        assert await calls_of(queue, "xread") <= before + 1


async def test_a_stream_that_may_not_be_read_is_reported_and_hurts_no_job(
    own_server: EmbeddedServer, start_worker: Any, hold: Hold, next_event: Any
) -> None:
    async with Queue("q", redis=own_server.url) as queue:
        await queue.client.execute_command("ACL", "SETUSER", "default", "-xread")
        worker = Worker("q", hold, {"autorun": False}, redis=own_server.url, concurrency=2)
        await start_worker(worker=worker)
        reported: list[Exception] = []
        worker.on("error", reported.append)
        first, second = await queue.add("job"), await queue.add("job")
        await hold.runs_job(second.id)

        async def twice() -> bool:
            return len(reported) >= 2

        began = time.monotonic()
        await eventually(twice, 10.0)
        assert all(isinstance(error, errors.RedisError) for error in reported)
        assert "xread" in str(reported[0])
        stats: dict[str, Any] = await queue.client.info("commandstats")
        refused = stats["cmdstat_xread"]["rejected_calls"]
        assert refused <= 1 + (time.monotonic() - began) / 0.5

        failed, completed = next_event(worker, "failed"), next_event(worker, "completed")
        await queue.cancel(first.id, "at last")
        await queue.client.execute_command("ACL", "SETUSER", "default", "+xread")
        job, error = await asyncio.wait_for(failed, 10)
        assert job.id == first.id
        assert was_cancelled(str(error), "at last")
        hold.released.set()
        job, _ = await asyncio.wait_for(completed, 5)
        assert job.id == second.id


async def test_a_key_that_is_no_stream_is_reported(
    queue: Queue, start_worker: Any, hold: Hold, next_event: Any
) -> None:
    worker = await start_worker(hold)
    await queue.client.set(queue.backend.toKey(CANCEL_STREAM), "text")
    reported = next_event(worker, "error")
    job = await queue.add("job")
    (error,) = await asyncio.wait_for(reported, 5)
    assert "WRONGTYPE" in str(error)
    hold.released.set()
    assert await result_of(job) == "whole"


async def test_requests_are_read_again_after_the_connection_was_lost(
    own_server: EmbeddedServer, start_worker: Any, hold: Hold
) -> None:
    async with Queue("q", redis=own_server.url) as queue:
        await start_worker(worker=Worker("q", hold, {"autorun": False}, redis=own_server.url))
        job = await queue.add("job")
        await hold.runs_job(job.id)
        await queue.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await queue.cancel(job.id, "after all")
        assert was_cancelled(await failure_of(job, 15), "after all")


async def test_malformed_entries_are_skipped_and_said_once(
    queue: Queue, start_worker: Any, hold: Hold, caplog: pytest.LogCaptureFixture
) -> None:
    await start_worker(hold)
    job = await queue.add("job")
    await hold.runs_job(job.id)
    with caplog.at_level(logging.WARNING, "bullpy.worker"):
        for _ in range(3):
            await ask(queue, "job", job.id)
            await ask(queue, "id", job.id, "ats", "first")
            await ask(queue, b"\xff\xfe", b"\x00")
        await queue.cancel(job.id)
        assert (await failure_of(job)).startswith(CANCELLED)
    said = [record.message for record in caplog.records if "no request" in record.message]
    assert len(said) == 2
    assert any("no field id" in text for text in said)
    assert any("ats is no number" in text for text in said)
