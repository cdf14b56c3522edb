"""`bullpy repair` as users type it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator

import pytest
from support.processes import bullpy
from support.repairing import abandoned, everything

from bullpy import Queue, repairs


@pytest.fixture
async def queue(queue_name: str, redis_url: str) -> AsyncIterator[Queue]:
    async with Queue(queue_name, redis=redis_url) as opened:
        yield opened
        await opened.obliterate(force=True)


async def repair(queue: Queue, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    url = queue.redisConnection.settings.masked_url
    where = ("--queue", queue.name, "--redis", url)
    return await asyncio.to_thread(bullpy, "repair", name, *where, *arguments)


async def lost(queue: Queue) -> str:
    job = await queue.add("lost")
    await queue.client.lrem(queue.keys["wait"], 0, job.id)
    return job.id


def test_without_a_name_it_lists_the_repairs() -> None:
    done = bullpy("repair")
    assert done.returncode == 0
    for name in (*repairs.NAMES, "log"):
        assert f"bullpy repair {name} " in done.stdout
    assert "changes nothing without --apply" in done.stdout


async def test_lost_jobs_are_told_then_put_back(queue: Queue) -> None:
    job_id = await lost(queue)
    before = await everything(queue)
    told = await repair(queue, "orphans")
    assert told.returncode == 1
    assert f"1 lost jobs would go back to those that wait: {job_id}" in told.stdout
    assert await everything(queue) == before
    [again] = [line for line in told.stdout.splitlines() if line.startswith("nothing was changed")]
    assert again.endswith(
        f"bullpy repair orphans --queue {queue.name} --redis {url_of(queue)} --apply"
    )
    done = await repair(queue, "orphans", "--apply")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"1 lost jobs went back to those that wait: {job_id}" in done.stdout
    assert await queue.get_job_state(job_id) == "wait"
    again = await repair(queue, "orphans", "--apply")
    assert (again.returncode, "no job is lost" in again.stdout) == (0, True)


def url_of(queue: Queue) -> str:
    return str(queue.redisConnection.settings.masked_url)


async def test_json_tells_all(queue: Queue) -> None:
    job_id = await lost(queue)
    await queue.client.hset(queue.keys["meta"], "version", "bullmq:5.61.2")
    await queue.pause()
    told = await repair(queue, "orphans", "--apply", "--json")
    report = json.loads(told.stdout)
    assert (report["waiting"], report["restored"], report["dry_run"]) == ([job_id], 1, False)
    assert (report["repair"], report["changes"]) == ("orphans", 1)
    assert [warning["code"] for warning in report["warnings"]] == ["paused-beside-5"]


async def test_every_repair_by_its_name_and_the_log_of_them(queue: Queue) -> None:
    gone, failed = await abandoned(queue), await abandoned(queue)
    client, keys = queue.client, queue.keys
    await client.lrem(keys["active"], 0, failed.id)
    await client.zadd(keys["failed"], {failed.id: 1})
    key = queue.backend.toKey(failed.id)
    await client.hset(key, "failedReason", "no redis://u:hunter2@h/0 after 5 s\x1b[31m")
    await client.lpush(keys["wait"], "ghost\n\x1b[31m")
    await client.set(keys["limiter"], "3")
    await client.hset(keys["meta"], "paused", "1")
    for name, arguments, text in [
        ("active", ["--apart", "0"], f"wait again, in front: {gone.id}"),
        ("ids", [], "dropped from `wait`: ghost\\n\\x1b[31m"),
        ("limiter", [], "never ends"),
        ("resume", [], "the queue was paused: "),
        ("retry-failed", ["--reason", "AFTER 5"], f"wait again: {failed.id}"),
    ]:
        done = await repair(queue, name, *arguments, "--apply")
        assert (done.returncode, done.stderr) == (0, "")
        assert text in done.stdout
        assert "hunter2" not in done.stdout
        assert "\x1b" not in done.stdout
        assert "nothing was changed" not in done.stdout
    assert not await queue.is_paused()
    log = await repair(queue, "log")
    assert [line.split()[2] for line in log.stdout.splitlines() if not line.startswith(" ")] == [
        *("retry-failed", "resume", "limiter", "ids", "active")
    ]
    entries = json.loads((await repair(queue, "log", "--json")).stdout)["repairs"]
    assert [entry["outcome"] for entry in entries] == ["done"] * 5
    assert entries[-1]["report"]["waiting"] == [gone.id]


async def test_failures_are_shown_by_reason_and_none_is_retried_unasked(queue: Queue) -> None:
    job = await abandoned(queue)
    await queue.client.lrem(queue.keys["active"], 0, job.id)
    await queue.client.zadd(queue.keys["failed"], {job.id: 1000})
    await queue.client.hset(queue.backend.toKey(job.id), "failedReason", "no 5")
    told = await repair(queue, "retry-failed")
    assert "last 1970-01-01 00:00:01.000Z  no <n>" in told.stdout
    assert told.stdout.endswith(" --all --apply\n")
    refused = await repair(queue, "retry-failed", "--apply", "--json")
    assert refused.returncode == 2
    assert json.loads(refused.stdout)["error"]["code"] == "configuration"
    done = await repair(queue, "retry-failed", "--apply", "--all", "--json")
    assert json.loads(done.stdout)["retried"] == [job.id]


async def test_an_empty_log_says_so(queue: Queue) -> None:
    assert "nothing of queue" in (await repair(queue, "log")).stdout


async def test_redis_that_is_away_is_said() -> None:
    where = ("--queue", "q", "--redis", "redis://127.0.0.1:1")
    answer = await asyncio.to_thread(bullpy, "repair", "ids", *where, "--json")
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["error"]["code"]
    assert answer.stderr.startswith("error: Nothing listens")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["active"], "--queue"),
        (["nonsense", "--queue", "q"], "nonsense"),
        (["active", "--queue", "q", "--apart", "-1"], "apart"),
        (["ids", "--queue", "a:b", "--redis", "redis://127.0.0.1:1"], "contains a colon"),
        (["ids", "--queue", "q"], "REDIS_URL"),
    ],
)
def test_a_wrong_call_is_exit_2(arguments: list[str], text: str) -> None:
    done = bullpy("repair", *arguments)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr
