"""The life of a worker: start, ready, lifespan, pause, recovery, signals and exits."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.implementations import eventually
from support.outcomes import failure_of, result_of

from bullpy import EmbeddedServer, Job, Queue, Worker, errors

StartWorker = Callable[..., Any]
NO_AUTORUN: dict[str, Any] = {"autorun": False}


async def echo(job: Job[Any]) -> Any:
    return job.data


# -- start -----------------------------------------------------------------------------------


async def test_ready_comes_only_after_the_first_fetch(
    own_server: EmbeddedServer, queue_name: str
) -> None:
    own_server.stop()
    worker = Worker(queue_name, echo, NO_AUTORUN, redis=own_server.url)
    told: list[str] = []
    for event in ("ready", "error", "closed"):
        worker.on(event, lambda *args, event=event: told.append(event))
    running = asyncio.create_task(worker.run())
    await eventually(lambda: "error" in told)
    assert worker.last_fetch_age is None
    await asyncio.to_thread(own_server.start)
    async with asyncio.timeout(3):
        await worker.wait_until_ready()
    assert worker.last_fetch_age is not None
    assert told.count("ready") == 1
    await worker.close()
    await running
    assert told[-1] == "closed"


async def test_upstreams_call_shape_starts_by_itself(queue: Queue, redis_url: str) -> None:
    async def process(job: Job[Any], token: str) -> Any:
        return job.data

    worker = Worker(queue.name, process, {"connection": redis_url, "concurrency": 2})
    assert await result_of(await queue.add("n", 1)) == 1
    await worker.close()


async def test_worker_without_processor_or_that_runs_already_says_so(
    redis_url: str, queue_name: str, start_worker: StartWorker
) -> None:
    empty = Worker(queue_name, redis=redis_url)
    with pytest.raises(errors.WorkerStateError, match="no processor"):
        await empty.run()
    await empty.close()
    worker = await start_worker(echo)
    with pytest.raises(errors.WorkerStateError, match="already running"):
        await worker.run()
    await worker.close()
    with pytest.raises(errors.WorkerStateError, match="closed"):
        await worker.run()


async def test_job_of_a_dead_worker_is_recovered_at_the_start(
    queue: Queue, start_worker: StartWorker
) -> None:
    """The first stalled check comes with the start, not after a whole interval."""
    job = await queue.add("n", 1)
    await queue.client.lmove(queue.toKey("wait"), queue.toKey("active"), "RIGHT", "LEFT")
    await queue.client.sadd(queue.toKey("stalled"), job.id)
    worker = await start_worker(echo, stalled_interval=60)
    assert worker.settings.stalled_interval == 60
    assert await result_of(job, within=3) == 1


async def test_job_that_stalls_too_often_fails_and_says_so(
    queue: Queue, start_worker: StartWorker
) -> None:
    job = await queue.add("n", 1)
    await queue.client.lmove(queue.toKey("wait"), queue.toKey("active"), "RIGHT", "LEFT")
    await queue.client.hset(queue.toKey(job.id), "stc", 1)
    await queue.client.sadd(queue.toKey("stalled"), job.id)
    await start_worker(echo, stalled_interval=60, max_stalled_count=1)
    assert "stalled more than allowable limit" in await failure_of(job)


# -- lifespan --------------------------------------------------------------------------------


async def test_lifespan_surrounds_the_first_fetch_and_the_last_job(
    queue: Queue, redis_url: str
) -> None:
    worker = Worker(queue.name, redis=redis_url)
    steps: list[str] = []

    @worker.lifespan
    async def lifespan(worker: Worker) -> AsyncGenerator[dict[str, Any], None]:
        steps.append("start")
        yield {"db": "open"}
        steps.append("end")

    @worker.processor()
    async def process(job: Job[Any]) -> str:
        steps.append("job")
        return worker.state["db"]

    with pytest.raises(errors.ConfigurationError, match="lifespan"):
        worker.lifespan(lifespan)
    job = await queue.add("n", {})
    running = asyncio.create_task(worker.run())
    assert await result_of(job) == "open"
    await worker.close()
    await running
    assert steps == ["start", "job", "end"]


async def test_lifespan_that_fails_ends_the_worker_with_an_error(
    queue_name: str, redis_url: str
) -> None:
    worker = Worker(queue_name, echo, NO_AUTORUN, redis=redis_url)

    @worker.lifespan
    async def lifespan(worker: Worker) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    async with asyncio.timeout(3):
        with pytest.raises(RuntimeError, match="no database"):
            await worker.run()
        await worker.close()
    assert worker.closed


# -- pause, close ------------------------------------------------------------------------------


async def test_paused_worker_fetches_nothing_until_it_is_resumed(
    queue: Queue, start_worker: StartWorker
) -> None:
    worker = await start_worker(echo)
    told: list[str] = []
    for event in ("paused", "resumed"):
        worker.on(event, lambda event=event: told.append(event))
    await worker.pause()
    job = await queue.add("n", 1)
    other = await queue.add("n", 2)
    await asyncio.sleep(0.2)  # nothing shall happen
    assert await job.get_state() == "wait"
    worker.resume()
    assert [await result_of(job), await result_of(other)] == [1, 2]
    assert told == ["paused", "resumed"]


async def test_resumed_worker_does_not_trust_a_marker_that_its_old_wait_may_have_taken(
    queue: Queue, start_worker: StartWorker
) -> None:
    """A job added just after `pause` runs at once after `resume`, not when the next wait ends."""
    worker = await start_worker(echo)
    for number in range(20):
        await worker.pause()
        job = await queue.add("n", number)
        worker.resume()
        assert await result_of(job, within=2) == number


async def test_job_added_while_another_worker_closes_is_picked_up_at_once(
    queue: Queue, start_worker: StartWorker
) -> None:
    """The wait that closing cuts off must not take the marker away from the other workers."""
    for turns in range(4):
        # The one that has waited longest is served first.
        leaving, staying = await start_worker(echo), await start_worker(echo)
        for waiting in range(2):

            async def blocked(expected: int = waiting) -> bool:
                clients = (await queue.client.info("clients"))["blocked_clients"]
                return clients > expected

            await eventually(blocked)
        closing = asyncio.create_task(leaving.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        job = await queue.add("n", turns)
        assert await result_of(job, within=2) == turns
        await closing
        await staying.close()


async def test_close_waits_for_jobs_then_hands_back_what_does_not_end(
    queue: Queue, start_worker: StartWorker
) -> None:
    may_end = asyncio.Event()

    async def process(job: Job[Any]) -> str:
        await (may_end.wait() if job.name == "ends" else asyncio.Event().wait())
        return "done"

    worker = await start_worker(process, concurrency=2)
    ends, hangs = [await queue.add(name, {}) for name in ("ends", "hangs")]
    await eventually(lambda: len(worker.active_jobs) == 2)
    closing = asyncio.create_task(worker.close(timeout=0.3))
    may_end.set()
    async with asyncio.timeout(3):
        await closing
    assert await ends.get_state() == "completed"
    assert await hangs.get_state() == "wait"
    stored = await queue.get_job(hangs.id)
    assert stored is not None
    assert (stored.attempts_made, stored.stalled_counter) == (0, 0)


async def test_close_before_run_and_closing_twice_are_fine(queue_name: str, redis_url: str) -> None:
    worker = Worker(queue_name, echo, NO_AUTORUN, redis=redis_url)
    async with asyncio.timeout(3):
        await worker.close()
        await worker.close()
        await worker.close(force=True)
    assert worker.closed


async def test_close_is_bounded_while_redis_is_down(
    own_server: EmbeddedServer, queue_name: str
) -> None:
    async def hang(job: Job[Any]) -> None:
        await asyncio.Event().wait()

    worker = Worker(queue_name, hang, NO_AUTORUN, redis=own_server.url)
    running = asyncio.create_task(worker.run())
    async with Queue(queue_name, redis=own_server.url) as queue:
        await queue.add("n", {})
        await eventually(lambda: worker.active_jobs)
        own_server.stop()
        async with asyncio.timeout(8):
            await worker.close(timeout=0.1)
            await running


# -- listeners ---------------------------------------------------------------------------------


async def test_listeners_that_raise_hurt_neither_jobs_nor_worker(
    queue: Queue, start_worker: StartWorker
) -> None:
    async def process(job: Job[Any]) -> Any:
        await job.update_progress(1)
        if job.data == "fail":
            raise ValueError("boom")
        return job.data

    worker = await start_worker(process, lock_duration=0.4)
    heard: list[str] = []

    def broken(event: str) -> Callable[..., None]:
        def listener(*args: Any) -> None:
            heard.append(event)
            raise asyncio.CancelledError if event == "active" else RuntimeError(event)

        return listener

    for event in worker.EVENTS:
        worker.on(event, broken(event))
    assert await failure_of(await queue.add("n", "fail")) == "ValueError: boom"
    assert await result_of(await queue.add("n", 2)) == 2
    await eventually(lambda: {"active", "progress", "completed", "failed", "drained"} <= {*heard})
    await worker.close()
    assert {"closing", "closed"} <= {*heard}


async def test_events_come_with_nodes_arguments(queue: Queue, start_worker: StartWorker) -> None:
    async def process(job: Job[Any]) -> Any:
        await job.update_progress(50)
        if job.data == "fail":
            raise ValueError("boom")
        return job.data

    worker = await start_worker(process)
    heard: list[tuple[str, Any]] = []
    worker.on("active", lambda job, before: heard.append(("active", before)))
    worker.on("progress", lambda job, progress: heard.append(("progress", progress)))
    worker.on("completed", lambda job, result: heard.append(("completed", result)))
    worker.on("failed", lambda job, error: heard.append(("failed", str(error))))
    await result_of(await queue.add("n", 1))
    await failure_of(await queue.add("n", "fail"))
    await eventually(lambda: len(heard) == 6)
    assert heard == [
        ("active", "waiting"),
        ("progress", 50),
        ("completed", 1),
        ("active", "waiting"),
        ("progress", 50),
        ("failed", "boom"),
    ]


def test_misspelt_event_names_are_refused(redis_url: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="compleeted"):
        Worker("q", echo, NO_AUTORUN, redis=redis_url).on("compleeted", print)


# -- the process -------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys
from bullpy import Worker, run

worker = Worker(sys.argv[2], redis=sys.argv[1], concurrency=2, shutdown_timeout=10)
exiting = asyncio.Event()

@worker.processor("neighbour")
async def neighbour(job):
    print("neighbour started", flush=True)
    await exiting.wait()
    await asyncio.sleep(0.2)
    return "finished"

@worker.processor("exit")
async def leave(job):
    exiting.set()
    raise {exit}

@worker.processor("wait for the signal")
async def last(job):
    print("last started", flush=True)
    await asyncio.sleep(0.7)
    return "drained"

@worker.on("ready")
def ready():
    print("ready", flush=True)

run(worker)
"""


def start_program(
    tmp_path: Path, url: str, queue_name: str, leave: str = "SystemExit"
) -> subprocess.Popen[str]:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM).replace("{exit}", leave))
    return subprocess.Popen(
        [sys.executable, str(program), url, queue_name],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
    )


async def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(15):
        return (await asyncio.to_thread(process.stdout.readline)).strip()


async def exit_code_of(process: subprocess.Popen[str]) -> int:
    try:
        return await asyncio.to_thread(process.wait, 15)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize(
    ("leave", "code"), [("SystemExit(3)", 3), ("KeyboardInterrupt()", 130), ("SystemExit()", 0)]
)
async def test_exit_in_a_processor_drains_the_worker_then_ends_the_process(
    queue: Queue, redis_url: str, tmp_path: Path, leave: str, code: int
) -> None:
    """Neighbours finish, and the job that asked for it fails instead of looping."""
    process = start_program(tmp_path, redis_url, queue.name, leave)
    assert await line_of(process) == "ready"
    neighbour = await queue.add("neighbour", {})
    assert await line_of(process) == "neighbour started"
    leaving = await queue.add("exit", {})
    assert await exit_code_of(process) == code
    assert await neighbour.get_state() == "completed"
    assert await leaving.get_state() == "failed"
    assert leave.split("(", maxsplit=1)[0] in await failure_of(leaving)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_drain_the_worker_and_end_with_zero(
    queue: Queue, redis_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    process = start_program(tmp_path, redis_url, queue.name)
    assert await line_of(process) == "ready"
    job = await queue.add("wait for the signal", {})
    assert await line_of(process) == "last started"
    process.send_signal(number)
    assert await exit_code_of(process) == 0
    assert await result_of(job) == "drained"


async def test_listener_may_close_the_worker(redis_url: str, queue_name: str, queue: Queue) -> None:
    async def process(job: Job[Any]) -> None:
        return None

    worker = Worker(queue_name, process, {"autorun": False}, redis=redis_url)

    @worker.on("completed")
    async def completed(*_: object) -> None:
        await worker.close()

    await queue.add("any")
    async with asyncio.timeout(10):
        await worker.run()
    assert worker.closed


async def test_pause_before_the_start_holds(queue: Queue, redis_url: str) -> None:
    ran: list[str] = []

    async def process(job: Any) -> None:
        ran.append(job.id)

    async with Worker(queue.name, process, {"autorun": False}, redis=redis_url) as worker:
        await worker.pause()
        job = await queue.add("n")
        task = asyncio.create_task(worker.run())
        worker_resumed = asyncio.get_running_loop().create_future()
        worker.on("resumed", lambda: worker_resumed.set_result(list(ran)))
        with pytest.raises(TimeoutError):
            await job.wait_until_finished(0.5)
        worker.resume()
        assert await worker_resumed == []
        await job.wait_until_finished(5)
    await task


async def test_run_cancelled_twice_leaves_no_thread_behind(queue: Queue, redis_url: str) -> None:
    release = asyncio.Event()

    async def process(_job: Any) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    worker = Worker(queue.name, process, {"autorun": False}, redis=redis_url)
    task = asyncio.create_task(worker.run())
    await queue.add("n")
    async with asyncio.timeout(5):
        while not worker.active_jobs:
            await worker.wait_until_ready()
            await asyncio.wait({task}, timeout=0.02)
    task.cancel()
    await asyncio.wait({task}, timeout=0.1)
    task.cancel()
    await asyncio.wait({task}, timeout=10)
    assert task.cancelled()
    assert not [thread for thread in threading.enumerate() if thread.name == "bullpy-locks"]
    release.set()
