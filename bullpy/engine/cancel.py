"""Requests to cancel running jobs, from whatever machine: read from a stream of the queue."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from bullpy import errors
from bullpy.backend import Backend
from bullpy.connection.pipelining import retry_pause
from bullpy.engine.runner import Running
from bullpy.engine.slots import Slots
from bullpy.queue import CANCEL_REASON_LIMIT, CANCEL_STREAM, CANCEL_STREAM_LENGTH

READ_EVERY = 0.5
"""Seconds between two reads while the worker holds jobs."""

LONGEST_PAUSE = 30.0
"""Seconds that the pause grows to while reading fails."""

TOLERANCE_MS = 1000
"""How much older than the start of a run a request may be that does not say which run it means."""

_COUNT = 100

log = logging.getLogger("bullpy.worker")


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """One entry of the stream.

    Attributes:
        placed_at: When Redis took it, in ms since 1970 by Redis's clock.
        job_id: Which job.
        reason: Why, None if nobody said.
        attempts_started: The job's `ats` when it was placed, None if it does not say.
        processed_on: The job's `processedOn` when it was placed, None if it does not say.
    """

    placed_at: int
    job_id: str
    reason: str | None = None
    attempts_started: int | None = None
    processed_on: int | None = None

    @classmethod
    def read(cls, entry_id: bytes, fields: list[bytes]) -> CancelRequest:
        """A request from the stream's own form.

        Raises:
            ValueError: It names no job, or a field that is a number is none.
        """
        named = dict(zip(fields[::2], fields[1::2], strict=True))
        job_id = named.get(b"id", b"").decode("utf-8", "surrogateescape")
        if not job_id:
            raise ValueError("it has no field id")
        reason = named.get(b"reason", b"").decode("utf-8", "replace")[:CANCEL_REASON_LIMIT]
        return cls(
            int(entry_id.partition(b"-")[0]),
            job_id,
            reason or None,
            _number(named, b"ats"),
            _number(named, b"processedOn"),
        )

    def names_run(self, running: Running) -> bool:
        """Whether nothing that the request says speaks against this run of the job."""
        job = running.job
        return (self.attempts_started is None or self.attempts_started == job.attemptsStarted) and (
            self.processed_on is None or self.processed_on == job.processedOn
        )


class CancelRequests:
    """Reads the queue's cancel stream while the worker holds jobs, and has those jobs cancelled.

    A worker without jobs sends nothing.

    Args:
        backend: The queue's keys and connection.
        slots: Tells which jobs run here.
        cancel: Called with the job's id and the reason.
        report: Called with errors of Redis; reading goes on, more slowly.
    """

    def __init__(
        self,
        backend: Backend,
        slots: Slots,
        cancel: Callable[[str, str | None], object],
        report: Callable[[errors.RedisError], None],
    ) -> None:
        self._backend = backend
        self._slots = slots
        self._cancel = cancel
        self._report = report
        self._key = backend.toKey(CANCEL_STREAM)
        self._cursor: bytes | str = "0-0"
        # Those for jobs that do not run here, or not yet: a job may be on its way from Redis
        # while the request for it has arrived. No more than the stream holds.
        self._open: deque[CancelRequest] = deque(maxlen=CANCEL_STREAM_LENGTH)
        self._said: set[str] = set()

    async def run(self) -> None:
        """Read until cancelled."""
        failures = 0
        while True:
            await self._slots.busy()
            # Not at once: most jobs are over by then, and cost no command.
            await asyncio.sleep(max(READ_EVERY, retry_pause(failures, READ_EVERY, LONGEST_PAUSE)))
            if not self._slots.running:
                continue
            try:
                await self.check()
            except errors.RedisError as error:
                failures += 1
                self._report(error)
            else:
                failures = 0

    async def check(self) -> None:
        """Read what is new, and cancel the jobs that are named and run here.

        Raises:
            errors.RedisError: Redis could not be asked.
        """
        while True:
            count = await self._read()
            for request in list(self._open):
                running = self._slots.running.get(request.job_id)
                if running is not None and request.names_run(running):
                    await self._decide(request, running)
            if count < _COUNT:
                return

    async def _read(self) -> int:
        """Read up to 100 entries behind the cursor; how many there were."""
        reply = await self._backend.ask(
            "XREAD", "COUNT", _COUNT, "STREAMS", self._key, self._cursor
        )
        entries = cast("list[tuple[bytes, list[bytes]]]", reply[0][1] if reply else [])
        for entry_id, fields in entries:
            self._cursor = entry_id
            try:
                self._open.append(CancelRequest.read(entry_id, fields))
            except ValueError as error:
                self._complain(str(error), entry_id)
        return len(entries)

    async def _decide(self, request: CancelRequest, running: Running) -> None:
        """Cancel the job, unless the request says nothing of the run and is older than it."""
        meant = request.processed_on is not None or await self._is_younger(request, running)
        self._open.remove(request)
        # Asking took a while: the run may be over, and the job's next one begun.
        if not meant or self._slots.running.get(request.job_id) is not running:
            return
        log.info(
            "job %s is cancelled on request: %s",
            request.job_id,
            request.reason or "no reason given",
            extra={"queue": self._backend.name, "job_id": request.job_id},
        )
        self._cancel(request.job_id, request.reason)

    async def _is_younger(self, request: CancelRequest, running: Running) -> bool:
        """Whether the request was placed after this run began, both by Redis's clock.

        `processedOn` is by what this worker takes for that clock, which it may not have been able
        to ask for.
        """
        seconds, microseconds = cast("list[bytes]", await self._backend.ask("TIME"))
        ahead = int(seconds) * 1000 + int(microseconds) // 1000
        ahead -= self._slots.clock.time() * 1000
        return request.placed_at >= running.job.processedOn + ahead - TOLERANCE_MS

    def _complain(self, kind: str, entry_id: bytes) -> None:
        if kind not in self._said:
            self._said.add(kind)
            log.warning(
                "entry %s of %s is no request to cancel a job: %s; further ones are ignored too",
                entry_id.decode(),
                self._key,
                kind,
                extra={"queue": self._backend.name},
            )


def _number(fields: dict[bytes, bytes], name: bytes) -> int | None:
    value = fields.get(name)
    if not value:
        return None
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"its field {name.decode()} is no number") from None
