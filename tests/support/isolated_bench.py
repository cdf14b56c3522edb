"""Runs processors in child processes, and looks at the processes from outside."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from support import isolated
from support.faults import Ledger, eventually

from bullpy import Job, Queue, Worker, WorkerSettings

SIBLINGS = 2
LATER = 3
LONGEST_LAG = 0.25
"""Seconds that the loop may be late: a bound against blocking, not a measure of speed."""


class Seen(NamedTuple):
    """A process as /proc shows it."""

    pid: int
    parent: int
    state: str
    command: str


def processes() -> dict[int, Seen]:
    """All processes of this machine."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            text = (folder / "stat").read_text(errors="replace")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        state, parent = text[text.rindex(")") + 2 :].split()[:2]
        pid = int(folder.name)
        found[pid] = Seen(pid, int(parent), state, command.decode(errors="replace").strip())
    return found


def below(root: int) -> list[Seen]:
    """All descendants of a process, zombies too."""
    everything = processes()
    wanted, found = {root}, []
    grown = True
    while grown:
        grown = False
        for seen in everything.values():
            if seen.parent in wanted and seen.pid not in wanted:
                wanted.add(seen.pid)
                found.append(seen)
                grown = True
    return found


def is_gone(pid: int) -> bool:
    """Whether a process runs no more. Init may be slow to collect what was orphaned."""
    seen = processes().get(pid)
    return seen is None or (seen.state == "Z" and seen.parent == 1)


def has_ended(pid: int) -> bool:
    """The same for what must be gone by now; it is gone afterwards in any case."""
    if is_gone(pid):
        return True
    os.kill(pid, signal.SIGKILL)
    return False


def open_descriptors() -> list[str]:
    """What this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return sorted(found)


def resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE")


@contextlib.asynccontextmanager
async def loop_lag() -> AsyncIterator[Callable[[], float]]:
    """Measures how late the loop calls what is due; gives the worst, in seconds.

    Only as far as this process was at work meanwhile, the other threads included: that a busy
    machine gave it no time says nothing about it.
    """
    loop = asyncio.get_running_loop()
    worst, due, handle, used = 0.0, loop.time(), None, time.process_time()

    def tick() -> None:
        nonlocal worst, due, handle, used
        worst = max(worst, min(loop.time() - due, time.process_time() - used))
        due, used = loop.time() + 0.01, time.process_time()
        handle = loop.call_at(due, tick)

    tick()
    try:
        yield lambda: worst
    finally:
        if handle is not None:
            handle.cancel()


@contextlib.contextmanager
def records(name: str) -> Iterator[list[logging.LogRecord]]:
    """What is logged to that logger and those below it."""
    kept: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record)

    logger, handler = logging.getLogger(name), Keep()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield kept
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class Stored(NamedTuple):
    """How a job ended, as Redis has it."""

    job: Job[Any]
    reason: str
    trace: str
    log: str


class Bench:
    """Workers with processors in child processes, on one queue.

    Attributes:
        ledger: What the workers' events said.
        queue: The queue.
    """

    def __init__(self, redis_url: str, queue: Queue, folder: Path) -> None:
        self.ledger = Ledger()
        self.queue = queue
        self._redis_url = redis_url
        self._gate = folder / "gate"
        self._gate.touch()
        self._hired: list[tuple[Worker, asyncio.Task[None]]] = []
        self._before = {seen.pid for seen in below(os.getpid())}
        self._ran: list[tuple[Job[Any], Any]] = []
        self._progress: dict[str, asyncio.Future[Any]] = {}

    async def hire(
        self,
        bad: Callable[..., Any] | None = None,
        *,
        ready: bool = True,
        limits: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Worker:
        """Start a worker with that processor for jobs named `bad`, and good ones.

        Args:
            bad: The processor.
            ready: Whether to wait until the worker is ready.
            limits: The keywords of `worker.processor` for it.
            settings: Those of `WorkerSettings`; and further processors, by job name.
        """
        others = {name: value for name, value in settings.items() if callable(value)}
        settings = {name: value for name, value in settings.items() if name not in others}
        settings = {"concurrency": SIBLINGS + 1, "stop_grace": 0.4, **settings}
        worker = Worker(self.queue.name, redis=self._redis_url, settings=WorkerSettings(**settings))
        if bad is not None:
            worker.processor("bad", **(limits or {}))(bad)
        for name, processor in others.items():
            worker.processor(name)(processor)
        worker.processor("gated")(isolated.gated)
        worker.processor("pid")(isolated.pid)
        worker.processor()(isolated.good)
        worker.on("progress", self._on_progress)
        self.ledger.watch(worker)
        task = asyncio.create_task(worker.run())
        self._hired.append((worker, task))
        if ready:
            async with asyncio.timeout(15):
                await worker.wait_until_ready()
        return worker

    @property
    def worker(self) -> Worker:
        """The worker that was hired first."""
        return self._hired[0][0]

    @property
    def runs(self) -> list[asyncio.Task[None]]:
        """The tasks of the workers' `run()`."""
        return [task for _, task in self._hired]

    async def progress_of(self, job_id: str, timeout: float = 15.0) -> Any:
        """Wait for the first progress that a job tells."""
        async with asyncio.timeout(timeout):
            return await self._first_progress(job_id)

    async def ends(self, job: Job[Any], timeout: float = 20.0) -> Stored:
        """Wait until the job is completed or failed for good."""

        async def ended() -> bool:
            return await self.queue.get_job_state(job.id) in ("completed", "failed")

        await eventually(ended, timeout)
        return await self.stored(job)

    async def stored(self, job: Job[Any]) -> Stored:
        found = await self.queue.get_job(job.id)
        assert found is not None
        log = "\n".join(await self.queue.get_job_logs(job.id))
        return Stored(found, found.failed_reason or "", "\n".join(found.stacktrace), log)

    async def fails(self, job: Job[Any], timeout: float = 20.0) -> Stored:
        """Wait until the job has failed for good."""
        stored = await self.ends(job, timeout)
        assert await stored.job.get_state() == "failed", stored.job.returnvalue
        return stored

    async def completes(self, job: Job[Any], timeout: float = 20.0) -> Any:
        """Wait until the job is completed; gives its result."""
        stored = await self.ends(job, timeout)
        assert await stored.job.get_state() == "completed", stored.reason
        return stored.job.returnvalue

    @contextlib.asynccontextmanager
    async def siblings(self) -> AsyncIterator[None]:
        """While jobs run in the same worker; they must not notice what happens beside them."""
        with self._gate.open() as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            jobs = [
                await self.queue.add("gated", {"gate": str(self._gate), "number": number})
                for number in range(SIBLINGS)
            ]
            for job in jobs:
                assert await self.progress_of(job.id) == "running"
            yield
            for job in jobs:
                assert await self.queue.get_job_state(job.id) == "active"
        self._ran += [(job, number) for number, job in enumerate(jobs)]

    async def ordeal(self, data: Any = None, *, timeout: float = 20.0, **options: Any) -> Stored:
        """Run a bad job beside others, and others after it; gives how the bad one ended."""
        async with self.siblings():
            bad = await self.queue.add("bad", data, **options)
            ended = await self.ends(bad, timeout)
        await self.others_complete()
        return ended

    async def others_complete(self) -> None:
        """The siblings, and some later jobs, complete, each exactly once."""
        self._ran += [
            (await self.queue.add("later", {"number": number}), {"number": number})
            for number in range(LATER)
        ]
        for job, expected in self._ran:
            assert await self.completes(job) == expected
            stored = await self.stored(job)
            assert stored.log == "ran"
            assert stored.job.attempts_started == 1
            await self.ledger.until(lambda job=job: self.ledger.completed[job.id], 5.0)
            assert self.ledger.completed[job.id] == 1
            assert job.id not in self.ledger.failed
        assert not self.ledger.stalled
        assert not any(task.done() for task in self.runs)
        await self.only_children_are_left()

    def children(self) -> list[Seen]:
        """What the worker has started, directly or not, that is not yet collected."""
        return [seen for seen in below(os.getpid()) if seen.pid not in self._before]

    async def only_children_are_left(self) -> None:
        """Nothing is left but children that wait for a job, one per slot at most."""
        most = sum(worker.concurrency for worker, _ in self._hired)

        async def tidy() -> bool:
            found = self.children()
            running = {seen.pid for seen in found if seen.state != "Z"}
            # What a processor forked and does not wait for is a zombie as long as its child lives.
            found = [seen for seen in found if seen.pid in running or seen.parent not in running]
            # It belongs to `multiprocessing` in a child, and ends with that child.
            found = [seen for seen in found if "resource_tracker" not in seen.command]
            servers = [seen for seen in found if "executors.forking" in seen.command]
            return len(found) <= most + len(servers) and all(
                seen.state != "Z" and "bullpy.executors." in seen.command for seen in found
            )

        try:
            await eventually(tidy, 5.0)
        except AssertionError:
            raise AssertionError(f"left behind: {self.children()}") from None

    async def close(self) -> None:
        """Close the workers; nothing that they started is left."""
        for worker, task in self._hired:
            await worker.close(timeout=3)
            await asyncio.gather(task, return_exceptions=True)

        async def nothing() -> bool:
            return not self.children()

        if not self._hired:
            return
        try:
            await eventually(nothing, 5.0)
        except AssertionError:
            left = self.children()
            for seen in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(seen.pid, signal.SIGKILL)
            raise AssertionError(f"left behind: {left}") from None

    def _first_progress(self, job_id: str) -> asyncio.Future[Any]:
        if job_id not in self._progress:
            self._progress[job_id] = asyncio.get_running_loop().create_future()
        return self._progress[job_id]

    def _on_progress(self, job: Job[Any], progress: object) -> None:
        first = self._first_progress(job.id)
        if not first.done():
            first.set_result(progress)
