"""Plain jobs from either side to the other: contents, order, ids, identity, what is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.node import Node, eventually

from bullpy import Job, Queue, Snooze, Worker
from bullpy.options import PRIORITY_LIMIT

TEXT = "日本語 \u0000 ü 🚀"

PRIORITIES = [
    ("p10", {"priority": 10}),
    ("max", {"priority": PRIORITY_LIMIT}),
    ("p5", {"priority": 5}),
    ("p1a", {"priority": 1}),
    ("plain", {}),
    ("lifo1", {"lifo": True}),
    ("p1b", {"priority": 1}),
    ("lifo2", {"lifo": True}),
]
IN_ORDER = ["lifo2", "lifo1", "plain", "p1a", "p1b", "p5", "p10", "max"]


async def echo(job: Job[Any]) -> Any:
    return {"echo": job.data}


async def test_job_from_node_runs_in_python_and_node_gets_its_result(
    node: Node, start_worker: Any
) -> None:
    async def process(job: Job[Any]) -> Any:
        await job.update_progress({"step": [1, "ü"], "deep": {"x": 1}})
        await job.log("first ü")
        await job.log("second")
        return {"echo": job.data}

    await node.follow()
    worker = await start_worker(process)
    job_id = await node.add("process", {"text": TEXT})

    assert await node.wait(job_id) == {"echo": {"text": TEXT}}
    progress = await node.event("progress", job_id)
    assert progress["args"]["data"] == {"step": [1, "ü"], "deep": {"x": 1}}
    job = await node.job(job_id)
    assert job["state"] == "completed"
    assert job["returnvalue"] == {"echo": {"text": TEXT}}
    assert (job["attemptsMade"], job["attemptsStarted"]) == (1, 1)
    assert job["processedBy"] == worker.workerName
    assert job["processedOn"] >= job["timestamp"]
    assert job["finishedOn"] >= job["processedOn"]
    assert (await node.queue("getJobLogs", job_id))["logs"] == ["first ü", "second"]


async def test_events_of_a_job_reach_node_in_bullmqs_order(node: Node, start_worker: Any) -> None:
    async def process(job: Job[Any]) -> None:
        await job.update_progress(50)

    await node.follow()
    await start_worker(process)
    await node.add("process")
    await node.event("drained")

    seen = [entry["event"] for entry in await node.events()]
    assert seen == ["added", "waiting", "active", "progress", "completed", "drained"]


@pytest.mark.parametrize("behaviour", ["progress", "log", "echo"])
async def test_job_from_python_runs_in_node_and_python_gets_its_result(
    node: Node, queue: Queue, behaviour: str
) -> None:
    expected: dict[str, Any] = {
        "progress": {"progressed": True},
        "log": {"logged": True},
        "echo": {"echo": {"text": TEXT}},
    }
    await node.start_worker(behaviour, {"name": "nö de"}, values=[{"x": 1}])
    job = await queue.add("process", {"text": TEXT})

    assert await job.wait_until_finished(timeout=10) == expected[behaviour]
    done = await queue.get_job(job.id)
    assert done is not None
    assert done.return_value == expected[behaviour]
    assert (done.attempts_made, done.attempts_started) == (1, 1)
    assert done.processed_by == "nö de"
    assert done.progress == ({"x": 1} if behaviour == "progress" else 0)
    logs = await queue.get_job_logs(job.id)
    assert logs == (["first", "second"] if behaviour == "log" else [])


async def test_python_worker_is_on_nodes_list_of_workers(node: Node, start_worker: Any) -> None:
    worker = await start_worker(echo, worker_name="py-1")

    # The blocking connection, which carries the name, is opened by the first idle wait.
    listed = await eventually(lambda: node.queue("getWorkers"))
    assert [entry["rawname"] for entry in listed] == [worker.clientName]
    assert listed[0]["rawname"].endswith(":w:py-1")
    assert await node.queue("getWorkersCount") == 1


async def test_node_worker_is_on_pythons_list_of_workers(node: Node, queue: Queue) -> None:
    await node.start_worker("echo", {"name": "js-1"})
    listed = await eventually(queue.get_workers)
    # `name` is the queue's, as in Node.
    assert [entry["name"] for entry in listed] == [node.queue_name]
    assert listed[0]["rawname"].endswith(":w:js-1")
    assert await queue.get_workers_count() == 1


async def test_python_worker_takes_nodes_jobs_in_bullmqs_order(
    node: Node, start_worker: Any
) -> None:
    taken: list[str] = []

    async def process(job: Job[Any]) -> None:
        taken.append(job.name)

    for name, opts in PRIORITIES:
        last = await node.add(name, {}, opts)
    await node.follow()
    await start_worker(process)
    await node.event("completed", count=len(PRIORITIES))
    assert taken == IN_ORDER
    assert (await node.job(last))["state"] == "completed"


async def test_node_worker_takes_pythons_jobs_in_bullmqs_order(node: Node, queue: Queue) -> None:
    for name, opts in PRIORITIES:
        await queue.add(name, {}, opts)
    worker = await node.start_worker("echo")
    await worker.event("completed", count=len(PRIORITIES))
    assert [entry["name"] for entry in await worker.processed()] == IN_ORDER


@pytest.mark.parametrize("first", ["node", "python"])
async def test_custom_id_is_one_job_whichever_side_adds_it_first(
    node: Node, queue: Queue, start_worker: Any, first: str
) -> None:
    runs: list[Any] = []

    async def process(job: Job[Any]) -> None:
        runs.append(job.data)

    async def from_node() -> str:
        return await node.add("process", "node", {"jobId": "größe-1"})

    async def from_python() -> str:
        return (await queue.add("process", "python", job_id="größe-1")).id

    sides = [from_node, from_python] if first == "node" else [from_python, from_node]
    assert [await side() for side in sides] == ["größe-1", "größe-1"]

    await node.follow()
    await start_worker(process)
    await node.event("completed", "größe-1")
    await node.event("drained")
    assert runs == [first]


async def test_bulk_from_node_runs_once_each_beside_a_node_worker(
    node: Node, start_worker: Any
) -> None:
    runs: list[str] = []

    async def process(job: Job[Any]) -> None:
        runs.append(job.id)
        await asyncio.sleep(0)

    await node.follow()
    await start_worker(process, concurrency=5)
    theirs = await node.start_worker("echo", {"concurrency": 5})
    jobs = await node.queue("addBulk", [{"name": "j", "data": {"n": n}} for n in range(200)])
    await node.event("completed", count=200, timeout=20)
    runs += [entry["jobId"] for entry in await theirs.processed()]
    assert sorted(runs) == sorted(job["id"] for job in jobs)


async def test_a_mebibyte_travels_to_python_and_back(node: Node, start_worker: Any) -> None:
    await start_worker(echo)
    job_id = await node.add("process", "é" * (1 << 20))
    assert await node.wait(job_id) == {"echo": "é" * (1 << 20)}


async def test_a_mebibyte_travels_to_node_and_back(node: Node, queue: Queue) -> None:
    await node.start_worker("return-data")
    job = await queue.add("process", "é" * (1 << 20))
    assert await job.wait_until_finished(timeout=10) == "é" * (1 << 20)


@pytest.mark.parametrize("added_by", ["node", "python"])
@pytest.mark.parametrize(
    ("outcome", "opts", "kept"),
    [
        ("completed", {"removeOnComplete": 2}, 2),
        ("failed", {"removeOnFail": 3}, 3),
        ("completed", {"removeOnComplete": True}, 0),
        ("failed", {"removeOnFail": True}, 0),
        ("completed", {"removeOnComplete": {"age": 3600, "count": 1}}, 1),
        ("completed", {}, 5),
    ],
)
async def test_python_worker_keeps_as_many_finished_jobs_as_the_job_says(
    node: Node,
    queue: Queue,
    start_worker: Any,
    added_by: str,
    outcome: str,
    opts: dict[str, Any],
    kept: int,
) -> None:
    async def process(_job: Job[Any]) -> None:
        if outcome == "failed":
            raise ValueError("boom")

    await node.follow()
    await start_worker(process)
    for _ in range(5):
        if added_by == "node":
            await node.add("process", {}, opts)
        else:
            await queue.add("process", {}, opts)
    await node.event(outcome, count=5)
    counts = await node.queue("getJobCounts", "completed", "failed")
    assert counts == {"completed": 0, "failed": 0} | {outcome: kept}


@pytest.mark.parametrize(("keep", "kept"), [({"count": 1}, 1), ({"count": 0}, 0)])
async def test_what_the_python_worker_says_to_keep_holds_for_nodes_jobs(
    node: Node, start_worker: Any, redis_url: str, keep: dict[str, int], kept: int
) -> None:
    await node.follow()
    opts = {"autorun": False, "connection": redis_url, "removeOnComplete": keep}
    await start_worker(worker=Worker(node.queue_name, echo, opts))
    for _ in range(3):
        await node.add("process")
    await node.event("completed", count=3)
    assert (await node.queue("getJobCounts", "completed"))["completed"] == kept


async def test_node_retries_a_job_that_failed_in_python(node: Node, start_worker: Any) -> None:
    await node.follow()

    async def process(_job: Job[Any]) -> None:
        raise ValueError("boom")

    await start_worker(process)
    job_id = await node.add("process")
    await node.event("failed", job_id)
    await node.job(job_id, "retry")
    await node.event("failed", job_id, count=2)
    job = await node.job(job_id)
    assert job["attemptsStarted"] == 2
    assert len(job["stacktrace"]) == 2


async def test_python_retries_a_job_that_failed_in_node(node: Node, queue: Queue) -> None:
    await node.follow()
    worker = await node.start_worker("fail-times", times=1)
    added = await queue.add("process")
    await node.event("failed", added.id)
    job = await queue.get_job(added.id)
    assert job is not None
    await job.retry("failed")
    assert await worker.event("completed", added.id)
    assert await added.wait_until_finished(timeout=10) == {"attemptsMade": 1}


async def test_step_job_snoozed_by_python_goes_on(node: Node, start_worker: Any) -> None:
    async def process(job: Job[Any]) -> Any:
        if job.data["step"] == 0:
            await job.update_data({"step": 1})
            raise Snooze(0.1)
        return job.data

    await node.follow()
    await start_worker(process)
    job_id = await node.add("process", {"step": 0})
    assert await node.wait(job_id) == {"step": 1}
    job = await node.job(job_id)
    assert (job["attemptsMade"], job["attemptsStarted"]) == (1, 2)
    assert await node.event("delayed", job_id)


async def test_step_job_delayed_by_node_goes_on(node: Node, queue: Queue) -> None:
    await node.start_worker("delay-once", ms=100)
    job = await queue.add("process", {"x": 1})
    assert await job.wait_until_finished(timeout=10) == {"delayed": True}
