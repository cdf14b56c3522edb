"""An idle worker waits without going deaf, and starts what is due when it is due."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from support.implementations import Implementation, eventually

LATE = 0.3
"""Seconds that a job may start after it was due, on a busy machine."""


async def test_idle_worker_and_events_hear_of_jobs_at_once(impl: Implementation) -> None:
    """With default options, redis-py's time-outs never end a blocking wait early.

    Three things at once, because each needs its time: a worker and a QueueEvents that have
    been idle for 13 s, and a job delayed by 7 s on an idle worker.
    """
    started: dict[str, float] = {}

    async def note(job: Any, token: str) -> None:
        started[job.name] = time.monotonic()

    defaults: dict[str, Any] = {"drainDelay": 5}
    impl.worker(note, **defaults)
    later_name = impl.new_name()
    impl.worker(note, later_name, **defaults)
    events = impl.events()
    seen: list[str] = []
    events.on("waiting", lambda args, _id: seen.append(args["jobId"]))

    delayed_at = time.monotonic()
    await impl.queue(later_name).add("later", {}, {"delay": 7000})
    await asyncio.sleep(13.2)  # being idle is what this is about
    late = started.get("later", float("inf")) - delayed_at - 7
    assert -0.05 < late < LATE, f"the delayed job was {late:.1f} s late"
    added_at = time.monotonic()
    job = await impl.queue().add("now", {})
    await eventually(lambda: "now" in started, within=1.5, because="the job was not picked up")
    assert started["now"] - added_at < LATE
    await eventually(lambda: job.id in seen, within=1.5, because="the event was not heard")


async def test_delayed_job_on_idle_worker_runs_on_time(impl: Implementation) -> None:
    """Due times are kept to fractions of a second, not rounded up to whole ones."""
    started: asyncio.Queue[float] = asyncio.Queue()

    async def note(job: Any, token: str) -> None:
        started.put_nowait(time.monotonic())

    impl.worker(note)
    queue = impl.queue()
    for delay in (0.1, 0.25, 0.6):
        due = time.monotonic() + delay
        await queue.add("later", {}, {"delay": round(delay * 1000)})
        async with asyncio.timeout(3):
            late = await started.get() - due
        assert -0.05 < late < LATE, f"a delay of {delay} s was {late:.2f} s late"


async def test_retry_after_backoff_runs_on_time(impl: Implementation) -> None:
    """The pause before an attempt is the one that the job asked for."""
    started: asyncio.Queue[float] = asyncio.Queue()

    async def fail(job: Any, token: str) -> None:
        started.put_nowait(time.monotonic())
        raise ValueError("again")

    impl.worker(fail)
    await impl.queue().add(
        "flaky", {}, {"attempts": 3, "backoff": {"type": "exponential", "delay": 200}}
    )
    async with asyncio.timeout(6):
        first, second, third = [await started.get() for _ in range(3)]
    assert second - first == pytest.approx(0.2, abs=LATE)
    assert third - second == pytest.approx(0.4, abs=LATE)
