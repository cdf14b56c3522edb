"""The log of repairs: who did what, also when it went wrong, and never without bounds."""

from __future__ import annotations

import os

import pytest
from support.repairing import abandoned

from bullpy import EmbeddedServer, Queue, errors, repairs
from bullpy.repairs import journal


async def test_it_says_who_when_and_what(queue: Queue) -> None:
    job = await abandoned(queue)
    report = await repairs.recover_active(queue, dry_run=False, apart=0)
    [entry] = await repairs.read_log(queue)
    assert (entry.run, entry.repair, entry.outcome) == (report.run, "active", "done")
    assert entry.report["waiting"] == [job.id]
    assert f"pid {os.getpid()}" in entry.who
    assert entry.ended is not None
    assert 0 <= entry.ended - entry.started < 10_000
    now = queue.shared.clock.milliseconds()
    assert abs(now - entry.started) < 60_000
    assert entry.as_dict()["run"] == report.run


async def test_its_key_is_outside_the_queue_and_goes_with_it(queue: Queue) -> None:
    await abandoned(queue)
    await repairs.recover_active(queue, dry_run=False, apart=0)
    key = f"bullpy:bull:{queue.name}:repairs"
    assert await queue.client.exists(key) == 1
    await queue.obliterate(force=True)
    assert await queue.client.exists(key) == 0


async def test_a_repair_that_fails_is_told_as_failed(queue: Queue) -> None:
    await abandoned(queue)
    await queue.client.rename(queue.keys["events"], "kept" + queue.name)
    await queue.client.set(queue.keys["events"], "no stream")
    with pytest.raises(errors.RedisError):
        await repairs.recover_active(queue, dry_run=False, apart=0)
    await queue.client.delete(queue.keys["events"], "kept" + queue.name)
    [entry] = await repairs.read_log(queue)
    assert entry.outcome == "failed"
    assert "WRONGTYPE" in entry.error


async def test_a_repair_that_was_cut_off_is_told_as_unfinished(queue: Queue) -> None:
    report = repairs.ActiveReport(queue.name, dry_run=False)
    await journal.Entry(queue.backend, report).begin()
    [entry] = await repairs.read_log(queue)
    assert (entry.outcome, entry.ended) == ("unfinished", None)


async def test_it_is_bounded_and_the_newest_come_first(queue: Queue) -> None:
    for _ in range(700):
        report = repairs.IdsReport(queue.name, dry_run=False)
        async with journal.kept(queue.backend, report) as entry:
            await entry.begin()
    assert await queue.client.xlen(f"bullpy:bull:{queue.name}:repairs") <= 1100
    entries = await repairs.read_log(queue, limit=3)
    assert len(entries) == 3
    assert entries[0].run == report.run


async def test_who_may_not_write_the_log_may_repair(own_server: EmbeddedServer) -> None:
    async with Queue("q", redis=own_server.url) as queue:
        job = await abandoned(queue)
        acl = ("on", ">pw", "~bull:*", "+@all")
        await queue.client.execute_command("ACL", "SETUSER", "op", *acl)
    url = own_server.url.replace("redis://", "redis://op:pw@")
    async with Queue("q", redis=url) as queue:
        report = await repairs.recover_active(queue, dry_run=False, apart=0)
    assert report.waiting == [job.id]
    assert report.run == ""
    assert "forbids" in report.log_error or "NOPERM" in report.log_error
