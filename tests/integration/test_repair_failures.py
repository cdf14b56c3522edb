"""`repairs.retry_failed`: failures grouped by reason, and retried by group."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.repairing import ids_in

from bullpy import FlowProducer, Job, Queue, errors, repairs
from bullpy.repairs.reasons import normalised


async def failed(queue: Queue, reason: str, at: int = 1, **options: Any) -> str:
    """A job that has failed for that reason."""
    job = await queue.add("failed", **options)
    await queue.client.lrem(queue.keys["wait"], 0, job.id)
    await queue.client.zrem(queue.keys["prioritized"], job.id)
    await queue.client.zadd(queue.keys["failed"], {job.id: at})
    fields = {"failedReason": reason, "finishedOn": at, "atm": 1}
    await queue.client.hset(queue.backend.toKey(job.id), mapping=fields)
    return job.id


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("timeout after 300 ms", "timeout after 1.5 ms", "timeout after <n> ms"),
        ("no /tmp/a/b.wav", "no /srv/c/d e.wav", None),
        ("no /tmp/a/b.wav here", "no /srv/x/y/z.mp3 here", "no <path> here"),
        (
            "job 0b7d2c1e-8f39-4a65-9d22-1f0e5c3a7b99 gone",
            "job 9a1d2c1e-8f39-4a65-9d22-1f0e5c3a7b00 gone",
            "job <uuid> gone",
        ),
        ("GET https://a.b/c?d=1 is 404", "GET http://e.f is 404", "GET <url> is <n>"),
        ("key deadbeef01", "key 0xfeedbeef99", "key <hex>"),
        ("at 2026-11-25T10:00:00Z", "at 2025-01-02 03:04:05.678", "at <time>"),
        ("user job_8f3k2 unknown", "user A12B9c unknown", "user <id> unknown"),
        ("to ana@example.com", "to b.c@d.org", "to <email>"),
        ("connect ECONNREFUSED 10.0.0.1:6379", "connect ECONNREFUSED 10.0.0.2:1", None),
        ("two\nlines  of it", "two lines of it", "two lines of it"),
        ("password=abc", "password=def", "password=***"),
        ("utf8 error", "utf16 error", None),
    ],
)
def test_reasons_of_one_kind_are_one(one: str, other: str, common: str | None) -> None:
    if common is not None:
        assert normalised(one) == normalised(other) == common
    elif one.startswith("connect"):
        assert normalised(one) == normalised(other)
    else:
        assert normalised(one) != normalised(other)


def test_a_reason_is_shown_without_what_upsets_a_terminal() -> None:
    shown = normalised("\x1b[31m " + "x " * 1000 + "\ud800")
    assert shown.startswith("\\x1b[")
    assert len(shown) <= 330
    assert shown.isprintable()


async def test_groups_tell_reason_count_and_time_and_hide_secrets(queue: Queue) -> None:
    for number in range(3):
        await failed(queue, f"timeout after {number} ms", at=1000 + number)
    await failed(queue, "refused by redis://u:hunter2@h:1/0 token=abc123", at=5000)
    report = await repairs.retry_failed(queue)
    first, second = report.groups
    assert (first.count, first.first, first.last) == (3, 1000, 1002)
    assert first.reason == "timeout after <n> ms"
    assert (second.count, second.last) == (1, 5000)
    told = "\n".join(report.sentences()) + str(report.as_dict())
    assert "hunter2" not in told
    assert "abc123" not in told
    assert (report.failed, report.checked) == (4, 4)


async def test_a_group_is_retried_oldest_first_and_others_stay(
    queue: Queue, start_worker: Any
) -> None:
    ids = [await failed(queue, f"timeout after {n} ms", at=n + 1) for n in range(5)]
    other = await failed(queue, "no such file", at=9)
    code = next(g.code for g in (await repairs.retry_failed(queue)).groups if g.count == 5)
    some = await repairs.retry_failed(queue, dry_run=False, group=code, limit=2)
    assert (some.retried, some.left) == (ids[:2], 3)
    rest = await repairs.retry_failed(queue, dry_run=False, reason="TIMEOUT AFTER")
    assert rest.retried == ids[2:]
    assert await ids_in(queue, "failed") == [other]
    runs: list[str] = []

    async def process(job: Job[Any]) -> None:
        runs.append(job.id)

    await start_worker(process, concurrency=1)
    for job_id in ids:
        job = await queue.get_job(job_id)
        assert job is not None
        await job.wait_until_finished(10)
    assert runs == ids
    again = await repairs.retry_failed(queue, dry_run=False, group=code)
    assert again.found_nothing
    assert "no group has that reason or code" in list(again.sentences())
    entries = await repairs.read_log(queue)
    assert [entry.report["retried"] for entry in entries] == [ids[2:], ids[:2]]
    assert entries[0].report["groups"] == [f"{code} 3 timeout after <n> ms"]


async def test_priority_and_lifo_of_retried_jobs_count(queue: Queue) -> None:
    urgent = await failed(queue, "no", priority=3)
    last = await failed(queue, "no", lifo=True)
    waiting = await queue.add("waits")
    await repairs.retry_failed(queue, dry_run=False, everything=True)
    assert await ids_in(queue, "prioritized") == [urgent]
    assert await ids_in(queue, "wait") == [waiting.id, last]


async def test_retried_jobs_of_a_paused_queue_wait_for_its_resume(queue: Queue) -> None:
    job_id = await failed(queue, "no")
    await queue.pause()
    await repairs.retry_failed(queue, dry_run=False, reason="no")
    assert await ids_in(queue, "paused") == [job_id]


async def test_a_parent_waits_again_for_its_retried_child(
    queue: Queue, redis_url: str, start_worker: Any
) -> None:
    fail = True

    async def process(job: Job[Any]) -> None:
        if job.name == "child" and fail:
            raise ValueError("not yet")

    async with FlowProducer(redis=redis_url) as flows:
        child = {"name": "child", "queueName": queue.name}
        flow = await flows.add({"name": "p", "queueName": queue.name, "children": [child]})
    child, parent = [
        await queue.get_job(flow_part["job"].id) for flow_part in (flow["children"][0], flow)
    ]
    assert child is not None
    assert parent is not None
    await start_worker(process)
    with pytest.raises(errors.JobFailedError, match="not yet"):
        await child.wait_until_finished(10)
    fail = False
    report = await repairs.retry_failed(queue, dry_run=False, reason="not yet")
    assert report.changes == 1
    await parent.wait_until_finished(10)


async def test_two_retries_at_once_retry_each_job_once(queue: Queue) -> None:
    ids = [await failed(queue, "no", at=n) for n in range(230)]
    reports = await asyncio.gather(
        *(repairs.retry_failed(queue, dry_run=False, everything=True) for _ in range(3))
    )
    assert sorted(i for each in reports for i in each.retried) == sorted(ids)
    assert sorted(await ids_in(queue, "wait")) == sorted(ids)


async def test_ids_without_job_and_odd_reasons_do_no_harm(queue: Queue) -> None:
    await queue.client.zadd(queue.keys["failed"], {"gone": "+inf", b"\xff": 3, "meta": 4})
    job_id = await failed(queue, "", at=10**18)
    binary = await failed(queue, "x")
    key = queue.backend.toKey(binary)
    await queue.backend.ask("HSET", key, "failedReason", b"\xff\x00" * 400)
    report = await repairs.retry_failed(queue, dry_run=False, everything=True)
    assert report.without_data == 3
    assert sorted(report.retried) == sorted([job_id, binary])
    assert list(report.sentences())


async def test_without_a_choice_nothing_is_retried(queue: Queue) -> None:
    with pytest.raises(errors.ConfigurationError, match="which failed jobs"):
        await repairs.retry_failed(queue, dry_run=False)
    with pytest.raises(errors.ConfigurationError, match="At most 0"):
        await repairs.retry_failed(queue, limit=0)
