"""The clock of a worker's machine is wrong: jobs are due by Redis's."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
import time
from typing import Any

import pytest
from support.faults import Program
from support.proxy import Proxy

from bullpy import Queue

WORKER = """
import os, time

off, real = float(os.environ["OFF"]), time.time
time.time = lambda: real() + off

from bullpy import Snooze, Worker, run

worker = Worker(os.environ["QUEUE"], redis=os.environ["REDIS"])

@worker.processor(isolation="loop")
async def process(job):
    print("began", job.name, real(), flush=True)
    if job.name == "snooze" and job.attempts_started == 1:
        raise Snooze(1.5)
    if job.name == "retry" and not job.attempts_made:
        raise ValueError("again")

worker.on("ready", lambda: print("ready", flush=True))
run(worker)
"""


def moments(program: Program, name: str) -> list[float]:
    return [float(found[1]) for found in re.finditer(rf"began {name} (\S+)", program.output)]


@pytest.mark.parametrize("off", [-60.0, 60.0], ids=["slow", "fast"])
async def test_delayed_jobs_run_on_time_although_the_clock_is_off(
    own_server: Any, direct: Queue, off: float
) -> None:
    # Upstream: 60 s fast, a delay of 5 s lasts 0.3 s; 60 s slow, the job does not run.
    async with Program(WORKER, QUEUE=direct.name, REDIS=own_server.url, OFF=str(off)) as program:
        await program.says("ready")
        added = time.time()
        job = await direct.add("delayed", 1, delay=1.5)
        retried = await direct.add("retry", 1, attempts=2, backoff=1.5)
        snoozed = await direct.add("snooze", 1)
        for waiting in (job, retried, snoozed):
            await waiting.wait_until_finished(10)
        program.signal(signal.SIGTERM)
        assert await program.ends(5.0) == 0
        # Read to its end now; what it says comes a little after what it does.
        (delayed,) = moments(program, "delayed")
        assert delayed - added == pytest.approx(1.5, abs=0.3)
        for name in ("retry", "snooze"):
            first, second = moments(program, name)
            assert second - first == pytest.approx(1.5, abs=0.3)
        stored = await direct.get_job(job.id)
        assert stored is not None
        # What is written of it is by Redis's clock too.
        assert stored.processed_on / 1000 == pytest.approx(delayed, abs=0.5)
        assert stored.processed_on <= stored.finished_on


async def test_job_that_is_due_when_a_fast_worker_starts_waits_for_its_time(
    own_server: Any, direct: Queue
) -> None:
    added = time.time()
    job = await direct.add("delayed", 1, delay=3.0)
    async with Program(WORKER, QUEUE=direct.name, REDIS=own_server.url, OFF="60") as program:
        await job.wait_until_finished(10)
        program.signal(signal.SIGTERM)
        assert await program.ends(5.0) == 0
        (began,) = moments(program, "delayed")
        assert began - added == pytest.approx(3.0, abs=0.3)


async def test_measure_that_took_long_does_not_spoil_a_good_one(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    worker = await crew.hire()
    clock = worker._slots.clock
    await clock.measure()
    before = clock.ahead
    assert abs(before) < 0.2
    measuring = asyncio.create_task(clock.measure())
    await asyncio.sleep(0)
    threading.Event().wait(1.0)  # the loop stands still while the answer is there
    await measuring
    assert clock.ahead == before
