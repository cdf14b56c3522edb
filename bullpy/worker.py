"""Worker: takes jobs from a queue and runs them through processors."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from bullmq import Worker as UpstreamWorker

from bullpy import errors, worker_options
from bullpy.backend import backend_for
from bullpy.connection.factory import SharedRedis
from bullpy.connection.identity import QueueFingerprint, ServerIdentity
from bullpy.connection.pipelining import retry_pause
from bullpy.emitter import SafeEmitter
from bullpy.engine.assembly import Engine
from bullpy.engine.calls import Calls
from bullpy.engine.heartbeat import Heartbeat
from bullpy.engine.orphans import Orphans
from bullpy.engine.recovery import StalledCheck
from bullpy.engine.reports import Reports
from bullpy.engine.settle import BackoffStrategy
from bullpy.job import Job
from bullpy.registration import Registration
from bullpy.schedulers import JobScheduler
from bullpy.settings import WorkerSettings
from bullpy.steering import Steering
from bullpy.types import Isolation, RateLimit

log = logging.getLogger("bullpy.worker")

REFUSALS = 60
"""How often a scheduler's next job is tried to be made, about once a second, while Redis answers
with an error; while it is away, it is waited for."""

_numbers = itertools.count(1)


class Worker(Registration, Steering, UpstreamWorker):
    """Runs the jobs of a queue.

    ```python
    worker = Worker("audio-analyzer", concurrency=4)


    @worker.processor("process-audio")
    def analyze(job): ...


    run(worker)
    ```

    Upstream's call shape works too: `Worker(name, async_function, {"connection": ...})` starts
    by itself where an event loop runs. Options that are given neither here nor in `opts` come
    from `BULLPY_*`, then from the defaults of `WorkerSettings`. Durations are seconds; in
    `opts`, which is upstream's, milliseconds.

    Args:
        name: The queue, the same word as on the Node side.
        processor: A function for every job; or register functions with `processor()`.
        opts: Upstream's options.
        redis: Where Redis is: a URL, a `RedisSettings`, a dict; None reads `REDIS_URL`.
        settings: All settings at once, in place of the keywords below.
        concurrency: Jobs that run at a time.
        prefix: First part of every key.
        worker_name: Stored as a job's `processedBy`; by default `host:pid:number`.
        lock_duration: How long a lock lasts without renewal.
        stalled_interval: Pause between checks for jobs whose worker is gone.
        max_stalled_count: How often a job may lose its worker before it fails.
        shutdown_timeout: How long jobs may take to finish when the worker stops.
        limiter: At most `max` jobs per `duration`.
        isolation: Where processors run that do not say it themselves: `process`, `thread` or
            `loop`.
        preload: Modules that child processes have imported before they start; see the how-to
            on isolation for its limits.
        backoff_strategy: Gives the delay, in milliseconds, for backoff types that are not
            built in; sync or async.

    Raises:
        errors.ConfigurationError: An option is wrong.
        errors.ProcessorError: The processor cannot be used.
    """

    EVENTS = frozenset(
        [
            "ready",
            "active",
            "progress",
            "completed",
            "failed",
            "stalled",
            "drained",
            "warning",
            "error",
            "paused",
            "resumed",
            "closing",
            "closed",
            "locksRenewed",
            "lockRenewalFailed",
        ]
    )

    def __init__(
        self,
        name: str,
        processor: Callable[..., Any] | None = None,
        opts: Mapping[str, Any] | None = None,
        *,
        redis: object = None,
        settings: WorkerSettings | None = None,
        concurrency: int | None = None,
        prefix: str | None = None,
        worker_name: str | None = None,
        lock_duration: float | None = None,
        stalled_interval: float | None = None,
        max_stalled_count: int | None = None,
        shutdown_timeout: float | None = None,
        limiter: RateLimit | None = None,
        isolation: Isolation | str | None = None,
        preload: Sequence[str] | None = None,
        backoff_strategy: BackoffStrategy | None = None,
    ) -> None:
        # Not upstream's __init__: it opens connections of its own and starts its own loop.
        SafeEmitter.__init__(self)
        given = dict(opts or {})
        keywords = {
            "concurrency": concurrency,
            "prefix": prefix,
            "name": worker_name,
            "lock_duration": lock_duration,
            "stalled_interval": stalled_interval,
            "max_stalled_count": max_stalled_count,
            "shutdown_timeout": shutdown_timeout,
            "limiter": limiter,
            "isolation": isolation,
            "preload": preload,
        }
        self.settings = worker_options.merged(settings, given, keywords)
        self.name = name
        self.prefix = self.settings.prefix
        self.id = uuid4().hex
        self.number = next(_numbers)
        self.backend = backend_for(
            name, redis if redis is not None else given.get("connection"), self.prefix
        )
        self.redisConnection = self.backend.connection
        self.scripts = self.backend.scripts
        self.keys = self.backend.keys
        self.qualifiedName = self.backend.qualifiedName
        self.opts = worker_options.to_wire(self.settings, given)
        self._take_name(self.settings.name or f"{socket.gethostname()}:{os.getpid()}:{self.number}")
        self.state: Mapping[str, Any] = {}
        upstream_settings: Mapping[str, Any] = given.get("settings") or {}
        self._backoff_strategy: BackoffStrategy | None = backoff_strategy or upstream_settings.get(
            "backoffStrategy"
        )
        self._concurrency = self.settings.concurrency
        Registration.__init__(self, self.settings.isolation)
        self._tokens = itertools.count(1)
        self.reports = Reports(self, name, str(self.redisConnection.settings.masked_url))
        self._job_scheduler = JobScheduler(self)
        self.running = False
        self.closing = False
        self.closed = False
        self.paused = False
        self.exit_code = 0
        self.ends_process = False
        self.stop_reason = ""
        self._engine: Engine | None = None
        self._heartbeat: Heartbeat | None = None
        self._crash: BaseException | None = None
        self._stop = asyncio.Event()
        self._done: asyncio.Future[None] | None = None
        self._deadline = self.settings.shutdown_timeout
        self._hurry = asyncio.Event()
        self._autorun: asyncio.Task[None] | None = None
        if processor is not None:
            self._table.add(processor)
            if given.get("autorun", True) and _loop_is_running():
                self._autorun = asyncio.create_task(self._run_by_itself())

    def rename(self, worker_name: str) -> None:
        """Change the name that is stored as a job's `processedBy`; before `run`.

        Raises:
            errors.WorkerStateError: It runs already.
        """
        if self.running:
            raise errors.WorkerStateError(
                "A running worker keeps its name.", fix="Rename it before it runs."
            )
        self._take_name(worker_name)

    def _take_name(self, worker_name: str) -> None:
        self.workerName = self.opts["name"] = worker_name
        printable = worker_options.printable
        self.clientName = printable(self.backend.clientName(f":w:{printable(worker_name)}"))

    # -- life ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until `close`.

        Raises:
            errors.WorkerStateError: It runs already, was closed, or has no processor.
            errors.WorkerCrashedError: A part of the worker ended although nobody closed it.
        """
        if self.running:
            raise errors.WorkerStateError("Worker is already running")
        if self.closing:
            raise errors.WorkerStateError("The worker was closed.", fix="Create a new one.")
        if not self._table:
            raise errors.WorkerStateError(
                f"The worker of {self.name!r} has no processor.",
                fix="Register one with @worker.processor().",
            )
        self._table.prepare()
        self.running = True
        self._done = asyncio.get_running_loop().create_future()
        heartbeat = self._heartbeat = Heartbeat(self)
        self.once("ready", heartbeat.hurry)
        for event in ("paused", "resumed"):
            self.on(event, heartbeat.hurry)
        failure: BaseException | None = None
        try:
            heartbeat.start()
            await self._live(heartbeat)
        except BaseException as error:
            failure = error
            raise
        finally:
            self.running = False
            try:
                crash = failure or self._crash
                await heartbeat.stop(*self._last_words(crash), is_crash=crash is not None)
            finally:
                await self._finish()
        if self._crash is not None:
            raise errors.WorkerCrashedError(
                f"The worker of {self.name!r} ended unexpectedly: {errors.describe(self._crash)}",
                cause="A defect of bullpy, or of a lifespan.",
                fix="Restart it, and report the traceback.",
            ) from self._crash

    async def close(self, force: bool = False, *, timeout: float | None = None) -> None:
        """Stop fetching, let jobs finish, hand back the others, and disconnect.

        Jobs that do not finish in time return to the front of the queue without using an
        attempt. Closing twice waits for the first; with `force` it hurries it.

        Args:
            force: Hand jobs back at once.
            timeout: Seconds that jobs may take; `shutdown_timeout` by default.
        """
        if timeout is not None:
            self._deadline = timeout
        if force:
            self._hurry.set()
        if not self.closing:
            self._begin_to_close()
            if not self.running:
                await self._finish()
        if self._done is not None and asyncio.current_task() is not self._autorun:
            await asyncio.shield(self._done)

    def _begin_to_close(self) -> None:
        self.closing = True
        self.emit("closing", "closing")
        if self._heartbeat is not None and self.active_jobs:
            self._heartbeat.hurry()
        self._stop.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run_by_itself(self) -> None:
        """`run()` as a task of its own: who created the worker may never look at it."""
        await asyncio.sleep(0)
        if self.closing or self.running:
            # `await worker.run()` was first, which is as good.
            return
        try:
            await self.run()
        except errors.BullpyError as error:
            log.critical("%s", error, exc_info=error.__cause__ or error)
            self.emit("error", error)

    async def _live(self, heartbeat: Heartbeat) -> None:
        async with self._hooks.lifespan(self) as state:
            self.state = state
            metrics: Mapping[str, Any] = self.opts.get("metrics") or {}
            # Here and not before: it belongs to the running loop.
            engine = self._engine = Engine(
                self,
                self.backend,
                self.settings,
                self._table,
                self._hooks,
                worker_name=self.workerName,
                client_name=self.clientName,
                metrics_points=metrics.get("maxDataPoints", ""),
                backoff_strategy=self._backoff_strategy,
            )
            heartbeat.engine = engine
            if self.paused:
                engine.slots.pause()
            await engine.start()
            unsubscribe = self.shared.on_error(self.report)
            try:
                await self._stop.wait()
            finally:
                await engine.stop(self._deadline, self._hurry)
                unsubscribe()

    def _last_words(self, crash: BaseException | None) -> tuple[str, int | None]:
        """Why it ended, and with which exit code its process ends, where that is known."""
        if isinstance(crash, asyncio.CancelledError):
            return "its task was cancelled", None
        code = self.exit_code if self.ends_process else None
        if crash is None:
            return self.stop_reason or "closed by the program", code
        was_ready = self._engine is not None and self._engine.is_ready
        what = "crashed" if was_ready else "could not start"
        return f"{what}: {errors.describe(crash)}", 1 if self.ends_process else None

    async def _finish(self) -> None:
        if self.closed:
            return
        await self.backend.close()
        self.closed = True
        self.emit("closed")
        if self._done is not None and not self._done.done():
            self._done.set_result(None)
        # Last: a listener may itself be waiting for close().
        await self.drain_listeners()

    # -- what the engine asks --------------------------------------------------------------

    @property
    def shared(self) -> SharedRedis:
        """The process's connection to this Redis."""
        return self.backend.shared

    @property
    def client(self) -> Any:
        """redis-py's interface to the process's connection."""
        return self.backend.conn

    async def whoami(self) -> ServerIdentity:
        """Which Redis this worker is on."""
        return await self.shared.whoami()

    async def fingerprint(self) -> QueueFingerprint:
        """Which queue this worker is on, in a form to compare with other processes."""
        return QueueFingerprint.of(await self.whoami(), self.prefix, self.name)

    @property
    def concurrency(self) -> int:
        """How many jobs run at a time; may be changed while the worker runs."""
        return self._concurrency

    @concurrency.setter
    def concurrency(self, value: int) -> None:
        # Checked as at the start, so that the message is the same.
        WorkerSettings(concurrency=value)
        self._concurrency = value
        self.opts["concurrency"] = value
        if self._slots is not None:
            self._slots.wake()

    def token(self) -> str:
        """A lock token that no other slot has."""
        return f"{self.id}:{next(self._tokens)}"

    def report(self, error: Exception) -> None:
        """Log and emit an error that is no job's failure, at most once a second per kind."""
        self.reports.report(error)

    def exit_requested(self, error: BaseException) -> None:
        """A processor raised SystemExit or KeyboardInterrupt: drain, then end with its code."""
        code = getattr(error, "code", None)
        self.exit_code = code if isinstance(code, int) else 0 if code is None else 1
        if isinstance(error, KeyboardInterrupt):
            self.exit_code = 130
        self.stop_reason = f"a processor raised {errors.describe(error)}"
        log.warning("%s; the worker drains and ends", self.stop_reason)
        if not self.closing:
            self._begin_to_close()

    def crashed(self, error: BaseException) -> None:
        """A part of the engine ended although nobody stopped it: the worker ends."""
        if self._crash is None:
            self._crash = error
            log.critical("a part of the worker died", exc_info=error)
        self._stop.set()

    async def schedule_next(self, job: Job[Any]) -> None:
        """Let the job's scheduler make its next job; a failure costs this job nothing.

        A Redis that is away is waited for: without its next job a scheduler would have ended.
        Repeating is harmless, since the script knows which job asked.
        """
        failures = 0
        try:
            while True:
                try:
                    await self._scheduleNextIteration(job)
                    return
                except errors.RedisError as error:
                    is_away = isinstance(error, errors.RedisUnavailableError)
                    if not is_away and failures >= REFUSALS:
                        raise
                    self.report(error)
                await asyncio.sleep(max(0.02, retry_pause(failures, 0.05, 1.0)))
                failures += 1
        except (errors.BullpyError, ValueError, LookupError, TypeError) as error:
            self.report(
                errors.WorkerError(
                    f"The job scheduler {job.repeatJobKey!r} could not make its next job: "
                    f"{errors.describe(error)}",
                    fix="Check its pattern and time zone, then upsert it again.",
                )
            )

    # -- by hand ---------------------------------------------------------------------------

    async def rate_limit(self, seconds: float) -> None:
        """Let no worker of the queue fetch a job for that long; then raise `RateLimited()`."""
        await self._calls.limit(seconds)

    async def getNextJob(self, token: str, *, block: bool = False) -> Job[Any] | None:
        """Fetch one job by hand; finish it with `job.moveToCompleted` or `job.moveToFailed`."""
        del block
        await self.shared.clock.refresh()
        return (await self._calls.fetch(token)).job

    async def runStalledJobsCheck(self) -> None:
        """Put jobs back whose lock has expired, now."""
        await StalledCheck(self._calls, self.settings, self.emit, self.report).check()

    async def release_jobs_of(self, worker_ids: Iterable[str]) -> list[str]:
        """Put the jobs of workers of this queue that are dead back to the front of the queue.

        Without it they stall first. Neither a stall nor an attempt is counted; the field
        `bullpy:deaths` of each job is.

        Args:
            worker_ids: The `id` of each of those workers; what else is locked stays so.

        Returns:
            The ids of the jobs.
        """
        return await Orphans(self.backend, self._calls, self.settings).release(worker_ids)

    @property
    def _calls(self) -> Calls:
        """The queue's script calls, for what is done by hand; the worker need not run."""
        return Calls(self, self.backend, self.settings, self.workerName)

    def __repr__(self) -> str:
        return f"<Worker {self.workerName} of {self.qualifiedName}>"


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
