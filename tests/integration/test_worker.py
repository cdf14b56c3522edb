"""Worker: fetching, routing, middleware, payloads and threads."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field
from support.implementations import eventually
from support.outcomes import failure_of, result_of

from bullpy import Discard, EmbeddedServer, Job, Queue, Worker, errors

StartWorker = Callable[..., Any]


class AudioJob(BaseModel):
    file_key: str = Field(alias="fileKey")
    gain: float = 0.0


async def echo(job: Job[Any]) -> Any:
    return job.data


# -- fetching ------------------------------------------------------------------------------


async def script_calls(queue: Queue) -> int:
    stats = await queue.client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


@pytest.mark.parametrize("concurrency", [1, 10])
async def test_a_job_costs_one_script_call(own_server: EmbeddedServer, concurrency: int) -> None:
    """Finishing a job brings the next one in the same call."""
    done = asyncio.Event()
    seen: set[str] = set()

    async def process(job: Job[Any]) -> None:
        seen.add(job.id)
        if len(seen) == 300:
            done.set()

    async with Queue("q", redis=own_server.url) as queue:
        await queue.add_bulk([{"name": "n", "data": {}} for _ in range(300)])
        before = await script_calls(queue)
        options: dict[str, Any] = {"autorun": False}
        worker = Worker("q", process, options, redis=own_server.url, concurrency=concurrency)
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(10):
            await done.wait()
        await worker.close()
        await running
        calls = await script_calls(queue) - before
    # Beside the finishing calls: the first fetch per slot, the stalled check, counts.
    assert 300 <= calls <= 300 + 2 * concurrency + 5


async def test_idle_worker_with_many_slots_is_quiet(own_server: EmbeddedServer) -> None:
    """One blocking wait serves all free slots."""
    async with Queue("q", redis=own_server.url) as queue:
        options: dict[str, Any] = {"autorun": False}
        worker = Worker("q", echo, options, redis=own_server.url, concurrency=100)
        running = asyncio.create_task(worker.run())
        await worker.wait_until_ready()
        before = await script_calls(queue)
        await asyncio.sleep(1)  # being idle is what this is about
        assert await script_calls(queue) - before <= 3
        await worker.close()
        await running


async def test_concurrency_can_be_raised_while_it_runs(
    queue: Queue, start_worker: StartWorker
) -> None:
    running: set[str] = set()
    let_go = asyncio.Event()

    async def process(job: Job[Any]) -> None:
        running.add(job.id)
        await let_go.wait()

    worker = await start_worker(process)
    await queue.add_bulk([{"name": "n", "data": {}} for _ in range(3)])
    await eventually(lambda: len(running) == 1)
    worker.concurrency = 3
    await eventually(lambda: len(running) == 3)
    let_go.set()


# -- routing -------------------------------------------------------------------------------


async def test_jobs_are_routed_by_name(
    queue: Queue, start_worker: StartWorker, redis_url: str
) -> None:
    worker = Worker(queue.name, redis=redis_url)

    @worker.processor("upper")
    async def upper(job: Job[str]) -> str:
        return job.data.upper()

    @worker.processor("double")
    def double(job: Job[str]) -> str:
        return job.data * 2

    @worker.processor()
    async def other(job: Job[str]) -> str:
        return f"{job.name}: {job.data}"

    await start_worker(worker=worker)
    assert worker.job_names == ["double", "upper"]
    jobs = [await queue.add(name, "ab") for name in ("upper", "double", "else")]
    assert [await result_of(job) for job in jobs] == ["AB", "abab", "else: ab"]


async def test_unknown_name_goes_back_without_an_attempt_and_is_told_once(
    queue: Queue, start_worker: StartWorker, redis_url: str
) -> None:
    worker = Worker(queue.name, redis=redis_url)
    worker.processor("known")(echo)
    told: list[Exception] = []
    worker.on("error", told.append)
    await start_worker(worker=worker)
    unknown = [await queue.add("unknown", {}, attempts=3) for _ in range(2)]
    assert await result_of(await queue.add("known", 1)) == 1
    for job in unknown:
        await eventually(lambda job=job: job.isDelayed())
        stored = await queue.get_job(job.id)
        assert stored is not None
        assert (stored.attempts_made, stored.failed_reason) == (0, None)
    assert [type(error) for error in told] == [errors.UnknownJobNameError]
    assert "'unknown'" in str(told[0])


async def test_an_installed_plugin_processes_jobs(
    queue: Queue,
    start_worker: StartWorker,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "demo_plugin.py").write_text("async def run(job):\n    return job.data + 1\n")
    package = tmp_path / "demo_plugin-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: demo-plugin\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[bullpy.processors]\nadd-one = demo_plugin:run\n")
    monkeypatch.syspath_prepend(tmp_path)
    worker = Worker(queue.name, redis=redis_url)
    worker.add_plugin("add-one")
    with pytest.raises(errors.ProcessorError, match="add-one"):
        worker.add_plugin("not-there")
    await start_worker(worker=worker)
    assert await result_of(await queue.add("add-one", 41)) == 42
    del sys.modules["demo_plugin"]


async def test_middleware_surrounds_every_job_in_order(
    queue: Queue, start_worker: StartWorker, redis_url: str
) -> None:
    worker = Worker(queue.name, redis=redis_url)
    steps: list[str] = []

    @worker.middleware
    async def outer(call_next: Any, job: Job[Any]) -> Any:
        steps.append("outer in")
        result = await call_next(job)
        steps.append("outer out")
        return {"wrapped": result}

    @worker.middleware
    async def inner(call_next: Any, job: Job[Any]) -> Any:
        steps.append("inner")
        if job.data == "stop":
            raise Discard("not this one")
        return await call_next(job)

    @worker.processor()
    def process(job: Job[Any]) -> str:
        steps.append("processor")
        return "done"

    await start_worker(worker=worker)
    assert await result_of(await queue.add("n", 1)) == {"wrapped": "done"}
    assert steps == ["outer in", "inner", "processor", "outer out"]
    assert await failure_of(await queue.add("n", "stop", attempts=5)) == "not this one"


# -- payloads and threads --------------------------------------------------------------------


async def test_payload_arrives_as_the_annotated_model(
    queue: Queue, start_worker: StartWorker
) -> None:
    async def process(job: Job[AudioJob]) -> AudioJob:
        return AudioJob(fileKey=job.data.file_key.upper(), gain=job.data.gain + 1)

    await start_worker(process)
    job = await queue.add("n", {"fileKey": "a.wav", "gain": 0.5})
    assert await result_of(job) == {"fileKey": "A.WAV", "gain": 1.5}


async def test_payload_that_breaks_the_model_fails_at_once_and_names_the_field(
    queue: Queue, start_worker: StartWorker
) -> None:
    runs: list[str] = []

    async def process(job: Job[AudioJob]) -> None:
        runs.append(job.id)

    await start_worker(process)
    job = await queue.add("n", {"gain": "loud"}, attempts=5, backoff=60)
    reason = await failure_of(job)
    assert "fileKey" in reason
    assert "gain" in reason
    assert runs == []


async def test_def_processors_leave_the_event_loop_free(
    queue: Queue, start_worker: StartWorker
) -> None:
    """While a `def` computes or blocks, the loop answers within milliseconds."""
    threads: set[str] = set()

    def block(job: Job[Any]) -> str:
        threads.add(threading.current_thread().name)
        time.sleep(0.5)
        return "done"

    await start_worker(block, concurrency=2)
    jobs = [await queue.add("n", {}) for _ in range(2)]
    results = asyncio.gather(*(result_of(job) for job in jobs))
    longest, last = 0.0, time.monotonic()
    while not results.done():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    assert await results == ["done", "done"]
    assert longest < 0.25
    assert threading.main_thread().name not in threads


async def test_def_processors_call_job_methods_without_await(
    queue: Queue, start_worker: StartWorker
) -> None:
    def process(job: Job[Any]) -> int:
        job.update_progress({"step": 1})
        lines = job.log("first line")
        job.update_data({"changed": True})
        return lines  # type: ignore[return-value]

    await start_worker(process)
    job = await queue.add("n", {})
    assert await result_of(job) == 1
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert (stored.progress, stored.data) == ({"step": 1}, {"changed": True})
    assert await queue.get_job_logs(job.id) == ["first line"]


async def test_cancelled_job_fails_and_its_processor_hears_of_it(
    queue: Queue, start_worker: StartWorker
) -> None:
    heard: list[str] = []

    async def hang(job: Job[Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            heard.append(str(job.stop_reason))

    worker = await start_worker(hang)
    job = await queue.add("n", {})
    await eventually(lambda: worker.active_jobs)
    assert worker.cancel_job(job.id) is True
    assert worker.cancel_job("not here") is False
    assert "cancelled" in await failure_of(job)
    assert heard == ["cancelled"]


# -- schedulers ------------------------------------------------------------------------------


async def test_worker_keeps_a_job_scheduler_going(queue: Queue, start_worker: StartWorker) -> None:
    runs: asyncio.Queue[Any] = asyncio.Queue()

    async def process(job: Job[Any]) -> None:
        runs.put_nowait(job.data)

    await start_worker(process)
    await queue.upsertJobScheduler("often", {"every": 200}, "tick", {"n": 1})
    async with asyncio.timeout(4):
        assert [await runs.get() for _ in range(4)] == [{"n": 1}] * 4
    await queue.removeJobScheduler("often")


async def test_scheduler_that_cannot_go_on_is_told_and_its_job_still_runs(
    queue: Queue, start_worker: StartWorker
) -> None:
    worker = await start_worker(echo)
    told: list[Exception] = []
    worker.on("error", told.append)
    await worker.pause()
    job = await queue.upsertJobScheduler("broken", {"every": 60_000}, "tick", 7)
    assert job is not None
    # As a Node producer may have written it: a pattern that this side cannot read.
    stored = {"repeat": {"pattern": "@weekdays"}}
    await queue.client.hset(queue.toKey(job.id), "opts", json.dumps(stored))
    if await job.get_state() == "delayed":
        await job.promote()
    worker.resume()
    assert await result_of(job) == 7
    assert [type(error) for error in told] == [errors.WorkerError]
    assert "broken" in str(told[0])
    await queue.removeJobScheduler("broken")
