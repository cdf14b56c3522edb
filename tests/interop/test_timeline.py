"""The life of a job that Node adds and runs, and a follower of it in Python."""

from __future__ import annotations

import asyncio

from support.node import Node, eventually

from bullpy import Queue, timeline
from bullpy.following import Follower
from bullpy.joblife import Step


async def test_the_life_of_a_job_of_node_is_told(node: Node, queue: Queue) -> None:
    await node.start_worker("fail-times", {"name": "node-1"}, times=1, message="no /tmp/x")
    job_id = await node.add("send", {"n": 1}, {"attempts": 2, "delay": 20})

    async def done() -> bool:
        return str(await queue.get_job_state(job_id)) == "completed"

    await eventually(done)
    life = await timeline.read(queue, job_id)
    assert [step.name for step in life.steps] == [
        *("created", "delayed", "waiting", "active", "waiting", "active", "completed")
    ]
    last = life.steps[5]
    assert (last.details["worker"], last.details["attempt"]) == ("node-1", "2")
    assert all(abs(step.skew) < 1 for step in life.steps)
    assert (life.starts, life.reaches_back, life.reason) == (2, True, "no /tmp/x")


async def test_a_job_that_node_runs_is_followed_to_its_end(node: Node, queue: Queue) -> None:
    job_id = await node.add("send")
    follower, steps, waiting = Follower(queue, job_id), list[Step](), asyncio.Event()

    async def follow() -> None:
        async for step in follower.steps():
            steps.append(step)
            waiting.set()

    following = asyncio.create_task(follow())
    await waiting.wait()
    await node.start_worker("progress", {"name": "node-2"}, values=[10, {"page": 3}])
    async with asyncio.timeout(15):
        await following
    assert [step.name for step in steps] == [
        *("created", "waiting", "active", "progress", "progress", "completed")
    ]
    assert steps[2].details["worker"] == "node-2"
    # What is no number may be job data.
    assert [step.details for step in steps[3:5]] == [{"progress": "10"}, {}]
    assert follower.ending == "completed"
