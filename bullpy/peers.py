"""Which versions of BullMQ share a queue, and whether that can lose jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bullpy.backend import Backend
from bullpy.dialect import MAJORS
from bullpy.terminal import USUAL_PREFIX, repair_command

REMEMBERED = 30 * 24 * 3600
"""Seconds for which a version that was seen counts as being there still."""

MIXED = "mixed-versions"
PAUSED_BY_5 = "paused-beside-5"


@dataclass(frozen=True, slots=True)
class PeerWarning:
    """What a worker or queue warns of: its listeners of `warning` get one.

    Attributes:
        code: `mixed-versions` or `paused-beside-5`.
        message: What was seen.
        cause: Why that matters.
        fix: What to do.
    """

    code: str
    message: str
    cause: str
    fix: str

    def __str__(self) -> str:
        return f"{self.message} {self.cause} {self.fix}"


@dataclass(frozen=True, slots=True)
class Peers:
    """Who uses a queue besides bullpy, as far as the queue tells.

    Attributes:
        queue: Its name.
        paused: Whether it is paused for all workers.
        version: What the Node producer that connected last calls itself, such as
            `bullmq:5.61.2`; empty without any.
        seen: The version last seen of each major version, by its number.
        prefix: First part of the queue's keys.
    """

    queue: str
    paused: bool
    version: str
    seen: dict[int, str]
    prefix: str = USUAL_PREFIX

    @property
    def major(self) -> int | None:
        """The major version of BullMQ that connected last, None if it is not known."""
        found = re.match(r"bullmq:(\d+)\.", self.version)
        return int(found[1]) if found else None

    @property
    def warning(self) -> PeerWarning | None:
        """What is dangerous about that, None if nothing is."""
        versions = " and ".join(self.seen[major] for major in sorted(self.seen))
        if len(self.seen) > 1:
            return PeerWarning(
                MIXED,
                f"Queue {self.queue} is used by {versions}.",
                "They keep the jobs of a paused queue in different lists: what one of version 6 "
                "adds while it is paused is lost when one of version 5 resumes it.",
                "Bring all to one major version, or pause and resume from bullpy; after a "
                f"resume by version 5: {repair_command('orphans', self.queue, self.prefix)}",
            )
        if self.paused and 5 in self.seen:
            return PeerWarning(
                PAUSED_BY_5,
                f"Queue {self.queue} is paused, and used by {versions}.",
                "bullpy keeps its jobs where version 5 finds them; a peer of version 6, or "
                "upstream's Python package, would not.",
                "Resume it before others use it; to look for jobs that were lost: "
                f"{repair_command('orphans', self.queue, self.prefix, apply=False)}",
            )
        return None


async def look(backend: Backend, *, remember: bool = True) -> Peers:
    """Look at a queue, and remember the version that is there.

    Args:
        backend: The queue.
        remember: Write down which version is there.

    Raises:
        errors.RedisError: Redis could not be asked, or refused.
    """
    majors = backend.toKey(MAJORS)
    async with backend.conn.pipeline(transaction=False) as pipe:
        pipe.hmget(backend.keys["meta"], "paused", "version")
        pipe.hgetall(majors)
        (paused, version), seen = await pipe.execute()
    found = Peers(
        backend.name,
        bool(paused),
        version or "",
        {int(major): text for major, text in seen.items() if major.isdigit()},
        backend.prefix,
    )
    if found.major is not None:
        found.seen[found.major] = found.version
    if found.major is not None and remember:
        async with backend.conn.pipeline(transaction=False) as pipe:
            pipe.hset(majors, str(found.major), found.version)
            pipe.expire(majors, REMEMBERED)
            await pipe.execute()
    return found
