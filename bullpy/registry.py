"""Who is there: each worker and each producer keeps a record of itself in Redis.

A record is JSON under a key of its own, outside the queue's keys: tools take those for jobs.

- `bullpy:PREFIX:QUEUE:proc:ID`: one record.
- `bullpy:PREFIX:QUEUE:procs`: a sorted set of the ids of a queue's records; the score says until
  when they are listed, in ms.
- `bullpy:PREFIX:queues`: a sorted set of the queues that have some, with such scores.

All share the hash tag of the prefix, and so a cluster's slot. A live process writes its record anew
with each heartbeat; one that is older than three of them is of a process that is gone. It stays for
an hour after that, so that it can still be told who that was, and what it did last.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from bullpy import errors
from bullpy.connection.asking import Asker, refused
from bullpy.connection.client import pack
from bullpy.connection.explain import classify, code_of
from bullpy.connection.factory import SharedRedis

BEATS = 3
"""Heartbeats without a record after which its process counts as gone."""

KEPT = 3600.0
"""Seconds that the record of a process stays after its end."""

LIST_EVERY = 1800.0
"""Seconds after which a live process puts itself on the lists again."""

MOST = 1000
"""Processes that a queue's list holds: one that crashes and restarts all the time fills it."""

READ = 300
"""Records that are read of each queue, those of live processes first."""

_OWN = re.compile(r"bullpy:.+:(?:proc:[0-9a-f]+|procs|queues)", re.DOTALL)
_TAGGED = re.compile(r"\{[^}]+\}")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Held(_Part):
    """A job that a worker runs.

    Attributes:
        id: The job's id.
        seconds: For how long, when the record was written.
    """

    id: str
    seconds: float


class Incident(_Part):
    """An error or the end of a job.

    Attributes:
        at: When, seconds since 1970 by Redis's clock.
        text: What was said, redacted and shortened.
        code: The error's code, if it is one of bullpy.
        job: The job's id, if it was one.
    """

    at: float
    text: str = ""
    code: str = ""
    job: str = ""


class Goodbye(_Part):
    """How a process ended that could still say so.

    Attributes:
        at: When, seconds since 1970 by Redis's clock.
        reason: In words: `SIGTERM`, `closed by the program`, `crashed: ...`.
        code: Its exit code; None where that is for somebody else to decide.
    """

    at: float
    reason: str
    code: int | None = None


class Record(_Part):
    """What a process says about itself. Moments are seconds since 1970 by Redis's clock.

    Attributes:
        id: Of a worker, the first part of its lock tokens.
        role: `worker` or `producer`.
        prefix: First part of the queue's keys.
        queue: The queue.
        seen: When the record was written.
        heartbeat: Seconds until the next one.
        started: When it started.
        lang: `python`.
        versions: Of bullpy, bullmq, redis and python.
        host: The machine.
        pid: The process.
        cwd: Its folder.
        command: What was typed, without secrets.
        name: The worker's name, stored in its jobs.
        clients: Ids of its connections: that of the blocking one, then that of the shared one.
        fingerprint: Of the queue, as this process sees it.
        url: Where it connects to, password masked.
        db: Database.
        options: Of a worker: its settings that matter to others.
        state: Of a worker: starting, waiting, running, paused, limited or draining.
        active: Some jobs that it runs, the longest first.
        busy: How many jobs it runs.
        processed: Jobs that it completed.
        failed: Attempts that failed.
        added: Of a producer: jobs that it has added.
        last_fetch: When Redis last answered a fetch, or of a producer an add.
        last_job: The job that ended last.
        last_failure: The attempt that failed last.
        last_error: The last error that was no job's failure.
        loop_lag: Seconds that the event loop took to turn.
        loop_blocks: How often it was blocked for longer than `loop_warning`.
        rss: Bytes of memory.
        clock_offset: Seconds by which the machine's clock is ahead of Redis's.
        ended: How it ended; None while it lives, and where it was not able to tell.
    """

    id: str
    role: str
    prefix: str
    queue: str
    seen: float
    heartbeat: float
    started: float
    lang: str = ""
    versions: dict[str, str] = {}
    host: str = ""
    pid: int = 0
    cwd: str = ""
    command: str = ""
    name: str = ""
    clients: tuple[int, ...] = ()
    fingerprint: str = ""
    url: str = ""
    db: int = 0
    options: dict[str, Any] = {}
    state: str = ""
    active: tuple[Held, ...] = ()
    busy: int = 0
    processed: int = 0
    failed: int = 0
    added: int = 0
    last_fetch: float | None = None
    last_job: Incident | None = None
    last_failure: Incident | None = None
    last_error: Incident | None = None
    loop_lag: float = 0.0
    loop_blocks: int = 0
    rss: int = 0
    clock_offset: float = 0.0
    ended: Goodbye | None = None

    def is_live(self, now: float) -> bool:
        """Whether its process was there a moment ago.

        Args:
            now: Seconds since 1970 by Redis's clock.
        """
        return self.ended is None and self.silence(now) <= BEATS * self.heartbeat

    def is_lost(self, now: float) -> bool:
        """Whether its process is gone, or stands still, without having said goodbye."""
        return self.ended is None and not self.is_live(now)

    def silence(self, now: float) -> float:
        """Seconds since it was written."""
        return max(0.0, now - self.seen)

    @property
    def concurrency(self) -> int:
        """How many jobs it may run at a time; 0 if it does not say."""
        value = self.options.get("concurrency")
        return value if isinstance(value, int) else 0


@dataclass(frozen=True, slots=True)
class Registry:
    """The records of some queues, at one moment.

    Attributes:
        at: Seconds since 1970 by Redis's clock.
        records: Those of live processes first, then those that ended last.
        refusal: Why some could not be read; empty if all could.
    """

    at: float
    records: tuple[Record, ...] = ()
    refusal: str = ""

    def of(self, prefix: str, queue: str) -> tuple[Record, ...]:
        """The records of one queue."""
        return tuple(
            record for record in self.records if (record.prefix, record.queue) == (prefix, queue)
        )

    def live(self, role: str = "worker") -> tuple[Record, ...]:
        """Those of processes that are there."""
        return tuple(each for each in self.records if each.role == role and each.is_live(self.at))

    def gone(self, role: str = "worker") -> tuple[Record, ...]:
        """Those of processes that have ended, with or without a goodbye; the last one first."""
        return tuple(
            each for each in self.records if each.role == role and not each.is_live(self.at)
        )


class Entry:
    """The place of one process in the registry of a queue.

    Args:
        prefix: First part of the queue's keys.
        queue: The queue.
        process_id: Its id, which no other process has.
    """

    def __init__(self, prefix: str, queue: str, process_id: str) -> None:
        self._prefix = prefix
        self._queue = queue
        self._id = process_id
        self._key = key_of(prefix, queue, process_id)
        self._index = index_of(prefix, queue)
        self._list_at = 0.0

    async def write(self, shared: SharedRedis, record: Record) -> bool:
        """Store the record. Mostly one command; it is put on the lists now and then.

        Returns:
            Whether the server allows it; where an ACL does not, asking again is no use.

        Raises:
            errors.RedisError: Redis could not be asked, or refused for now.
        """
        text = record.model_dump_json(exclude_defaults=True)
        lasts = round((KEPT + BEATS * record.heartbeat) * 1000)
        command = ("SET", self._key, text, "PX", lasts)
        # Where it is gone, somebody emptied the database, or Redis did: it is on no list then.
        is_listed = time.monotonic() < self._list_at
        replies = await _send(shared, [(*command, "XX") if is_listed else command])
        if is_listed and replies == [None]:
            is_listed = False
            replies = await _send(shared, [command])
        if replies is None:
            return False
        if record.ended or not is_listed:
            await _send(shared, self._listing(shared, lasts, has_ended=record.ended is not None))
            self._list_at = time.monotonic() + LIST_EVERY
        return True

    def _listing(
        self, shared: SharedRedis, lasts: int, *, has_ended: bool
    ) -> list[tuple[Any, ...]]:
        """What puts it on the lists."""
        now = shared.clock.milliseconds()
        # Those that have ended stand behind all that live, and are the first to be left out.
        until = now + lasts + (0 if has_ended else round(2 * LIST_EVERY * 1000))
        is_new = not self._list_at
        if has_ended and not is_new:
            return [("ZADD", self._index, until, self._id)]
        lists = [(self._index, self._id)]
        if not shared.settings.cluster or _TAGGED.search(self._prefix):
            # Otherwise that list would belong to another slot than the queue.
            lists.append((queues_of(self._prefix), self._queue))
        commands: list[tuple[Any, ...]] = [("ZREMRANGEBYRANK", self._index, 0, -MOST - 1)]
        for key, member in lists:
            commands += [("ZADD", key, until, member), ("PEXPIRE", key, until - now)]
            if not is_new:
                # Not at once: whoever has just started sends little else.
                commands.append(("ZREMRANGEBYSCORE", key, "-inf", now))
        return commands


async def _send(shared: SharedRedis, commands: Sequence[tuple[Any, ...]]) -> list[Any] | None:
    """The replies; None where an ACL forbids one of the commands."""
    packed = b"".join(map(pack, commands))
    reply = await shared.pipeliner.call(packed, raw=True, replies=len(commands))
    replies = cast("list[Any]", reply) if len(commands) > 1 else [reply]
    for each in replies:
        if isinstance(each, Exception):
            if code_of(each) == "NOPERM":
                return None
            raise classify(each, shared.settings) from each
    return replies


def key_of(prefix: str, queue: str, process_id: str) -> str:
    """The key of a record."""
    return f"bullpy:{prefix}:{queue}:proc:{process_id}"


def index_of(prefix: str, queue: str) -> str:
    """The key of the list of a queue's records."""
    return f"bullpy:{prefix}:{queue}:procs"


def queues_of(prefix: str) -> str:
    """The key of the list of queues."""
    return f"bullpy:{prefix}:queues"


def is_own(key: str) -> bool:
    """Whether a key is one of the registry: a worker that may not write it lacks nothing."""
    return _OWN.fullmatch(key) is not None


async def read(asker: Asker, places: Iterable[tuple[str, str]]) -> Registry:
    """The records of queues, given by prefix and name; three commands for one queue.

    Raises:
        errors.RedisError: The connection broke.
    """
    queues = list(dict.fromkeys(places))
    time_reply, *lists = await asker.ask(
        ("TIME",),
        *(("ZRANGE", index_of(*queue), 0, READ - 1, "REV") for queue in queues),
    )
    now = time.time() if refused(time_reply) else int(time_reply[0]) + int(time_reply[1]) / 1e6
    commands = [
        ("MGET", *(key_of(*queue, cast("bytes", each).decode(errors="replace")) for each in ids))
        for queue, ids in zip(queues, lists, strict=True)
        if not refused(ids) and ids
    ]
    replies = await asker.ask(*commands) if commands else []
    refusals = [
        cast("errors.RedisError", each).message for each in lists + replies if refused(each)
    ]
    found = [
        record
        for reply in replies
        if not refused(reply)
        for raw in reply
        if raw is not None and (record := _parse(raw)) is not None
    ]
    found.sort(key=lambda each: (not each.is_live(now), -_last(each)))
    return Registry(now, tuple(found), refusals[0] if refusals else "")


async def queues(asker: Asker, prefix: str) -> list[str]:
    """The queues with records; empty where they cannot be read.

    Raises:
        errors.RedisError: The connection broke.
    """
    reply = await asker.one("ZRANGE", queues_of(prefix), 0, MOST - 1)
    return [] if refused(reply) else sorted(each.decode(errors="replace") for each in reply)


def _last(record: Record) -> float:
    return record.ended.at if record.ended else record.seen


def _parse(raw: bytes) -> Record | None:
    try:
        return Record.model_validate_json(raw)
    except ValidationError:
        # Of a version that writes them in another way, or of somebody else.
        return None
