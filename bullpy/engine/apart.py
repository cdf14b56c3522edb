"""Jobs that have lost their worker before run while no other job runs in the process.

Nobody knows which of the jobs of a dead process killed it. Those that run in a process of their
own hurt nobody; of the others each runs alone, so that one that kills its worker again takes no
neighbour along.
"""

from __future__ import annotations

import asyncio
import logging
import weakref

from bullpy.engine.runner import Running
from bullpy.processors import Processor
from bullpy.types import Isolation, StopReason

DEATHS = 2
"""After so many deaths of its worker process a job is suspect. One can be the work of somebody who
killed the process; a job that stalled, of which less is known, is suspect after the first time."""

REMIND_EVERY = 60.0
"""Seconds until the log says again for whom a job waits, and all the others with it."""

log = logging.getLogger("bullpy.worker")


class Room:
    """What the jobs of one process share: all of them run beside each other, or one runs alone.

    All workers of an event loop have one room. One that wants to be alone closes the room: no job
    enters any more, and it starts when the last one has left. A job that was already on its way
    from Redis is handed back, and so is a second one that wants to be alone.
    """

    def __init__(self) -> None:
        self._inside: set[Running] = set()
        self._alone: Running | None = None
        self._opened = asyncio.Event()
        self._opened.set()
        self._changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether a job may be fetched and started now."""
        return self._alone is None

    async def opened(self) -> None:
        """Wait until jobs may be fetched and started."""
        await self._opened.wait()

    def enter(self, running: Running) -> None:
        """Let a job in; at any time, because to hand it back it has to be inside too."""
        self._inside.add(running)

    def leave(self, running: Running) -> None:
        """Let it out; the room opens if it was closed for it. Leaving twice is fine."""
        self._inside.discard(running)
        if self._alone is running:
            self._alone = None
            self._opened.set()
        elif self._alone is not None:
            self._changed.set()

    def close(self, running: Running) -> None:
        """Let nobody in any more beside this job; only while the room is open."""
        self._alone = running
        self._opened.clear()

    async def alone(self, running: Running) -> None:
        """Wait until the job is the only one inside, or is asked to stop."""
        job = running.job
        job.on_stop(self._wake)
        self._tell(logging.INFO, running)
        try:
            while len(self._inside) > 1 and not job.should_stop():
                self._changed.clear()
                try:
                    async with asyncio.timeout(REMIND_EVERY):
                        await self._changed.wait()
                except TimeoutError:
                    self._tell(logging.WARNING, running)
        finally:
            job.on_stop(None)

    def _tell(self, level: int, running: Running) -> None:
        others = [other.job.id for other in self._inside if other is not running]
        log.log(
            level,
            "job %s has lost its worker before: it runs alone, after jobs %s",
            running.job.id,
            ", ".join(others) or "none",
            extra={"job_id": running.job.id, "job_name": running.job.name},
        )

    def _wake(self, _reason: StopReason) -> None:
        self._changed.set()


def is_suspect(running: Running, processor: Processor) -> bool:
    """Whether the job may kill the process that it runs in, and has not one of its own."""
    job = running.job
    has_lost_worker = job.stalledCounter > 0 or job.deaths >= DEATHS
    return has_lost_worker and processor.isolation is not Isolation.PROCESS


def room() -> Room:
    """The room of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _rooms.get(loop)
    if found is None:
        found = _rooms[loop] = Room()
    return found


_rooms: weakref.WeakValueDictionary[asyncio.AbstractEventLoop, Room] = weakref.WeakValueDictionary()
