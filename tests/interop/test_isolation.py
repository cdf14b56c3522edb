"""Jobs of Node that run in child processes: what Node sees of them."""

from __future__ import annotations

from typing import Any

import pytest
from support import isolated_interop as isolated
from support.node import Node, PeerError

from bullpy import Queue, Worker


async def test_an_exception_of_a_child_reaches_node_with_its_real_traceback(
    node: Node, start_worker: Any
) -> None:
    await start_worker(isolated.fails_deeply, isolation="process")
    job_id = await node.add("process", {"file": "a.wav"})
    with pytest.raises(PeerError, match="RuntimeError: no such track"):
        await node.wait(job_id)
    job = await node.job(job_id)
    assert job["failedReason"] == "RuntimeError: no such track: a.wav ü 🚀"
    (trace,) = job["stacktrace"]
    assert "raise KeyError(name)\nKeyError: 'a.wav'" in trace.replace("    ", "")
    assert "The above exception was the direct cause" in trace
    assert "in fails_deeply" in trace
    assert "bullpy/executors" not in trace


async def test_progress_logs_data_and_result_of_a_child_reach_node(
    node: Node, start_worker: Any
) -> None:
    await node.follow()
    await start_worker(isolated.tell, isolation="process")
    job_id = await node.add("process", {})
    assert await node.wait(job_id) == "日本語 \x00 end"
    progress = await node.event("progress", job_id)
    assert progress["args"]["data"] == {"step": 1}
    job = await node.job(job_id)
    assert job["data"] == {"seen": True}
    assert (await node.queue("getJobLogs", job_id))["logs"] == ["from the child ü"]


async def test_a_parent_in_a_child_process_gets_the_values_of_children_in_node(
    node: Node, queue_name: str, start_worker: Any
) -> None:
    children = f"{queue_name}-children"
    await start_worker(isolated.collect, isolation="process")
    await node.start_worker("echo", queue=children)
    tree = {
        "name": "parent",
        "queueName": queue_name,
        "data": {},
        "children": [{"name": "child", "queueName": children, "data": {"n": 1}}],
    }
    added = await node.flow("add", tree)
    (value,) = await node.wait(added["job"]["id"])
    assert value == {"echo": {"n": 1}}


async def test_a_processor_in_a_child_adds_a_child_and_waits_for_it(
    queue: Queue, queue_name: str, redis_url: str, start_worker: Any
) -> None:
    async def double(job: Any) -> int:
        return job.data["n"] * 2

    children = f"{queue_name}-children"
    await start_worker(isolated.add_a_child_and_wait, isolation="process")
    await start_worker(worker=Worker(children, double, {"autorun": False}, redis=redis_url))
    job = await queue.add("parent", {"queue": children, "redis": redis_url})
    assert await job.wait_until_finished(10) == [42]
    stored = await queue.get_job(job.id)
    assert stored is not None
    # Waiting for children is no attempt.
    assert stored.attempts_made == 1


async def test_node_cancels_a_job_in_a_child_process(
    node: Node, queue: Queue, queue_name: str, start_worker: Any
) -> None:
    worker = await start_worker(isolated.wait_for_a_stop, isolation="process")
    await node.follow()
    job_id = await node.add("process", {}, {"attempts": 3})
    await node.event("active", job_id)
    stream = f"bull:{queue_name}:cancel"
    await node.redis("XADD", stream, "*", "id", job_id, "reason", "wrong file")
    with pytest.raises(PeerError, match="The job was cancelled: wrong file"):
        await node.wait(job_id)
    assert (await node.job(job_id))["attemptsMade"] == 1
    assert worker.active_jobs == []
