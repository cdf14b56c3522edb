"""Delays, schedulers, limits and pauses hold across the languages."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from support.node import Node, PeerError, eventually

from bullpy import Job, Queue, Worker

LATE = 500
"""Milliseconds of lateness allowed on a busy machine; the port was 1 s to minutes late."""


async def echo(job: Job[Any]) -> Any:
    return {"echo": job.data}


@pytest.mark.parametrize("delay", [1500, 6000])
async def test_delayed_job_of_node_runs_on_time_in_an_idle_python_worker(
    node: Node, start_worker: Any, delay: int
) -> None:
    await start_worker(echo)
    job_id = await node.add("process", {}, {"delay": delay})
    await node.wait(job_id, timeout=delay / 1000 + 5)
    job = await node.job(job_id)
    assert delay <= job["processedOn"] - job["timestamp"] < delay + LATE


async def test_delayed_job_of_python_runs_on_time_in_node(node: Node, queue: Queue) -> None:
    await node.start_worker("echo")
    job = await queue.add("process", delay=1.5)
    await job.wait_until_finished(timeout=10)
    done = await queue.get_job(job.id)
    assert done is not None
    # Node's own timer may be a few hundred milliseconds late.
    assert 1500 <= done.processed_on - done.timestamp < 1500 + 2 * LATE


async def test_shorter_delay_added_later_by_node_runs_first(node: Node, start_worker: Any) -> None:
    ran: list[str] = []

    async def process(job: Job[Any]) -> None:
        ran.append(job.name)

    await node.follow()
    await start_worker(process)
    await node.add("later", {}, {"delay": 1200})
    soon = await node.add("soon", {}, {"delay": 300})
    await node.event("completed", count=2)
    assert ran == ["soon", "later"]
    job = await node.job(soon)
    assert job["processedOn"] - job["timestamp"] < 300 + LATE


async def test_job_promoted_by_node_runs_at_once_in_python(node: Node, start_worker: Any) -> None:
    await start_worker(echo)
    job_id = await node.add("process", 1, {"delay": 60_000})
    await node.job(job_id, "promote")
    assert await node.wait(job_id) == {"echo": 1}


async def test_scheduler_of_node_goes_on_in_python_and_then_in_node(
    node: Node, start_worker: Any
) -> None:
    runs: list[Any] = []

    async def process(job: Job[Any]) -> None:
        runs.append((job.name, job.data))

    await node.follow()
    worker = await start_worker(process)
    template = {"name": "tick", "data": {"n": 1}}
    await node.queue("upsertJobScheduler", "each", {"every": 300}, template)
    await node.event("completed", count=4)
    await worker.close()
    assert runs[:4] == [("tick", {"n": 1})] * 4

    before = len(runs)
    theirs = await node.start_worker("echo")
    await theirs.event("completed", count=3)
    finished = await node.event("completed", count=before + 3)
    assert finished
    starts = sorted([job["processedOn"] for job in await node.queue("getJobs", ["completed"])])
    gaps = [after - earlier for earlier, after in itertools.pairwise(starts)]
    assert all(gap < 300 + LATE for gap in gaps[: before - 1])
    assert await node.queue("removeJobScheduler", "each") is True


async def test_scheduler_of_python_runs_in_node_with_its_template(node: Node, queue: Queue) -> None:
    theirs = await node.start_worker("echo")
    await queue.upsertJobScheduler("each", {"every": 300}, "tick", {"n": 1}, {"attempts": 2})
    await theirs.event("completed", count=4)
    calls = await theirs.processed()
    assert {(call["name"], call["data"]["n"]) for call in calls} == {("tick", 1)}
    found = await node.queue("getJobScheduler", "each")
    assert found["every"] == 300
    assert found["template"]["data"] == {"n": 1}
    jobs = await node.queue("getJobs", ["completed"])
    assert {job["opts"]["attempts"] for job in jobs} == {2}
    await queue.removeJobScheduler("each")
    assert await node.queue("getJobSchedulersCount") == 0


@pytest.mark.parametrize("generation", ["5"], indirect=True)
async def test_legacy_repeatable_job_of_node_5_advances_in_python(
    node: Node, start_worker: Any
) -> None:
    await node.follow()
    await start_worker(echo)
    await node.add("tick", {}, {"repeat": {"every": 400}})
    await node.event("completed", count=3)


async def test_queue_paused_by_node_rests_in_python_until_node_resumes(
    node: Node, start_worker: Any
) -> None:
    ran = asyncio.Event()

    async def process(_job: Job[Any]) -> None:
        ran.set()

    await node.follow()
    await start_worker(process)
    await node.queue("pause")
    job_id = await node.add("process")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ran.wait(), 0.3)
    await node.queue("resume")
    resumed = await node.event("resumed")
    await node.wait(job_id)
    job = await node.job(job_id)
    at = int(resumed["eventId"].split("-")[0])
    assert 0 <= job["processedOn"] - at + 5 < LATE


async def test_queue_paused_by_python_rests_in_node_until_python_resumes(
    node: Node, queue: Queue
) -> None:
    theirs = await node.start_worker("echo")
    await queue.pause()
    job = await queue.add("process", 1)
    with pytest.raises(PeerError, match="no processing"):
        await theirs.event("processing", timeout=0.3)
    await queue.resume()
    assert await job.wait_until_finished(timeout=10) == {"echo": 1}


async def test_jobs_of_both_sides_added_while_python_pauses_run_after_its_resume(
    node: Node, queue: Queue, start_worker: Any
) -> None:
    ran: list[str] = []

    async def process(job: Job[Any]) -> None:
        ran.append(job.name)

    await node.follow()
    await start_worker(process)
    await queue.pause()
    await queue.add("python")
    await node.add("node")
    assert await node.queue("isPaused") is True
    await queue.resume()
    await node.event("completed", count=2)
    assert sorted(ran) == ["node", "python"]


@pytest.mark.parametrize("set_by", ["node", "python"])
async def test_global_concurrency_holds_over_workers_of_both_languages(
    node: Node, queue: Queue, start_worker: Any, set_by: str
) -> None:
    await node.follow()
    if set_by == "node":
        await node.queue("setGlobalConcurrency", 2)
    else:
        await queue.set_global_concurrency(2)

    async def process(_job: Job[Any]) -> None:
        await asyncio.sleep(0.05)

    await start_worker(process, concurrency=4)
    await node.start_worker("sleep", {"concurrency": 4}, ms=50)
    await node.queue("addBulk", [{"name": "j", "data": {}} for _ in range(16)])
    await node.event("completed", count=16, timeout=20)
    jobs = await node.queue("getJobs", ["completed"])
    for job in jobs:
        at_once = [
            other
            for other in jobs
            if other["processedOn"] <= job["processedOn"] < other["finishedOn"]
        ]
        assert len(at_once) <= 2


@pytest.mark.parametrize("set_by", ["node", "python"])
async def test_global_rate_limit_holds_over_workers_of_both_languages(
    node: Node, queue: Queue, start_worker: Any, set_by: str
) -> None:
    await node.follow()
    if set_by == "node":
        await node.queue("setGlobalRateLimit", 2, 1000)
    else:
        await queue.set_global_rate_limit(2, 1.0)
    await start_worker(echo, concurrency=2)
    await node.start_worker("echo", {"concurrency": 2})
    await node.queue("addBulk", [{"name": "j", "data": {}} for _ in range(6)])
    await node.event("completed", count=6, timeout=20)
    starts = sorted(job["processedOn"] for job in await node.queue("getJobs", ["completed"]))
    # A window begins with its first job; starts are stamped by the workers just before.
    assert starts[2] - starts[0] >= 950
    assert starts[4] - starts[2] >= 950
    assert starts[5] - starts[0] < 4000


async def test_rate_limit_of_a_python_worker_holds_for_nodes_jobs(
    node: Node, redis_url: str, start_worker: Any
) -> None:
    await node.follow()
    opts = {"autorun": False, "limiter": {"max": 2, "duration": 500}, "concurrency": 4}
    await start_worker(worker=Worker(node.queue_name, echo, opts, redis=redis_url))
    await node.queue("addBulk", [{"name": "j", "data": {}} for _ in range(6)])
    await node.event("completed", count=6)
    starts = sorted(job["processedOn"] for job in await node.queue("getJobs", ["completed"]))
    assert starts[2] - starts[0] >= 450
    assert starts[4] - starts[2] >= 450
    assert starts[5] - starts[0] < 3000


@pytest.mark.parametrize("first", ["node", "python"])
async def test_simple_deduplication_holds_across_the_languages(
    node: Node, queue: Queue, first: str
) -> None:
    opts = {"deduplication": {"id": "same"}}

    async def from_python() -> str:
        return (await queue.add("j", 2, opts)).id

    if first == "node":
        ids = [await node.add("j", 1, opts), await from_python(), await node.add("j", 3, opts)]
    else:
        ids = [await from_python(), await node.add("j", 1, opts), await from_python()]
    assert len(set(ids)) == 1
    assert await node.queue("getDeduplicationJobId", "same") == ids[0]
    assert await queue.getDeduplicationJobId("same") == ids[0]


async def test_throttle_lets_the_next_job_through_after_its_time(
    node: Node, queue: Queue, start_worker: Any
) -> None:
    await node.follow()
    await start_worker(echo)
    opts = {"deduplication": {"id": "same", "ttl": 400}}
    first = await node.add("j", 1, opts)
    await node.wait(first)
    assert (await queue.add("j", 2, opts)).id == first
    key = f"bull:{node.queue_name}:de:same"

    async def expired() -> bool:
        return await node.redis("EXISTS", key) == 0

    await eventually(expired)
    assert (await queue.add("j", 3, opts)).id != first


async def test_debounce_of_both_sides_keeps_the_last_data(node: Node, queue: Queue) -> None:
    opts = {
        "delay": 60_000,
        "deduplication": {"id": "d", "ttl": 60_000, "extend": True, "replace": True},
    }
    await node.add("j", {"v": 0}, opts)
    await queue.add("j", {"v": 1}, opts)
    await node.add("j", {"v": 2}, opts)
    delayed = await node.queue("getJobs", ["delayed"])
    assert [job["data"] for job in delayed] == [{"v": 2}]


@pytest.mark.parametrize("generation", ["6"], indirect=True)
async def test_keep_last_if_active_of_node_runs_the_last_one_in_python(
    node: Node, start_worker: Any
) -> None:
    ran: list[Any] = []
    go_on = asyncio.Event()
    started = asyncio.Event()

    async def process(job: Job[Any]) -> None:
        ran.append(job.data)
        started.set()
        await go_on.wait()

    await node.follow()
    await start_worker(process)
    opts = {"deduplication": {"id": "k", "keepLastIfActive": True}}
    await node.add("j", 1, opts)
    await asyncio.wait_for(started.wait(), 10)
    await node.add("j", 2, opts)
    await node.add("j", 3, opts)
    go_on.set()
    await node.event("completed", count=2)
    assert ran == [1, 3]
