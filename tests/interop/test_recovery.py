"""Workers that die or block: the other language's workers recover their jobs, or leave them be."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.node import Node, Peer, PeerError

from bullpy import Job, Queue

FAST = {"lockDuration": 1000, "stalledInterval": 500}
ROOT = Path(__file__).parents[2]


async def die_in_node(peer: Peer, queue: str) -> None:
    """Let a Node process take a job and be killed in it."""
    await peer.ask("worker.start", queue=queue, behaviour="die", options={"drainDelay": 1, **FAST})
    assert await peer.ended() == -signal.SIGKILL


async def die_in_python(redis_url: str, queue: str) -> None:
    """Let a Python process take a job and be killed in it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("dying_worker.py")),
        redis_url,
        queue,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(20):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == -signal.SIGKILL, said.decode()


@pytest.mark.parametrize("stalls_allowed", [1, 0])
async def test_python_recovers_the_job_of_a_killed_node_worker(
    node: Node, other_peer: Peer, start_worker: Any, stalls_allowed: int
) -> None:
    async def process(_job: Job[Any]) -> str:
        return "recovered"

    await node.follow()
    job_id = await node.add("process")
    await die_in_node(other_peer, node.queue_name)
    await start_worker(
        process, lock_duration=1.0, stalled_interval=0.3, max_stalled_count=stalls_allowed
    )
    if stalls_allowed:
        assert await node.wait(job_id) == "recovered"
    else:
        with pytest.raises(PeerError, match="stalled more than allowable limit"):
            await node.wait(job_id)
    job = await node.job(job_id)
    assert job["stalledCounter"] == 1
    assert job["attemptsStarted"] == 2
    if not stalls_allowed:
        assert "NoneType" not in str(job["stacktrace"])
    assert await node.event("stalled", job_id)


@pytest.mark.parametrize("stalls_allowed", [1, 0])
async def test_node_recovers_the_job_of_a_killed_python_worker(
    node: Node, redis_url: str, queue: Queue, stalls_allowed: int
) -> None:
    await node.follow()
    added = await queue.add("process", 1)
    await die_in_python(redis_url, node.queue_name)
    await node.start_worker("echo", {**FAST, "maxStalledCount": stalls_allowed})
    if stalls_allowed:
        assert await node.wait(added.id) == {"echo": 1}
    else:
        with pytest.raises(PeerError, match="stalled more than allowable limit"):
            await node.wait(added.id)
    job = await node.job(added.id)
    assert job["stalledCounter"] == 1
    assert await node.event("stalled", added.id)


async def test_job_that_blocks_pythons_event_loop_is_not_run_again_by_node(
    node: Node, start_worker: Any
) -> None:
    runs: list[str] = []
    started, beside = asyncio.Event(), asyncio.Event()

    async def process(job: Job[Any]) -> str:
        runs.append(job.id)
        started.set()
        await beside.wait()
        time.sleep(3)  # noqa: ASYNC251 - it is what this test is about
        return "python"

    await node.follow()
    await start_worker(process, lock_duration=1.0, stalled_interval=0.3)
    job_id = await node.add("process")
    await asyncio.wait_for(started.wait(), 10)
    theirs = await node.start_worker("echo", FAST)
    await theirs.event("drained")
    beside.set()

    assert await node.wait(job_id) == "python"
    job = await node.job(job_id)
    assert (job["attemptsStarted"], job["attemptsMade"]) == (1, 1)
    assert job["stalledCounter"] in (0, None)
    assert runs == [job_id]
    assert await theirs.processed() == []
    assert "stalled" not in [entry["event"] for entry in await node.events()]


async def test_cpu_bound_function_in_python_is_not_run_again_by_node(
    node: Node, start_worker: Any
) -> None:
    runs: list[str] = []

    def process(job: Job[Any]) -> str:
        runs.append(job.id)
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            pass
        return "python"

    await node.follow()
    await start_worker(process, lock_duration=1.0, stalled_interval=0.3)
    job_id = await node.add("process")
    await node.event("active", job_id)
    theirs = await node.start_worker("echo", FAST)
    assert await node.wait(job_id) == "python"
    assert runs == [job_id]
    assert await theirs.processed() == []
