"""What the repairs share: bounded chunks, scripts of bullpy's own, and the shape of a report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

from bullpy.terminal import printable

T = TypeVar("T")

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
