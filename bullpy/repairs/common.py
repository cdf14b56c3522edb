"""What the repairs share: bounded chunks, scripts of bullpy's own, and the shape of a report."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

from bullpy import errors
from bullpy.backend import Backend
from bullpy.connection.client import run_script
from bullpy.connection.probe import classify

T = TypeVar("T")

LATEST = 253_402_300_799_000
"""The end of the year 9999 in ms since 1970: later moments are slips."""

CHUNK = 100
"""Jobs that one script changes at most."""

PAGE = 1000
"""Ids that one script looks at, at most."""

SEARCHED = 2_000_000
"""Places in lists that one script looks through at most."""

SHOWN = 10
"""Ids that a sentence tells of; `as_dict` has all."""


@dataclass(slots=True)
class Report(ABC):
    """What a repair found and did; with a dry run, what it would do.

    Attributes:
        queue: The queue's name.
        dry_run: Whether nothing was changed.
        run: Its id in the log of repairs; empty if nothing was changed.
        log_error: Why it could not be written to the log; empty if it could.
    """

    NAME: ClassVar[str]

    queue: str
    dry_run: bool
    run: str = ""
    log_error: str = ""

    @property
    @abstractmethod
    def changes(self) -> int:
        """How many things were changed, or would be."""

    @abstractmethod
    def sentences(self) -> Iterator[str]:
        """What was found and done, for people; a line each."""

    @property
    def found_nothing(self) -> bool:
        """Whether there is nothing to repair."""
        return self.changes == 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"repair": self.NAME, **asdict(self), "changes": self.changes}

    def for_log(self) -> dict[str, Any]:
        """What the log of repairs keeps of it; the log shortens lists by itself."""
        left_out = ("repair", "queue", "dry_run", "run", "log_error")
        return {name: value for name, value in self.as_dict().items() if name not in left_out}


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[list[T]]:
    """The items in lists of at most that many."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def chunk_for(length: int) -> int:
    """How many ids one script may search for in lists with that many places."""
    return max(1, min(CHUNK, SEARCHED // (length + 1)))


def text(job_id: bytes) -> str:
    """An id for a report; one that is not UTF-8 gets escapes."""
    return job_id.decode("utf-8", "backslashreplace")


def some(ids: Sequence[str]) -> str:
    """The first of the ids for a sentence; what could upset a terminal is escaped."""
    more = f", and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(printable(job_id, 100) for job_id in ids[:SHOWN]) + more


def printable(value: str, limit: int) -> str:
    """Text on one line, without control characters, cut after that many characters."""
    cut = value if len(value) <= limit else value[: limit - 3] + "..."
    escaped = (
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in cut
    )
    return "".join(escaped)


def moment(milliseconds: float) -> str:
    """A moment, in ms since 1970, for people: `2026-11-25 03:04:05.678Z`."""
    seconds, rest = divmod(max(0, min(int(milliseconds), LATEST)), 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:03}Z"


async def run(backend: Backend, source: bytes, *args: str | bytes | float) -> Any:
    """Run a script of bullpy's own; again after a lost reply, as each does its work once.

    Its only key is the queue's `meta`, all others are made of it: they are on one node.

    Raises:
        errors.RedisError: Redis could not be asked, or refused.
    """
    shared = backend.shared
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
    call = (1, backend.keys["meta"], *args)
    try:
        reply = await run_script(shared.pipeliner, sha, source, call)
    except errors.ReplyLostError:
        reply = await run_script(shared.pipeliner, sha, source, call)
    if isinstance(reply, Exception):
        raise classify(reply, shared.settings) from reply
    return reply
