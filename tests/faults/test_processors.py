"""Whatever a processor or a listener does, the worker and the other jobs go on."""

from __future__ import annotations

import asyncio
import datetime
import json
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from support.faults import Program, eventually

from bullpy import Job, Queue, Worker
from bullpy.engine.slots import Slots


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


async def cancelled_child() -> None:
    task = asyncio.create_task(asyncio.sleep(10))
    task.cancel()
    await task


async def timed_out() -> None:
    async with asyncio.timeout(0.01):
        await asyncio.sleep(10)


def raising(error: BaseException | type[BaseException]) -> Callable[[], Any]:
    async def act() -> None:
        raise error

    return act


BAD = {
    "CancelledError": (raising(asyncio.CancelledError), "CancelledError"),
    "cancelled child": (cancelled_child, "CancelledError"),
    "GeneratorExit": (raising(GeneratorExit), "GeneratorExit"),
    "TimeoutError": (timed_out, "TimeoutError"),
    "StopAsyncIteration": (raising(StopAsyncIteration()), "Stop"),
    "RecursionError": (raising(RecursionError("deep")), "RecursionError: deep"),
    "group": (raising(BaseExceptionGroup("g", [KeyboardInterrupt()])), "BaseExceptionGroup"),
    "ConnectionError": (raising(ConnectionError()), "ConnectionError"),
    "unprintable": (raising(UnprintableError()), "Unprintable"),
    "undecodable": (raising(ValueError("\ud800 \x00 broken")), "broken"),
    "empty": (raising(Exception()), "Exception"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("attempts", [1, 2])
async def test_bad_exception_fails_that_job_alone(
    direct: Queue, crew: Any, name: str, attempts: int
) -> None:
    act, reason = BAD[name]

    async def work(job: Any) -> None:
        if job.data == "bad":
            await act()
        await asyncio.sleep(0.02)

    await crew.hire(work, concurrency=3)
    bad = await direct.add("job", "bad", attempts=attempts)
    await direct.add_bulk([{"name": "job", "data": number} for number in range(12)])
    # Upstream: the whole worker was dead, and 0 of 13 jobs were done.
    await crew.ledger.until(lambda: len(crew.ledger.failed.get(bad.id, [])) == attempts, 3.0)
    await crew.ledger.until_completed(12, 3.0)
    stored = await direct.get_job(bad.id)
    assert stored is not None
    assert await stored.get_state() == "failed"
    assert reason in (stored.failed_reason or "")
    assert crew.ledger.started[bad.id] == attempts == stored.attempts_made
    assert not crew.runs[0].done()


@pytest.mark.parametrize(
    ("error", "code"), [(SystemExit(3), 3), (SystemExit(), 0), (KeyboardInterrupt(), 130)]
)
async def test_exit_from_a_processor_drains_and_ends_the_worker(
    direct: Queue, crew: Any, error: BaseException, code: int
) -> None:
    async def work(job: Any) -> None:
        if job.data == "exit":
            raise error
        await asyncio.sleep(0.5)

    worker = await crew.hire(work, concurrency=3)
    neighbours = await direct.add_bulk([{"name": "job", "data": 1}, {"name": "job", "data": 2}])
    await crew.ledger.until(lambda: len(crew.ledger.started) == 2, 2.0)
    bad = await direct.add("job", "exit")
    await asyncio.wait_for(asyncio.wait(crew.runs), 4.0)
    assert worker.exit_code == code
    for job in neighbours:
        assert crew.ledger.completed[job.id] == 1
    stored = await direct.get_job(bad.id)
    assert stored is not None
    # Not left active: it would end the next worker after the stall.
    assert await stored.get_state() == "failed"


async def test_job_cancelled_before_its_first_step_is_failed_and_frees_its_slot(
    direct: Queue, crew: Any
) -> None:
    loop = asyncio.get_running_loop()
    worker = await crew.hire()
    worker.once("active", lambda job, *_: loop.call_soon(worker.cancel_job, job.id))
    bad = await direct.add("job", 1)
    await crew.ledger.until(lambda: bad.id in crew.ledger.failed, 2.0)
    worker.once("active", lambda job, *_: worker.cancel_job(job.id))
    at_once = await direct.add("job", 2)
    await crew.ledger.until(lambda: at_once.id in crew.ledger.failed, 2.0)
    good = await direct.add("job", 3)
    await crew.ledger.until(lambda: crew.ledger.completed[good.id], 2.0)
    assert not crew.ledger.started[bad.id]


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError])
@pytest.mark.parametrize("is_async", [True, False])
async def test_listeners_that_raise_change_nothing(
    direct: Queue, crew: Any, kind: type[BaseException], is_async: bool
) -> None:
    # Upstream: `active` made every job stall for ever, `error` ended the worker.
    def raises(*_: object) -> None:
        raise kind("listener")

    async def raises_later(*_: object) -> None:
        raise kind("listener")

    async def work(job: Any) -> None:
        await job.update_progress(1)
        await asyncio.sleep(0.8 if job.data == "long" else 0.01)
        if job.data == "bad":
            raise ValueError("bad")

    worker = await crew.hire(work, concurrency=3, lock_duration=0.5, stalled_interval=0.2)
    for event in Worker.EVENTS:
        worker.on(event, raises_later if is_async else raises)
    await direct.add_bulk([{"name": "job", "data": number} for number in range(15)])
    await direct.add("job", "bad")
    await direct.add("job", "long")
    worker.report(RuntimeError("told to listeners"))
    await crew.ledger.until_completed(16, 4.0)
    await crew.ledger.until(lambda: crew.ledger.failed, 2.0)
    counts = await direct.get_job_counts()
    assert counts["completed"] == 16
    assert counts["failed"] == 1
    assert set(crew.ledger.started.values()) == {1}
    assert not crew.ledger.stalled


BLOCKS = """
import asyncio, logging, os, time
from bullpy import Worker, run

concurrency = int(os.environ["CONCURRENCY"])
worker = Worker(
    os.environ["QUEUE"],
    redis=os.environ["REDIS"],
    concurrency=concurrency,
    lock_duration=1.0,
    stalled_interval=0.25,
)

@worker.processor(isolation="loop")
async def process(job):
    print("began", job.id, flush=True)
    ends = time.monotonic() + 3
    if job.data == "sleep":
        time.sleep(3)
    while time.monotonic() < ends:
        sum(range(1000))
    print("ended", job.id, flush=True)
    return job.id

worker.on("ready", lambda: print("ready", flush=True))
worker.on("completed", lambda job, result: print("completed", job.id, flush=True))
run(worker)
"""


@pytest.mark.parametrize("how", ["sleep", "compute"])
async def test_processor_that_blocks_the_loop_keeps_its_job(
    own_server: Any, direct: Queue, crew: Any, queue_name: str, how: str
) -> None:
    # Lock 1 s, loop blocked for 3 s. Upstream: the job ran twice, and failed.
    environment = {"QUEUE": queue_name, "REDIS": own_server.url, "CONCURRENCY": "1"}
    async with Program(BLOCKS, **environment) as program:
        await program.says("ready")
        job = await direct.add("job", how)
        await program.says("began")
        # A second worker would take what stalls.
        await crew.hire(url=own_server.url, stalled_interval=0.25)
        await program.says(f"completed {job.id}", 6.0)
        assert not crew.ledger.started
        assert not crew.ledger.stalled
        program.signal(signal.SIGTERM)
        assert await program.ends(5.0) == 0


async def test_job_whose_fetch_the_blocked_loop_read_too_late_runs_once(
    own_server: Any, direct: Queue, crew: Any, queue_name: str
) -> None:
    # The first job blocks the loop while the second is being fetched: the second's lock runs
    # out before the worker knows of the job, and another worker takes it over.
    environment = {"QUEUE": queue_name, "REDIS": own_server.url, "CONCURRENCY": "2"}
    async with Program(BLOCKS, **environment) as program:
        await program.says("ready")
        jobs = await direct.add_bulk([{"name": "job", "data": "sleep"} for _ in range(2)])
        await program.says("began")
        await crew.hire(url=own_server.url, stalled_interval=0.25)

        async def all_done() -> bool:
            return (await direct.get_job_counts())["completed"] == 2

        await eventually(all_done, 10.0)
        executions = [line for line in program.lines if line.startswith("began")]
        assert len(executions) + sum(crew.ledger.started.values()) == len(jobs)
        program.signal(signal.SIGTERM)
        assert await program.ends(5.0) == 0


async def test_lock_is_renewed_from_the_fetch_on_although_the_loop_is_blocked_before_the_start(
    own_server: Any, direct: Queue, crew: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between the reply of the fetch and the first step of the job, another callback blocks.
    held: list[bool] = []
    start = Slots._start

    def then_block(slots: Slots, job: Job[Any]) -> None:
        start(slots, job)
        time.sleep(1.0)
        with Redis.from_url(own_server.url, decode_responses=True) as client:
            held.append(client.get(f"{direct.qualifiedName}:{job.id}:lock") == job.token)

    monkeypatch.setattr(Slots, "_start", then_block)
    await crew.hire(url=own_server.url, lock_duration=0.5, stalled_interval=30.0)
    job = await direct.add("job", 1)
    await crew.ledger.until_completed(1, 5.0)
    assert held == [True]
    assert crew.ledger.started == {job.id: 1}


async def test_job_whose_data_is_no_json_fails_at_once_without_running(
    direct: Queue, crew: Any
) -> None:
    worker = await crew.hire(stalled_interval=0.3)
    await worker.pause()
    broken = [await direct.add("job", 1, attempts=3) for _ in range(2)]
    keys = [f"bull:{direct.name}:{job.id}" for job in broken]
    await direct.client.hset(keys[0], "data", "{broken")
    await direct.client.hset(keys[1], "opts", "{broken")
    ghost = await direct.add("job", 2)
    await direct.client.delete(f"bull:{direct.name}:{ghost.id}")
    good = await direct.add("job", 3)
    worker.resume()
    await crew.ledger.until(lambda: crew.ledger.completed[good.id], 2.0)
    await crew.ledger.until(lambda: set(crew.ledger.failed) >= {job.id for job in broken}, 2.0)
    assert set(crew.ledger.started) == {good.id}
    for key in keys:
        reason = await direct.client.hget(key, "failedReason")
        assert "JSON" in str(reason)
    counts = await direct.get_job_counts()
    assert counts["failed"] == 2
    assert counts["active"] == counts["waiting"] == 0


class Strange:
    pass


@pytest.mark.parametrize(
    "result", [Strange(), {1, Strange()}, {("a", 1): 1}, b"\xff\xfe"], ids=repr
)
async def test_result_without_json_form_is_never_run_again(
    direct: Queue, crew: Any, result: object
) -> None:
    async def work(_: Any) -> object:
        return result

    await crew.hire(work)
    job = await direct.add("job", 1, attempts=3)
    await crew.ledger.until(lambda: crew.ledger.failed or crew.ledger.completed, 2.0)
    stored = await direct.get_job(job.id)
    assert stored is not None
    assert crew.ledger.started[job.id] == 1
    state = await stored.get_state()
    assert state in ("failed", "completed")
    if state == "failed":
        assert "JSON" in (stored.failed_reason or "")


@pytest.mark.parametrize(
    "result",
    [0, None, "\ud800", float("nan"), datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC), 2**70],
    ids=repr,
)
async def test_odd_result_is_stored_as_json(direct: Queue, crew: Any, result: object) -> None:
    async def work(_: Any) -> object:
        return result

    await crew.hire(work)
    job = await direct.add("job", 1, attempts=3)
    await crew.ledger.until(lambda: crew.ledger.failed or crew.ledger.completed, 2.0)
    assert crew.ledger.started[job.id] == 1
    stored = await direct.client.hget(f"bull:{direct.name}:{job.id}", "returnvalue")
    if stored is not None:
        json.loads(stored)


async def test_huge_error_message_is_cut(direct: Queue, crew: Any) -> None:
    async def work(_: Any) -> None:
        raise ValueError("x" * 10_000_000)

    await crew.hire(work)
    before = (await direct.client.info("memory"))["used_memory"]
    job = await direct.add("job", 1, attempts=3)
    await crew.ledger.until(lambda: len(crew.ledger.failed.get(job.id, [])) == 3, 10.0)
    stored = await direct.get_job(job.id)
    assert stored is not None
    assert len(stored.failed_reason or "") <= 16384
    assert (stored.failed_reason or "").startswith("ValueError: xxx")
    assert sum(len(trace) for trace in stored.stacktrace) <= 3 * 32768
    after = (await direct.client.info("memory"))["used_memory"]
    assert after - before < 2_000_000  # upstream: 104 MB


async def test_hanging_thread_leaves_its_neighbours_alone(
    own_server: Any, direct: Queue, queue_name: str, crew: Any
) -> None:
    import threading

    release = threading.Event()
    worker = Worker(queue_name, redis=own_server.url, concurrency=3, lock_duration=1.0)
    crew.ledger.watch(worker)

    @worker.processor("hang")
    def hang(_: Any) -> None:
        release.wait(20)

    @worker.processor()
    def quick(job: Any) -> Any:
        return job.data

    task = asyncio.create_task(worker.run())
    try:
        await direct.add("hang")
        began = time.monotonic()
        await direct.add_bulk([{"name": "job", "data": number} for number in range(20)])
        await crew.ledger.until_completed(20, 5.0)

        async def older_than_its_lock() -> bool:
            return time.monotonic() - began > 1.5

        await eventually(older_than_its_lock, 3.0)
        assert len(worker.active_jobs) == 1
        assert not crew.ledger.stalled
    finally:
        release.set()
        await worker.close(timeout=3)
        await task
