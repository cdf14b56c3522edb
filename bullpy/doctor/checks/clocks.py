"""Clocks that disagree: of producers, of workers, and of this machine, with that of Redis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bullpy.doctor.checks import facts
from bullpy.doctor.look import Job, Look, QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, span

CLOCK_SKEW = Cause(
    code="clock-skew",
    number=25,
    level=Level.WARNING,
    title="A clock is wrong",
    symptom="Delayed jobs start too late or too early; durations in dashboards make no sense.",
    why="BullMQ computes due times from the producer's clock and start times from the worker's, "
    "and compares both with other clocks. Each event carries the time of Redis, so that the "
    "difference shows: `timestamp` against the event `added`, `processedOn` against `active`. "
    "Network latency makes a clock look late by milliseconds, an outage by seconds and only once; "
    "nothing makes it look early.",
    fix="Turn on NTP (chrony, systemd-timesyncd) on the host that is off.",
    refutes=("a slow worker",),
    rank=58,
)

ALLOWED = 2_000
"""ms of difference that are no finding."""

ALIKE = 1_000
"""ms by which several readings of one wrong clock may differ."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A job, the time of the event by Redis's clock, and by how many ms the other was ahead."""

    job_id: str
    field: str
    at: int
    ahead: int


@CHECKS.queue(CLOCK_SKEW)
def clock_skew(queue: QueueLook) -> Iterator[Verdict]:
    """Whether producers or workers write other times than Redis does."""
    yield from _judged(queue, "the producer's clock", list(_producers(queue)), "added")
    by_worker: dict[str, list[_Reading]] = {}
    for worker, reading in _workers(queue):
        by_worker.setdefault(worker, []).append(reading)
    for worker, readings in by_worker.items():
        whose = f"the clock of worker {worker}" if worker else "a worker's clock"
        yield from _judged(queue, whose, readings, "active")


@CHECKS.server(CLOCK_SKEW)
def own_clock(look: Look) -> Iterator[Verdict]:
    """Whether this machine's clock and that of Redis agree."""
    skews = [server.skew for server in look.servers]
    skew = min(skews, key=abs)
    # A slow reply makes one look wrong, and never two by the same.
    if abs(skew) * 1000 < ALLOWED or max(skews) - min(skews) > ALIKE / 1000:
        return
    yield CLOCK_SKEW.verdict(
        f"Redis's clock is {span(abs(skew))} {'ahead of' if skew > 0 else 'behind'} that of this "
        "machine; if workers or producers run here, delays are wrong by as much.",
        Proof("TIME", f"{skew:+.1f} s against this machine"),
        refutes=(),
    )


def _judged(
    queue: QueueLook, whose: str, readings: Sequence[_Reading], event: str
) -> Iterator[Verdict]:
    early = [each for each in readings if each.ahead > ALLOWED]
    late = [each for each in readings if each.ahead < -ALLOWED]
    if early:
        found = early[0]
        certainty = Certainty.CERTAIN
    elif late and len(late) == len(readings) and (certainty := _certainty(late)) is not None:
        # Nearest to the truth is the one that waited least.
        found = max(late, key=lambda each: each.ahead)
    else:
        return
    which = "ahead of" if found.ahead > 0 else "behind"
    yield CLOCK_SKEW.verdict(
        f"{whose[0].upper()}{whose[1:]} is {span(abs(found.ahead) / 1000)} {which} Redis's, "
        f"seen on {many(len(early) or len(late), 'job')}.",
        Proof(f"HGET {queue.key(found.job_id)} {found.field}", str(found.at + found.ahead)),
        facts.events(queue, f"{event} {found.job_id} at {found.at}"),
        certainty=certainty,
    )


def _certainty(late: Sequence[_Reading]) -> Certainty | None:
    """How sure it is that a clock is late, and not the command; None where it is not."""
    spread = max(each.ahead for each in late) - min(each.ahead for each in late)
    apart = max(each.at for each in late) - min(each.at for each in late)
    if spread > ALIKE:
        return None
    # Commands that waited for a connection arrive together: those of different times are no
    # accident, and a single one is a hint where it is hours.
    if apart > ALLOWED and len(late) > 1:
        return Certainty.CERTAIN
    return Certainty.PROBABLE if late[0].ahead < -60_000 else None


def _producers(queue: QueueLook) -> Iterator[_Reading]:
    added = _newest(queue, "added")
    for job in _jobs(queue):
        # A scheduler's job is written by a worker, for a time to come.
        if job.timestamp and job.id in added and not job.id.startswith("repeat:"):
            yield _Reading(job.id, "timestamp", added[job.id], job.timestamp - added[job.id])


def _workers(queue: QueueLook) -> Iterator[tuple[str, _Reading]]:
    begun = _newest(queue, "active")
    for job in _jobs(queue):
        if job.processed_on and job.id in begun:
            at = begun[job.id]
            yield job.worker, _Reading(job.id, "processedOn", at, job.processed_on - at)


def _newest(queue: QueueLook, name: str) -> dict[str, int]:
    events = reversed(queue.last.events)
    return {event.job_id: event.at for event in events if event.name == name}


def _jobs(queue: QueueLook) -> Iterable[Job]:
    last = queue.last
    jobs = (
        *last.active,
        *last.next,
        *last.prioritized,
        *last.delayed,
        *last.parents,
        *last.failed,
        *last.completed,
    )
    return {job.id: job for job in jobs if job.exists}.values()
