"""Worker: takes jobs from a queue and runs them through processors."""

from __future__ import annotations

import asyncio
import base64
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from uuid import uuid4

from bullmq import Worker as UpstreamWorker

from bullpy import errors, hooks, peers, processors
from bullpy.backend import backend_for
from bullpy.connection.factory import BlockingConnection, SharedRedis
from bullpy.connection.identity import ServerIdentity
from bullpy.emitter import SafeEmitter
from bullpy.engine import shutdown
from bullpy.engine.calls import Calls
from bullpy.engine.cancel import CancelRequests
from bullpy.engine.locks import LockKeeper
from bullpy.engine.orphans import Orphans
from bullpy.engine.recovery import Recovery, StalledCheck
from bullpy.engine.runner import Runner
from bullpy.engine.settle import BackoffStrategy, Settler
from bullpy.engine.slots import Slots
from bullpy.engine.watchdog import LoopWatch, watch
from bullpy.job import Job
from bullpy.limits import Limits
from bullpy.logs import RateLimited
from bullpy.settings import WorkerSettings
from bullpy.types import Isolation, RateLimit, StopReason

log = logging.getLogger("bullpy.worker")

Function = TypeVar("Function", bound=Callable[..., Any])

REPORT_EVERY = 1.0
"""Seconds between two reports of the same kind of error."""

FETCH_END_TIMEOUT = 2.0
"""Seconds that the end of the blocking wait may take when the worker stops."""

_numbers = itertools.count(1)


class Worker(SafeEmitter, UpstreamWorker):
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
        self.settings = _merged(settings, given, keywords)
        self.name = name
        self.prefix = self.settings.prefix
        self.id = uuid4().hex
        self.number = next(_numbers)
        self.workerName = (
            self.settings.name or f"{socket.gethostname()}:{os.getpid()}:{self.number}"
        )
        self.backend = backend_for(
            name, redis if redis is not None else given.get("connection"), self.prefix
        )
        self.redisConnection = self.backend.connection
        self.scripts = self.backend.scripts
        self.keys = self.backend.keys
        self.qualifiedName = self.backend.qualifiedName
        self.clientName = _printable(self.backend.clientName(f":w:{_printable(self.workerName)}"))
        self.opts = _wire_options(self.settings, given, self.workerName)
        self.state: Mapping[str, Any] = {}
        upstream_settings: Mapping[str, Any] = given.get("settings") or {}
        self._backoff_strategy: BackoffStrategy | None = backoff_strategy or upstream_settings.get(
            "backoffStrategy"
        )
        self._concurrency = self.settings.concurrency
        self._table = processors.ProcessorTable(self.settings.isolation)
        self._hooks = hooks.Hooks()
        self._tokens = itertools.count(1)
        self._said = RateLimited(REPORT_EVERY)
        self._job_scheduler = None
        self.running = False
        self.closing = False
        self.closed = False
        self.paused = False
        self.exit_code = 0
        self._slots: Slots | None = None
        self._settler: Settler | None = None
        self._locks: LockKeeper | None = None
        self._watch: LoopWatch | None = None
        self._started_at: float | None = None
        self._is_ready = False
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

    # -- registration ----------------------------------------------------------------------

    def processor(
        self,
        name: str | None = None,
        *,
        isolation: Isolation | str | None = None,
        timeout: float | None = None,
        memory: int | str | None = None,
        cpu: float | None = None,
    ) -> Callable[[Function], Function]:
        """Decorate the function that processes jobs of that name.

        Args:
            name: The job name; None takes every job that no other processor takes.
            isolation: `process`, `thread` or `loop`; by default `async def` runs on the event
                loop and `def` in a child process.
            timeout: Seconds that a run may take.
            memory: Bytes of memory that its child process may have, or text such as `"512MB"`.
            cpu: Seconds of CPU time that a run may take.

        Raises:
            errors.ProcessorError: The function cannot be used, or the name is taken.
            errors.ConfigurationError: A limit makes no sense.
        """
        limits = Limits.of(timeout, memory, cpu)

        def register(function: Function) -> Function:
            self._table.add(function, name, isolation, limits)
            return function

        return register

    def add_plugin(
        self,
        job_name: str,
        *,
        isolation: Isolation | str | None = None,
        timeout: float | None = None,
        memory: int | str | None = None,
        cpu: float | None = None,
    ) -> None:
        """Process jobs of that name with the processor of an installed plugin.

        Args:
            job_name: The job name.
            isolation: As for `processor`, and so are the limits.
            timeout: Seconds that a run may take.
            memory: Bytes of memory that its child process may have, or text such as `"512MB"`.
            cpu: Seconds of CPU time that a run may take.

        Raises:
            errors.ProcessorError: No plugin offers one.
            errors.ConfigurationError: A limit makes no sense.
        """
        limits = Limits.of(timeout, memory, cpu)
        self._table.add(processors.plugin(job_name), job_name, isolation, limits)

    def lifespan(self, function: hooks.Lifespan) -> hooks.Lifespan:
        """Decorate an async generator that runs around the worker's life.

        What it yields is `worker.state`. It starts before the first fetch, and ends after the
        last job.
        """
        return self._hooks.set_lifespan(function)

    def middleware(self, function: hooks.Middleware) -> hooks.Middleware:
        """Decorate `async def around(call_next, job)`, which surrounds every job."""
        return self._hooks.add_middleware(function)

    @property
    def job_names(self) -> list[str]:
        """The job names that have a processor of their own."""
        return self._table.job_names

    @property
    def isolations(self) -> frozenset[Isolation]:
        """Where its processors run."""
        # No job has the empty name: it finds the processor for all other names.
        found = (self._table.find(name) for name in (*self._table.job_names, ""))
        return frozenset(processor.isolation for processor in found if processor is not None)

    def rename(self, worker_name: str) -> None:
        """Change the name that is stored as a job's `processedBy`; before `run`.

        Raises:
            errors.WorkerStateError: It runs already.
        """
        if self.running:
            raise errors.WorkerStateError(
                "A running worker keeps its name.", fix="Rename it before it runs."
            )
        self.workerName = self.opts["name"] = worker_name
        self.clientName = _printable(self.backend.clientName(f":w:{_printable(worker_name)}"))

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
        try:
            await self._live()
        finally:
            self.running = False
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
            self.closing = True
            self.emit("closing", "closing")
            self._stop.set()
            if not self.running:
                await self._finish()
        if self._done is not None and asyncio.current_task() is not self._autorun:
            await asyncio.shield(self._done)

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

    async def _live(self) -> None:
        async with self._hooks.lifespan(self) as state:
            self.state = state
            recovery, runner = self._build()
            slots, settler, locks = self._parts()
            await runner.start()
            requests = CancelRequests(self.backend, slots, self.cancel_job, self.report)
            locks.start()
            if self.settings.loop_warning:
                self._watch = watch(self.settings.loop_warning)
            fetching = asyncio.create_task(slots.run(), name="bullpy fetch")
            services = {
                fetching,
                asyncio.create_task(self._announce(slots, runner), name="bullpy announce"),
                asyncio.create_task(recovery.run(), name="bullpy stalled check"),
                asyncio.create_task(requests.run(), name="bullpy cancel requests"),
            }
            for service in services:
                service.add_done_callback(self._ended)
            unsubscribe = self.shared.on_error(self.report)
            self._started_at = time.monotonic()
            try:
                await self._stop.wait()
            finally:
                slots.stop()
                await self._drain(slots, settler)
                # It ends by itself, and takes care of the blocking wait on its way.
                await asyncio.wait({fetching}, timeout=FETCH_END_TIMEOUT)
                for service in services:
                    service.cancel()
                await asyncio.gather(*services, return_exceptions=True)
                unsubscribe()
                await runner.close()
                await locks.stop()
                if self._watch is not None:
                    self._watch.release()

    def _build(self) -> tuple[StalledCheck, Runner]:
        """Put the engine together. Here and not before: it belongs to the running loop."""
        settings = self.settings
        metrics: Mapping[str, Any] = self.opts.get("metrics") or {}
        points: int | str = metrics.get("maxDataPoints", "")
        calls = Calls(self, self.backend, settings, self.workerName, points)
        recovery = Recovery(self.backend, calls)
        runner = Runner(self._table, self._hooks, self.name, settings, lambda: self.concurrency)
        self._locks = LockKeeper(
            self.backend,
            settings,
            on_lost=self._locks_lost,
            on_renewed=self._locks_renewed,
            on_crash=self._crashed,
        )
        self._settler = Settler(calls, recovery, settings, self, self._backoff_strategy)
        self._slots = Slots(
            self,
            self.backend,
            settings,
            calls,
            recovery,
            runner,
            self._settler,
            self._locks,
            BlockingConnection(
                self.redisConnection.settings, self.clientName, key=self.backend.keys["marker"]
            ),
            self._schedule_next,
        )
        return StalledCheck(calls, settings, self.emit, self.report), runner

    def _parts(self) -> tuple[Slots, Settler, LockKeeper]:
        assert self._slots is not None
        assert self._settler is not None
        assert self._locks is not None
        return self._slots, self._settler, self._locks

    async def _drain(self, slots: Slots, settler: Settler) -> None:
        """Let jobs finish until the deadline, or until somebody hurries."""
        patience = asyncio.create_task(slots.idle())
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait(
            {patience, hurry}, timeout=self._deadline, return_when=asyncio.FIRST_COMPLETED
        )
        for task in (patience, hurry):
            task.cancel()
        await shutdown.drain(slots, settler, timeout=0.0)

    async def _finish(self) -> None:
        await self.backend.close()
        self.closed = True
        self.emit("closed")
        if self._done is not None and not self._done.done():
            self._done.set_result(None)
        # Last: a listener may itself be waiting for close().
        await self.drain_listeners()

    def _ended(self, service: asyncio.Task[None]) -> None:
        if service.cancelled() or self.closing or service.get_name() == "bullpy announce":
            error = None if service.cancelled() else service.exception()
            if error is None:
                return
        else:
            error = service.exception()
        self._crashed(error or RuntimeError(f"{service.get_name()} returned"))

    def _crashed(self, error: object) -> None:
        if self._crash is None:
            self._crash = cast("BaseException", error)
            log.critical("a part of the worker died", exc_info=self._crash)
        self._stop.set()

    async def _announce(self, slots: Slots, runner: Runner) -> None:
        """Say `ready` once a job would start at once, and what the worker found in Redis."""
        await slots.ready.wait()
        await runner.ready()
        identity = self.shared.identity
        try:
            counts, found = await asyncio.gather(self._waiting(), peers.look(self.backend))
        except errors.RedisError as error:
            self.report(error)
            counts, found = None, None
        log.info(
            "ready: queue %s (prefix %s) at %s, concurrency %d, %s waiting",
            self.name,
            self.prefix,
            identity,
            self.concurrency,
            "?" if counts is None else counts,
            extra={"queue": self.name, "worker": self.workerName},
        )
        if found is not None and found.paused:
            log.warning(
                "queue %s is paused: no worker gets jobs until somebody resumes it.",
                self.name,
                extra={"queue": self.name},
            )
        self._is_ready = True
        self.emit("ready")
        warning = found.warning if found is not None else None
        if warning is not None:
            log.warning("%s", warning, extra={"queue": self.name, "code": warning.code})
            self.emit("warning", warning)

    async def _waiting(self) -> int:
        counts = await self.backend.getCounts(["wait", "paused", "prioritized", "delayed"])
        return sum(int(count or 0) for count in counts)

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
        kind = error.code if isinstance(error, errors.BullpyError) else type(error).__name__
        if self._said.allow(kind) is None:
            return
        connection_speaks = isinstance(error, errors.RedisUnavailableError) or (
            isinstance(error, errors.RedisError) and not self.shared.pipeliner.is_connected
        )
        if not connection_speaks:
            log.error("%s", error, extra={"queue": self.name, "code": kind})
        self.emit("error", error)

    def exit_requested(self, error: BaseException) -> None:
        """A processor raised SystemExit or KeyboardInterrupt: drain, then end with its code."""
        code = getattr(error, "code", None)
        self.exit_code = code if isinstance(code, int) else 0 if code is None else 1
        if isinstance(error, KeyboardInterrupt):
            self.exit_code = 130
        log.warning("a processor raised %s; the worker drains and ends", errors.describe(error))
        if not self.closing:
            self.closing = True
            self.emit("closing", "closing")
            self._stop.set()

    def _locks_lost(self, job_ids: object) -> None:
        slots, ids = self._slots, cast("list[str]", job_ids)
        lost = [
            running
            for running in (slots.running.get(job_id) for job_id in ids if slots)
            if running is not None and not running.settling
        ]
        if slots is None or not lost:
            return
        self.emit("lockRenewalFailed", [running.job.id for running in lost])
        for running in lost:
            self.report(
                errors.LockLostError(
                    f"The lock of job {running.job.id} is lost; its result will be discarded.",
                    cause="It could not be renewed in time, or the job was removed.",
                    fix="Look for an outage of Redis, or for what starved this process.",
                )
            )
            slots.lost(running)

    def _locks_renewed(self, job_ids: object) -> None:
        ids = cast("list[str]", job_ids)
        self.emit("locksRenewed", {"count": len(ids), "jobIds": ids})

    async def _schedule_next(self, job: Job[Any]) -> None:
        """Let the job's scheduler make its next job; a failure costs this job nothing."""
        try:
            await self._scheduleNextIteration(job)
        except (errors.BullpyError, ValueError, LookupError, TypeError) as error:
            self.report(
                errors.WorkerError(
                    f"The job scheduler {job.repeatJobKey!r} could not make its next job: "
                    f"{errors.describe(error)}",
                    fix="Check its pattern and time zone, then upsert it again.",
                )
            )

    # -- steering --------------------------------------------------------------------------

    async def wait_until_ready(self) -> None:
        """Wait until Redis has answered the first fetch, and a job would start at once.

        Raises:
            errors.WorkerCrashedError: The worker ended instead.
        """
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def set_ready(*_: object) -> None:
            if not ready.done():
                ready.set_result(None)

        self.once("ready", set_ready)
        self.once("closed", set_ready)
        if self._is_ready:
            set_ready()
        await ready
        if self.closed:
            raise errors.WorkerCrashedError("The worker ended before it was ready.")

    async def pause(self, do_not_wait_active: bool = False) -> None:
        """Fetch no more jobs in this worker; waits for the running ones unless told not to."""
        if self.paused:
            return
        self.paused = True
        if self._slots is not None:
            self._slots.pause()
            if not do_not_wait_active:
                await self._slots.idle()
        self.emit("paused")

    def resume(self) -> None:
        """Fetch again after `pause`."""
        if self.paused:
            self.paused = False
            if self._slots is not None:
                self._slots.resume()
            self.emit("resumed")

    def cancel_job(self, job_id: str, reason: str | None = None) -> bool:
        """Stop one running job: an async processor by cancellation, or by its signal.

        Returns:
            Whether the job runs here and hears of it at once. A `def` processor has to look at
            `job.should_stop()`.
        """
        running = self._slots.running.get(job_id) if self._slots else None
        return running is not None and running.stop(StopReason.CANCELLED, reason)

    def cancelJob(self, job_id: str, reason: str | None = None) -> bool:
        """Upstream's name for `cancel_job`."""
        return self.cancel_job(job_id, reason)

    def cancelAllJobs(self, reason: str | None = None) -> None:
        """Stop all running jobs; see `cancel_job`."""
        for job_id in list(self._slots.running if self._slots else ()):
            self.cancel_job(job_id, reason)

    async def rate_limit(self, seconds: float) -> None:
        """Let no worker of the queue fetch a job for that long; then raise `RateLimited()`."""
        await Calls(self, self.backend, self.settings, self.workerName).limit(seconds)

    async def getNextJob(self, token: str, *, block: bool = False) -> Job[Any] | None:
        """Fetch one job by hand; finish it with `job.moveToCompleted` or `job.moveToFailed`."""
        del block
        calls = Calls(self, self.backend, self.settings, self.workerName)
        return (await calls.fetch(token)).job

    async def runStalledJobsCheck(self) -> None:
        """Put jobs back whose lock has expired, now."""
        calls = Calls(self, self.backend, self.settings, self.workerName)
        await StalledCheck(calls, self.settings, self.emit, self.report).check()

    async def release_jobs_of(self, worker_ids: Iterable[str]) -> list[str]:
        """Put the jobs of workers of this queue that are dead back to the front of the queue.

        Without it they stall first. Neither a stall nor an attempt is counted; the field
        `bullpy:deaths` of each job is.

        Args:
            worker_ids: The `id` of each of those workers; what else is locked stays so.

        Returns:
            The ids of the jobs.
        """
        calls = Calls(self, self.backend, self.settings, self.workerName)
        return await Orphans(self.backend, calls, self.settings).release(worker_ids)

    @property
    def active_jobs(self) -> list[Job[Any]]:
        """The jobs that run here now."""
        return [running.job for running in self._slots.running.values()] if self._slots else []

    @property
    def loop_lag(self) -> float:
        """Seconds that the event loop took to turn, when it was last asked to."""
        return self._watch.lag if self._watch else 0.0

    @property
    def loop_blocks(self) -> int:
        """How often the event loop was blocked for longer than `loop_warning`."""
        return self._watch.blocks if self._watch else 0

    @property
    def last_fetch_age(self) -> float | None:
        """Seconds since Redis last answered a fetch, None before the first."""
        last = self._slots.last_fetch if self._slots else None
        return None if last is None else time.monotonic() - last

    def __repr__(self) -> str:
        return f"<Worker {self.workerName} of {self.qualifiedName}>"


def _merged(
    settings: WorkerSettings | None, opts: Mapping[str, Any], keywords: Mapping[str, Any]
) -> WorkerSettings:
    """Keywords over upstream's options over the environment over the defaults."""
    given = {name: value for name, value in keywords.items() if value is not None}
    if settings is not None:
        if given or set(opts) - {"connection", "autorun", "settings", "metrics"}:
            raise errors.ConfigurationError(
                "settings= was given together with single options.", fix="Give one of them."
            )
        return settings
    if not given:
        return WorkerSettings.from_wire(opts)
    base = WorkerSettings.from_wire(opts)
    explicit = {name: getattr(base, name) for name in base.model_fields_set}
    return WorkerSettings(**{**explicit, **given})


def _wire_options(settings: WorkerSettings, given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The options as upstream's code reads them from `worker.opts`."""
    return {
        **given,
        "concurrency": settings.concurrency,
        "drainDelay": settings.drain_delay,
        "limiter": settings.limiter.to_wire() if settings.limiter else None,
        "lockDuration": round(settings.lock_duration * 1000),
        "lockRenewTime": round(settings.renew_every * 1000),
        "maxStalledCount": settings.max_stalled_count,
        "name": name,
        "prefix": settings.prefix,
        "stalledInterval": round(settings.stalled_interval * 1000),
    }


def _printable(name: str) -> str:
    """A name as CLIENT SETNAME takes it: characters from `!` to `~`."""
    if name.isascii() and name.isprintable() and " " not in name:
        return name
    return base64.urlsafe_b64encode(name.encode()).decode()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
