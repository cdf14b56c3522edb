"""Every kind of value crosses between the languages, and odd ones poison nothing."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from support.node import UNDEFINED, Node, eventually

from bullpy import Job, Queue, Worker


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (UNDEFINED, {}),
        (None, None),
        ("s", "s"),
        ("", ""),
        (5, 5),
        (0, 0),
        (False, False),
        ([1], [1]),
        ({"a": {"b": [None, "日本語"]}}, {"a": {"b": [None, "日本語"]}}),
        (1.5e308, 1.5e308),
        (2**53 - 1, 2**53 - 1),
        (math.nan, None),
        (math.inf, None),
        ("lone \ud800 surrogate", "lone \ud800 surrogate"),
    ],
    ids=repr,
)
async def test_data_of_node_arrives_in_python(
    node: Node, start_worker: Any, sent: Any, seen: Any
) -> None:
    got: list[Any] = []

    async def process(job: Job[Any]) -> Any:
        got.append(job.data)
        return job.data

    await start_worker(process)
    job_id = await node.add("process", sent)
    assert await node.wait(job_id) == seen
    assert got == [seen]


@pytest.mark.parametrize(
    ("returned", "seen"),
    [
        (None, None),
        ("", ""),
        (0, 0),
        (False, False),
        ([], []),
        (1.0, 1),
        (-0.0, 0),
        (1e308, 1e308),
        (2**53 - 1, 2**53 - 1),
        (2**53 + 1, 2**53),
        (10**25, 1e25),
        (math.nan, None),
        (math.inf, None),
        ({"x": math.nan, "y": [math.inf, 1.5]}, {"x": None, "y": [None, 1.5]}),
        ("日本語 🚀 \u0000", "日本語 🚀 \u0000"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        ({1: "a", None: "b"}, {"1": "a", "null": "b"}),
    ],
    ids=repr,
)
async def test_result_of_python_arrives_in_node(
    node: Node, start_worker: Any, returned: Any, seen: Any
) -> None:
    runs: list[str] = []

    async def process(job: Job[Any]) -> Any:
        runs.append(job.id)
        return returned

    await node.follow()
    await start_worker(process)
    job_id = await node.add("process", {}, {"attempts": 3})
    assert await node.wait(job_id) == seen
    assert (await node.event("completed", job_id))["args"]["returnvalue"] == seen
    assert (await node.job(job_id))["returnvalue"] == seen
    assert runs == [job_id]


@pytest.mark.parametrize(
    ("returned", "seen"),
    [
        (UNDEFINED, None),
        (None, None),
        ("", ""),
        (0, 0),
        (False, False),
        (-0.0, 0),
        (math.nan, None),
        (2**60, 1_152_921_504_606_847_000),
        ({"text": "日本語 🚀"}, {"text": "日本語 🚀"}),
    ],
    ids=repr,
)
async def test_result_of_node_arrives_in_python(
    node: Node, queue: Queue, returned: Any, seen: Any
) -> None:
    await node.start_worker("return", value=returned)
    job = await queue.add("process")
    assert await job.wait_until_finished(timeout=10) == seen
    done = await queue.get_job(job.id)
    assert done is not None
    assert done.return_value == seen


@pytest.mark.parametrize("kind", ["data", "progress"])
async def test_updates_to_undefined_do_not_poison_a_job(
    node: Node, start_worker: Any, kind: str
) -> None:
    method = {"data": "updateData", "progress": "updateProgress"}[kind]
    got: list[Any] = []

    async def process(job: Job[Any]) -> Any:
        got.append((job.data, job.progress))
        return "done"

    job_id = await node.add("process", {"x": 1})
    await node.job(job_id, method, UNDEFINED)
    await start_worker(process)
    assert await node.wait(job_id) == "done"
    assert got == [({}, 0) if kind == "data" else ({"x": 1}, 0)]
    assert (await node.job(job_id))["attemptsStarted"] == 1


async def test_fractional_timestamp_does_not_poison_a_job(node: Node, start_worker: Any) -> None:
    async def process(job: Job[Any]) -> Any:
        return job.timestamp

    await start_worker(process)
    job_id = await node.add("process", {}, {"timestamp": 1_700_000_000_000.5})
    assert await node.wait(job_id) == 1_700_000_000_000


async def test_non_ascii_results_are_stored_as_utf8(node: Node, start_worker: Any) -> None:
    async def process(_job: Job[Any]) -> str:
        return "é" * 1000

    await start_worker(process)
    job_id = await node.add("process")
    assert await node.wait(job_id) == "é" * 1000
    key = f"bull:{node.queue_name}:{job_id}"
    assert await node.redis("HSTRLEN", key, "returnvalue") == 2 * 1000 + 2


async def test_non_ascii_data_is_stored_as_utf8(node: Node, queue: Queue) -> None:
    job = await queue.add("process", "é" * 1000)
    assert await node.redis("HSTRLEN", f"bull:{node.queue_name}:{job.id}", "data") == 2002
    assert (await node.job(job.id))["data"] == "é" * 1000


@pytest.mark.parametrize("field", ["data", "opts"])
async def test_undecodable_job_fails_once_instead_of_looping(
    node: Node, start_worker: Any, field: str
) -> None:
    ran: list[str] = []

    async def process(job: Job[Any]) -> None:
        ran.append(job.id)

    await node.follow()
    bad = await node.add("process", {}, {"attempts": 3})
    good = await node.add("process")
    await node.redis("HSET", f"bull:{node.queue_name}:{bad}", field, "{not json")
    await start_worker(process)

    failed = await node.event("failed", bad)
    assert field in failed["args"]["failedReason"]
    await node.event("completed", good)
    assert ran == [good]
    key = f"bull:{node.queue_name}:{bad}"
    assert await node.redis("HGET", key, "ats") == "1"
    assert await node.redis("ZSCORE", f"bull:{node.queue_name}:failed", bad) is not None


@pytest.mark.parametrize("name", ["sp ace", "größe", "日本語", "a/b?c#d%20"])
async def test_queue_may_have_any_name(
    node: Node, redis_url: str, queue_name: str, start_worker: Any, name: str
) -> None:
    full = f"{queue_name} {name}"

    async def process(job: Job[Any]) -> Any:
        return {"python": job.data}

    worker = Worker(full, process, {"autorun": False}, redis=redis_url)
    await start_worker(worker=worker)
    job_id = await node.add("process", 1, queue=full)
    assert await node.wait(job_id, queue=full) == {"python": 1}
    listed = await eventually(lambda: node.queue("getWorkers", queue=full))
    assert [entry["rawname"] for entry in listed] == [worker.clientName]
    await worker.close()

    await node.start_worker("echo", queue=full)
    async with Queue(full, redis=redis_url) as queue:
        job = await queue.add("process", 2)
        assert await job.wait_until_finished(timeout=10) == {"echo": 2}


@pytest.mark.parametrize("prefix", ["{matrix}", "my app"])
async def test_queue_may_have_any_prefix(
    node: Node, redis_url: str, start_worker: Any, prefix: str
) -> None:
    async def process(job: Job[Any]) -> Any:
        return {"python": job.data}

    worker = Worker(node.queue_name, process, {"autorun": False}, redis=redis_url, prefix=prefix)
    await start_worker(worker=worker)
    job_id = await node.add("process", 1, prefix=prefix)
    assert await node.wait(job_id, prefix=prefix) == {"python": 1}
    await worker.close()

    await node.start_worker("echo", prefix=prefix)
    async with Queue(node.queue_name, redis=redis_url, prefix=prefix) as queue:
        job = await queue.add("process", 2)
        assert await job.wait_until_finished(timeout=10) == {"echo": 2}
