"""What is known of a job's life: its steps, and what it is now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bullpy import codec
from bullpy.types import JobState

NOTICED = 1.0
"""Seconds by which two clocks may differ without being spoken of."""

ENDS = ("completed", "failed")

REDIS, PRODUCER, WORKER = "redis", "producer", "worker"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to a job.

    Attributes:
        name: `created`, `waiting`, `active`, `progress`, `stalled`, `retried`, `delayed`,
            `waiting-children`, `completed`, `failed`, `removed`, or another event of BullMQ.
        at: When, in ms since 1970 by `clock`.
        clock: Whose: `redis`, or, for what the hash alone tells, `producer` or `worker`.
        event_id: Its id in the event stream; empty for what the hash alone tells.
        after: Seconds since the step before, None where their clocks differ.
        process_at: The same moment by the clock of the process that wrote it into the hash, ms;
            None where that is not known.
        details: What else is known: `worker`, `from`, `reason`, `due`, `attempt`, `progress`, ...
        times: How many steps of this kind in a row it stands for.
        data: Progress or result as JSON, which may be job data; empty without any.
    """

    name: str
    at: int
    clock: str = REDIS
    event_id: str = ""
    after: float | None = None
    process_at: int | None = None
    details: Mapping[str, str] = field(default_factory=dict[str, str])
    times: int = 1
    data: str = ""

    @property
    def skew(self) -> float:
        """Seconds by which the process's clock was ahead of Redis's; 0 where that is not known."""
        return 0.0 if self.process_at is None else (self.process_at - self.at) / 1000

    def as_dict(self, *, with_data: bool = False) -> dict[str, Any]:
        """For JSON; what may be job data only if it is asked for."""
        told: dict[str, Any] = {
            "step": self.name,
            "at": self.at,
            "clock": self.clock,
            "after": self.after,
            "process_at": self.process_at,
            "skew": self.skew if abs(self.skew) >= NOTICED else None,
            "times": self.times,
            **self.details,
        }
        if with_data and self.data:
            told["data"] = decoded(self.data)
        return told


@dataclass(slots=True)
class JobLife:
    """A job now, and how it came to that.

    Attributes:
        queue: The queue's name.
        job_id: The job.
        state: Where it is now; `unknown` for one that is gone or in no list.
        exists: Whether its hash exists; without, all that follows is empty but for the steps.
        name: Its name.
        attempts: How many attempts it may have.
        attempts_made: How many have ended.
        starts: How often it was started.
        stalls: How often it lost its worker.
        worker: The name of the worker that started it last.
        lock: The token of the worker that holds it; empty for none.
        lock_for: Seconds until the lock ends; None without lock or end.
        priority: Its priority, 0 for none.
        delay: Seconds that it was to be delayed.
        due: For a delayed job when it is due, ms by Redis's clock.
        parent: The key of its parent; empty without.
        children: Children that it waits for.
        reason: Why it, or its last attempt, failed, without secrets.
        deferred: A failure that its next worker is to record.
        logs: Lines of its log.
        sizes: Bytes of `data` and `returnvalue`.
        data: Its data and result as JSON, if they were asked for.
        steps: What happened, the oldest first.
        oldest_event: The oldest event that was searched, ms; None without events.
        searched: How many events were searched.
        reaches_back: Whether the events go back to the job's beginning.
        last_id: The id of the newest event of the queue, `0-0` without any.
    """

    queue: str
    job_id: str
    state: JobState = JobState.UNKNOWN
    exists: bool = False
    name: str = ""
    attempts: int = 0
    attempts_made: int = 0
    starts: int = 0
    stalls: int = 0
    worker: str = ""
    lock: str = ""
    lock_for: float | None = None
    priority: int = 0
    delay: float = 0.0
    due: int | None = None
    parent: str = ""
    children: int = 0
    reason: str = ""
    deferred: str = ""
    logs: int = 0
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    data: dict[str, str] = field(default_factory=dict[str, str])
    steps: list[Step] = field(default_factory=list[Step])
    oldest_event: int | None = None
    searched: int = 0
    reaches_back: bool = False
    last_id: str = "0-0"

    @property
    def ending(self) -> str | None:
        """`completed` or `failed` if it has ended, `gone` if it is gone otherwise, else None."""
        if str(self.state) in ENDS:
            return str(self.state)
        if self.exists:
            return None
        return next((step.name for step in reversed(self.steps) if step.name in ENDS), "gone")

    def seconds(self, first: str, last: str) -> float | None:
        """Between the last step `last` and the step `first` before it; None if not known."""
        ends = [index for index, step in enumerate(self.steps) if step.name == last]
        if not ends:
            return None
        begins = [step for step in self.steps[: ends[-1]] if step.name == first]
        end = self.steps[ends[-1]]
        begin = begins[-1] if begins else None
        if begin is None or begin.clock != end.clock:
            return None
        return (end.at - begin.at) / 1000

    def as_dict(self, *, timeline: bool = True) -> dict[str, Any]:
        """For JSON."""
        with_data = bool(self.data)
        told: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.__slots__
            if name not in ("steps", "data", "state", "job_id")
        }
        told = {"id": self.job_id, "state": str(self.state)} | told
        if with_data:
            told["data"] = {name: decoded(value) for name, value in self.data.items()}
        if timeline:
            told["steps"] = [step.as_dict(with_data=with_data) for step in self.steps]
        return told


def decoded(text: str) -> Any:
    """JSON as a value; what is no JSON, such as what was cut, as text."""
    try:
        return codec.loads(text)
    except (ValueError, RecursionError):
        return text
