"""Jobs that Node writes and runs are run here; what cannot be run fails instead of looping."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.implementations import Implementation, eventually


@pytest.mark.parametrize(
    ("field", "value", "data"),
    [
        ("data", "", {}),  # job.updateData(undefined)
        ("progress", "", {"n": 1}),  # job.updateProgress(undefined)
        ("timestamp", "1795467365673.5", {"n": 1}),  # timestamp: Date.now() + 0.5
        ("stacktrace", "", {"n": 1}),
    ],
)
async def test_fields_as_node_writes_them_do_not_poison_a_job(
    impl: Implementation, field: str, value: str, data: Any
) -> None:
    """A field that Node reads without complaint keeps no job from running."""
    seen: list[Any] = []

    async def process(job: Any, token: str) -> None:
        seen.append(job.data)

    queue = impl.queue()
    await queue.pause()
    job = await queue.add("n", {"n": 1})
    await queue.client.hset(queue.toKey(job.id), field, value)
    await queue.resume()
    impl.worker(process, lockDuration=1000, stalledInterval=500)
    await eventually(lambda: queue_state(queue, job.id, "completed"), because="not completed")
    assert seen == [data]


@pytest.mark.parametrize("field", ["data", "opts"])
async def test_undecodable_job_fails_once_with_a_reason(impl: Implementation, field: str) -> None:
    """What is not JSON can never run: the job fails at once and is kept for inspection."""
    executed: list[str] = []

    async def process(job: Any, token: str) -> None:
        executed.append(job.id)

    queue = impl.queue()
    await queue.pause()
    job = await queue.add("n", {}, {"attempts": 3})
    await queue.client.hset(queue.toKey(job.id), field, "{not json")
    await queue.resume()
    impl.worker(process, lockDuration=1000, stalledInterval=500)
    await eventually(lambda: queue_state(queue, job.id, "failed"), because="not failed")
    assert field in await queue.client.hget(queue.toKey(job.id), "failedReason")
    assert executed == []


async def test_job_of_which_only_the_id_is_left_is_not_executed(impl: Implementation) -> None:
    """A job that was removed while it waited does not run as a job without name and data."""
    executed: list[Any] = []
    sound_ran = asyncio.Event()

    async def process(job: Any, token: str) -> None:
        executed.append(job.name)
        if job.name == "sound":
            sound_ran.set()

    queue = impl.queue()
    await queue.pause()
    ghost = await queue.add("ghost", {})
    await queue.add("sound", {})
    await queue.client.delete(queue.toKey(ghost.id))
    await queue.resume()
    impl.worker(process)
    async with asyncio.timeout(3):
        await sound_ran.wait()
    assert executed == ["sound"]


async def queue_state(queue: Any, job_id: str, wanted: str) -> bool:
    """Read without decoding the job, which upstream cannot."""
    score = await queue.client.zscore(queue.toKey(wanted), job_id)
    return score is not None
