"""Failures cross between the languages as readable reasons, counts and traces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.node import Node, PeerError

from bullpy import Discard, Job, Queue, UnrecoverableError, errors


async def test_attempts_and_exponential_backoff_are_kept_by_a_python_worker(
    node: Node, start_worker: Any
) -> None:
    async def process(_job: Job[Any]) -> None:
        raise ValueError("boom ü 🚀")

    await node.follow()
    await start_worker(process)
    opts = {"attempts": 3, "backoff": {"type": "exponential", "delay": 300}}
    job_id = await node.add("process", {}, opts)
    with pytest.raises(PeerError, match="boom ü 🚀"):
        await node.wait(job_id)
    exhausted = await node.event("retries-exhausted", job_id)
    assert exhausted["args"]["attemptsMade"] == "3"

    events = await node.events(job_id)
    seen = [entry["event"] for entry in events if entry["event"] != "retries-exhausted"]
    again = ["delayed", "waiting", "active"]
    assert seen == ["added", "waiting", "active", *again, *again, "failed"]
    stamps = [int(entry["eventId"].split("-")[0]) for entry in events if entry["event"] == "active"]
    for wanted, pause in zip(
        [300, 600], [stamps[1] - stamps[0], stamps[2] - stamps[1]], strict=True
    ):
        assert wanted - 20 <= pause < wanted + 500
    job = await node.job(job_id)
    assert "boom ü 🚀" in job["failedReason"]
    assert (job["attemptsMade"], job["attemptsStarted"]) == (3, 3)
    assert len(job["stacktrace"]) == 3
    assert all(
        "Traceback" in trace and "ValueError: boom ü 🚀" in trace for trace in job["stacktrace"]
    )


async def test_third_attempt_may_succeed_whoever_makes_it(node: Node, start_worker: Any) -> None:
    async def process(job: Job[Any]) -> str:
        if job.attempts_made < 2:
            raise ValueError("not yet")
        return "third time"

    await start_worker(process)
    job_id = await node.add("process", {}, {"attempts": 3})
    assert await node.wait(job_id) == "third time"
    assert (await node.job(job_id))["attemptsMade"] == 3


async def test_attempts_started_in_python_go_on_in_node(
    node: Node, queue: Queue, start_worker: Any
) -> None:
    async def process(_job: Job[Any]) -> None:
        raise ValueError("boom")

    await node.follow()
    worker = await start_worker(process)
    job = await queue.add("process", attempts=2, backoff=0.5)
    await node.event("delayed", job.id)
    await worker.close()
    await node.start_worker("fail-times", times=1)
    assert await job.wait_until_finished(timeout=10) == {"attemptsMade": 1}


async def test_stack_trace_limit_of_node_is_kept(node: Node, start_worker: Any) -> None:
    async def process(_job: Job[Any]) -> None:
        raise ValueError("boom")

    await start_worker(process)
    job_id = await node.add("process", {}, {"attempts": 3, "stackTraceLimit": 1})
    with pytest.raises(PeerError, match="boom"):
        await node.wait(job_id)
    assert len((await node.job(job_id))["stacktrace"]) == 1


@pytest.mark.parametrize("error", [UnrecoverableError("no more"), Discard("no more")], ids=repr)
async def test_unrecoverable_error_of_python_ends_a_job_of_node(
    node: Node, start_worker: Any, error: Exception
) -> None:
    async def process(_job: Job[Any]) -> None:
        raise error

    await start_worker(process)
    job_id = await node.add("process", {}, {"attempts": 3})
    with pytest.raises(PeerError, match="no more"):
        await node.wait(job_id)
    assert (await node.job(job_id))["attemptsMade"] == 1


@pytest.mark.parametrize(
    "error",
    [ValueError(), TimeoutError(), asyncio.CancelledError(), AssertionError(), ValueError("")],
    ids=repr,
)
async def test_exception_without_a_message_is_readable_in_node(
    node: Node, start_worker: Any, error: BaseException
) -> None:
    async def process(_job: Job[Any]) -> None:
        raise error

    await start_worker(process)
    job_id = await node.add("process")
    with pytest.raises(PeerError) as caught:
        await node.wait(job_id)
    assert type(error).__name__ in caught.value.message
    assert (await node.job(job_id))["failedReason"] == caught.value.message


async def test_text_without_an_encoding_is_readable_in_node(node: Node, start_worker: Any) -> None:
    async def process(_job: Job[Any]) -> None:
        raise ValueError("bad \ud800 text")

    await start_worker(process)
    job_id = await node.add("process")
    with pytest.raises(PeerError, match=r"bad .* text"):
        await node.wait(job_id)


@pytest.mark.parametrize(
    ("behaviour", "params", "reason", "attempts"),
    [
        ("fail", {"message": "bad"}, "bad", 2),
        ("unrecoverable", {"message": "no more"}, "no more", 1),
        ("throw-string", {"message": "just text"}, "", 2),
    ],
)
async def test_what_node_throws_is_readable_in_python(
    node: Node,
    queue: Queue,
    behaviour: str,
    params: dict[str, str],
    reason: str,
    attempts: int,
) -> None:
    await node.start_worker(behaviour, **params)
    job = await queue.add("process", attempts=2)
    with pytest.raises(errors.JobFailedError) as caught:
        await job.wait_until_finished(timeout=10)
    assert reason in caught.value.failed_reason
    done = await queue.get_job(job.id)
    assert done is not None
    assert done.attempts_made == attempts
    assert await done.get_state() == "failed"
