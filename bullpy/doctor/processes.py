"""The processes of a queue, from the registry and from CLIENT LIST, with what they do in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from bullpy.doctor.clients import Client, Listener
from bullpy.doctor.wording import span
from bullpy.limits import shown_bytes
from bullpy.redaction import redact
from bullpy.registry import Record, Registry
from bullpy.worker_options import printable

PATIENCE = 11
"""Seconds that a waiting worker may be silent: it waits 5, or 10 where jobs are delayed."""

LAGGING = 1.0
"""Seconds of an event loop's delay that are worth a word."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process as far as this queue is concerned.

    Attributes:
        queue: The queue.
        role: `worker`, `producer` or `events`.
        lang: `python`, `node`, or empty where it is not known.
        is_alive: Whether it is there now.
        state: What it does, in words.
        name: The worker's name; empty without one.
        host: Its machine, or the address that it connects from.
        pid: 0 where it is not known.
        age: Seconds since it started, or connected.
        version: Of its libraries, as far as known.
        jobs: Ids of jobs that it runs.
        notes: Its last error and the like, each a line.
        record: What it says about itself; None where it says nothing.
    """

    queue: str
    role: str
    lang: str
    is_alive: bool
    state: str
    name: str
    host: str
    pid: int
    age: float
    version: str
    jobs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    record: Record | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        record = self.record
        return {
            "queue": self.queue,
            "role": self.role,
            "lang": self.lang or None,
            "alive": self.is_alive,
            "state": self.state,
            "name": self.name or None,
            "host": self.host or None,
            "pid": self.pid or None,
            "age": round(self.age, 1),
            "version": self.version or None,
            "jobs": list(self.jobs),
            "notes": list(self.notes),
            "record": None if record is None else _redacted(record.model_dump(mode="json")),
        }


def _redacted(value: Any) -> Any:
    """What a record says, without secrets: whoever wrote it may not have taken them out."""
    match value:
        case str():
            return redact(value)
        case float():
            # JSON has no Infinity, and what reads records takes it.
            return value if math.isfinite(value) else None
        case list():
            return [_redacted(each) for each in cast("list[Any]", value)]
        case dict():
            pairs = cast("dict[str, Any]", value).items()
            return {name: _redacted(each) for name, each in pairs}
        case _:
            return value


def processes_of(
    prefix: str,
    queue: str,
    registry: Registry,
    clients: Sequence[Client] | None,
    *,
    active: int = 0,
    db: int | None = None,
) -> list[Process]:
    """The processes of one queue: those that are alive first, then those that left last.

    Args:
        prefix: First part of its keys.
        queue: Its name.
        registry: The records of this queue, and maybe of others.
        clients: Who is connected; None where that is forbidden.
        active: How many jobs are active in the queue, so that a silent worker can be judged.
        db: The queue's database: only clients in it are its processes; None takes all.
    """
    records = registry.of(prefix, queue)
    here = [
        (client, each)
        for client in _whole(clients or [])
        if db is None or client.db == db
        for each in client.listeners
        if (each.prefix, each.queue) == (prefix, queue)
    ]
    by_record = {record.id: _connection(record, here) for record in records}
    taken = {client.id for client in by_record.values() if client is not None}
    ids_taken = {number for record in records for number in record.clients}
    elsewhere = active - sum(record.busy for record in records if record.is_live(registry.at))
    found = [
        _of_record(record, registry.at, by_record[record.id], knows=clients is not None)
        for record in records
    ]
    found += [
        _of_client(client, each, elsewhere)
        for client, each in here
        if client.id not in taken | ids_taken
    ]
    # Sorting is stable: records come as the registry gives them, those that left last first.
    order = {"worker": 0, "producer": 1, "events": 2}
    return sorted(found, key=lambda each: (not each.is_alive, order.get(each.role, len(order))))


def queues_of(clients: Iterable[Client], prefix: str, known: Iterable[str]) -> list[str]:
    """The queues that connections are named after, and those that are known already."""
    names = set(known)
    for client in clients:
        readings = [each for each in client.listeners if each.prefix == prefix]
        if readings and not any(each.queue in names for each in readings):
            # In base64, if it can be read so: that is what Node and bullpy write.
            names.add(readings[0].queue)
    return sorted(names)


# -- bullpy's own ------------------------------------------------------------------------------


def _of_record(record: Record, now: float, client: Client | None, *, knows: bool) -> Process:
    is_alive, state = _state(record, now, client, knows=knows)
    versions = record.versions
    return Process(
        queue=record.queue,
        role=record.role,
        lang=record.lang,
        is_alive=is_alive,
        state=state,
        name=redact(record.name),
        host=redact(record.host),
        pid=record.pid,
        age=max(0.0, (record.ended.at if record.ended else now) - record.started),
        version=" ".join(
            f"{name} {versions[name]}" for name in ("bullpy", "bullmq") if name in versions
        ),
        jobs=tuple(held.id for held in record.active) if record.ended is None else (),
        notes=tuple(_notes(record, now)),
        record=record,
    )


def _state(record: Record, now: float, client: Client | None, *, knows: bool) -> tuple[bool, str]:
    """Whether the process is there, and what it does."""
    silence = record.silence(now)
    if record.ended is not None:
        code = record.ended.code
        ended = "" if code is None else f" (exit code {code})"
        return (
            False,
            f"left {span(now - record.ended.at)} ago: {redact(record.ended.reason)}{ended}",
        )
    if record.role == "producer":
        # It writes when it adds, and says nothing when it does not.
        return record.is_live(now), f"added {record.added}, the last one {span(silence)} ago"
    if record.is_live(now):
        return True, _activity(record, now)
    if client is not None:
        return True, f"frozen {span(silence)}"
    if not knows:
        return False, f"silent for {span(silence)}: gone without goodbye, or frozen"
    return False, f"gone without goodbye, last seen {span(silence)} ago"


def _activity(record: Record, now: float) -> str:
    drain_delay = record.options.get("drain_delay")
    patience = (float(drain_delay) if isinstance(drain_delay, int | float) else 5.0) + PATIENCE
    state = record.state
    if state == "waiting" and record.last_fetch is not None:
        unfetched = record.seen - record.last_fetch
        return f"not fetching for {span(unfetched)}" if unfetched > patience else "waiting"
    if state == "running":
        return f"busy {record.busy} of {record.concurrency}"
    if state == "draining":
        return f"draining, {record.busy} left"
    if state == "paused" and record.busy:
        return f"paused, {record.busy} still run"
    if state == "starting" and now - record.started > PATIENCE:
        return f"starting for {span(now - record.started)}"
    return {"limited": "rate limited"}.get(state, state or "there")


def _notes(record: Record, now: float) -> Iterable[str]:
    if record.role == "worker":
        size = f", {shown_bytes(record.rss)} of memory" if record.rss else ""
        yield f"{record.processed} processed, {record.failed} failed{size}"
    if record.ended is None and not record.is_live(now) and record.active:
        yield f"it ran {', '.join(held.id for held in record.active)}"
    if record.loop_lag > LAGGING:
        yield f"its event loop took {record.loop_lag:.1f} s to turn"
    for what, incident in (("error", record.last_error), ("failure", record.last_failure)):
        if incident is not None:
            job = f" of job {incident.job}" if incident.job else ""
            lines = redact(incident.text).split("\n", 1)
            yield f"last {what}{job} {span(now - incident.at)} ago: {lines[0]}"


def _connection(record: Record, here: Sequence[tuple[Client, Listener]]) -> Client | None:
    """The worker's blocking connection, if it is there."""
    if record.role != "worker":
        return None
    named = printable(record.name)
    for client, each in here:
        if client.id in record.clients or (each.role == "worker" and each.worker == named):
            return client
    return None


# -- everybody else's --------------------------------------------------------------------------


def _of_client(client: Client, listener: Listener, elsewhere: int) -> Process:
    lang = "python" if listener.is_plain or "redis-py" in client.library else ""
    if not listener.is_plain and ("ioredis" in client.library or not client.library):
        lang = "node"
    return Process(
        queue=listener.queue,
        role=listener.role,
        lang=lang,
        is_alive=True,
        state="following" if listener.role == "events" else _doing(client, elsewhere),
        name=redact(listener.worker),
        host=client.addr.rpartition(":")[0],
        pid=0,
        age=client.age,
        version=client.library,
    )


def _doing(client: Client, elsewhere: int) -> str:
    """What a worker does of which only the connection is known.

    Args:
        client: Its blocking connection.
        elsewhere: Active jobs that no record accounts for.
    """
    waits = client.cmd in ("bzpopmin", "brpoplpush", "blmove")
    if client.is_blocked:
        if client.qbuf > 0:
            return "stuck: its commands queue behind its own wait"
        return "waiting"
    if not waits:
        return "starting" if client.age <= PATIENCE else "not fetching"
    if elsewhere > 0:
        return "busy"
    return "waiting" if client.idle <= PATIENCE else f"frozen {span(client.idle)}"


def _whole(clients: Iterable[Client]) -> list[Client]:
    """Without the second connection of each worker of the Python port, which names both alike."""
    found: list[Client] = []
    for client in sorted(clients, key=lambda each: each.id):
        before = found[-1] if found else None
        is_pair = (
            before is not None
            and any(each.is_plain and each.role == "worker" for each in client.listeners)
            and (before.name, before.addr.rpartition(":")[0], before.db)
            == (client.name, client.addr.rpartition(":")[0], client.db)
            and client.id - before.id <= 3
            and not (before.is_blocked and client.is_blocked)
            and all(each.is_plain for each in client.listeners)
        )
        if is_pair:
            assert before is not None
            found[-1] = client if client.is_blocked or client.cmd == "bzpopmin" else before
        else:
            found.append(client)
    return found
