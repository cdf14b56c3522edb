"""Looks for a queue in other databases, under other prefixes and other names of the same server.

Only when the queue itself does not explain what is seen, and never more than a bounded part of the
keys.
"""

from __future__ import annotations

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

KEYS_EACH = 5000
"""Keys that one of them looks at, roughly."""

SECONDS = 4.0
"""Time after which no further one is begun."""

FOUND = 200
"""Queues that are looked at at most."""


def is_needed(queue: QueueLook) -> bool:
    """Whether the queue leaves it open where jobs or workers are."""
    last = queue.last
    if queue.workers_in_other_dbs():
        return True
    never_added = last.added is None
    unserved = last.ready > 0 and not queue.has_live_worker
    return never_added or unserved


async def search(asker: Asker, queue: QueueLook, clients: Sequence[Client]) -> Elsewhere:
    """Look for the queue, and for others like it, on the whole server.

    Raises:
        errors.RedisUnavailableError: Redis cannot be asked.
    """
    home = queue.db
    own = (home, queue.prefix, queue.name)
    guesses = dict.fromkeys(
        (client.db, each.prefix, each.queue)
        for client in clients
        for each in client.listeners
        if each.role == "worker"
    )
    databases, keys = await _databases(asker, home)
    guesses |= dict.fromkeys((db, queue.prefix, queue.name) for db in databases)
    names = [guess for guess in guesses if guess != own]
    places = await _places(asker, names, home)
    searched = 0
    if not any(place.queue == queue.name and place.added for place in places):
        # No worker's name tells: look through keys, those of the own database first.
        seen = {own, *names}
        ends, left = time.monotonic() + SECONDS, SCANS
        for db in sorted(databases, key=lambda db: db != home):
            found, looked_at, used = await _scan(asker, db, left, ends)
            searched += looked_at
            left -= used
            places += await _places(asker, [place for place in found if place not in seen], home)
            if left <= 0 or time.monotonic() > ends:
                break
    places.sort(key=lambda place: (place.queue != queue.name, place.prefix != queue.prefix))
    return Elsewhere(tuple(places), searched, keys)


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


async def _places(asker: Asker, names: Iterable[tuple[int, str, str]], home: int) -> list[Place]:
    """What is there of these queues, those that exist."""
    wanted = sorted(names)[:FOUND]
    commands: list[tuple[Any, ...]] = []
    db = home
    for place_db, prefix, queue in wanted:
        if place_db != db:
            db = place_db
            commands.append(("SELECT", db))
        key = f"{prefix}:{queue}:"
        commands += [
            ("GET", key + "id"),
            ("LLEN", key + "wait"),
            ("LLEN", key + "paused"),
            ("ZCARD", key + "prioritized"),
            ("EXISTS", key + "stalled-check"),
        ]
    if db != home:
        commands.append(("SELECT", home))
    replies = await asker.ask(*commands) if commands else []
    answers = [
        reply for command, reply in zip(commands, replies, strict=True) if command[0] != "SELECT"
    ]
    found: list[Place] = []
    for index, (place_db, prefix, queue) in enumerate(wanted):
        added, *rest = answers[index * 5 : index * 5 + 5]
        counts = [0 if refused(reply) else int(reply) for reply in rest]
        number = None if added is None or refused(added) else int(added)
        if number is not None or any(counts):
            found.append(Place(place_db, prefix, queue, number, sum(counts[:3]), counts[3] == 1))
    return found


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
