"""What a worker says about errors that are no job's failure: in its log, and as events."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from bullpy import errors
from bullpy.connection.factory import SharedRedis
from bullpy.logs import RateLimited
from bullpy.outage import Outage

log = logging.getLogger("bullpy.worker")

EVERY = 1.0
"""Seconds between two reports of the same kind of error."""


class Speaker(Protocol):
    """What reporting needs of a worker."""

    @property
    def shared(self) -> SharedRedis:
        """Its connection."""
        ...

    def emit(self, event_name: str, *args: object) -> None:
        """Emit a worker event."""
        ...


class Reports:
    """Emits errors once a second and kind at most, and logs each outage once.

    The connection logs its own outages. What is logged here is a Redis that is there and does not
    do what it is asked, whatever the worker asks meanwhile.

    Args:
        speaker: The worker.
        name: Its queue.
        redis: The masked URL of its Redis.

    Attributes:
        last: The error that was reported last: when on the monotonic clock, its code, and what it
            said; None before the first.
    """

    def __init__(self, speaker: Speaker, name: str, redis: str) -> None:
        self._speaker = speaker
        self._name = name
        self._said = RateLimited(EVERY)
        self.last: tuple[float, str, str] | None = None
        self._outage = Outage(
            log,
            f"Redis does not do what the worker of {name} asks",
            f"Redis does what the worker of {name} asks again",
            "Jobs and results are kept, and it is asked again about once a second.",
            {"queue": name, "redis": redis},
        )

    def is_told(self, shared: SharedRedis) -> bool:
        """Whether the log says already that Redis is away, or does not do what it is asked.

        Args:
            shared: The worker's connection, which it can only find from the event loop; this may
                be asked from any thread.
        """
        return self._outage.is_on or not shared.pipeliner.is_connected

    def report(self, error: Exception, *, told: bool = False) -> None:
        """Emit the error, and log it unless that was `told`."""
        kind = error.code if isinstance(error, errors.BullpyError) else type(error).__name__
        if self._said.allow(kind) is None:
            return
        self.last = (time.monotonic(), kind, errors.describe(error))
        # A lost reply is the end of a connection, which tells it.
        told |= isinstance(error, errors.ReplyLostError)
        told |= isinstance(error, errors.RedisError) and self.is_told(self._speaker.shared)
        if not told:
            log.error("%s", error, extra={"queue": self._name, "code": kind})
        self._speaker.emit("error", error)

    def failing(self, what: str, error: errors.RedisError) -> None:
        """Redis does not do that now, and is asked again until `works` is called.

        Args:
            what: A name for what is tried.
            error: Its answer, or that it could not be asked.
        """
        is_lost = isinstance(error, errors.ReplyLostError)
        if self._speaker.shared.pipeliner.is_connected and not is_lost:
            self._outage.failed(error, what)
        self.report(error, told=True)

    def works(self, what: str) -> None:
        """Redis did that; cheap where it never failed."""
        self._outage.worked(what)
