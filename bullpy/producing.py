"""Lets a process that adds jobs be seen: now and then it leaves a record in the registry."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass, field
from uuid import uuid4

from bullpy import errors, thisprocess
from bullpy.backend import Backend
from bullpy.connection.identity import QueueFingerprint
from bullpy.connection.resolve import Target
from bullpy.producer_settings import ProducerSettings
from bullpy.registry import Entry, Record

log = logging.getLogger("bullpy.heartbeat")

NEVER = float("inf")


@dataclass(slots=True)
class _Presence:
    """One process and one queue, whatever number of `Queue` objects it makes of it.

    Attributes:
        entry: Its place in the registry.
        since: When it added its first job, on the monotonic clock.
        added: Jobs that it has added.
        due: When the next record may be written, on that clock.
    """

    id: str
    entry: Entry
    since: float = field(default_factory=time.monotonic)
    added: int = 0
    due: float = 0.0


_presences: dict[tuple[Target, str, str], _Presence] = {}
# A forked child is a process of its own, and makes queues of its own.
os.register_at_fork(after_in_child=_presences.clear)


class Producer:
    """Counts what a queue adds, and writes that down at most once per `heartbeat`.

    An add costs it a look at the clock. What goes wrong is nobody's business, and logged at debug
    level.

    Args:
        backend: The queue's keys and connection.

    Raises:
        errors.ConfigurationError: `BULLPY_HEARTBEAT` is wrong.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._interval = ProducerSettings().heartbeat
        self._presence: _Presence | None = None
        self._writing: asyncio.Task[None] | None = None

    def note(self, jobs: int) -> None:
        """Count jobs that were added just now."""
        presence = self._presence or self._find()
        presence.added += jobs
        if time.monotonic() >= presence.due:
            presence.due = time.monotonic() + (self._interval or NEVER)
            if self._interval:
                self._writing = asyncio.create_task(self._write(presence))

    async def stop(self) -> None:
        """Write no more; the end of what is being written is not waited for."""
        writing, self._writing = self._writing, None
        if writing is not None and writing.get_loop() is asyncio.get_running_loop():
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    def _find(self) -> _Presence:
        prefix, queue = self._backend.prefix, self._backend.name
        key = (self._backend.connection.target, prefix, queue)
        presence = _presences.get(key)
        if presence is None:
            made = uuid4().hex
            presence = _presences[key] = _Presence(made, Entry(prefix, queue, made))
        self._presence = presence
        return presence

    async def _write(self, presence: _Presence) -> None:
        try:
            shared = self._backend.shared
            is_allowed = await presence.entry.write(shared, self._record(presence))
        except errors.RedisError as error:
            log.debug("no record of this producer: %s", error)
            return
        except Exception as error:
            log.debug("no record of this producer: %s", errors.describe(error), exc_info=error)
            return
        if not is_allowed:
            presence.due = NEVER
            log.debug("no record of this producer: an ACL forbids the keys bullpy:*")

    def _record(self, presence: _Presence) -> Record:
        backend, shared = self._backend, self._backend.shared
        identity, now = shared.identity, shared.clock.time()
        return Record(
            id=presence.id,
            role="producer",
            prefix=backend.prefix,
            queue=backend.name,
            seen=round(now, 3),
            heartbeat=self._interval,
            started=round(now - (time.monotonic() - presence.since), 3),
            lang="python",
            versions=thisprocess.versions(),
            host=thisprocess.host(),
            pid=os.getpid(),
            cwd=thisprocess.folder(),
            command=thisprocess.command(),
            clients=(identity.client_id,) if identity and identity.client_id is not None else (),
            fingerprint=QueueFingerprint.of(identity, backend.prefix, backend.name).value
            if identity
            else "",
            url=shared.settings.masked_url,
            db=shared.settings.db,
            added=presence.added,
            last_fetch=round(now, 3),
            clock_offset=round(-shared.clock.ahead, 3),
        )
