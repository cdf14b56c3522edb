"""Keeps the worker's record in the registry, and leaves its last words there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from bullpy import errors, thisprocess
from bullpy.backend import Backend
from bullpy.connection.identity import QueueFingerprint
from bullpy.executors.usage import usage_of
from bullpy.registry import Entry, Goodbye, Held, Incident, Record
from bullpy.settings import WorkerSettings

if TYPE_CHECKING:
    from bullpy.engine.assembly import Engine
    from bullpy.engine.reports import Reports

log = logging.getLogger("bullpy.heartbeat")

FIRST = 2.0
"""Seconds that the first record waits for the worker to be ready, so as to say more."""

REST = 1.0
"""Seconds between two records at the least."""

GOODBYE = 0.5
"""Seconds that the last words may take: a Redis that does not answer holds no process."""

CONNECTING = 1.0
"""Seconds that they may take where a worker crashed before it was connected."""

SHARE = 2
"""Workers of one process that beat at the full pace; with more, all of them beat less often, so
that a process sends no more than those would."""

SHOWN_JOBS = 20
"""Running jobs that a record names."""

LONGEST_ID = 128
"""Characters of a job's id that a record holds."""


_beating: set[Heartbeat] = set()
"""Those of this process."""


class Subject(Protocol):
    """What a record tells of: the worker."""

    id: str
    name: str
    prefix: str
    workerName: str
    settings: WorkerSettings
    backend: Backend
    reports: Reports
    closing: bool
    paused: bool

    @property
    def concurrency(self) -> int:
        """How many jobs run at a time."""
        ...


class Heartbeat:
    """Writes the record of a worker every `heartbeat` seconds, on the shared connection.

    With more than `SHARE` workers in a process, so many times more seldom. Nothing that goes wrong
    with it is the worker's business: it is logged at debug level, and tried again with the next
    beat. Where an ACL forbids the keys it ends.

    Args:
        worker: The worker.

    Attributes:
        engine: The worker's engine, as soon as it has one.
    """

    def __init__(self, worker: Subject) -> None:
        self._worker = worker
        self._backend = worker.backend
        self._interval = worker.settings.heartbeat
        self._entry = Entry(worker.prefix, worker.name, worker.id)
        self._began = time.monotonic()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_allowed = True
        self.engine: Engine | None = None

    def start(self) -> None:
        """Begin; does nothing where the settings say so."""
        if self._interval:
            _beating.add(self)
            self._task = asyncio.create_task(self._run(), name="bullpy heartbeat")

    def hurry(self, *_: object) -> None:
        """Write the record now: what it says has changed."""
        self._news.set()

    async def stop(self, reason: str, code: int | None, *, is_crash: bool) -> None:
        """End, and leave behind how the worker ended. Takes a second at the very most.

        Args:
            reason: In words.
            code: The exit code of the process; None where that is not known.
            is_crash: Whether nobody asked it to end; it may not be connected yet then.
        """
        task, self._task = self._task, None
        if task is None:
            return
        _beating.discard(self)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        shared = self._backend.shared
        pipeliner = shared.pipeliner
        was_ready = self.engine is not None and self.engine.is_ready
        connects = is_crash and not was_ready and pipeliner.last_error is None
        if not self._is_allowed or not (pipeliner.is_connected or connects):
            return
        try:
            async with asyncio.timeout(CONNECTING if connects else GOODBYE):
                await pipeliner.ready()
                await self._entry.write(shared, self._record(self._goodbye(reason, code)))
        except Exception as error:
            # Whatever it is: the worker ends as it would have, and says what ended it.
            log.debug("no last words: %s", errors.describe(error), exc_info=error)

    async def _run(self) -> None:
        await self._wait(min(FIRST, self._interval))
        while self._is_allowed:
            await self._beat()
            # Who pauses and resumes all the time shall not write all the time.
            await asyncio.sleep(min(REST, self._pause))
            await self._wait(self._pause - REST)

    @property
    def _pause(self) -> float:
        """Seconds between two beats."""
        return self._interval * max(1.0, len(_beating) / SHARE)

    async def _beat(self) -> None:
        self._news.clear()
        try:
            # After an outage the first thing that is told is what is true then.
            shared = self._backend.shared
            await shared.pipeliner.ready()
            self._is_allowed = await self._entry.write(shared, self._record())
        except errors.RedisError as error:
            log.debug("no heartbeat: %s", error)
            return
        except Exception as error:
            log.debug("no heartbeat: %s", errors.describe(error), exc_info=error)
            return
        if not self._is_allowed:
            log.debug("no heartbeats: an ACL forbids the keys bullpy:*")

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    # -- what it says ----------------------------------------------------------------------

    def _goodbye(self, reason: str, code: int | None) -> Goodbye:
        now = self._backend.shared.clock.time()
        return Goodbye(at=round(now, 3), reason=thisprocess.clipped(reason), code=code)

    def _record(self, ended: Goodbye | None = None) -> Record:
        worker, shared = self._worker, self._backend.shared
        usage = usage_of(os.getpid())
        seen = shared.clock.time()
        identity = shared.identity
        return Record(
            id=worker.id,
            role="worker",
            prefix=worker.prefix,
            queue=worker.name,
            seen=round(seen, 3),
            heartbeat=self._pause,
            started=self._moment(self._began),
            lang="python",
            versions=thisprocess.versions(),
            host=thisprocess.host(),
            pid=os.getpid(),
            cwd=thisprocess.folder(),
            command=thisprocess.command(),
            name=thisprocess.clipped(worker.workerName),
            clients=self._clients(),
            fingerprint=QueueFingerprint.of(identity, worker.prefix, worker.name).value
            if identity
            else "",
            url=shared.settings.masked_url,
            db=shared.settings.db,
            options=_options(worker.settings) | {"concurrency": worker.concurrency},
            state="closed" if ended else self._state(),
            clock_offset=round(-shared.clock.ahead, 3),
            rss=usage.memory if usage else 0,
            last_error=self._last_error(),
            ended=ended,
            **self._work(),
        )

    def _work(self) -> Mapping[str, Any]:
        """What only a running engine knows."""
        engine = self.engine
        if engine is None:
            return {}
        now, tally = time.monotonic(), engine.tally
        running = sorted(engine.slots.running.values(), key=lambda each: each.since)
        fetched, failure = engine.slots.last_fetch, tally.last_failure
        return {
            "active": tuple(
                Held(id=each.job.id[:LONGEST_ID], seconds=round(now - each.since, 1))
                for each in running[:SHOWN_JOBS]
            ),
            "busy": len(running),
            "processed": tally.completed,
            "failed": tally.failed,
            "last_fetch": None if fetched is None else self._moment(fetched),
            "last_job": None
            if tally.ended_at is None
            else Incident(at=self._moment(tally.ended_at), job=tally.last_job[:LONGEST_ID]),
            "last_failure": None
            if failure is None
            else Incident(
                at=self._moment(tally.failed_at),
                job=failure[0][:LONGEST_ID],
                text=thisprocess.clipped(failure[1]),
            ),
            "loop_lag": round(engine.loop_lag, 3),
            "loop_blocks": engine.loop_blocks,
        }

    def _state(self) -> str:
        engine = self.engine
        if self._worker.closing:
            return "draining"
        if engine is None or not engine.is_ready:
            return "starting"
        if self._worker.paused:
            return "paused"
        if engine.slots.running:
            return "running"
        return "limited" if engine.slots.limited_for > 0 else "waiting"

    def _last_error(self) -> Incident | None:
        last = self._worker.reports.last
        if last is None:
            return None
        at, code, text = last
        return Incident(at=self._moment(at), code=code, text=thisprocess.clipped(text))

    def _clients(self) -> tuple[int, ...]:
        identity = self._backend.shared.identity
        ids = (self.engine and self.engine.client_id, identity and identity.client_id)
        return tuple(each for each in ids if each is not None)

    def _moment(self, monotonic: float) -> float:
        """By Redis's clock, of a moment of the monotonic one."""
        now = self._backend.shared.clock.time()
        return round(now - (time.monotonic() - monotonic), 3)


def _options(settings: WorkerSettings) -> dict[str, Any]:
    """The settings that explain to others what a worker does, and when."""
    found: dict[str, Any] = {
        name: value for name in _TOLD if (value := getattr(settings, name)) is not None
    }
    found["lock_renew_time"] = settings.renew_every
    if settings.limiter is not None:
        limiter = settings.limiter
        found["limiter"] = {"max": limiter.max, "duration": limiter.duration}
    if settings.isolation is not None:
        found["isolation"] = str(settings.isolation)
    return found


_TOLD = (
    "lock_duration",
    "stalled_interval",
    "max_stalled_count",
    "drain_delay",
    "shutdown_timeout",
    "maximum_rate_limit_delay",
    "max_started_attempts",
    "loop_warning",
)
