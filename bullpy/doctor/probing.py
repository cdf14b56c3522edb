"""`--probe`: one harmless job, followed from its adding to its end. The only part that writes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any
from uuid import uuid4

from bullpy import errors
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.ownscripts import run_on_queue
from bullpy.queue import Queue
from bullpy.settings import RedisSettings, WorkerSettings
from bullpy.worker import Worker

JOB_NAME = "bullpy-probe"
"""The name of the job, and what the probe's own queue begins with."""

TIMEOUT = 8.0
"""Seconds that the job may take until a worker has it, and as long again until it has ended."""

PASSED = Cause(
    code="probe-passed",
    number=0,
    level=Level.OK,
    title="The probe's job ran",
    symptom="`bullpy doctor --probe` says so.",
    why="A job was added, taken by a worker, and its end was told: scripts, blocking waits and the "
    "event stream work with this URL, user and server.",
    fix="Nothing: if jobs of another queue do not run, the cause is that queue's own.",
    certainty=Certainty.WATCHED,
    refutes=("a server that BullMQ cannot use", "an ACL that forbids what BullMQ needs"),
)
NOT_TAKEN = Cause(
    code="probe-not-taken",
    number=0,
    level=Level.BLOCKED,
    title="No worker took the probe's job",
    symptom="`bullpy doctor --probe` waits, and the job stays where it is.",
    why="The job was added to the queue, and nobody fetched it in time. It was removed again.",
    fix="Read the other verdicts: they say why nobody fetches.",
    certainty=Certainty.WATCHED,
    rank=90,
)
REFUSED = Cause(
    code="probe-refused",
    number=0,
    level=Level.BLOCKED,
    title="The probe's job could not be added, run or finished",
    symptom="`bullpy doctor --probe` ends with an error of Redis.",
    why="A command that BullMQ needs failed: the error says which, and why.",
    fix="Do what the error says.",
    certainty=Certainty.WATCHED,
    rank=80,
)
CHECKS.declare(PASSED, NOT_TAKEN, REFUSED)


async def try_server(settings: RedisSettings, prefix: str, timeout: float = TIMEOUT) -> Verdict:
    """Run a job through a queue of the probe's own, with a worker of its own, and remove both."""
    name = f"{JOB_NAME}-{uuid4().hex[:8]}"
    try:
        async with Queue(name, redis=settings, prefix=prefix) as queue:
            queue.backend.producer = None
            try:
                async with asyncio.timeout(2 * timeout), _worker(queue.name, settings, prefix):
                    return await _follow(queue, timeout)
            finally:
                await _remove(queue)
    except (errors.BullpyError, TimeoutError) as error:
        return _refused(error, name)


async def try_queue(
    name: str, settings: RedisSettings, prefix: str, timeout: float = TIMEOUT
) -> Verdict:
    """Add a job to a queue in use, and see whether a worker takes it; what is left is removed.

    Its processor meets a job named `bullpy-probe` that holds nothing but `{"probe": true}`.
    """
    try:
        async with Queue(name, redis=settings, prefix=prefix) as queue:
            queue.backend.producer = None
            async with asyncio.timeout(3 * timeout):
                was_used = await queue.client.exists(queue.keys["id"])
                had_meta = await queue.client.exists(queue.keys["meta"])
                found = await _follow(queue, timeout)
                if not was_used:
                    await run_on_queue(queue.backend, _FORGET, "" if had_meta else "1")
    except (errors.BullpyError, TimeoutError) as error:
        found = _refused(error, name)
    return replace(found, queue=name)


@contextlib.asynccontextmanager
async def _worker(name: str, settings: RedisSettings, prefix: str) -> AsyncGenerator[None]:
    async def process(job: Any) -> Any:
        return job.data

    # Unseen: of a probe nothing stays.
    unseen = WorkerSettings(prefix=prefix, heartbeat=0)
    worker = Worker(name, process, {"autorun": False}, redis=settings, settings=unseen)
    running = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        await worker.close(timeout=1)
        await asyncio.gather(running, return_exceptions=True)


async def _follow(queue: Queue, timeout: float) -> Verdict:
    job_id = f"{JOB_NAME}-{uuid4().hex}"
    began = time.monotonic()
    seen: dict[str, tuple[float, dict[str, Any]]] = {}
    news = asyncio.Event()

    def note(event: str) -> Any:
        def arrived(args: dict[str, Any], _: object = None) -> None:
            seen.setdefault(event, (time.monotonic() - began, args))
            news.set()

        return arrived

    for event in ("active", *_ENDS):
        queue.events.on(f"{event}:{job_id}", note(event))
    async with asyncio.timeout(timeout):
        await queue.events.wait_until_ready()
    try:
        # It may be there although its reply was lost, or nobody waited for that any more.
        await queue.add(
            JOB_NAME,
            {"probe": True},
            job_id=job_id,
            attempts=1,
            remove_on_complete=True,
            remove_on_fail=True,
        )
        await _until(news, lambda: bool(seen), timeout)
        if seen:
            await _until(news, lambda: any(event in seen for event in _ENDS), timeout)
        state = "active" if seen else await queue.get_job_state(job_id)
    finally:
        with contextlib.suppress(errors.BullpyError):
            await queue.backend.remove(job_id, False)
    steps = ", ".join(f"{event} after {at:.3f} s" for event, (at, _) in seen.items())
    if not seen:
        return NOT_TAKEN.verdict(
            f"A job added to {queue.name} was not taken within {timeout:g} s.",
            Proof(f"state of job {job_id}", f"{state}, {timeout:g} s after it was added"),
        )
    message = f"A job added to {queue.name} was taken by a worker ({steps})."
    if "failed" in seen:
        reason = str(seen["failed"][1].get("failedReason", ""))
        message += f" Its processor does not know it, as is to be expected: {reason[:200]}"
    return PASSED.verdict(message, Proof(f"events of job {job_id}", steps))


_ENDS = ("completed", "failed", "delayed")
"""Events after which a worker has done with the job; bullpy's delay a job that they do not know."""


async def _until(news: asyncio.Event, is_done: Any, timeout: float) -> None:
    """Wait until it is done, or the time is up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while not is_done():
                news.clear()
                await news.wait()


_FORGET = b"""
-- KEYS[1] the queue's `meta`; ARGV[1] '1' if the probe has made it. The probe's job was the first
-- that was ever added: that there was none before is what proves that producers write elsewhere.
-- Any other job has made the counter go on.
local base = string.sub(KEYS[1], 1, -5)
if redis.call('GET', base .. 'id') ~= '1' then return 0 end
redis.call('DEL', base .. 'id', base .. 'events')
-- More fields are of somebody who came meanwhile.
if ARGV[1] == '1' and redis.call('HLEN', KEYS[1]) == 1 then
    redis.call('HDEL', KEYS[1], 'opts.maxLenEvents')
end
return 1
"""


async def _remove(queue: Queue) -> None:
    """Leave nothing of the probe's own queue; the error that brought us here says more."""
    with contextlib.suppress(errors.BullpyError, TimeoutError):
        async with asyncio.timeout(2.0):
            await queue.obliterate(force=True)


def _refused(error: Exception, name: str) -> Verdict:
    message = errors.describe(error) if str(error) else "Redis did not answer in time."
    fix = error.fix if isinstance(error, errors.BullpyError) else None
    return REFUSED.verdict(
        f"The probe in {name} failed: {message}", Proof(f"probe of {name}", message[:300]), fix=fix
    )
