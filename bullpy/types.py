"""Enums and small value objects that every layer shares.

Durations are seconds here; `to_wire()` gives BullMQ's spelling, the only place where the unit
changes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypedDict, cast

from bullpy import errors


class JobState(StrEnum):
    """Where a job is. The values are BullMQ's own words."""

    WAIT = "wait"
    ACTIVE = "active"
    PRIORITIZED = "prioritized"
    DELAYED = "delayed"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    WAITING_CHILDREN = "waiting-children"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, text: str) -> JobState:
        """The state for BullMQ's word; `waiting` is `wait`, any other unknown word is UNKNOWN."""
        if text == "waiting":
            return cls.WAIT
        try:
            return cls(text)
        except ValueError:
            return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """Another job of the queue, as it was when a processor looked for it.

    Attributes:
        id: Its id.
        state: Where it was.
        data: What its producer sent.
        return_value: Its result; None until it has completed.
        failed_reason: Why it failed, or its last attempt did.
    """

    id: str
    state: JobState
    data: Any
    return_value: Any = None
    failed_reason: str | None = None


class StopReason(StrEnum):
    """Why a running job is asked to stop."""

    SHUTDOWN = "shutdown"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    MEMORY_LIMIT = "memory-limit"
    CPU_LIMIT = "cpu-limit"
    LOCK_LOST = "lock-lost"

    @property
    def is_limit(self) -> bool:
        """Whether the processor used more than it may; such a job has failed in any case."""
        return self in (StopReason.TIMEOUT, StopReason.MEMORY_LIMIT, StopReason.CPU_LIMIT)


class Isolation(StrEnum):
    """Where a processor runs: in a child process, in a thread, or on the event loop."""

    PROCESS = "process"
    THREAD = "thread"
    LOOP = "loop"


class WireBackoff(TypedDict, total=False):
    """`backoff` as BullMQ stores it in a job's options; `delay` in milliseconds."""

    type: str
    delay: int
    jitter: float


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a failed job waits before its next attempt.

    Build it with `fixed`, `exponential` or `custom`.

    Attributes:
        type: `fixed`, `exponential`, or the name of a strategy of the worker.
        delay: Seconds; None leaves it to the strategy.
        jitter: 0 to 1, the share of the delay that is random.
    """

    type: str
    delay: float | None = None
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not self.type:
            raise errors.ConfigurationError(
                "Backoff has an empty type.", fix="Use fixed, exponential or your strategy's name."
            )
        if self.delay is not None and not (math.isfinite(self.delay) and self.delay >= 0):
            raise errors.ConfigurationError(
                f"Backoff delay is {self.delay!r}.", fix="Give seconds, 0 or more."
            )
        if not 0 <= self.jitter <= 1:
            raise errors.ConfigurationError(
                f"Backoff jitter is {self.jitter!r}.", fix="Give a number from 0 to 1."
            )

    @classmethod
    def fixed(cls, seconds: float, jitter: float = 0.0) -> Backoff:
        """The same wait before every attempt."""
        return cls("fixed", seconds, jitter)

    @classmethod
    def exponential(cls, seconds: float, jitter: float = 0.0) -> Backoff:
        """`seconds * 2 ** (attempt - 1)` before each attempt."""
        return cls("exponential", seconds, jitter)

    @classmethod
    def custom(cls, type: str, delay: float | None = None) -> Backoff:  # noqa: A002 - BullMQ's word
        """A strategy that the worker knows by name."""
        return cls(type, delay)

    def to_wire(self) -> WireBackoff:
        """BullMQ's form: `{"type", "delay" in ms, "jitter"}`, without what is not set."""
        wire: WireBackoff = {"type": self.type}
        if self.delay is not None:
            wire["delay"] = round(self.delay * 1000)
        if self.jitter:
            wire["jitter"] = self.jitter
        return wire


class WireKeepJobs(TypedDict, total=False):
    """`removeOnComplete` / `removeOnFail` as BullMQ stores it; `age` in seconds there too."""

    count: int
    age: int
    limit: int


@dataclass(frozen=True, slots=True)
class KeepJobs:
    """How many finished jobs stay in Redis, and for how long.

    Attributes:
        count: Keep at most this many; 0 keeps none, -1 keeps all, None sets no count.
        age: Remove those older than this many seconds.
        limit: Remove at most this many at a time when `age` applies.
    """

    count: int | None = None
    age: float | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < -1:
            raise errors.ConfigurationError(
                f"KeepJobs count is {self.count!r}.", fix="Give -1 (keep all), 0 or more."
            )
        if self.age is not None and not (math.isfinite(self.age) and self.age >= 0):
            raise errors.ConfigurationError(
                f"KeepJobs age is {self.age!r}.", fix="Give seconds, 0 or more."
            )
        if self.limit is not None and self.limit < 1:
            raise errors.ConfigurationError(
                f"KeepJobs limit is {self.limit!r}.", fix="Give 1 or more."
            )

    @classmethod
    def of(cls, value: object) -> KeepJobs | None:
        """From any of BullMQ's spellings.

        Args:
            value: None (not set), True (remove at once), False (keep all), a count, a mapping
                with `count`, `age` (seconds) and `limit`, a KeepJobs, or one of these as text.

        Raises:
            ConfigurationError: For anything else.
        """
        if isinstance(value, str):
            value = _decoded(value)
        if value is None or isinstance(value, KeepJobs):
            return value
        if isinstance(value, bool):
            return cls(count=0 if value else -1)
        if isinstance(value, int):
            return cls(count=value)
        if isinstance(value, Mapping):
            return cls._of_mapping(cast("Mapping[str, object]", value))
        raise errors.ConfigurationError(
            f"{value!r} does not say which jobs to keep.",
            fix="Give True, False, a count, or count, age (seconds) and limit.",
        )

    @classmethod
    def _of_mapping(cls, value: Mapping[str, object]) -> KeepJobs:
        unknown = sorted(set(value) - {"count", "age", "limit"})
        if unknown:
            raise errors.ConfigurationError(
                f"KeepJobs has no {', '.join(unknown)}.", fix="Its keys are count, age and limit."
            )
        age = _number(value, "age")
        return cls(count=_whole(value, "count"), age=age, limit=_whole(value, "limit"))

    def to_wire(self) -> WireKeepJobs:
        """BullMQ's form; a job that is kept for a part of a second is kept for a whole one."""
        wire: WireKeepJobs = {}
        if self.count is not None:
            wire["count"] = self.count
        if self.age is not None:
            wire["age"] = math.ceil(self.age)
        if self.limit is not None:
            wire["limit"] = self.limit
        return wire


class WireRateLimit(TypedDict):
    """`limiter` of BullMQ's worker options; `duration` in milliseconds."""

    max: int
    duration: int


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `max` jobs started per `duration` seconds, over all workers of the queue."""

    max: int
    duration: float

    def __post_init__(self) -> None:
        if isinstance(self.max, bool) or self.max < 1:
            raise errors.ConfigurationError(
                f"The limiter's max is {self.max!r}.", fix="Give 1 job or more."
            )
        if not (math.isfinite(self.duration) and self.duration >= 0.001):
            raise errors.ConfigurationError(
                f"The limiter's duration is {self.duration!r}.",
                fix="Give seconds, 0.001 or more.",
            )

    @classmethod
    def of(cls, value: object) -> RateLimit | None:
        """From None, a RateLimit, `(max, seconds)`, a mapping of the two, or text `max/seconds`.

        Raises:
            ConfigurationError: For anything else.
        """
        if isinstance(value, str):
            value = value.split("/") if "/" in value else _decoded(value)
        if value is None or isinstance(value, RateLimit):
            return value
        if isinstance(value, Mapping):
            named = cast("Mapping[str, object]", value)
            value = [named.get("max"), named.get("duration")]
        items = list(cast("list[object]", value)) if isinstance(value, tuple | list) else []
        if len(items) != 2 or None in items:
            raise errors.ConfigurationError(
                f"{value!r} is not a rate limit.",
                fix="Give (max, seconds), or max/seconds as text.",
            )
        pair = {"max": _parsed(items[0]), "duration": _parsed(items[1])}
        return cls(_whole(pair, "max") or 0, _number(pair, "duration") or 0.0)

    def to_wire(self) -> WireRateLimit:
        """BullMQ's form: `{"max", "duration" in ms}`."""
        return {"max": self.max, "duration": round(self.duration * 1000)}


def _number(value: Mapping[str, object], key: str) -> float | None:
    number = value.get(key)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise errors.ConfigurationError(f"{key} is {number!r}.", fix="Give a number.")
    return number


def _whole(value: Mapping[str, object], key: str) -> int | None:
    number = _number(value, key)
    if number is None:
        return None
    if not math.isfinite(number) or number != int(number):
        raise errors.ConfigurationError(f"{key} is {number!r}.", fix="Give a whole number.")
    return int(number)


def _decoded(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise errors.ConfigurationError(
            f"{text[:80]!r} cannot be read.", fix="Give true, false, a number or JSON."
        ) from None


def _parsed(value: object) -> object:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
