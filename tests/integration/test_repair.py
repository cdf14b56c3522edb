"""`queue.repair()`: lost jobs of every kind go back once, all others are left alone."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bullpy import FlowProducer, Job, Queue, Worker


async def lose(queue: Queue, *jobs: Job[Any]) -> None:
    """Leave of the jobs only their hashes."""
    for job in jobs:
        for name in ("wait", "paused", "active"):
            await queue.client.lrem(queue.keys[name], 0, job.id)
        for name in ("delayed", "prioritized", "completed", "failed"):
            await queue.client.zrem(queue.keys[name], job.id)


async def listed(queue: Queue, name: str) -> list[str]:
    return await queue.client.lrange(queue.keys[name], 0, -1)


async def test_lost_jobs_go_in_front_of_the_others_in_their_order(queue: Queue) -> None:
    jobs = [await queue.add("lost", {"n": n}) for n in range(12)]
    after = await queue.add("after")
    await lose(queue, *jobs)
    report = await queue.repair()
    ids = [job.id for job in jobs]
    assert report.waiting == ids
    assert (report.restored, report.merged, report.held) == (12, 0, [])
    # Jobs are taken from the right.
    assert await listed(queue, "wait") == [after.id, *reversed(ids)]
    assert await queue.client.zscore(queue.keys["marker"], "0") == 0
    assert (await queue.repair()).found_nothing


async def test_dry_run_tells_the_same_and_changes_nothing(queue: Queue) -> None:
    jobs = [await queue.add("lost"), await queue.add("lost", priority=3)]
    await lose(queue, *jobs)
    await queue.client.rpush(queue.keys["paused"], (await queue.add("unread")).id)
    before = await queue.get_job_counts()
    report = await queue.repair(dry_run=True)
    assert report.dry_run
    assert (report.waiting, report.prioritized, report.merged) == ([jobs[0].id], [jobs[1].id], 1)
    assert await queue.get_job_counts() == before


async def test_priority_and_delay_decide_where_a_job_goes(queue: Queue) -> None:
    urgent, later = await queue.add("p", priority=2), await queue.add("d", delay=60)
    overdue = await queue.add("d", delay=0.001)
    both = await queue.add("d", delay=0.001, priority=5)
    added = later.timestamp
    await lose(queue, urgent, later, overdue, both)
    while time.time() * 1000 <= added + 50:
        await queue.client.ping()
    report = await queue.repair()
    assert report.waiting == [overdue.id]
    assert sorted(report.prioritized) == sorted([urgent.id, both.id])
    assert report.delayed == [later.id]
    score = await queue.client.zscore(queue.keys["delayed"], later.id)
    assert score == (added + 60_000) * 0x1000
    order = await queue.client.zrange(queue.keys["prioritized"], 0, -1)
    assert order == [urgent.id, both.id]


async def test_a_job_that_ended_runs_or_has_children_to_wait_for_is_left_alone(
    queue: Queue, redis_url: str
) -> None:
    ended, locked = await queue.add("ended"), await queue.add("locked")
    async with FlowProducer(redis=redis_url) as flows:
        child = {"name": "child", "queueName": queue.name, "opts": {"delay": 60_000}}
        flow = await flows.add({"name": "p", "queueName": queue.name, "children": [child]})
    parent = flow["job"]
    await lose(queue, ended, locked)
    await queue.client.zrem(queue.keys["waiting-children"], parent.id)
    await queue.client.hset(queue.backend.toKey(ended.id), "finishedOn", "1")
    await queue.client.set(queue.backend.toKey(f"{locked.id}:lock"), "token", px=60_000)
    report = await queue.repair()
    assert sorted(report.held) == sorted([ended.id, locked.id, parent.id])
    assert report.restored == 0
    assert await listed(queue, "wait") == []


async def test_jobs_that_are_where_they_belong_stay_there(
    queue: Queue, redis_url: str, start_worker: Any
) -> None:
    async def process(job: Job[Any]) -> None:
        if job.name == "fails":
            raise ValueError("boom")

    await queue.upsertJobScheduler("every", {"every": 3_600_000}, "tick", {})
    worker = await start_worker(process)
    done = await queue.add("done")
    assert await done.wait_until_finished(timeout=10) is None
    with pytest.raises(Exception, match="boom"):
        await (await queue.add("fails")).wait_until_finished(timeout=10)
    await worker.close()
    await queue.add("waits")
    await queue.add("delayed", delay=60)
    await queue.add("prioritized", priority=1)
    before = await queue.get_job_counts()
    report = await queue.repair()
    assert report.found_nothing
    assert report.held == []
    assert await queue.get_job_counts() == before


async def test_keys_of_other_queues_and_of_schedulers_are_no_jobs(
    queue: Queue, redis_url: str
) -> None:
    """The keys of a queue `x` with this queue's name in its prefix begin like this queue's."""
    await queue.add("one")
    async with Queue("x", redis=redis_url, prefix=f"bull:{queue.name}") as inner:
        await lose(inner, await inner.add("theirs"))
        await queue.client.hset(queue.backend.toKey("dn:id"), mapping={"name": "n", "opts": "{}"})
        assert (await queue.repair()).found_nothing
        assert (await inner.repair()).restored == 1
        await inner.obliterate(force=True)


@pytest.mark.parametrize("name", ["q[a-z]*?", "q^x\\y", "größe 1"])
async def test_queue_names_are_taken_literally(redis_url: str, name: str) -> None:
    async with Queue(name, redis=redis_url) as queue:
        job = await queue.add("lost")
        await lose(queue, job)
        assert (await queue.repair()).waiting == [job.id]
        await queue.obliterate(force=True)


async def test_lost_job_of_a_paused_queue_waits_until_it_is_resumed(
    queue: Queue, start_worker: Any
) -> None:
    job = await queue.add("lost")
    await lose(queue, job)
    await queue.pause()
    assert (await queue.repair()).waiting == [job.id]
    assert await queue.client.exists(queue.keys["marker"]) == 0
    runs: list[str] = []

    async def process(job: Job[Any]) -> None:
        runs.append(job.id)

    await start_worker(process)
    assert runs == []
    await queue.resume()
    await job.wait_until_finished(timeout=10)
    assert runs == [job.id]


async def test_jobs_in_a_list_that_nobody_reads_are_moved(queue: Queue) -> None:
    """More than one call moves, in each direction."""
    await queue.add_bulk([{"name": "j", "data": {}} for _ in range(12_000)])
    ids = await listed(queue, "wait")
    await queue.client.rename(queue.keys["wait"], queue.keys["paused"])
    newer = await queue.add_bulk([{"name": "j", "data": {}} for _ in range(11_000)])
    report = await queue.repair()
    assert report.merged == 12_000
    assert await queue.client.exists(queue.keys["paused"]) == 0
    assert await listed(queue, "wait") == [*(job.id for job in reversed(newer)), *ids]


async def test_worker_of_a_paused_queue_brings_both_lists_together(queue: Queue) -> None:
    """As a peer of version 6 leaves it beside one of version 5: in bounded steps, in order."""
    await queue.add_bulk([{"name": "j", "data": {}} for _ in range(7_000)])
    await queue.pause()
    older = await listed(queue, "paused")
    assert len(older) == 7_000
    newer = [f"other-{n}" for n in range(6_000)]
    await queue.client.rpush(queue.keys["wait"], *newer)
    options = {"autorun": False}
    worker = Worker(queue.name, {}.get, options, redis=queue.redisConnection.settings)
    for _ in range(2):
        assert await worker.getNextJob("token") is None
    await worker.close()
    assert await listed(queue, "wait") == []
    assert await listed(queue, "paused") == [*newer, *older]


async def test_an_error_in_a_script_leaves_a_paused_queue_as_it_was(queue: Queue) -> None:
    job = await queue.add("one")
    await queue.pause()
    assert await listed(queue, "paused") == [job.id]
    await queue.client.rename(queue.keys["events"], queue.backend.toKey("kept"))
    await queue.client.set(queue.keys["events"], "no stream")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await queue.add("two")
    await queue.client.delete(queue.keys["events"])
    await queue.client.rename(queue.backend.toKey("kept"), queue.keys["events"])
    assert await listed(queue, "wait") == []
    assert job.id in await listed(queue, "paused")
