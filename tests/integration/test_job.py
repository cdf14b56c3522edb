"""Job: what is stored of a result or an error, and what can be done with a job."""

from __future__ import annotations

import asyncio
import datetime
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field
from support.implementations import eventually
from support.outcomes import failure_of, result_of

from bullpy import Job, Queue, Worker, WorkerSettings, errors

StartWorker = Callable[..., Any]


class Camel(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    file_key: str = Field(alias="fileKey")


@dataclass
class Point:
    x: int
    y: float


async def echo(job: Job[Any]) -> Any:
    return job.data


# -- results -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, None),
        ("", ""),
        (0, 0),
        ("日本語 \u0000 end", "日本語 \u0000 end"),
        ("lone \ud800 surrogate", "lone \ud800 surrogate"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        ({3}, [3]),
        (PurePosixPath("/a/b"), "/a/b"),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        ({"levels": np.array([[1.0, 2.0]])}, {"levels": [[1.0, 2.0]]}),
        (Camel(file_key="a"), {"fileKey": "a"}),
        ([Point(1, 2.5)], [{"x": 1, "y": 2.5}]),
        ({1: "one", None: "none", 2.5: "x"}, {"1": "one", "null": "none", "2.5": "x"}),
        ([float("nan"), float("-inf"), 1.5], [None, None, 1.5]),
        (2**60, 2**60),
        ((1, (2,)), [1, [2]]),
    ],
    ids=repr,
)
async def test_results_are_stored_as_javascript_would(
    queue: Queue, start_worker: StartWorker, result: Any, expected: Any
) -> None:
    async def process(job: Job[Any]) -> Any:
        return result

    await start_worker(process)
    job = await queue.add("n", {})
    assert await result_of(job) == expected
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert stored.return_value == expected


@pytest.mark.parametrize(
    "result", [b"bytes", object(), {"deep": [lambda: 1]}, {(1, 2): "tuple key"}], ids=repr
)
async def test_result_without_json_form_fails_once_and_says_what_it_was(
    queue: Queue, start_worker: StartWorker, result: Any
) -> None:
    runs: list[str] = []

    async def process(job: Job[Any]) -> Any:
        runs.append(job.id)
        return result

    await start_worker(process)
    reason = await failure_of(await queue.add("n", {}, attempts=3))
    assert "has no JSON form" in reason
    assert len(runs) == 1


async def test_result_that_contains_itself_fails_once(
    queue: Queue, start_worker: StartWorker
) -> None:
    endless: list[Any] = []
    endless.append(endless)

    async def process(job: Job[Any]) -> Any:
        return endless

    await start_worker(process)
    assert await failure_of(await queue.add("n", {}, attempts=3))


async def test_result_over_the_limit_fails_once(queue: Queue, redis_url: str) -> None:
    settings = WorkerSettings(result_limit=100)
    options: dict[str, Any] = {"autorun": False}
    worker = Worker(queue.name, echo, options, redis=redis_url, settings=settings)
    running = asyncio.create_task(worker.run())
    reason = await failure_of(await queue.add("n", "x" * 200, attempts=3))
    assert "202 bytes; the limit is 100" in reason
    await worker.close()
    await running


async def test_result_that_redis_should_not_hold_fails_once_and_a_large_one_is_told(
    queue: Queue, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[str] = []

    async def process(job: Job[Any]) -> str:
        runs.append(job.id)
        return "x" * job.data

    await start_worker(process)
    for _ in range(2):
        assert len(await result_of(await queue.add("report", 2_000_000))) == 2_000_000
    (told,) = [record.getMessage() for record in caplog.records if "2.0 MB" in record.getMessage()]
    assert "return a reference" in told
    runs.clear()
    reason = await failure_of(await queue.add("report", 16_000_000, attempts=3))
    assert "16000002 bytes; the limit is 16000000" in reason
    assert "return a reference" in reason
    assert len(runs) == 1


async def test_limits_of_results_can_be_lifted(
    queue: Queue, start_worker: StartWorker, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def process(job: Job[Any]) -> str:
        return "x" * 17_000_000

    settings = WorkerSettings(result_limit=0, result_warning=0)
    options: dict[str, Any] = {"autorun": False}
    worker = Worker(queue.name, process, options, redis=redis_url, settings=settings)
    await start_worker(worker=worker)
    assert len(await result_of(await queue.add("report"))) == 17_000_000
    assert "return a reference" not in caplog.text


# -- errors ------------------------------------------------------------------------------------


class BrokenTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("boom ü 🚀"), "ValueError: boom ü 🚀"),
        (TimeoutError(), "TimeoutError"),
        (BrokenTextError(), "BrokenTextError: <its __str__ raised RuntimeError>"),
        (ValueError("bad \ud800 char"), "ValueError: bad \\ud800 char"),
        (StopIteration(3), "StopIteration"),
        (GeneratorExit(), "GeneratorExit"),
        (asyncio.CancelledError(), "CancelledError"),
        (ExceptionGroup("many", [ValueError("one")]), "ExceptionGroup: many (1 sub-exception)"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_error_texts_are_never_empty_nor_lost(
    queue: Queue, start_worker: StartWorker, error: BaseException, expected: str, kind: str
) -> None:
    async def process(job: Job[Any]) -> None:
        raise error

    def process_in_thread(job: Job[Any]) -> None:
        raise error

    await start_worker(process if kind == "async def" else process_in_thread)
    assert expected in await failure_of(await queue.add("n", {}))
    # And the worker goes on.
    assert await failure_of(await queue.add("n", {}))


async def test_long_error_texts_are_bounded(queue: Queue, start_worker: StartWorker) -> None:
    async def process(job: Job[Any]) -> None:
        raise ValueError("x" * 1_000_000)

    worker = await start_worker(process)
    job = await queue.add("n", {}, attempts=3)
    reason = await failure_of(job)
    assert len(reason) <= worker.settings.error_limit
    assert reason.endswith("(1000012 characters in all)")
    size = await queue.client.memory_usage(queue.toKey(job.id), samples=0)
    assert size is not None
    assert size < 200_000


# -- what cannot be run --------------------------------------------------------------------------


async def test_ghost_leaves_nothing_behind(queue: Queue, start_worker: StartWorker) -> None:
    """An id without a hash is dropped: not executed, not kept, and told once."""
    executed: list[str] = []

    async def process(job: Job[Any]) -> None:
        executed.append(job.id)

    ghost = await queue.add("ghost", {})
    await queue.client.delete(queue.toKey(ghost.id))
    worker = await start_worker(process)
    told: list[Any] = []
    worker.on("failed", lambda job, error: told.append(error))
    sound = await queue.add("sound", {})
    await result_of(sound)
    assert executed == [sound.id]
    assert await queue.client.keys(f"{queue.toKey(ghost.id)}*") == []
    counts = await queue.get_job_counts("active", "failed", "wait", "delayed")
    assert set(counts.values()) == {0}
    assert len(told) <= 1


async def test_undecodable_job_is_kept_for_inspection_and_can_be_repaired(
    queue: Queue, start_worker: StartWorker
) -> None:
    job = await queue.add("n", {"good": True}, attempts=5)
    await queue.client.hset(queue.toKey(job.id), "data", "{broken")
    await start_worker(echo)
    reason = await failure_of(job)
    assert "its data is not JSON" in reason
    listed = (await queue.get_jobs(["failed"]))[0]
    assert isinstance(listed.decode_error, errors.UndecodableJobError)
    await listed.update_data({"repaired": True})
    await listed.retry("failed")
    assert await result_of(job) == {"repaired": True}


# -- calls -----------------------------------------------------------------------------------------


async def test_progress_and_logs_are_stored_and_told(
    queue: Queue, start_worker: StartWorker
) -> None:
    async def process(job: Job[Any]) -> None:
        await job.update_progress({"percent": 50, "note": "ü"})
        assert await job.log("one") == 1
        assert await job.log("two") == 2

    await start_worker(process)
    told: list[Any] = []
    queue.events.on("progress", lambda args, _id: told.append(args["data"]))
    await queue.events.wait_until_ready()
    job = await queue.add("n", {})
    await result_of(job)
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert stored.progress == {"percent": 50, "note": "ü"}
    assert await queue.get_job_logs(job.id) == ["one", "two"]
    assert told == [{"percent": 50, "note": "ü"}]


async def test_calls_on_a_removed_job_say_that_it_is_gone(queue: Queue) -> None:
    job = await queue.add("n", {})
    await job.remove()
    with pytest.raises(errors.JobNotFoundError, match="Missing key for job"):
        await job.log("too late")
    with pytest.raises(errors.JobNotFoundError):
        await job.update_progress(1)
    with pytest.raises(errors.JobNotFoundError):
        await job.update_data({})
    with pytest.raises(errors.JobNotFoundError):
        await job.wait_until_finished(1)
    assert await queue.client.keys(f"{queue.toKey(job.id)}*") == []


async def test_job_of_a_scheduler_cannot_be_removed_silently(queue: Queue) -> None:
    job = await queue.upsertJobScheduler("every", {"every": 60_000}, "n")
    assert job is not None
    with pytest.raises(errors.JobStateError, match="belongs to a job scheduler"):
        await job.remove()
    with pytest.raises(errors.JobStateError):
        await queue.remove(job.id)
    await queue.removeJobScheduler("every")


async def test_waiting_gives_results_failures_and_timeouts(
    queue: Queue, start_worker: StartWorker
) -> None:
    job = await queue.add("n", {"x": 1})
    with pytest.raises(TimeoutError):
        await job.wait_until_finished(0.1)
    await start_worker(echo)
    assert await job.wait_until_finished(3) == {"x": 1}
    assert await job.wait_until_finished(3) == {"x": 1}
    assert queue.events.listener_count(f"completed:{job.id}") == 0


async def test_stored_fields_are_read_back(queue: Queue, start_worker: StartWorker) -> None:
    await start_worker(echo, worker_name="w ü")
    job = await queue.add(
        "n", [1], job_id="mine", attempts=3, deduplication={"id": "d"}, timestamp=1_700_000_000_000
    )
    await result_of(job)
    stored = await queue.get_job("mine")
    assert stored is not None
    assert (stored.name, stored.data, stored.return_value) == ("n", [1], [1])
    assert (stored.attempts_made, stored.attempts_started) == (1, 1)
    assert (stored.processed_by, stored.deduplicationId) == ("w ü", "d")
    assert stored.timestamp == 1_700_000_000_000
    assert stored.finished_on >= stored.processed_on > stored.timestamp


async def test_priority_and_delay_can_be_changed(queue: Queue) -> None:
    job = await queue.add("n", {}, priority=5)
    await job.change_priority(1)
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert stored.priority == 1
    later = await queue.add("n", {}, delay=60)
    await later.promote()
    assert await later.get_state() == "wait"


async def test_lost_lock_stops_the_processor_and_discards_its_result(
    queue: Queue, start_worker: StartWorker
) -> None:
    reasons: list[str] = []

    async def process(job: Job[Any]) -> str:
        await queue.client.delete(f"{queue.toKey(job.id)}:lock")
        try:
            await asyncio.Event().wait()
        finally:
            reasons.append(str(job.stop_reason))
        return "never stored"

    worker = await start_worker(process, lock_duration=0.4)
    told: list[Exception] = []
    worker.on("error", told.append)
    job = await queue.add("n", {})
    await eventually(lambda: reasons)
    await eventually(lambda: not worker.active_jobs)
    assert reasons == ["lock-lost"]
    assert any(isinstance(error, errors.LockLostError) for error in told)
    assert await job.get_state() in ("active", "wait")


async def test_stack_traces_are_limited_in_number(queue: Queue, start_worker: StartWorker) -> None:
    async def process(job: Job[Any]) -> None:
        raise ValueError("boom")

    await start_worker(process)
    job = await queue.add("n", {}, attempts=3, stack_trace_limit=1)
    await failure_of(job)
    traces = json.loads(await queue.client.hget(queue.toKey(job.id), "stacktrace"))
    assert len(traces) == 1
    assert "in process" in traces[0]
