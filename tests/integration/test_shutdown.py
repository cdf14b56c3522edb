"""A worker process is told to end: its jobs, its exit code, and how long it takes."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest
from support.faults import Ledger, Program, eventually

from bullpy import Queue, Worker

WORKER = """
import asyncio, logging, os, threading, time
from bullpy import Worker, run

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
worker = Worker(
    os.environ["QUEUE"],
    redis=os.environ["REDIS"],
    concurrency=int(os.environ.get("CONCURRENCY", "2")),
    lock_duration=float(os.environ.get("LOCK", "30")),
    shutdown_timeout=float(os.environ.get("GRACE", "25")),
)

def say(*words):
    # In one write: jobs in threads speak at the same time.
    os.write(1, (" ".join(words) + "\\n").encode())

@worker.processor("work")
async def work(job):
    say("began", job.id)
    await asyncio.sleep(job.data)
    say("ended", job.id)
    return "done"

@worker.processor("tidy")
async def tidy(job):
    say("began", job.id)
    try:
        await asyncio.sleep(job.data)
    finally:
        await asyncio.sleep(0.1)
        say("tidied", job.id)

@worker.processor("deaf")
async def deaf(job):
    say("began", job.id)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            print("ignored", flush=True)

@worker.processor("hang", isolation="thread")
def hang(job):
    say("began", job.id)
    threading.Event().wait()

@worker.processor("hang-elsewhere")
async def hang_elsewhere(job):
    say("began", job.id)
    await asyncio.to_thread(threading.Event().wait)

@worker.processor("exit")
async def leave(job):
    raise SystemExit(7)

@worker.lifespan
async def lifespan(_):
    yield {}
    print("lifespan ended", flush=True)

worker.on("ready", lambda: print("ready", flush=True))
run(worker)
"""


@pytest.fixture
def program(redis_url: str, queue_name: str) -> Any:
    def make(**environment: str) -> Program:
        return Program(WORKER, QUEUE=queue_name, REDIS=redis_url, **environment)

    return make


async def began(program: Program, count: int) -> None:
    async def enough() -> bool:
        return sum(line.startswith("began") for line in program.lines) >= count

    try:
        await eventually(enough, 10.0)
    except AssertionError:
        raise AssertionError(f"not {count} jobs began:\n{program.output}") from None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_drains_and_exits_with_zero(
    queue: Queue, program: Any, number: signal.Signals
) -> None:
    async with program() as running:
        await running.says("ready")
        jobs = await queue.add_bulk([{"name": "work", "data": 1.0} for _ in range(5)])
        await began(running, 2)
        running.signal(number)
        assert await running.ends(6.0) == 0
        await running.says("lifespan ended", 1.0)
    states = [await job.get_state() for job in jobs]
    # Two ran and were finished; the others were never touched.
    assert sorted(states) == ["completed"] * 2 + ["wait"] * 3
    assert (await queue.get_job_counts())["active"] == 0


async def test_idle_worker_ends_at_once(queue: Queue, program: Any) -> None:
    async with program() as running:
        await running.says("ready")
        running.signal(signal.SIGTERM)
        assert await running.ends(1.5) == 0


async def test_locks_are_renewed_while_draining(
    queue: Queue, program: Any, start_worker: Any
) -> None:
    # Upstream lost the lock of a 12 s job (lock 5 s) 4 s after SIGTERM. Here: 4 s, lock 1 s.
    async with program(LOCK="1", CONCURRENCY="3") as running:
        await running.says("ready")
        jobs = await queue.add_bulk([{"name": "work", "data": 4.0} for _ in range(2)])
        await began(running, 2)
        ledger = Ledger()
        other = Worker(
            queue.name,
            ledger.processor(),
            redis=queue.redisConnection.settings,
            stalled_interval=0.25,
        )
        ledger.watch(other)
        await start_worker(worker=other)
        running.signal(signal.SIGTERM)
        assert await running.ends(8.0) == 0
        assert sum(line.startswith("ended") for line in running.lines) == 2
    assert not ledger.started
    assert not ledger.stalled
    assert [await job.get_state() for job in jobs] == ["completed"] * 2


async def test_unfinished_jobs_are_handed_back_at_the_front_without_using_an_attempt(
    queue: Queue, program: Any
) -> None:
    async with program(GRACE="0.5") as running:
        await running.says("ready")
        held = await queue.add_bulk(
            [{"name": "tidy", "data": 60, "opts": {"attempts": 1}} for _ in range(2)]
        )
        await began(running, 2)
        waiting = await queue.add("work", 0)
        stopped = time.monotonic()
        running.signal(signal.SIGTERM)
        assert await running.ends(5.0) == 0
        # Required: the grace, a second for `finally` blocks, and the process's own end.
        assert time.monotonic() - stopped < 0.5 + 1 + 1.5
        assert sum(line.startswith("tidied") for line in running.lines) == 2
        told = await running.says("handed back", 1.0)
        assert all(job.id in told for job in held)
    order = [job.id for job in await queue.get_jobs(["wait"], ascending=True)]
    assert set(order[:2]) == {job.id for job in held}
    assert order[2:] == [waiting.id]
    for job in held:
        stored = await queue.get_job(job.id)
        assert stored is not None
        assert stored.attempts_made == 0
        assert stored.stalled_counter == 0
        assert not await queue.client.exists(f"bull:{queue.name}:{job.id}:lock")


async def test_second_signal_hands_jobs_back_at_once(queue: Queue, program: Any) -> None:
    async with program(GRACE="60") as running:
        await running.says("ready")
        job = await queue.add("work", 60)
        await began(running, 1)
        running.signal(signal.SIGTERM)
        await running.says("SIGTERM: stop fetching")
        running.signal(signal.SIGTERM)
        assert await running.ends(3.0) == 0
    assert await job.get_state() == "wait"


@pytest.mark.parametrize("name", ["deaf", "hang", "hang-elsewhere"])
async def test_processor_that_will_not_end_cannot_hold_the_process(
    queue: Queue, program: Any, name: str
) -> None:
    async with program(GRACE="0.3") as running:
        await running.says("ready")
        job = await queue.add(name)
        good = await queue.add("work", 0.1)
        await began(running, 2)
        running.signal(signal.SIGTERM)
        # The grace, a second for `finally` blocks, and 5 s for the loop to close.
        assert await running.ends(0.3 + 1 + 5 + 2) == 0
        await running.says("lifespan ended", 1.0)
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert await stored.get_state() == "wait"
    assert stored.attempts_made == 0
    assert await good.get_state() == "completed"


async def test_exit_code_of_a_processor_is_the_processs(queue: Queue, program: Any) -> None:
    async with program() as running:
        await running.says("ready")
        await queue.add("exit")
        assert await running.ends(5.0) == 7


async def test_close_waits_for_the_jobs_of_a_worker_in_this_process(
    queue: Queue, start_worker: Any
) -> None:
    ledger = Ledger()
    worker = await start_worker(ledger.processor(0.5), concurrency=3)
    ledger.watch(worker)
    await queue.add_bulk([{"name": "job", "data": number} for number in range(3)])
    await ledger.until(lambda: len(ledger.started) == 3, 3.0)
    await worker.close()
    assert len(ledger.ended) == len(ledger.completed) == 3
    assert (await queue.get_job_counts())["active"] == 0


async def test_close_racing_with_fetches_leaves_no_job_active(
    queue: Queue, start_worker: Any
) -> None:
    for _ in range(10):
        ledger = Ledger()
        worker = await start_worker(ledger.processor(0.001), concurrency=4)
        jobs = await queue.add_bulk([{"name": "job", "data": number} for number in range(60)])
        await ledger.until(lambda seen=ledger: len(seen.ended) > 20, 5.0)
        await worker.close()
        counts = await queue.get_job_counts()
        assert counts["active"] == 0
        assert counts["failed"] == 0
        assert ledger.started == ledger.ended
        await queue.drain()
        del jobs
