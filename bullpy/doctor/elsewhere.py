"""Looks for a queue in other databases, under other prefixes and other names of the same server.

Only when the queue itself does not explain what is seen, and never more than a bounded part of the
keys.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any

from bullpy.connection.asking import Asker, refused
from bullpy.doctor.clients import Client
from bullpy.doctor.look import Elsewhere, Place, QueueLook, Sample

DATABASES = 16
"""Databases that are looked into at most."""

SCANS = 40
"""Commands that look through keys at most."""

KEYS_EACH = 2000
"""Keys that one of them looks at, roughly: more of them would hold up the server's clients."""

SECONDS = 4.0
"""Time after which no further one is begun."""

FOUND = 100
"""Queues that are looked at at most."""


def is_needed(queue: QueueLook) -> bool:
    """Whether the queue leaves it open where jobs or workers are."""
    last = queue.last
    if queue.workers_in_other_dbs():
        return True
    never_added = last.added is None
    unserved = last.ready > 0 and not queue.has_live_worker
    return never_added or unserved


class Search:
    """Looks for queues on the whole server; what it has learnt for one serves the next.

    Args:
        asker: Where to ask; its database is where the queues are missed.
        clients: Who is connected: their names tell of queues.
    """

    def __init__(self, asker: Asker, clients: Sequence[Client]) -> None:
        self._asker = asker
        self._named = dict.fromkeys(
            (client.db, each.prefix, each.queue)
            for client in clients
            for each in client.listeners
            if each.role == "worker"
        )
        self._databases: list[int] | None = None
        self._keys = 0
        self._known: dict[_Name, Place | None] = {}
        self._scanned: list[_Name] | None = None
        self._searched = 0

    async def find(self, queue: QueueLook) -> Elsewhere:
        """Look for the queue, and for others like it.

        Raises:
            errors.RedisUnavailableError: Redis cannot be asked.
        """
        if self._databases is None:
            self._databases, self._keys = await _databases(self._asker, queue.db)
        names = self._named | dict.fromkeys(
            (db, queue.prefix, queue.name) for db in self._databases
        )
        places = await self._places(queue, names)
        if not any(place.queue == queue.name and place.added for place in places):
            # No worker's name tells: look through keys.
            names |= dict.fromkeys(await self._scan(self._databases, queue.db))
            places = await self._places(queue, names)
        return Elsewhere(tuple(places), self._searched, self._keys)

    async def _places(self, queue: QueueLook, names: Iterable[_Name]) -> list[Place]:
        """What is there of these queues, the most like the one that is missed first."""
        own = (queue.db, queue.prefix, queue.name)
        wanted = sorted(
            (name for name in names if name != own),
            key=lambda name: (name[2] != queue.name, name[1] != queue.prefix, name),
        )[:FOUND]
        await self._learn([name for name in wanted if name not in self._known], queue.db)
        return [place for name in wanted if (place := self._known.get(name)) is not None]

    async def _learn(self, names: list[_Name], home: int) -> None:
        heads: list[tuple[_Name, int | None, bool]] = []
        for db, group in itertools.groupby(sorted(names), key=lambda name: name[0]):
            some = list(group)
            keys = [f"{prefix}:{name}:{last}" for _, prefix, name in some for last in _HEADS]
            (values,) = await self._in(db, home, ("MGET", *keys))
            values = [None] * len(keys) if refused(values) else values
            for name, added, alive in zip(some, values[::2], values[1::2], strict=True):
                number = int(added) if added is not None and added.isdigit() else None
                heads.append((name, number, alive is not None))
        for name, added, has_worker in heads:
            self._known[name] = None
            if added is None and not has_worker:
                continue
            db, prefix, queue = name
            ready = 0 if added is None else await self._ready(db, home, f"{prefix}:{queue}:")
            self._known[name] = Place(db, prefix, queue, added, ready, has_worker)

    async def _ready(self, db: int, home: int, head: str) -> int:
        counts = await self._in(
            db,
            home,
            ("LLEN", f"{head}wait"),
            ("LLEN", f"{head}paused"),
            ("ZCARD", f"{head}prioritized"),
        )
        return sum(0 if refused(count) else int(count) for count in counts)

    async def _scan(self, databases: Sequence[int], home: int) -> list[_Name]:
        """Queues by their keys, those of the own database first; once for all."""
        if self._scanned is None:
            self._scanned = []
            ends, left = time.monotonic() + SECONDS, SCANS
            for db in sorted(databases, key=lambda db: db != home):
                found, looked_at, used = await _scan(self._asker, db, left, ends)
                self._scanned += found
                self._searched += looked_at
                left -= used
                if left <= 0 or time.monotonic() > ends:
                    break
        return self._scanned

    async def _in(self, db: int, home: int, *commands: tuple[Any, ...]) -> list[Any]:
        """What commands are answered in a database; back in the own one afterwards."""
        if db == home:
            return await self._asker.ask(*commands)
        selected, *replies, _ = await self._asker.ask(("SELECT", db), *commands, ("SELECT", home))
        # Where it may not be selected, the others were answered by the own one.
        return [selected] * len(commands) if refused(selected) else replies


_Name = tuple[int, str, str]
"""Database, prefix and name of a queue."""

_HEADS = ("id", "stalled-check")


async def queues_here(asker: Asker, prefix: str) -> list[str]:
    """The names of the queues under a prefix in the connection's database, as far as seen.

    Raises:
        errors.RedisUnavailableError: Redis cannot be asked.
    """
    found, _, _ = await _scan(asker, None, SCANS, time.monotonic() + SECONDS)
    return sorted(name for _, where, name in found if where == prefix)


async def children(asker: Asker, sample: Sample) -> list[tuple[str, str]]:
    """The queues that jobs waiting for children wait for, as prefix and name."""
    keys = [key for parent in sample.parents for key in parent.children]
    found: dict[tuple[str, str], None] = {}
    for key in keys:
        # prefix:queue:id; an id of a scheduler's job has colons of its own, a prefix may too.
        parts = key.split(":")
        if len(parts) >= 3:
            found[":".join(parts[:-2]), parts[-2]] = None
    metas = [("EXISTS", f"{prefix}:{name}:meta") for prefix, name in found]
    replies = await asker.ask(*metas) if metas else []
    return [place for place, there in zip(found, replies, strict=True) if there == 1]


async def unlisted(asker: Asker, queue: QueueLook) -> list[str]:
    """Ids of jobs that may be in no list: of recent events, and of a bounded part of the keys.

    Raises:
        errors.RedisUnavailableError: Redis cannot be asked.
    """
    last: dict[str, str] = {}
    for event in queue.last.events:
        if event.job_id:
            last.setdefault(event.job_id, event.name)
    # What happened last to a job that lies somewhere waiting.
    ids = [job_id for job_id, name in last.items() if name in _WAITING]
    head = f"{queue.prefix}:{queue.name}:"
    pattern = "".join(f"\\{char}" if char in "*?[]\\^" else char for char in head) + "*"
    cursor: Any = b"0"
    for _ in range(_SCANS_FOR_JOBS):
        reply = await asker.one("SCAN", cursor, "MATCH", pattern, "COUNT", 1000, "TYPE", "hash")
        if refused(reply):
            break
        cursor, keys = reply
        names = (key[len(head.encode()) :].decode(errors="replace") for key in keys)
        ids += [name for name in names if ":" not in name and name != "meta"]
        if cursor == b"0" or len(ids) > _MOST_IDS:
            break
    return list(dict.fromkeys(ids))[:_MOST_IDS]


_WAITING = ("added", "waiting", "delayed", "paused")
_SCANS_FOR_JOBS = 5
_MOST_IDS = 200


async def _databases(asker: Asker, home: int) -> tuple[list[int], int]:
    """The databases that hold keys, and how many keys there are."""
    reply = await asker.one("INFO", "keyspace")
    if refused(reply):
        return [home], 0
    found: list[int] = []
    keys = 0
    for line in reply.decode(errors="replace").splitlines():
        head, _, rest = line.partition(":keys=")
        if head.startswith("db") and head[2:].isdigit():
            found.append(int(head[2:]))
            keys += int(rest.split(",")[0])
    return found[:DATABASES], keys


async def _scan(
    asker: Asker, db: int | None, scans: int, ends: float
) -> tuple[list[tuple[int, str, str]], int, int]:
    """Queues by their `meta` keys.

    Returns:
        Database, prefix and name of each; keys looked at; commands used.
    """
    home = asker.node.db
    if db is not None and db != home and refused(await asker.one("SELECT", db)):
        return [], 0, 1
    found: list[tuple[int, str, str]] = []
    cursor: Any = b"0"
    used = 0
    while used < scans and time.monotonic() < ends and len(found) < FOUND:
        reply = await asker.one("SCAN", cursor, "MATCH", "*:meta", "COUNT", KEYS_EACH)
        used += 1
        if refused(reply):
            break
        cursor, keys = reply
        for key in keys:
            prefix, _, name = key.decode(errors="replace")[: -len(":meta")].rpartition(":")
            if prefix and name:
                found.append((home if db is None else db, prefix, name))
        if cursor == b"0":
            break
    if db is not None and db != home:
        await asker.one("SELECT", home)
    return found, used * KEYS_EACH, used
