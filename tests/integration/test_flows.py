"""Flows: parents that wait for their children."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.implementations import eventually
from support.outcomes import failure_of, result_of

from bullpy import FlowProducer, Job, Queue, errors

StartWorker = Callable[..., Any]


@pytest.fixture
async def flows(redis_url: str) -> AsyncIterator[FlowProducer]:
    async with FlowProducer(redis=redis_url) as producer:
        yield producer


async def process(job: Job[Any]) -> Any:
    if job.data == "fail":
        raise ValueError("child boom")
    if job.name == "parent":
        return sorted((await job.get_children_values()).values())
    return job.data


def tree(queue: Queue, *children: Any, **child_opts: Any) -> dict[str, Any]:
    return {
        "name": "parent",
        "queueName": queue.name,
        "data": {},
        "children": [
            {"name": "child", "queueName": queue.name, "data": data, "opts": dict(child_opts)}
            for data in children
        ],
    }


async def parent_of(flow: dict[str, Any], queue: Queue) -> Job[Any]:
    job = await queue.get_job(flow["job"].id)
    assert job is not None
    return job


async def test_parent_runs_after_its_children_with_their_results(
    queue: Queue, flows: FlowProducer, start_worker: StartWorker
) -> None:
    flow = await flows.add(tree(queue, 2, 1, 3))
    parent = await parent_of(flow, queue)
    assert await parent.get_state() == "waiting-children"
    assert len(flow["children"]) == 3
    await start_worker(process, concurrency=2)
    assert await result_of(parent) == [1, 2, 3]


async def test_three_levels_work(
    queue: Queue, flows: FlowProducer, start_worker: StartWorker
) -> None:
    nested = tree(queue, 5)
    nested["children"].append(tree(queue, 1, 2))
    # A parent's result is a list; the number beside it keeps sorting out of this.
    nested["children"] = nested["children"][1:]
    flow = await flows.add(nested)
    await start_worker(process)
    assert await result_of(await parent_of(flow, queue)) == [[1, 2]]


async def test_bulk_adds_every_tree(
    queue: Queue, flows: FlowProducer, start_worker: StartWorker
) -> None:
    added = await flows.add_bulk([tree(queue, number) for number in range(3)])
    assert added is not None
    await start_worker(process)
    results = [await result_of(await parent_of(flow, queue)) for flow in added]
    assert results == [[0], [1], [2]]


async def test_failing_child_fails_its_parent_when_asked_to(
    queue: Queue, flows: FlowProducer, start_worker: StartWorker
) -> None:
    flow = await flows.add(tree(queue, "fail", failParentOnFailure=True))
    await start_worker(process)
    reason = await failure_of(await parent_of(flow, queue))
    assert "child" in reason


@pytest.mark.parametrize(
    "policy",
    ["ignoreDependencyOnFailure", "removeDependencyOnFailure", "continueParentOnFailure"],
)
async def test_failing_child_does_not_hold_its_parent_when_told_so(
    queue: Queue, flows: FlowProducer, start_worker: StartWorker, policy: str
) -> None:
    flow = await flows.add(tree(queue, "fail", **{policy: True}))
    await start_worker(process)
    assert await result_of(await parent_of(flow, queue)) == []


async def test_failing_child_without_a_policy_leaves_the_parent_waiting(
    queue: Queue, flows: FlowProducer, start_worker: StartWorker
) -> None:
    flow = await flows.add(tree(queue, "fail"))
    await start_worker(process)

    async def child_failed() -> bool:
        return (await queue.get_job_counts("failed"))["failed"] == 1

    await eventually(child_failed)
    assert await (await parent_of(flow, queue)).get_state() == "waiting-children"


async def test_options_are_checked_as_in_node(queue: Queue, flows: FlowProducer) -> None:
    for opts in ({"jobId": "12"}, {"deduplication": {"id": "d"}}, {"priority": 1.5}):
        with pytest.raises(errors.InvalidJobOptionsError):
            await flows.add(tree(queue, 1, **opts))
    with pytest.raises(errors.ConfigurationError, match="queue name"):
        await flows.add({"name": "n", "queueName": "a:b", "data": {}})
    with pytest.raises(errors.EncodingError):
        await flows.add(tree(queue, object()))
    assert await queue.count() == 0


async def test_queues_options_are_defaults_for_their_jobs(
    queue: Queue, flows: FlowProducer
) -> None:
    options = {"queuesOptions": {queue.name: {"defaultJobOptions": {"attempts": 4}}}}
    flow = await flows.add(tree(queue, 1), options)
    assert flow["job"].opts["attempts"] == 4
    assert flow["children"][0]["job"].opts["attempts"] == 4


async def test_jobs_that_a_flow_returns_can_be_waited_for(
    queue: Queue, flows: FlowProducer, start_worker: StartWorker
) -> None:
    flow = await flows.add(tree(queue, 2, 1))
    await start_worker(process)
    assert await result_of(flow["job"]) == [1, 2]
    assert await result_of(flow["children"][0]["job"]) == 2


async def test_jobs_that_a_flow_returns_can_tell_their_progress(
    queue: Queue, flows: FlowProducer
) -> None:
    job = (await flows.add(tree(queue, 1)))["job"]
    told: list[Any] = []
    flows.on("progress", lambda _, progress: told.append(progress))
    await job.update_progress(50)
    assert told == [50]
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert stored.progress == 50


async def test_closing_a_flow_producer_ends_what_followed_its_jobs(
    queue: Queue, redis_url: str
) -> None:
    producer = FlowProducer(redis=redis_url)
    job = (await producer.add(tree(queue, 1)))["job"]
    with pytest.raises(TimeoutError):
        await result_of(job, within=0.1)
    events = job.queue.events
    assert events.running
    await producer.close()
    assert events.closed


async def test_child_of_another_parent_is_refused_by_name(
    queue: Queue, flows: FlowProducer
) -> None:
    await flows.add(tree(queue, 1, jobId="shared"))
    with pytest.raises(errors.JobStateError, match="child of another") as refused:
        await flows.add(tree(queue, 2, jobId="shared"))
    assert "shared" in str(refused.value)
    with pytest.raises(errors.JobStateError, match="shared"):
        await flows.add_bulk([tree(queue, 3), tree(queue, 4, jobId="shared")])
    job = await queue.get_job("shared")
    assert job is not None
    assert job.data == 1


async def test_flow_under_a_parent_that_is_gone_is_refused(
    queue: Queue, flows: FlowProducer
) -> None:
    orphan = {**tree(queue, 1), "opts": {"parent": {"id": "gone", "queue": f"bull:{queue.name}"}}}
    with pytest.raises(errors.JobNotFoundError, match="gone"):
        await flows.add(orphan)
