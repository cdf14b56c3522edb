"""What a fetch asks for, and what it brings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from bullpy.job import Job


class Appetite(Enum):
    """How much a worker needs a job; the values are arguments of the fetching script."""

    NONE = b""
    WAITS = b"1"
    STARVES = b"2"


@dataclass(frozen=True, slots=True)
class GlobalLimit:
    """What a fetch told of the queue's global concurrency.

    Attributes:
        concurrency: How many jobs may run at a time.
        others_wait: Whether a worker of bullpy holds no job because of it.
        is_full: Whether that many run, so that none could be fetched.
    """

    concurrency: int
    others_wait: bool
    is_full: bool


@dataclass(slots=True)
class Fetched:
    """What a fetch brought.

    Attributes:
        asked: Whether the call asked for a next job at all.
        job: The next job, None if there is none to be had now.
        limited_for: Seconds until the rate limit lets the next job through; 0 if none holds.
        due_at: When the next delayed job is due, seconds since 1970 by this machine's clock; 0 if
            there is none.
        limit: What is known of the queue's global concurrency, None if it has none.
    """

    asked: bool = False
    job: Job[Any] | None = None
    limited_for: float = 0.0
    due_at: float = 0.0
    limit: GlobalLimit | None = None
