"""`bullpy doctor` as users type it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time

from support.processes import BULLPY, Process, bullpy

from bullpy import EmbeddedServer, Queue

BRIEF = ("--interval", "0.5")


async def doctor(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(bullpy, "doctor", *BRIEF, *arguments, env=env)


async def empty(queue: Queue) -> None:
    """Leave a queue that had a job."""
    job = await queue.add("x", delay=600)
    assert await queue.backend.remove(job.id, False) == 1


async def test_report_tells_settings_steps_queues_and_the_end(own_server: EmbeddedServer) -> None:
    async with Queue("calm", redis=own_server.url) as queue:
        await empty(queue)
    told = await doctor(REDIS_URL=own_server.url)
    assert (told.returncode, told.stderr) == (0, "")
    assert f"setting    port = {own_server.port} (from REDIS_URL)" in told.stdout
    assert "ping       ok, PONG" in told.stdout
    assert "queue      calm: 1 added; no jobs; 0 worker connections" in told.stdout
    assert told.stdout.splitlines()[-1].startswith("OK: ")


async def test_json_is_one_object(own_server: EmbeddedServer) -> None:
    told = await doctor("--queue", "none", "--redis", own_server.url, "--probe", "--json")
    found = json.loads(told.stdout)
    assert found["queues"] == ["none"]
    assert [step["name"] for step in found["steps"]][-1] == "select"
    passed = next(each for each in found["verdicts"] if each["code"] == "probe-passed")
    assert (passed["level"], passed["certainty"]) == ("ok", "watched")
    assert passed["proofs"]


async def test_unreachable_redis_ends_with_3() -> None:
    told = await doctor("--redis", "redis://:hunter2@127.0.0.1:1/0")
    assert told.returncode == 3
    assert "UNREACHABLE Nothing listens at redis://:***@127.0.0.1:1/0" in told.stdout
    assert "hunter2" not in told.stdout + told.stderr


async def test_watching_an_unreachable_redis_pauses_between_two_looks() -> None:
    with Process(
        *BULLPY, *("doctor", "--redis", "redis://127.0.0.1:1", "--watch", "--json", *BRIEF)
    ) as process:
        await asyncio.to_thread(process.wait_for, r"^\{")
        started = time.monotonic()
        for _ in range(4):
            await asyncio.to_thread(process.wait_for, r"^\{")
        assert time.monotonic() - started > 1.5
        assert process.stop(signal.SIGINT) == 3


async def test_missing_settings_end_with_3() -> None:
    told = await doctor()
    assert told.returncode == 3
    assert "Set REDIS_URL" in told.stdout


async def test_wrong_queue_name_is_a_wrong_call(own_server: EmbeddedServer) -> None:
    told = await doctor("--queue", "a:b", "--redis", own_server.url)
    assert told.returncode == 2
    assert told.stderr.startswith("error: ")


async def test_watching_tells_what_changes_until_it_is_interrupted(
    own_server: EmbeddedServer,
) -> None:
    async with Queue("watched", redis=own_server.url) as queue:
        await empty(queue)
        with Process(
            *BULLPY,
            *("doctor", "--queue", "watched", "--redis", own_server.url, "--watch", *BRIEF),
        ) as process:
            await asyncio.to_thread(process.wait_for, r"^OK: ")
            await queue.add("y")
            await asyncio.to_thread(process.wait_for, r"^BLOCKED \[watched\]")
            assert process.stop(signal.SIGINT) == 2
