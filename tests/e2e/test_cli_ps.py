"""`bullpy ps` as users type it, with real processes of both languages."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.node import Peer
from support.processes import Process, bullpy, worker

from bullpy import EmbeddedServer, Queue

WORKER = """
import asyncio
from bullpy import Worker

worker = Worker("audio", concurrency=4)

@worker.processor()
async def hold(job):
    await asyncio.sleep(60)
"""

BROKEN = """
from bullpy import Worker

worker = Worker("audio")

@worker.lifespan
async def lifespan(worker):
    raise RuntimeError("no DATABASE_URL, password=hunter2hunter2")
    yield {}

@worker.processor()
async def run(job):
    return 1
"""

ADD = """
import asyncio
from bullpy import Queue

async def main():
    async with Queue("audio") as queue:
        for _ in range(2):
            await queue.add("x")
        print("added", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def redis() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(password="geheim-im-test") as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(WORKER)
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "add.py").write_text(ADD)
    return tmp_path


def start(redis: EmbeddedServer, folder: Path, target: str = "app:worker") -> Process:
    return worker(target, cwd=folder, REDIS_URL=redis.url, BULLPY_HEARTBEAT="0.2")


def ps(redis: EmbeddedServer, *arguments: str) -> str:
    answer = bullpy("ps", *arguments, env={"REDIS_URL": redis.url})
    assert answer.returncode == 0, answer.stderr
    assert "geheim" not in answer.stdout + answer.stderr
    return answer.stdout


def listed(redis: EmbeddedServer, *arguments: str) -> list[dict[str, Any]]:
    seen = json.loads(ps(redis, "--json", *arguments))
    return [each for queue in seen["queues"] for each in queue["processes"]]


def until(ask: Callable[[], Any], timeout: float = 15.0) -> Any:
    """The first true answer."""
    ends = time.monotonic() + timeout
    while not (answer := ask()):
        assert time.monotonic() < ends, "it never was so"
    return answer


def test_processes_of_both_languages_are_shown_with_what_they_do(
    redis: EmbeddedServer, folder: Path
) -> None:
    peer = Peer("5", redis.url)
    peer.start()
    try:
        theirs = {"queue": "audio", "worker": "w", "behaviour": "echo", "options": {"name": "n-1"}}
        with start(redis, folder) as ours:
            ours.wait_for("ready: queue audio")
            asyncio.run(peer.request("worker.start", {"params": {}, **theirs}))
            found = until(lambda: len(seen := listed(redis)) == 2 and seen)
            assert {(each["lang"], each["state"], each["pid"]) for each in found} == {
                ("python", "waiting", ours.pid),
                ("node", "waiting", None),
            }
            asyncio.run(peer.request("worker.stop", {"worker": "w", "force": True}))
            with Process(
                sys.executable, folder / "add.py", env={"REDIS_URL": redis.url}
            ) as producer:
                producer.wait_for("added")
                text = until(lambda: "busy 2 of 4" in (seen := ps(redis)) and seen)
                assert re.search(rf"worker +python +busy 2 of 4 .* {ours.pid} .* 1 2$", text, re.M)
                assert re.search(rf"producer +python +added [12], .* {producer.pid} ", text)
                assert text.startswith("audio: 1 worker, 1 producer\n")
    finally:
        peer.stop()


def test_worker_that_leaves_is_told_with_its_reason(redis: EmbeddedServer, folder: Path) -> None:
    with start(redis, folder) as left:
        left.wait_for("ready: queue audio")
        until(lambda: listed(redis))
        assert left.stop(signal.SIGTERM) == 0
    text = ps(redis, "--queue", "audio")
    assert text.startswith("audio: 0 workers; 1 gone within the last hour\n")
    assert re.search(r"left [\d.]+ s ago: SIGTERM \(exit code 0\)", text)


def test_killed_worker_is_gone_without_goodbye(redis: EmbeddedServer, folder: Path) -> None:
    with start(redis, folder) as killed:
        killed.wait_for("ready: queue audio")
        until(lambda: listed(redis))
        killed.stop(signal.SIGKILL)
    text = until(lambda: "gone without goodbye" in (seen := ps(redis)) and seen)
    assert text.startswith("audio: 0 workers; 1 gone within the last hour\n")


def test_frozen_worker_is_told_while_it_is_connected(redis: EmbeddedServer, folder: Path) -> None:
    with start(redis, folder) as frozen:
        frozen.wait_for("ready: queue audio")
        until(lambda: listed(redis))
        frozen.send(signal.SIGSTOP)
        until(lambda: re.search(r"frozen [\d.]+ s", ps(redis)))
        frozen.send(signal.SIGCONT)
        until(lambda: "waiting" in ps(redis))


def test_worker_that_cannot_start_is_told(redis: EmbeddedServer, folder: Path) -> None:
    with start(redis, folder, "broken:worker") as broken:
        assert broken.end() == 1
    text = ps(redis)
    assert "could not start: RuntimeError: no DATABASE_URL, password=***" in text
    assert "(exit code 1)" in text
    assert "hunter2" not in text


def test_without_client_list_it_says_what_is_missing(redis: EmbeddedServer, folder: Path) -> None:
    async def forbid() -> None:
        async with Queue("audio", redis=redis.url) as queue:
            await queue.client.execute_command(
                *("ACL", "SETUSER", "u", "on", ">secret", "~*", "+@all", "-client|list")
            )

    asyncio.run(forbid())
    with start(redis, folder) as ours:
        ours.wait_for("ready: queue audio")
        url = f"redis://u:secret@127.0.0.1:{redis.port}"
        answer = until(
            lambda: "waiting" in (seen := bullpy("ps", env={"REDIS_URL": url})).stdout and seen
        )
        assert answer.stdout.startswith("audio: 1 worker\n")
        assert "note: CLIENT LIST is not allowed: workers of Node are not seen" in answer.stderr
        assert "secret" not in answer.stdout + answer.stderr


def test_nothing_there_is_said(redis: EmbeddedServer) -> None:
    assert ps(redis) == "No process is there for any queue with prefix bull.\n"
    assert ps(redis, "--queue", "audio") == "audio: 0 workers\n"


def test_redis_that_is_away_is_said() -> None:
    answer = bullpy("ps", "--json", "--redis", "redis://127.0.0.1:1")
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["error"]["code"] == "redis-unavailable"
