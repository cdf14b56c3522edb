"""Flows whose parents and children live in different languages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.node import Node, PeerError

from bullpy import FlowProducer, Job, Queue, WaitForChildren, Worker


@pytest.fixture
def children(queue_name: str) -> str:
    """The queue of the children; the parents are in the test's own."""
    return f"{queue_name}-children"


@pytest.fixture
async def flows(redis_url: str) -> AsyncIterator[FlowProducer]:
    """Python's side of flows."""
    async with FlowProducer(redis=redis_url) as opened:
        yield opened


async def double(job: Job[Any]) -> Any:
    return job.data["n"] * 2


async def collect(job: Job[Any]) -> Any:
    return list((await job.get_children_values()).values())


def tree(queue: str, children: str, opts: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "name": "parent",
        "queueName": queue,
        "data": {},
        "children": [
            {"name": "child", "queueName": children, "data": {"n": n}, "opts": opts or {}}
            for n in (1, 2, 3)
        ],
    }


def worker_of(queue: str, processor: Any, redis_url: str) -> Worker:
    return Worker(queue, processor, {"autorun": False}, redis=redis_url)


async def test_parent_in_node_gets_the_values_of_children_in_python(
    node: Node, redis_url: str, children: str, start_worker: Any
) -> None:
    await node.follow()
    await start_worker(worker=worker_of(children, double, redis_url))
    await node.start_worker("children-values")
    added = await node.flow("add", tree(node.queue_name, children))
    result = await node.wait(added["job"]["id"])
    assert sorted(result["children"].values()) == [2, 4, 6]


async def test_parent_in_python_gets_the_values_of_children_in_node(
    node: Node, flows: FlowProducer, children: str, start_worker: Any
) -> None:
    await start_worker(collect)
    await node.start_worker("echo", queue=children)
    added = await flows.add(tree(node.queue_name, children))
    result = await node.wait(added["job"].id)
    assert sorted(value["echo"]["n"] for value in result) == [1, 2, 3]


async def test_node_reads_a_flow_of_python(node: Node, flows: FlowProducer, children: str) -> None:
    added = await flows.add(tree(node.queue_name, children))
    flow = await node.flow("getFlow", {"id": added["job"].id, "queueName": node.queue_name})
    assert flow["job"]["name"] == "parent"
    assert flow["job"]["state"] == "waiting-children"
    assert sorted(child["job"]["data"]["n"] for child in flow["children"]) == [1, 2, 3]
    await node.queue("obliterate", {"force": True}, queue=children)


async def test_three_levels_node_under_python_under_node(
    node: Node, redis_url: str, queue_name: str, start_worker: Any
) -> None:
    middle, leaves = f"{queue_name}-middle", f"{queue_name}-leaves"

    async def mid(job: Job[Any]) -> Any:
        return {"mid": sorted(value["n"] for value in (await job.get_children_values()).values())}

    await node.start_worker("children-values")
    await start_worker(worker=worker_of(middle, mid, redis_url))
    await node.start_worker("return-data", queue=leaves)
    added = await node.flow(
        "add",
        {
            "name": "top",
            "queueName": queue_name,
            "children": [
                {
                    "name": "mid",
                    "queueName": middle,
                    "children": [
                        {"name": "leaf", "queueName": leaves, "data": {"n": n}} for n in (1, 2)
                    ],
                }
            ],
        },
    )
    result = await node.wait(added["job"]["id"])
    assert list(result["children"].values()) == [{"mid": [1, 2]}]


@pytest.mark.parametrize("parent_in", ["node", "python"])
@pytest.mark.parametrize(
    "option",
    ["failParentOnFailure", "ignoreDependencyOnFailure", "removeDependencyOnFailure",
     "continueParentOnFailure"],
)  # fmt: skip
async def test_child_that_fails_in_python_does_to_its_parent_what_its_option_says(
    node: Node,
    redis_url: str,
    children: str,
    start_worker: Any,
    option: str,
    parent_in: str,
) -> None:
    async def boom(_job: Job[Any]) -> None:
        raise ValueError("child boom")

    async def parent(_job: Job[Any]) -> str:
        return "went on"

    await node.follow()
    await start_worker(worker=worker_of(children, boom, redis_url))
    if parent_in == "node":
        await node.start_worker("ignored-failures")
    else:
        await start_worker(parent)
    flow = tree(node.queue_name, children, {option: True})
    if option == "continueParentOnFailure":
        # The first failure releases the parent, which cannot finish before the other children.
        flow["children"] = flow["children"][:1]
    added = await node.flow("add", flow)
    parent_id = added["job"]["id"]
    if option == "failParentOnFailure":
        with pytest.raises(PeerError, match="failed"):
            await node.wait(parent_id)
        return
    result = await node.wait(parent_id)
    if parent_in == "python":
        assert result == "went on"
    elif option == "ignoreDependencyOnFailure":
        assert len(result["ignored"]) == 3
        assert all("child boom" in reason for reason in result["ignored"].values())


async def test_parent_failed_in_python_by_a_child_of_node_has_a_readable_trace(
    node: Node, children: str, start_worker: Any
) -> None:
    ran: list[str] = []

    async def parent(job: Job[Any]) -> None:
        ran.append(job.id)

    await node.follow()
    await start_worker(parent)
    await node.start_worker("fail", queue=children, message="child boom")
    flow = tree(node.queue_name, children, {"failParentOnFailure": True})
    flow["opts"] = {"attempts": 3}
    added = await node.flow("add", flow)
    parent_id = added["job"]["id"]
    with pytest.raises(PeerError, match="failed") as caught:
        await node.wait(parent_id)
    job = await node.job(parent_id)
    assert job["failedReason"] == caught.value.message
    assert job["stacktrace"]
    for trace in job["stacktrace"]:
        assert "NoneType" not in trace
        assert "failed" in trace
    assert ran == []


@pytest.mark.parametrize("child_runs_in", ["node", "python"])
async def test_python_job_waits_for_a_child_that_it_adds_while_it_runs(
    node: Node,
    queue: Queue,
    redis_url: str,
    children: str,
    start_worker: Any,
    child_runs_in: str,
) -> None:
    steps: list[int] = []

    async def process(job: Job[Any]) -> Any:
        step = job.data.get("step", 0)
        steps.append(step)
        if step == 0:
            async with Queue(children, redis=redis_url) as other:
                parent = {"id": job.id, "queue": job.queueQualifiedName}
                await other.add("child", {"n": 4}, parent=parent)
            await job.update_data({"step": 1})
            raise WaitForChildren
        return list((await job.get_children_values()).values())

    await start_worker(process)
    if child_runs_in == "node":
        await node.start_worker("return-data", queue=children)
        expected: list[Any] = [{"n": 4}]
    else:
        await start_worker(worker=worker_of(children, double, redis_url))
        expected = [8]
    job = await queue.add("process", {})
    assert await job.wait_until_finished(timeout=10) == expected
    assert await node.wait(job.id) == expected
    assert steps == [0, 1]


async def test_node_job_waits_for_a_child_that_runs_in_python(
    node: Node, queue: Queue, redis_url: str, children: str, start_worker: Any
) -> None:
    await start_worker(worker=worker_of(children, double, redis_url))
    await node.start_worker("spawn-child", child={"queue": children, "data": {"n": 4}})
    job = await queue.add("process", {})
    result = await job.wait_until_finished(timeout=10)
    assert list(result["children"].values()) == [8]


async def test_parent_waits_for_new_children_although_one_had_ended_before(
    node: Node, queue: Queue, start_worker: Any, redis_url: str
) -> None:
    """The first child has an id that is completed already."""
    before = await node.start_worker("return", value="old")
    for job_id in ("old-child", "old-only"):
        await queue.add("child", job_id=job_id)
        await before.event("completed", job_id)
    await before.stop()

    def child(job_id: str) -> dict[str, Any]:
        return {"name": "child", "queueName": queue.name, "opts": {"jobId": job_id}}

    async with FlowProducer(redis=redis_url) as flows:
        added = await flows.add(
            {
                "name": "parent",
                "queueName": queue.name,
                "children": [child("old-child"), child("new-1"), child("new-2")],
            }
        )
        parent = added["job"]
        assert await parent.get_state() == "waiting-children"
        ended = await flows.add(
            {
                "name": "parent",
                "queueName": queue.name,
                "opts": {"priority": 3},
                "children": [child("old-only")],
            }
        )
        assert await ended["job"].get_state() == "prioritized"

    await node.start_worker("children-values")
    results: list[Any] = []
    for made in (parent, ended["job"]):
        job = await queue.get_job(made.id)
        assert job is not None
        results.append(await job.wait_until_finished(timeout=10))
    values, only = results
    base = f"bull:{queue.name}"
    assert sorted(values["children"]) == [
        f"{base}:{name}" for name in ("new-1", "new-2", "old-child")
    ]
    assert values["children"][f"{base}:old-child"] == "old"
    assert only == {"children": {f"{base}:old-only": "old"}}
    assert await queue.client.exists(f"{base}:{parent.id}:dependencies") == 0
