"""Keeps the queue's event stream small in bytes: BullMQ trims it by the number of events alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from bullpy import errors
from bullpy.backend import Backend
from bullpy.limits import shown_bytes

PARTS = 8
"""The stream is looked at whenever this worker has added that part of what it may hold."""

KEPT = 100
"""Events that stay however large they are: who follows the stream may be a moment behind."""

ROOM = 0.75
"""How full the stream is after a trim, so that the next one is not due at once."""

DEFAULT_LENGTH = 10_000
"""Events that BullMQ keeps, roughly, unless the queue is told otherwise."""

log = logging.getLogger("bullpy.worker")


class EventStream:
    """Drops a queue's oldest events when its stream holds too many bytes.

    BullMQ's script writes each result twice, into the job and into the event `completed`, and
    keeps 10,000 events: with results of 1 MB that is gigabytes. What this worker writes is only
    counted; now and then the server is asked how large the stream is.

    Args:
        backend: The queue's keys and connection.
        limit: Bytes that the stream may hold, roughly; 0 sets no limit. A queue that is told to
            keep more events than 10,000 may hold more in proportion.
        report: Called when Redis is away.
    """

    def __init__(
        self, backend: Backend, limit: int, report: Callable[[errors.RedisError], None]
    ) -> None:
        self._backend = backend
        self._limit = limit
        self._report = report
        self._key = backend.keys["events"]
        self._added = 0
        self._is_due = asyncio.Event()

    def note(self, size: int) -> None:
        """Count bytes that were just written to the stream."""
        self._added += size
        if self._limit and self._added * PARTS >= self._limit:
            self._is_due.set()

    async def run(self) -> None:
        """Trim when it is due, until cancelled; ends where the server refuses to tell sizes."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            self._added = 0
            try:
                await self.trim()
            except errors.RedisUnavailableError as error:
                self._report(error)
            except errors.RedisError as error:
                log.warning(
                    "the event stream of queue %s cannot be kept below %s: %s",
                    self._backend.name,
                    shown_bytes(self._limit),
                    error,
                    extra={"queue": self._backend.name, "code": error.code},
                )
                return

    async def trim(self) -> None:
        """Drop the oldest events until the others are within the limit.

        Raises:
            errors.RedisError: Redis could not be asked, or refused.
        """
        wanted = await self._backend.ask("HGET", self._backend.keys["meta"], "opts.maxLenEvents")
        allowed = self._limit * max(1.0, int(wanted or 0) / DEFAULT_LENGTH)
        while (size := await self._size()) > allowed:
            length = cast("int", await self._backend.ask("XLEN", self._key))
            # As if all events were of one size; where they are not, another round follows.
            kept = max(KEPT, int(length * ROOM * allowed / size))
            if kept >= length:
                return
            await self._backend.ask("XTRIM", self._key, "MAXLEN", kept)

    async def _size(self) -> int:
        # All samples: events differ in size, and the default looks at the five oldest nodes.
        return int(await self._backend.ask("MEMORY", "USAGE", self._key, "SAMPLES", 0) or 0)
