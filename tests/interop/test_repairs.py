"""`bullpy.repairs` beside real Node workers of both versions."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
from support.node import VERSIONS, Node, Peer, eventually
from support.repairing import ids_in

from bullpy import Queue, repairs

HURRIED = {"lockDuration": 600, "stalledInterval": 600_000, "skipStalledCheck": True}


@pytest.fixture
async def nodes(peers: dict[str, Peer], queue_name: str) -> AsyncIterator[dict[str, Node]]:
    """The test's queue from the sides of both versions, by generation."""
    opened = {generation: Node(peers[generation], queue_name) for generation in VERSIONS}
    yield opened
    for node in opened.values():
        await node.close()


async def completed(queue: Queue, count: int) -> None:
    async def done() -> bool:
        return (await queue.get_job_counts("completed"))["completed"] == count

    await eventually(done)


async def test_the_job_of_a_killed_node_worker_is_recovered_and_runs(
    node: Node, other_peer: Peer, queue: Queue
) -> None:
    doomed = Node(other_peer, queue.name)
    job_id = await node.add("held", {"n": 1}, {"attempts": 2})
    worker = await doomed.start_worker("hold", HURRIED)
    await worker.event("processing", job_id)
    held = await repairs.recover_active(queue, dry_run=False, apart=0)
    assert held.found_nothing
    os.kill(other_peer.pid, signal.SIGKILL)
    await other_peer.ended()

    async def unlocked() -> bool:
        return not await queue.client.exists(queue.backend.toKey(f"{job_id}:lock"))

    await eventually(unlocked)
    report = await repairs.recover_active(queue, dry_run=False, apart=0)
    assert report.waiting == [job_id]
    await node.start_worker("echo", HURRIED)
    await completed(queue, 1)
    job = await node.job(job_id)
    assert (job["attemptsMade"], job["attemptsStarted"], job["stalledCounter"]) == (1, 2, 1)


async def test_a_job_that_stalled_too_often_is_failed_by_a_node_worker(
    node: Node, queue: Queue
) -> None:
    job_id = await node.add("held")
    await queue.client.rpoplpush(queue.keys["wait"], queue.keys["active"])
    report = await repairs.recover_active(queue, dry_run=False, apart=0, max_stalled_count=0)
    assert report.failing == [job_id]
    await node.start_worker("echo")

    async def failed() -> bool:
        return await node.job(job_id, "getState") == "failed"

    await eventually(failed)
    assert (await node.job(job_id))["failedReason"] == "job stalled more than allowable limit"


async def test_a_node_worker_at_work_keeps_its_jobs_through_all_repairs(
    node: Node, queue: Queue
) -> None:
    worker = await node.start_worker("hold", {"concurrency": 3, "lockDuration": 600})
    ids = [await node.add("held") for _ in range(3)]
    for job_id in ids:
        await worker.event("processing", job_id)
    waiting = [await node.add("held") for _ in range(2)]
    await queue.client.lpush(queue.keys["wait"], "ghost")
    # Longer than a lock, so that each was renewed meanwhile.
    report = await repairs.recover_active(queue, dry_run=False, apart=0.7)
    dropped, lost = await asyncio.gather(
        repairs.drop_ids(queue, dry_run=False), repairs.requeue_orphans(queue, dry_run=False)
    )
    assert (report.changes, lost.changes, dropped.dropped) == (0, 0, {"wait": ["ghost"]})
    await worker.release()
    await completed(queue, 5)
    calls = [str(call["jobId"]) for call in await worker.processed()]
    assert sorted(calls) == sorted(ids + waiting)


async def test_failures_of_node_are_retried_on_a_queue_that_node_has_paused(
    node: Node, queue: Queue
) -> None:
    worker = await node.start_worker("fail", message="no such file /tmp/x/1.wav")
    ids = [await node.add("fails", {}, options) for options in ({}, {}, {"priority": 2})]
    for job_id in ids:
        await worker.event("failed", job_id)
    await worker.stop()
    await node.queue("pause")
    [group] = (await repairs.retry_failed(queue)).groups
    assert (group.count, "wav" in group.example) == (3, True)
    report = await repairs.retry_failed(queue, dry_run=False, group=group.code)
    assert sorted(report.retried) == sorted(ids)
    await node.queue("resume")
    await node.start_worker("echo")
    await completed(queue, 3)


@pytest.mark.parametrize("paused_by", ["5", "6"])
async def test_resume_drops_no_job_of_either_version(
    nodes: dict[str, Node], queue: Queue, paused_by: str
) -> None:
    ids = [await nodes["5"].add("before")]
    await nodes[paused_by].queue("pause")
    ids += [await nodes["6"].add("during"), await nodes["5"].add("during")]
    ids += [await nodes["6"].add("during", {}, {"priority": 1})]
    told = await repairs.resume(queue)
    report = await repairs.resume(queue, dry_run=False)
    assert (report.paused, report.ready, told.ready) == (True, 4, 4)
    assert report.versions[6] == "bullmq:6.7.0"
    assert await ids_in(queue, "paused") == []
    workers = [await node.start_worker("echo") for node in nodes.values()]
    await completed(queue, 4)
    calls = [str(call["jobId"]) for worker in workers for call in await worker.processed()]
    assert sorted(calls) == sorted(ids)
