"""The engine of a running worker: its parts, started and stopped together."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from bullpy import errors, peers
from bullpy.backend import Backend
from bullpy.connection.factory import BLOCK_MARGIN, BlockingConnection
from bullpy.connection.identity import QueueFingerprint
from bullpy.engine import shutdown
from bullpy.engine.calls import Calls
from bullpy.engine.cancel import CancelRequests
from bullpy.engine.eventstream import EventStream
from bullpy.engine.locks import LockKeeper
from bullpy.engine.recovery import Recovery, StalledCheck
from bullpy.engine.runner import Runner
from bullpy.engine.settle import BackoffStrategy, Settler
from bullpy.engine.slots import Owner, Slots
from bullpy.engine.tally import Tally
from bullpy.engine.watchdog import LoopWatch, watch
from bullpy.hooks import Hooks
from bullpy.job import Job
from bullpy.processors import ProcessorTable
from bullpy.settings import WorkerSettings

log = logging.getLogger("bullpy.worker")

SHORTEST_WAIT = 1.0
"""Seconds that a command may wait for its reply however short the lock is: a busy server is no
outage."""

FETCH_END_TIMEOUT = 2.0
"""Seconds that the end of the blocking wait may take when the worker stops."""


class Host(Owner, Protocol):
    """What the engine asks of its worker."""

    def crashed(self, error: BaseException) -> None:
        """A part of the engine ended although nobody stopped it."""
        ...

    def cancel_job(self, job_id: str, reason: str | None = None) -> bool:
        """Stop one running job."""
        ...

    async def schedule_next(self, job: Job[Any]) -> None:
        """Let the job's scheduler make its next job."""
        ...


class Engine:
    """What a worker consists of while it runs; made on the event loop that it belongs to.

    Args:
        host: The worker.
        backend: Its queue's keys and connection.
        settings: Its settings.
        table: Its processors, prepared.
        hooks: Its middleware.
        worker_name: Stored in each job as `processedBy`.
        client_name: The name of the blocking connection.
        metrics_points: How many minutes of metrics to keep; empty for none.
        backoff_strategy: For backoff types that are not built in.

    Attributes:
        slots: Fetches and runs jobs.
        is_ready: Whether it has said that a job that comes now starts at once.
    """

    def __init__(
        self,
        host: Host,
        backend: Backend,
        settings: WorkerSettings,
        table: ProcessorTable,
        hooks: Hooks,
        *,
        worker_name: str,
        client_name: str,
        metrics_points: int | str,
        backoff_strategy: BackoffStrategy | None,
    ) -> None:
        self._host = host
        self._backend = backend
        self._worker_name = worker_name
        self.is_ready = False
        self._lock_duration = settings.lock_duration
        self._drain_delay = settings.drain_delay
        self._loop_warning = settings.loop_warning
        self._prefix = settings.prefix
        self._watch: LoopWatch | None = None
        self._services: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        calls = Calls(host, backend, settings, worker_name, metrics_points)
        recovery = Recovery(backend, calls)
        self._runner = Runner(table, hooks, backend.name, settings, lambda: host.concurrency)
        self._locks = LockKeeper(
            backend,
            settings,
            on_lost=self._locks_lost,
            on_renewed=self._locks_renewed,
            on_crash=host.crashed,
            is_told=functools.partial(host.reports.is_told, backend.shared),
        )
        self._events = EventStream(backend, settings.events_limit, host.report)
        self._settler = Settler(calls, recovery, settings, self._events, host, backoff_strategy)
        self._blocking = BlockingConnection(
            backend.connection.settings, client_name, key=backend.keys["marker"]
        )
        self.slots = Slots(
            host,
            backend,
            settings,
            calls,
            recovery,
            self._runner,
            self._settler,
            self._locks,
            self._blocking,
            host.schedule_next,
        )
        self._stalled_check = StalledCheck(calls, settings, host.emit, host.report)
        self._requests = CancelRequests(backend, self.slots, host.cancel_job, host.report)

    @property
    def tally(self) -> Tally:
        """What it has done so far."""
        return self._settler.tally

    @property
    def client_id(self) -> int | None:
        """The server's id of the blocking connection; None before it is there."""
        return self._blocking.client_id

    @property
    def loop_lag(self) -> float:
        """Seconds that the event loop took to turn, when it was last asked to."""
        return self._watch.lag if self._watch else 0.0

    @property
    def loop_blocks(self) -> int:
        """How often the event loop was blocked for longer than `loop_warning`."""
        return self._watch.blocks if self._watch else 0

    async def start(self) -> None:
        """Start all parts.

        Raises:
            errors.ProcessorError: A module that is to be preloaded cannot be.
        """
        # A command that waits longer than a third of the lock would cost the lock; and who may not
        # wait for jobs longer than that may not wait for a plain reply longer either.
        self._backend.shared.shorten_waits(
            max(SHORTEST_WAIT, min(self._lock_duration / 3, self._drain_delay + BLOCK_MARGIN))
        )
        await self._runner.start()
        self._locks.start()
        if self._loop_warning:
            self._watch = watch(self._loop_warning)
        self._fetching = self._serve(self.slots.run(), "bullpy fetch")
        self._serve(self._announce(), "bullpy announce", may_end=True)
        self._serve(self._stalled_check.run(), "bullpy stalled check")
        self._serve(self._requests.run(), "bullpy cancel requests")
        self._serve(self._events.run(), "bullpy event stream", may_end=True)

    async def stop(self, patience: float, hurry: asyncio.Event) -> None:
        """Fetch no more, let jobs finish, hand back the others, and end all parts.

        Args:
            patience: Seconds that jobs may take to finish.
            hurry: Ends that wait.
        """
        self._is_stopping = True
        self.slots.stop()
        try:
            await self._drain(patience, hurry)
            # It ends by itself, and takes care of the blocking wait on its way.
            await asyncio.wait({self._fetching}, timeout=FETCH_END_TIMEOUT)
        finally:
            # Also where the drain was cut off by a second cancellation: nothing may go on, least
            # of all the renewal of locks of jobs that nobody runs.
            self.slots.abandon()
            self._ending = asyncio.create_task(self._end())
            await asyncio.shield(self._ending)

    async def _end(self) -> None:
        for service in self._services:
            service.cancel()
        await asyncio.gather(*self._services, return_exceptions=True)
        await self._runner.close()
        await self._locks.stop()
        if self._watch is not None:
            self._watch.release()

    def _serve(
        self, work: Coroutine[Any, Any, None], name: str, *, may_end: bool = False
    ) -> asyncio.Task[None]:
        """Run a part; that it ends before `stop` is a crash, unless it may."""
        service = asyncio.create_task(work, name=name)

        def ended(_: asyncio.Task[None]) -> None:
            if service.cancelled():
                return
            error = service.exception()
            if error is not None or not (may_end or self._is_stopping):
                self._host.crashed(error or RuntimeError(f"{name} returned"))

        service.add_done_callback(ended)
        self._services.add(service)
        return service

    async def _announce(self) -> None:
        """Say `ready` once a job would start at once, and what the worker found in Redis."""
        await self.slots.ready.wait()
        await self._runner.ready()
        backend, found = self._backend, None
        waiting: int | str = "?"
        try:
            waiting, found = await asyncio.gather(self._waiting(), peers.look(backend))
        except errors.RedisError as error:
            self._host.report(error)
        identity = backend.shared.identity
        if identity is not None:
            log.info(
                "%s",
                QueueFingerprint.of(identity, self._prefix, backend.name),
                extra={"queue": backend.name},
            )
        log.info(
            "ready: queue %s (prefix %s) at %s, concurrency %d, %s waiting",
            backend.name,
            self._prefix,
            backend.shared.identity,
            self._host.concurrency,
            waiting,
            extra={"queue": backend.name, "worker": self._worker_name},
        )
        if found is not None and found.paused:
            log.warning(
                "queue %s is paused: no worker gets jobs until somebody resumes it.",
                backend.name,
                extra={"queue": backend.name},
            )
        self.is_ready = True
        self._host.emit("ready")
        warning = found.warning if found is not None else None
        if warning is not None:
            log.warning("%s", warning, extra={"queue": backend.name, "code": warning.code})
            self._host.emit("warning", warning)

    async def _waiting(self) -> int:
        counts = await self._backend.getCounts(["wait", "paused", "prioritized", "delayed"])
        return sum(int(count or 0) for count in counts)

    async def _drain(self, patience: float, hurry: asyncio.Event) -> None:
        """Let jobs finish until the deadline, or until somebody hurries."""
        waits = {asyncio.create_task(self.slots.idle()), asyncio.create_task(hurry.wait())}
        await asyncio.wait(waits, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
        await shutdown.drain(self.slots, self._settler, timeout=0.0)

    def _locks_lost(self, tokens: dict[str, str]) -> None:
        lost = [
            running
            for job_id, token in tokens.items()
            if (running := self.slots.running.get(job_id)) is not None
            and running.job.token == token
            and not running.settling
        ]
        if not lost:
            return
        self._host.emit("lockRenewalFailed", [running.job.id for running in lost])
        for running in lost:
            self._host.report(
                errors.LockLostError(
                    f"The lock of job {running.job.id} is lost; its result will be discarded.",
                    cause="It could not be renewed in time, or the job was removed.",
                    fix="Look for an outage of Redis, or for what starved this process.",
                )
            )
            self.slots.lost(running)

    def _locks_renewed(self, job_ids: list[str]) -> None:
        self._host.emit("locksRenewed", {"count": len(job_ids), "jobIds": job_ids})
