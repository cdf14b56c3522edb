"""Resumes a queue so that no job of either list is lost, whoever paused it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from bullpy import peers
from bullpy.repairs import journal
from bullpy.repairs.common import Report

if TYPE_CHECKING:
    from bullpy.backend import Backend
    from bullpy.queue import Queue


@dataclass(slots=True)
class ResumeReport(Report):
    """What `resume` found and did; with a dry run, what it would do.

    Attributes:
        paused: Whether the queue was paused for all workers.
        in_wait: Jobs that were in the list `wait`.
        in_paused: Jobs that were in the list `paused`.
        prioritized: Jobs that waited with a priority.
        versions: The versions of BullMQ that were seen on the queue, by major version.
        ready: Jobs that wait where workers find them, after the repair; those of both lists
            and with a priority.
    """

    NAME: ClassVar[str] = "resume"

    paused: bool = False
    in_wait: int = 0
    in_paused: int = 0
    prioritized: int = 0
    versions: dict[int, str] = field(default_factory=dict[int, str])
    ready: int = 0

    @property
    def changes(self) -> int:
        """1 if the queue was paused or had jobs in a list that nobody reads."""
        return int(self.paused or self.in_paused > 0)

    def sentences(self) -> Iterator[str]:
        """What was found and done, for people; a line each."""
        if self.found_nothing:
            yield "the queue is not paused, and all jobs that wait are in one list"
            return
        state = "was paused" if self.paused else "was not paused"
        yield (
            f"the queue {state}: {self.in_wait} jobs in `wait`, {self.in_paused} in `paused`, "
            f"{self.prioritized} with a priority"
        )
        if self.in_wait and self.in_paused:
            yield (
                f"a resume by BullMQ 5 would lose the {self.in_wait} jobs in `wait`: "
                "resume with bullpy"
            )
        if self.versions:
            yield f"seen on it: {', '.join(self.versions[each] for each in sorted(self.versions))}"
        wait = "would wait" if self.dry_run else "wait"
        yield f"{self.ready} jobs {wait} where workers find them"


async def resume(queue: Queue, *, dry_run: bool = True) -> ResumeReport:
    """Resume a queue: the jobs of both lists wait afterwards, the older ones first.

    It does what `queue.resume()` does, tells what it finds, and keeps it in the log of repairs.
    What an earlier resume by BullMQ 5 has lost, `requeue_orphans` finds.

    Args:
        queue: The queue.
        dry_run: Only tell what would be done.

    Raises:
        errors.RedisError: Redis could not be asked, or refused.
    """
    backend = queue.backend
    report = ResumeReport(backend.name, dry_run)
    report.versions = (await peers.look(backend, remember=not dry_run)).seen
    report.paused, report.in_wait, report.in_paused, report.prioritized = await _look(backend)
    async with journal.kept(backend, report) as entry:
        if not report.found_nothing and not dry_run:
            await entry.begin()
            await backend.pause(False)
        after = await _look(backend)
        report.ready = after[1] + (after[2] if dry_run else 0) + after[3]
    return report


async def _look(backend: Backend) -> tuple[bool, int, int, int]:
    """Whether it is paused, and the jobs in `wait`, `paused` and `prioritized`."""
    keys = backend.keys
    async with backend.conn.pipeline(transaction=True) as pipe:
        pipe.hexists(keys["meta"], "paused")
        pipe.llen(keys["wait"])
        pipe.llen(keys["paused"])
        pipe.zcard(keys["prioritized"])
        found: list[Any] = await pipe.execute()
    return bool(found[0]), int(found[1]), int(found[2]), int(found[3])
