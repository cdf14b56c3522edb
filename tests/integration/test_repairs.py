"""`bullpy.repairs`: what each finds, what it leaves alone, and that a dry run changes nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support.repairing import abandoned, everything, ids_in

from bullpy import Job, Queue, QueueEvents, errors, repairs
from bullpy.repairs import missing, ownerless

HOSTILE = ["", "a b", "ünï", "x\ny", "\x1b[31mred", "*?[a]", "meta", "wait", "1:lock", "-1", "0"]


@pytest.mark.parametrize(
    "repair",
    [
        repairs.resume,
        repairs.requeue_orphans,
        lambda queue: repairs.recover_active(queue, apart=0),
        repairs.drop_ids,
        repairs.release_limiter,
        repairs.retry_failed,
    ],
    ids=list(repairs.NAMES),
)
async def test_a_dry_run_finds_it_and_changes_nothing(
    queue: Queue, repair: Callable[[Queue], Any]
) -> None:
    """Beside a queue where all of it is wrong at once."""
    await queue.client.hset(queue.keys["meta"], "version", "bullmq:5.61.2")
    await abandoned(queue)
    await queue.client.lpush(queue.keys["wait"], *HOSTILE)
    lost = await queue.add("lost")
    await queue.client.lrem(queue.keys["wait"], 0, lost.id)
    await queue.client.set(queue.keys["limiter"], "3")
    failed = await queue.add("failed")
    await queue.client.lrem(queue.keys["wait"], 0, failed.id)
    await queue.client.zadd(queue.keys["failed"], {failed.id: 1, "gone": 2})
    await queue.client.hset(queue.backend.toKey(failed.id), "failedReason", "no 1")
    await queue.client.hset(queue.keys["meta"], "paused", "1")
    await queue.client.lpush(queue.keys["paused"], (await queue.add("one")).id)
    before = await everything(queue)
    report = await repair(queue)
    assert report.dry_run
    assert report.changes > 0
    assert list(report.sentences())
    assert report.as_dict()["changes"] == report.changes
    assert await everything(queue) == before
    assert await repairs.read_log(queue) == []


async def test_every_repair_of_a_sound_queue_finds_nothing_and_logs_nothing(
    queue: Queue, start_worker: Any
) -> None:
    await start_worker(lambda job: None)
    job = await queue.add("fine")
    await job.wait_until_finished(10)
    for repair in (
        repairs.resume,
        repairs.requeue_orphans,
        repairs.recover_active,
        repairs.drop_ids,
        repairs.release_limiter,
    ):
        report = await repair(queue, dry_run=False)
        assert report.found_nothing, report
    assert (await repairs.retry_failed(queue, dry_run=False, everything=True)).found_nothing
    assert await repairs.read_log(queue) == []


# -- resume --------------------------------------------------------------------------------


async def test_resume_brings_both_lists_together_in_their_order(queue: Queue) -> None:
    first = [await queue.add("older") for _ in range(3)]
    await queue.client.hset(queue.keys["meta"], "paused", "1")
    await queue.client.rename(queue.keys["wait"], queue.keys["paused"])
    # As a peer of version 6 does it.
    await queue.client.lpush(queue.keys["wait"], "newer-1", "newer-2")
    report = await repairs.resume(queue, dry_run=False)
    assert (report.paused, report.in_wait, report.in_paused, report.ready) == (True, 2, 3, 5)
    assert "would lose the 2 jobs" in "\n".join(report.sentences())
    assert await ids_in(queue, "wait") == ["newer-2", "newer-1", *(job.id for job in first[::-1])]
    assert await ids_in(queue, "paused") == []
    assert not await queue.is_paused()
    again = await repairs.resume(queue, dry_run=False)
    assert again.found_nothing
    [entry] = await repairs.read_log(queue)
    assert (entry.repair, entry.outcome, entry.report["in_paused"]) == ("resume", "done", 3)


# -- active --------------------------------------------------------------------------------


async def test_jobs_without_owner_wait_again_in_front_and_keep_their_attempts(
    queue: Queue, start_worker: Any
) -> None:
    jobs = [await abandoned(queue, attempts=3) for _ in range(3)]
    waiting = await queue.add("waits")
    report = await repairs.recover_active(queue, dry_run=False, apart=0)
    ids = [job.id for job in jobs]
    assert (report.waiting, report.failing, report.active) == (ids, [], 3)
    assert await ids_in(queue, "wait") == [waiting.id, *ids[::-1]]
    assert await ids_in(queue, "active") == []
    for job_id in ids:
        found = await queue.client.hmget(queue.backend.toKey(job_id), "atm", "ats", "stc", "defa")
        assert found == [None, "1", "1", None]
    assert (await repairs.recover_active(queue, dry_run=False, apart=0)).found_nothing
    runs: list[str] = []
    await start_worker(lambda job: runs.append(job.id), isolation="thread", concurrency=1)
    await waiting.wait_until_finished(10)
    assert runs == [*ids, waiting.id]


async def test_a_job_that_stalled_too_often_is_failed_by_its_next_worker(
    queue: Queue, start_worker: Any
) -> None:
    job = await abandoned(queue)
    await queue.client.hset(queue.backend.toKey(job.id), "stc", "1")
    report = await repairs.recover_active(queue, dry_run=False, apart=0)
    assert (report.waiting, report.failing) == ([], [job.id])
    await start_worker(lambda job: None)
    with pytest.raises(errors.JobFailedError, match="stalled more than allowable limit"):
        await job.wait_until_finished(10)


async def test_a_stalled_job_of_a_scheduler_never_fails(queue: Queue) -> None:
    await queue.upsertJobScheduler("tick", {"every": 3_600_000}, "tick", {})
    job = await abandoned(queue)
    await queue.client.hset(queue.backend.toKey(job.id), mapping={"stc": "5", "rjk": "tick"})
    report = await repairs.recover_active(queue, dry_run=False, apart=0)
    assert (report.waiting, report.failing) == ([job.id], [])


async def test_a_job_with_a_lock_is_never_touched(queue: Queue) -> None:
    job = await abandoned(queue)
    lock = queue.backend.toKey(f"{job.id}:lock")
    await queue.client.set(lock, "somebody", px=60_000)
    before = await everything(queue)
    assert (await repairs.recover_active(queue, dry_run=False, apart=0)).found_nothing
    assert await everything(queue) == before


@pytest.mark.parametrize("change", ["lock", "run", "gone"])
async def test_a_job_that_moves_between_the_looks_is_left_alone(
    queue: Queue, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await abandoned(queue)

    async def meanwhile(_seconds: float) -> None:
        if change == "lock":
            await queue.client.set(queue.backend.toKey(f"{job.id}:lock"), "it is back")
        elif change == "run":
            await queue.client.hset(queue.backend.toKey(job.id), "ats", "2")
        else:
            await queue.client.lrem(queue.keys["active"], 0, job.id)

    monkeypatch.setattr(ownerless, "asyncio", SimpleNamespace(sleep=meanwhile))
    report = await repairs.recover_active(queue, dry_run=False)
    assert (report.changes, report.taken) == (0, 1)
    assert job.id not in await ids_in(queue, "wait")


async def test_a_recovered_job_of_a_paused_queue_waits_where_its_peers_look(queue: Queue) -> None:
    job = await abandoned(queue)
    await queue.pause()
    report = await repairs.recover_active(queue, dry_run=False, apart=0)
    assert report.waiting == [job.id]
    assert await ids_in(queue, "paused") == [job.id]
    assert await queue.client.exists(queue.keys["marker"]) == 0


async def test_recovering_twice_at_once_beside_workers_runs_each_job_once(
    queue: Queue, start_worker: Any
) -> None:
    runs: Counter[str] = Counter()

    async def process(job: Job[Any]) -> None:
        runs[job.id] += 1
        await asyncio.sleep(0)

    jobs = [await abandoned(queue) for _ in range(250)]
    await start_worker(process, concurrency=5)
    flood = [await queue.add("flood") for _ in range(50)]
    reports = await asyncio.gather(
        *(repairs.recover_active(queue, dry_run=False, apart=0.05) for _ in range(3))
    )
    for job in jobs + flood:
        await job.wait_until_finished(20)
    assert sorted(i for report in reports for i in report.waiting) == sorted(j.id for j in jobs)
    assert set(runs.values()) == {1}
    assert len(runs) == 300


# -- ids -----------------------------------------------------------------------------------


async def test_ids_without_data_are_dropped_from_every_list_and_set(queue: Queue) -> None:
    kept = await queue.add("kept")
    delayed = await queue.add("kept", delay=60)
    gone = [*HOSTILE, b"\xff\xfe", "0:123"]
    client, keys = queue.client, queue.keys
    for name in ("wait", "paused", "active"):
        await client.rpush(keys[name], *gone)
    for name in ("prioritized", "delayed", "waiting-children", "completed", "failed"):
        await client.zadd(keys[name], dict.fromkeys(gone, 1))
    # What a fetch leaves of a job that is gone keeps its id from being added again.
    await client.hset(queue.backend.toKey("a b"), mapping={"ats": 1, "processedOn": 5})
    report = await repairs.drop_ids(queue, dry_run=False)
    assert set(report.dropped) == {*missing.LISTS, *missing.SETS}
    expected = {*HOSTILE, "\\xff\\xfe"}
    for name, ids in report.dropped.items():
        assert set(ids) == expected, name
    assert await ids_in(queue, "wait") == [kept.id, "0:123"]
    assert await ids_in(queue, "active") == ["0:123"]
    assert await ids_in(queue, "delayed") == ["0:123", delayed.id]
    assert await client.exists(queue.backend.toKey("a b")) == 0
    assert await client.hget(keys["meta"], "opts.maxLenEvents") == "10000"
    assert (await repairs.drop_ids(queue, dry_run=False)).found_nothing
    for name in ("wait", "active", "paused"):
        await client.lrem(keys[name], 0, "0:123")


async def test_an_id_without_data_that_a_worker_holds_is_left_alone(queue: Queue) -> None:
    await queue.client.lpush(queue.keys["active"], "ghost", "free")
    await queue.client.set(queue.backend.toKey("ghost:lock"), "somebody")
    report = await repairs.drop_ids(queue, dry_run=False)
    assert (report.dropped, report.held) == ({"active": ["free"]}, ["ghost"])
    assert await ids_in(queue, "active") == ["ghost"]


async def test_ids_are_dropped_from_long_lists_and_sets_page_by_page(queue: Queue) -> None:
    jobs = await queue.add_bulk([{"name": "j"} for _ in range(1500)])
    ids = [job.id for job in jobs]
    client, keys = queue.client, queue.keys
    mixed = [part for n, job_id in enumerate(ids) for part in (job_id, f"gone-{n}", f"gone-{n}")]
    # First more than a page of them alone.
    alone = [f"gone-{n}" for n in range(1200)]
    await client.delete(keys["wait"])
    await client.rpush(keys["wait"], *alone, *mixed)
    await client.zadd(keys["completed"], {f"gone-{n}": n for n in range(2500)})
    told = await repairs.drop_ids(queue)
    done = await repairs.drop_ids(queue, dry_run=False)
    assert len(told.dropped["wait"]) == len(set(told.dropped["wait"])) == 1500
    assert sorted(done.dropped["wait"]) == sorted(told.dropped["wait"])
    assert sorted(done.dropped["completed"]) == sorted(f"gone-{n}" for n in range(2500))
    assert await ids_in(queue, "wait") == ids
    assert await ids_in(queue, "completed") == []
    [entry] = await repairs.read_log(queue)
    assert len(entry.report["dropped from wait"]) == 100
    assert entry.report["dropped from wait_left_out"] == 1400


async def test_ids_are_dropped_beside_a_worker_and_a_producer(
    queue: Queue, start_worker: Any
) -> None:
    runs: Counter[str] = Counter()

    async def process(job: Job[Any]) -> None:
        runs[job.id] += 1

    jobs = await queue.add_bulk([{"name": "j"} for _ in range(1200)])
    await queue.client.rpush(queue.keys["wait"], *(f"gone-{n}" for n in range(1000)))
    await start_worker(process, concurrency=4)
    added, *reports = await asyncio.gather(
        queue.add_bulk([{"name": "j"} for _ in range(300)]),
        *(repairs.drop_ids(queue, dry_run=False) for _ in range(2)),
    )
    jobs += added
    for job in jobs:
        await job.wait_until_finished(20)
    assert set(runs.values()) == {1}
    assert len(runs) == 1500
    assert all(not i.isdigit() for each in reports for i in each.dropped.get("wait", []))


async def test_who_waits_for_a_dropped_job_hears_of_it(queue: Queue, redis_url: str) -> None:
    job = await queue.add("gone")
    await queue.client.delete(queue.backend.toKey(job.id))
    heard: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    async with QueueEvents(queue.name, redis=redis_url) as events:
        events.on(f"removed:{job.id}", lambda args, _id: heard.set_result(args))
        await repairs.drop_ids(queue, dry_run=False)
        async with asyncio.timeout(5):
            assert (await heard)["prev"] == "wait"


# -- limiter -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "ttl", "why"),
    [
        ("4", None, "no-ttl"),
        ("9007199254740991", 3_600_000, "called"),
        ("soon", 5_000, "unreadable"),
        ("nan", 5_000, "unreadable"),
        ("9007199254740991", 30_000, ""),
        ("4", 3_600_000, ""),
    ],
)
async def test_a_limiter_is_removed_only_if_it_is_stuck(
    queue: Queue, value: str, ttl: int | None, why: str
) -> None:
    await queue.client.set(queue.keys["limiter"], value, px=ttl)
    told = await repairs.release_limiter(queue)
    done = await repairs.release_limiter(queue, dry_run=False)
    assert (told.why, done.why, done.value) == (why, why, value)
    assert await queue.client.exists(queue.keys["limiter"]) == (0 if why else 1)
    assert (await repairs.release_limiter(queue, dry_run=False)).found_nothing


async def test_any_long_limiter_goes_when_it_is_asked_for(queue: Queue) -> None:
    await queue.client.set(queue.keys["limiter"], "4", px=3_600_000)
    report = await repairs.release_limiter(queue, dry_run=False, longer_than=60)
    assert report.why == "long"
    assert await queue.client.exists(queue.keys["limiter"]) == 0


async def test_a_limiter_of_another_type_goes_and_workers_run_again(
    queue: Queue, start_worker: Any
) -> None:
    await queue.set_global_rate_limit(1, 10)
    job = await queue.add("held")
    await queue.rate_limit(3600)
    assert (await repairs.release_limiter(queue, dry_run=False)).why == "called"
    await start_worker(lambda job: None)
    await job.wait_until_finished(10)
    await queue.client.delete(queue.keys["limiter"])
    await queue.client.lpush(queue.keys["limiter"], "no number")
    assert (await repairs.release_limiter(queue, dry_run=False)).why == "unreadable"
    assert await queue.client.exists(queue.keys["limiter"]) == 0
