"""`bullpy queue` as users type it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator

import pytest
from support.processes import bullpy

from bullpy import Queue


@pytest.fixture
async def queue(queue_name: str, redis_url: str) -> AsyncIterator[Queue]:
    async with Queue(queue_name, redis=redis_url) as opened:
        yield opened
        await opened.obliterate(force=True)


async def repair(queue: Queue, *arguments: str) -> subprocess.CompletedProcess[str]:
    url = queue.redisConnection.settings.masked_url
    return await asyncio.to_thread(
        bullpy, "queue", "repair", queue.name, "--redis", url, *arguments
    )


async def lost(queue: Queue) -> str:
    job = await queue.add("lost")
    await queue.client.lrem(queue.keys["wait"], 0, job.id)
    return job.id


async def test_lost_jobs_are_told_then_put_back(queue: Queue) -> None:
    job_id = await lost(queue)
    told = await repair(queue, "--dry-run")
    assert told.returncode == 1
    assert f"1 lost jobs would go back to those that wait: {job_id}" in told.stdout
    assert await queue.get_job_state(job_id) == "unknown"
    done = await repair(queue, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"1 lost jobs went back to those that wait: {job_id}" in done.stdout
    assert await queue.get_job_state(job_id) == "wait"
    again = await repair(queue, "--yes")
    assert "no job is lost" in again.stdout


async def test_json_tells_all(queue: Queue) -> None:
    job_id = await lost(queue)
    await queue.client.hset(queue.keys["meta"], "version", "bullmq:5.61.2")
    await queue.pause()
    told = await repair(queue, "--yes", "--json")
    report = json.loads(told.stdout)
    assert (report["waiting"], report["restored"], report["dry_run"]) == ([job_id], 1, False)
    assert [warning["code"] for warning in report["warnings"]] == ["paused-beside-5"]


async def test_it_asks_and_does_nothing_without_an_answer(queue: Queue) -> None:
    await lost(queue)
    refused = await repair(queue)
    assert refused.returncode == 2
    assert "Give --yes" in refused.stderr
    assert (await queue.repair(dry_run=True)).restored == 1


async def test_redis_that_is_away_is_said(queue: Queue) -> None:
    answer = await asyncio.to_thread(
        bullpy, "queue", "repair", "q", "--dry-run", "--json", "--redis", "redis://127.0.0.1:1"
    )
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["error"]["code"]
