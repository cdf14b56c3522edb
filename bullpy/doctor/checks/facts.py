"""What several checks say or ask about a queue in the same way. No checks here."""

from __future__ import annotations

from bullpy import terminal
from bullpy.doctor.look import Job, QueueLook, Sample
from bullpy.doctor.verdicts import Proof
from bullpy.doctor.wording import span

_LISTS = frozenset({"wait", "paused", "active"})

ENDS = ("completed", "failed")
"""Events of a job's end. A failure that is tried again has none of them."""


def count(queue: QueueLook, name: str) -> Proof:
    """How many jobs a list or a set of the queue has."""
    command = "LLEN" if name in _LISTS else "ZCARD"
    return Proof(f"{command} {queue.key(name)}", str(queue.last.counts[name]))


def events(queue: QueueLook, value: str) -> Proof:
    """What the queue's event stream says."""
    return Proof(f"XREVRANGE {queue.key('events')} + - COUNT 200", value)


def moment(at: int) -> str:
    """A time by Redis's clock, as `2026-11-25 18:02:11 UTC`."""
    # A delay may be any number: BullMQ takes Number.MAX_SAFE_INTEGER.
    return f"{terminal.moment(at).partition('.')[0]} UTC"


def ago(queue: QueueLook, at: int) -> str:
    """How long before the last look that was."""
    return f"{span((queue.last.at - at) / 1000)} ago"


def in_wait(sample: Sample) -> int:
    """Jobs in the list `wait`; BullMQ 4 keeps a marker there, which is no job."""
    number = sample.counts["wait"]
    only_marker = number == 1 and sample.checked == 1 and not sample.next
    return 0 if only_marker else number


def startable(sample: Sample) -> int:
    """Jobs that a worker could start now: the ready ones, and delayed ones that are due."""
    return sample.ready + sample.due


def ownerless(queue: QueueLook) -> list[Job]:
    """Active jobs that nobody held at the first nor at the last look, of those looked at.

    One look is not enough: BullMQ up to 4 and Bull move a job first and lock it afterwards.
    """
    before = {job.id: job for job in queue.first.active}
    return [
        job
        for job in queue.last.active
        if job.exists
        and job.lock is None
        and job.id in before
        and before[job.id].lock is None
        and before[job.id].starts == job.starts
    ]


def held(queue: QueueLook) -> list[Job]:
    """Active jobs that the same worker held at the first and at the last look."""
    before = {job.id: job.lock for job in queue.first.active}
    return [job for job in queue.last.active if job.lock and before.get(job.id) == job.lock]


def holder(job: Job) -> str:
    """Who runs an active job, as far as Redis tells."""
    return job.worker or (f"the owner of lock {job.lock.partition(':')[0]}" if job.lock else "")
