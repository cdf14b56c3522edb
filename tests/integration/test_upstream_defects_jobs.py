"""How jobs end and what is stored of it; which options are refused."""

from __future__ import annotations

import asyncio
import datetime
import json
from typing import Any

import pytest
from support.implementations import Implementation, eventually


async def finished(job: Any) -> Any:
    """The job as Redis holds it once it has completed or failed."""

    async def is_finished() -> bool:
        return await job.isCompleted() or await job.isFailed()

    await eventually(is_finished, because="the job did not finish")
    queue = job.queue
    return await queue.client.hgetall(queue.toKey(job.id))


async def test_queue_emits_events(impl: Implementation) -> None:
    """`on`, `emit` and `off` work on a queue as they do in Node."""
    queue = impl.queue()
    heard: list[Any] = []
    queue.on("paused", heard.append)
    queue.emit("paused", 1)
    queue.off("paused", heard.append)
    queue.emit("paused", 2)
    assert heard == [1]


async def test_plain_functions_process_jobs(impl: Implementation) -> None:
    """A processor may be a `def`."""

    def double(job: Any, token: str) -> int:
        return job.data * 2

    impl.worker(double)
    stored = await finished(await impl.queue().add("n", 21))
    assert stored.get("returnvalue") == "42"


async def fail(job: Any, token: str) -> None:
    raise ValueError("boom")


async def test_unknown_backoff_strategy_fails_the_job(impl: Implementation) -> None:
    """Without the strategy no retry can be scheduled; the job does not stay active."""
    impl.worker(fail, stalledInterval=20_000)
    job = await impl.queue().add("n", {}, {"attempts": 3, "backoff": {"type": "of my own"}})
    stored = await finished(job)
    assert "boom" in stored["failedReason"]
    assert "of my own" in stored["failedReason"]


async def test_async_backoff_strategies_are_awaited(impl: Implementation) -> None:
    """A strategy may look something up before it says how long to wait."""
    attempts: list[int] = []

    async def strategy(made: int, *rest: Any) -> int:
        await asyncio.sleep(0)
        attempts.append(made)
        return 20

    impl.worker(fail, settings={"backoffStrategy": strategy})
    job = await impl.queue().add("n", {}, {"attempts": 3, "backoff": {"type": "of my own"}})
    await finished(job)
    assert attempts == [1, 2]


async def test_error_text_that_cannot_be_encoded_is_stored_readably(impl: Implementation) -> None:
    """A lone surrogate in a message does not keep the job from failing."""

    async def process(job: Any, token: str) -> None:
        raise ValueError("bad \ud800 char")

    impl.worker(process)
    stored = await finished(await impl.queue().add("n", {}))
    assert "bad" in stored["failedReason"]
    assert "char" in stored["failedReason"]


class WithoutTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [TimeoutError(), AssertionError(), WithoutTextError()], ids=repr)
async def test_failed_reason_is_never_empty(impl: Implementation, error: Exception) -> None:
    """An exception without a text is told by its type."""

    async def process(job: Any, token: str) -> None:
        raise error

    impl.worker(process)
    stored = await finished(await impl.queue().add("n", {}))
    assert type(error).__name__ in stored["failedReason"]


async def test_parent_that_failed_with_its_child_has_a_real_stack_trace(
    impl: Implementation,
) -> None:
    """Where there is no traceback the trace says why the job failed, not `NoneType: None`."""
    impl.worker(fail)
    flow = await impl.flows().add(
        {
            "name": "parent",
            "queueName": impl.queue_name,
            "data": {},
            "children": [
                {
                    "name": "child",
                    "queueName": impl.queue_name,
                    "data": {},
                    "opts": {"failParentOnFailure": True},
                }
            ],
        }
    )
    queue = impl.queue()
    parent_id = flow["job"].id

    async def parent_failed() -> bool:
        return await queue.client.zscore(queue.toKey("failed"), parent_id) is not None

    await eventually(parent_failed)
    reason, traces = await queue.client.hmget(queue.toKey(parent_id), "failedReason", "stacktrace")
    assert "child" in reason
    assert all("child" in trace for trace in json.loads(traces or "[]"))


@pytest.mark.parametrize(
    ("data", "opts"),
    [
        ({}, {"jobId": "123"}),
        ({}, {"jobId": "a:b"}),
        ({}, {"priority": 1.5}),
        ({}, {"priority": 3_000_000}),
        ({"too": "long"}, {"sizeLimit": 3}),
        ({}, {"deduplication": {}}),
        ({}, {"attempts": 2, "backoff": {"type": "fixed", "delay": 1, "jitter": 5}}),
    ],
    ids=["integer id", "colon in id", "fraction", "too large", "too long", "no id", "jitter"],
)
async def test_options_that_node_refuses_are_refused(
    impl: Implementation, data: Any, opts: dict[str, Any]
) -> None:
    """Nothing is added that a Node producer could not add."""
    queue = impl.queue()
    with pytest.raises(ValueError, match=r"."):
        await queue.add("n", data, opts)
    assert await queue.client.zcard(queue.toKey("prioritized")) == 0


@pytest.mark.parametrize(
    ("result", "stored_as"),
    [
        (float("nan"), "null"),
        ({"x": float("inf")}, '{"x":null}'),
        (
            {"at": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)},
            '{"at":"2026-01-02T03:04:05Z"}',
        ),
        ({1}, "[1]"),
    ],
    ids=["NaN", "Infinity", "datetime", "set"],
)
async def test_results_that_javascript_can_say_complete_the_job(
    impl: Implementation, result: Any, stored_as: str
) -> None:
    """Finished work is not failed, nor repeated, for how its result is written."""
    runs: list[str] = []

    async def process(job: Any, token: str) -> Any:
        runs.append(job.id)
        return result

    impl.worker(process)
    stored = await finished(await impl.queue().add("n", {}, {"attempts": 3}))
    assert stored.get("returnvalue") == stored_as
    assert len(runs) == 1


async def test_result_without_json_form_fails_once(impl: Implementation) -> None:
    """Running finished work again would give the same result again."""
    runs: list[str] = []

    async def process(job: Any, token: str) -> Any:
        runs.append(job.id)
        return {"handle": object()}

    impl.worker(process)
    stored = await finished(await impl.queue().add("n", {}, {"attempts": 3}))
    assert "object" in stored["failedReason"]
    assert len(runs) == 1
