"""What Redis holds: every job, where it is, every lock, and the event stream."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import redis

LISTS = ("wait", "paused", "active")
SETS = ("prioritized", "delayed", "waiting-children", "completed", "failed")
FINISHED = ("completed", "failed")
_OWN_KEYS = {
    *(*LISTS, *SETS),
    *("id", "meta", "events", "marker", "stalled", "stalled-check", "pc", "limiter", "repeat"),
    *("cancel", "majors"),
}
_PART_OF_JOB = {
    *("lock", "logs", "processed", "dependencies", "failed", "unsuccessful", "rejected"),
}


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of the event stream; the time is seconds since 1970."""

    at: float
    name: str
    job: str
    text: str


@dataclass(slots=True)
class Stored:
    """A job as Redis holds it.

    Attributes:
        fields: Its hash; empty if there is none.
        places: The lists and sets that hold its id, once for each time they do.
    """

    fields: dict[str, str] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)

    @property
    def attempts_made(self) -> int:
        """Attempts that were counted."""
        return int(self.fields.get("atm", 0))


@dataclass(slots=True)
class State:
    """A queue.

    Attributes:
        jobs: By id, those too of which there is only the hash, or only the id.
        locks: Ids of jobs that are locked.
        events: The event stream, by job.
        strange: Keys that nobody knows.
    """

    jobs: dict[str, Stored] = field(default_factory=dict)
    locks: list[str] = field(default_factory=list)
    events: dict[str, list[Event]] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)


def connect(port: int) -> redis.Redis:
    """A connection that is there for one look, past the proxy."""
    return redis.Redis(port=port, socket_timeout=10.0, decode_responses=True)


def read(client: redis.Redis, queue: str) -> State:
    """Read everything of a queue."""
    prefix = f"bull:{queue}:"
    jobs: dict[str, Stored] = defaultdict(Stored)
    state = State()
    for key in _keys(client, f"{prefix}*"):
        name = key.removeprefix(prefix)
        head, _, part = name.rpartition(":")
        if name in _OWN_KEYS:
            continue
        if part == "lock":
            state.locks.append(head)
        elif part in _PART_OF_JOB or is_scheduler(name):
            continue
        elif client.type(key) != "hash":
            state.strange.append(key)
        else:
            jobs[name].fields = client.hgetall(key)
    for place in LISTS:
        for job_id in client.lrange(prefix + place, 0, -1):
            jobs[job_id].places.append(place)
    for place in SETS:
        for job_id in client.zrange(prefix + place, 0, -1):
            jobs[job_id].places.append(place)
    state.jobs = dict(jobs)
    state.events = _events(client, f"{prefix}events")
    return state


def unfinished(client: redis.Redis, queue: str, job_ids: Iterable[str]) -> tuple[int, list[str]]:
    """How many ids stand where unfinished jobs do; and which of `job_ids` did not finish."""
    prefix = f"bull:{queue}:"
    pipe = client.pipeline(transaction=True)
    for place in LISTS:
        pipe.llen(prefix + place)
    for place in SETS[:3]:
        pipe.zcard(prefix + place)
    for place in FINISHED:
        pipe.zrange(prefix + place, 0, -1)
    *counts, completed, failed = pipe.execute()
    return sum(counts), sorted(set(job_ids) - set(completed) - set(failed))


def is_iteration(job_id: str) -> bool:
    """Whether it is a job that a scheduler made."""
    return job_id.startswith("repeat:") and job_id.count(":") == 2


def is_scheduler(name: str) -> bool:
    """Whether it is the key of a scheduler itself."""
    return name.startswith("repeat:") and name.count(":") == 1


def _keys(client: redis.Redis, pattern: str) -> set[str]:
    return set(client.scan_iter(pattern, count=1000))


def _events(client: redis.Redis, key: str) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = defaultdict(list)
    start = "-"
    while entries := client.xrange(key, start, "+", count=5000):
        for entry_id, values in entries:
            event = _event(entry_id, values)
            found[event.job].append(event)
        start = f"({entries[-1][0]}"
    return dict(found)


def _event(entry_id: str, values: dict[str, Any]) -> Event:
    rest = {name: value for name, value in values.items() if name not in ("event", "jobId")}
    text = ", ".join(f"{name} {str(value)[:120]}" for name, value in rest.items())
    at = int(entry_id.partition("-")[0]) / 1000
    return Event(at, values.get("event", ""), values.get("jobId", ""), text)
