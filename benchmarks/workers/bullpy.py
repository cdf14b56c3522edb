"""bullpy as its users run it: `run(worker)`, which takes uvloop where it is installed.

`--isolation` says where the processor runs: `loop`, `thread`, `process`, or `preload`, which is
`process` with the processor's module preloaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import bullpy
from benchmarks.workers import tasks
from benchmarks.workers.common import (
    Control,
    Stopwatch,
    Task,
    add_all,
    add_in_bulk,
    lateness,
    now_ms,
    run_producer,
    say,
    say_ready,
    spread,
    task,
)
from bullpy import errors
from bullpy.running import run_async

JOB_TIMEOUT = 30.0
"""Seconds for one job of those that are waited for one by one."""

IDLE = 1.0
"""Seconds for which the event loop is probed before there are jobs."""


def main() -> None:
    todo = task()
    if todo.mode in ("add", "bulk"):
        run_producer(_produce(todo), uvloop=todo.uvloop)
        return
    if todo.mode in ("first", "crash", "lag"):
        run_producer(_measure(todo), uvloop=todo.uvloop)
        return
    workers = [_worker(todo, todo.queue) for _ in range(todo.workers)]
    if todo.mode == "latency":
        _report_starts(workers[0])
    else:
        _count_jobs(workers, todo)
    if todo.uvloop:
        bullpy.run(*workers)
    else:
        asyncio.run(run_async(*workers))


def _worker(todo: Task, queue: str, **options: Any) -> bullpy.Worker:
    return bullpy.Worker(
        queue,
        redis=todo.url,
        concurrency=todo.concurrency,
        isolation={"loop": None, "preload": "process"}.get(todo.isolation, todo.isolation),
        preload=[tasks.__name__] if todo.isolation == "preload" else None,
        **options,
    )


def _count_jobs(workers: list[bullpy.Worker], todo: Task) -> None:
    watch = Stopwatch(todo.jobs)
    control: Control | None = None

    async def process(job: bullpy.Job[Any]) -> dict[str, int]:
        return {"ok": 1}

    async def gate(worker: bullpy.Worker) -> AsyncIterator[None]:
        """Connected, but before the first fetch: a lifespan starts there."""
        nonlocal control
        if first := control is None:
            control = Control()
            control.on_report = watch.report
            await worker.whoami()
            say_ready(bullpy.__version__)
        await control.go()
        if first:
            watch.start()
        yield None

    def count(worker: bullpy.Worker) -> Awaitable[None] | None:
        watch.one_more()
        # Its share is done, the rest stays; the emitter awaits what a listener gives.
        return worker.pause(True) if watch.left == 0 and todo.mode == "share" else None

    def set_up(worker: bullpy.Worker) -> None:
        worker.processor()(process if todo.isolation == "loop" else tasks.noop)
        worker.lifespan(gate)
        worker.on("completed", lambda job, result: count(worker))

    for worker in workers:
        set_up(worker)


def _report_starts(worker: bullpy.Worker) -> None:
    @worker.processor()
    async def process(job: bullpy.Job[Any]) -> None:
        say("start", at=now_ms(), n=job.data["n"])

    @worker.on("ready")
    def ready() -> None:
        Control()
        say_ready(bullpy.__version__)


async def _measure(todo: Task) -> None:
    control = Control()
    measure = {"first": _first, "crash": _crash, "lag": _lag}[todo.mode]
    async with bullpy.Queue(todo.queue, redis=todo.url) as queue:
        await queue.whoami()
        say_ready(bullpy.__version__)
        await control.go()
        say("measured", **await measure(todo))


async def _first(todo: Task) -> dict[str, Any]:
    """Milliseconds to the first call: from the start of a worker, and from its `ready`."""
    found: dict[str, list[float]] = {"start_to_first": [], "ready_to_first": [], "warm": []}
    for n in range(todo.jobs):
        async with _Line(todo, f"{todo.queue}-start-{n}") as line:
            await line.add("entered")
            since = line.start()
            found["start_to_first"].append((await line.result() - since) * 1000)
        async with _Line(todo, f"{todo.queue}-ready-{n}") as line:
            line.start()
            await line.worker.wait_until_ready()
            for what in ("ready_to_first", "warm"):
                since = time.monotonic()
                await line.add("entered")
                found[what].append((await line.result() - since) * 1000)
    return found


async def _crash(todo: Task) -> dict[str, Any]:
    """Milliseconds from a crash, and from its job's `failed`, to the next job's call."""
    found: dict[str, list[float]] = {"crash_to_next": [], "noticed_to_next": []}
    note = todo.scratch / "crashed"
    async with _Line(todo, todo.queue) as line:
        line.start()
        await line.add("entered")
        await line.result()
        for _ in range(todo.jobs):
            await line.add("crash", file=str(note))
            await line.add("entered")
            noticed = await line.failure()
            entered = await line.result()
            found["crash_to_next"].append((entered - float(note.read_text())) * 1000)
            found["noticed_to_next"].append((entered - noticed) * 1000)
    return found


async def _lag(todo: Task) -> dict[str, Any]:
    """How late the event loop is without jobs, then while each slot keeps a core busy."""
    counts = dict.fromkeys(["completed", "failed", "stalled", "lockRenewalFailed"], 0)
    async with _Line(todo, todo.queue, lock_duration=2.0, stalled_interval=1.0) as line:

        def count(event: str) -> None:
            def one_more(*_: object) -> None:
                counts[event] += 1

            line.worker.on(event, one_more)

        for event in counts:
            count(event)
        starts: dict[str, int] = {}
        line.worker.on("active", lambda job, _: starts.update({job.id: job.attemptsStarted}))
        line.start()
        await line.worker.wait_until_ready()
        end = time.monotonic() + IDLE
        idle = await lateness(lambda: time.monotonic() > end)
        for _ in range(todo.jobs):
            await line.add("spin", seconds=todo.seconds)
        deadline = time.monotonic() + JOB_TIMEOUT + todo.jobs * todo.seconds
        busy = await lateness(
            lambda: (
                counts["completed"] + counts["failed"] >= todo.jobs or time.monotonic() > deadline
            )
        )
    return {
        "ms": spread(busy),
        "idle_ms": spread(idle),
        "events": counts,
        "each_job_once": counts["completed"] == todo.jobs and set(starts.values()) == {1},
    }


class _Line:
    """A queue, its worker, and what becomes of the jobs, one at a time."""

    def __init__(self, todo: Task, queue: str, **options: Any) -> None:
        self.worker = _worker(todo, queue, **options)
        for function in (tasks.entered, tasks.crash, tasks.spin):
            self.worker.processor(function.__name__)(function)
        self._queue = bullpy.Queue(queue, redis=todo.url)
        self._ended: asyncio.Queue[tuple[Any, BaseException | None]] = asyncio.Queue()
        self._running: asyncio.Task[None] | None = None
        self.worker.on("completed", lambda _, result: self._ended.put_nowait((result, None)))
        self.worker.on("failed", lambda _, error: self._ended.put_nowait((time.monotonic(), error)))

    async def __aenter__(self) -> _Line:
        await self._queue.whoami()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.worker.close()
        if self._running is not None:
            await self._running
        await self._queue.close()

    def start(self) -> float:
        """Run the worker; gives when."""
        since = time.monotonic()
        self._running = asyncio.create_task(self.worker.run())
        return since

    async def add(self, name: str, **data: object) -> None:
        await self._queue.add(name, data, remove_on_complete=True, remove_on_fail=True)

    async def result(self) -> Any:
        """What the next job returns; raises what it raises instead."""
        result, error = await self._next()
        if error is not None:
            raise error
        return result

    async def failure(self) -> float:
        """When the next job was found to have crashed its process."""
        noticed, error = await self._next()
        if not isinstance(error, errors.ChildCrashedError):
            raise RuntimeError(f"the job did not crash: {error!r}") from error
        return noticed

    async def _next(self) -> tuple[Any, BaseException | None]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(JOB_TIMEOUT):
                return await self._ended.get()
        raise RuntimeError(f"no job ended within {JOB_TIMEOUT:g} s")


async def _produce(todo: Task) -> None:
    control = Control()
    async with bullpy.Queue(todo.queue, redis=todo.url) as queue:
        await queue.whoami()
        say_ready(bullpy.__version__)
        await control.go()
        watch = Stopwatch(todo.jobs)
        if todo.mode == "bulk":
            await add_in_bulk(queue.add_bulk, todo.jobs, todo.concurrency, watch)
        else:
            await add_all(queue.add, todo.jobs, todo.concurrency, watch)


main()
