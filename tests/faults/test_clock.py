"""The clock of a worker's or a producer's machine is wrong: jobs are due by Redis's."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.faults import Program
from support.proxy import Proxy

from bullpy import Queue

TESTS = Path(__file__).parents[1]

WRONG_CLOCK = """
import asyncio, os, time

off, real = float(os.environ["OFF"]), time.time
time.time = lambda: real() + off
"""

WORKER = (
    WRONG_CLOCK
    + """
from bullmq import DelayedError
from support import isolated

from bullpy import Snooze, Worker, run

worker = Worker(os.environ["QUEUE"], redis=os.environ["REDIS"])
worker.processor("child")(isolated.snoozes_once)

@worker.processor(isolation="loop")
async def process(job):
    print("began", job.name, real(), flush=True)
    if job.name == "snooze" and job.attempts_started == 1:
        raise Snooze(1.5)
    if job.name == "moved" and job.attempts_started == 1:
        await job.move_to_delayed(1.5)
        raise DelayedError()
    if job.name == "moved-upstream" and job.attempts_started == 1:
        await job.moveToDelayed(round((time.time() + 1.5) * 1000), job.token)
        raise DelayedError()
    if job.name == "retry" and not job.attempts_made:
        raise ValueError("again")

worker.on("ready", lambda: print("ready", flush=True))
run(worker)
"""
)

PRODUCER = (
    WRONG_CLOCK
    + """
from bullpy import FlowProducer, Queue

async def main():
    redis, name = os.environ["REDIS"], os.environ["QUEUE"]
    async with Queue(name, redis=redis) as queue, FlowProducer(redis=redis) as flows:
        print("added", real(), flush=True)
        await queue.add("single", delay=1.5)
        await queue.add_bulk([{"name": "bulk", "opts": {"delay": 1500}}])
        child = {"name": "child-of-flow", "queueName": name, "opts": {"delay": 1500}}
        await flows.add({"name": "parent", "queueName": name, "children": [child]})
        earlier = round(real() * 1000) - 10_000
        await queue.add("dated", delay=11.5, timestamp=earlier)
        now = await queue.add("now")
        print("stamped", now.timestamp / 1000, flush=True)

asyncio.run(main())
"""
)

SCHEDULER = (
    WRONG_CLOCK
    + """
from bullpy import Queue

async def main():
    async with Queue(os.environ["QUEUE"], redis=os.environ["REDIS"]) as queue:
        print("added", real(), flush=True)
        await queue.upsertJobScheduler("every", {"every": 1000}, "every")
        await queue.upsertJobScheduler("pattern", {"pattern": "* * * * * *"}, "pattern")

asyncio.run(main())
"""
)

STEWARD = (
    WRONG_CLOCK
    + """
from bullpy import Queue, Worker

async def main():
    redis, name = os.environ["REDIS"], os.environ["QUEUE"]
    async with Queue(name, redis=redis) as queue:
        await queue.retry_jobs()
        print("retried", (await queue.get_job_counts("failed"))["failed"], flush=True)
        print("cleaned", len(await queue.clean(30_000, 0, "completed")), flush=True)
        worker = Worker(name, redis=redis)
        job = await worker.getNextJob("token")
        print("fetched", job and job.name, flush=True)
        await worker.close()

asyncio.run(main())
"""
)

OFF = pytest.mark.parametrize("off", [-60.0, 60.0], ids=["slow", "fast"])


def program(source: str, url: str, queue: Queue, off: float) -> Program:
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return Program(source, QUEUE=queue.name, REDIS=url, OFF=str(off), PYTHONPATH=path)


def moments(program: Program, name: str) -> list[float]:
    return [float(found[1]) for found in re.finditer(rf"began {name} (\S+)", program.output)]


def said(program: Program, what: str) -> str:
    found = re.search(rf"{what} (\S+)", program.output)
    assert found, program.output
    return found[1]


@OFF
async def test_delayed_jobs_run_on_time_although_the_clock_is_off(
    own_server: Any, direct: Queue, off: float
) -> None:
    # Upstream: 60 s fast, a delay of 5 s lasts 0.3 s; 60 s slow, the job does not run.
    async with program(WORKER, own_server.url, direct, off) as worker:
        await worker.says("ready")
        added = time.time()
        job = await direct.add("delayed", 1, delay=1.5)
        again = ["retry", "snooze", "moved", "moved-upstream"]
        others = [await direct.add(name, 1, attempts=2, backoff=1.5) for name in again]
        in_child = await direct.add("child", 1)
        for waiting in (job, *others):
            await waiting.wait_until_finished(10)
        first, second = await in_child.wait_until_finished(10)
        assert second - first == pytest.approx(1.5, abs=0.4)
        worker.signal(signal.SIGTERM)
        assert await worker.ends(5.0) == 0
        # Read to its end now; what it says comes a little after what it does.
        (delayed,) = moments(worker, "delayed")
        assert delayed - added == pytest.approx(1.5, abs=0.3)
        for name in again:
            first, second = moments(worker, name)
            assert second - first == pytest.approx(1.5, abs=0.3), name
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
    async with program(WORKER, own_server.url, direct, 60) as worker:
        await job.wait_until_finished(10)
        worker.signal(signal.SIGTERM)
        assert await worker.ends(5.0) == 0
        (began,) = moments(worker, "delayed")
        assert began - added == pytest.approx(3.0, abs=0.3)


@OFF
async def test_jobs_of_a_producer_run_on_time_although_its_clock_is_off(
    own_server: Any, direct: Queue, crew: Any, off: float
) -> None:
    began: dict[str, float] = {}

    async def work(job: Any) -> None:
        began[job.name] = time.time()

    await crew.hire(work, url=own_server.url, concurrency=10)
    async with program(PRODUCER, own_server.url, direct, off) as producer:
        assert await producer.ends(20) == 0
        added = float(said(producer, "added"))
        delayed = ["single", "bulk", "child-of-flow", "dated"]
        await crew.ledger.until_completed(len(delayed) + 2, 10)
        for name in delayed:
            assert began[name] - added == pytest.approx(1.5, abs=0.6), name
        assert float(said(producer, "stamped")) - added == pytest.approx(0, abs=0.6)


@OFF
async def test_job_scheduler_keeps_time_although_clocks_are_off(
    own_server: Any, direct: Queue, off: float
) -> None:
    async with (
        program(WORKER, own_server.url, direct, off) as worker,
        program(SCHEDULER, own_server.url, direct, off) as scheduler,
    ):
        assert await scheduler.ends(20) == 0
        await worker.says("ready")
        ready = time.time()
        async with asyncio.timeout(10):
            events = direct.events
            seen: asyncio.Queue[Any] = asyncio.Queue()
            events.on("completed", lambda args, _: seen.put_nowait(args))
            for _ in range(8):
                await seen.get()
        assert time.time() - ready < 6
        worker.signal(signal.SIGTERM)
        assert await worker.ends(5.0) == 0
        for name in ("every", "pattern"):
            times = moments(worker, name)[1:]
            gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
            assert gaps
            assert gaps == pytest.approx([1.0] * len(gaps), abs=0.3), name
        # Whole seconds by the clock that is right.
        beside = [moment - round(moment) for moment in moments(worker, "pattern")[1:]]
        assert beside == pytest.approx([0.0] * len(beside), abs=0.3)


@OFF
async def test_looking_after_a_queue_is_by_redis_clock(
    own_server: Any, direct: Queue, crew: Any, off: float
) -> None:
    async def work(job: Any) -> None:
        if job.name == "fails":
            raise ValueError("boom")

    worker = await crew.hire(work, url=own_server.url)
    fails, done = await direct.add("fails"), await direct.add("done")
    await crew.ledger.until(lambda: crew.ledger.failed and crew.ledger.completed, 5)
    await worker.close()
    later = await direct.add("later", delay=30)
    del fails, done, later
    async with program(STEWARD, own_server.url, direct, off) as steward:
        assert await steward.ends(20) == 0
        # Slow, it would take what failed just now for the future's; fast, for older than it is,
        # and what is delayed for due.
        assert said(steward, "retried") == "0"
        assert said(steward, "cleaned") == "0"
        assert said(steward, "fetched") == "fails"


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


async def test_adding_asks_for_the_time_once(proxy: Proxy, queue_name: str) -> None:
    async with Queue(queue_name, redis=proxy.url) as queue:
        await queue.add("first", delay=10)
        asked = proxy.commands["TIME"]
        for _ in range(20):
            await queue.add("next", delay=10)
            await queue.add("now")
        assert proxy.commands["TIME"] == asked


async def test_clock_that_is_set_meanwhile_is_measured_anew(
    proxy: Proxy, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Queue(queue_name, redis=proxy.url) as queue:
        added = time.time()
        await queue.add("before", delay=10)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 60)
        job = await queue.add("after", delay=10)
        assert job.timestamp / 1000 == pytest.approx(added, abs=1)


async def test_new_connection_measures_anew(proxy: Proxy, queue_name: str) -> None:
    async with Queue(queue_name, redis=proxy.url) as queue:
        await queue.add("first", delay=10)
        asked = proxy.commands["TIME"]
        proxy.cut()
        await queue.add("after", job_id="twice-is-once")
        assert proxy.commands["TIME"] == asked + 1


async def test_delayed_job_is_added_where_the_time_is_not_told(
    proxy: Proxy, queue_name: str
) -> None:
    proxy.answer("TIME", "-NOPERM this user has no permissions to run the 'time' command", times=9)
    async with Queue(queue_name, redis=proxy.url) as queue:
        job = await queue.add("delayed", delay=10)
        assert await job.get_state() == "delayed"
