"""Jobs come in faster than workers finish them."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor.checks import facts
from bullpy.doctor.look import QueueLook
from bullpy.doctor.reading import EVENTS
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, span

TOO_FEW_WORKERS = Cause(
    code="too-few-workers",
    number=49,
    level=Level.WARNING,
    title="Jobs arrive faster than workers finish them",
    symptom="Everything works, and jobs start later and later.",
    why="Per second more jobs are added than finished, all workers are at work, and the backlog "
    "grows. Nothing is broken; it does not clear by itself while that goes on.",
    fix="Start more workers or raise their concurrency, unless the processor is bound by CPU: "
    "then more processes on more cores.",
    certainty=Certainty.WATCHED,
    refutes=("a stuck worker", "a lost job"),
    rank=72,
)

BACKLOG = 60.0
"""Seconds of work that may lie ready without being a finding: bursts are normal."""

NOTED = 10.0
"""Seconds of work from which the time until it is cleared is worth a note."""

HALVES = 2
"""Parts of the time between the looks in each of which jobs must have been added."""


@CHECKS.queue(TOO_FEW_WORKERS)
def too_few_workers(queue: QueueLook) -> Iterator[Verdict]:
    """What comes in and goes out per second, and whether the backlog grows."""
    first, last = queue.first, queue.last
    seconds = queue.seconds
    if seconds < 1 or not queue.moves or not first.ready or not last.ready:
        return
    if first.added is None or last.added is None or last.is_paused or _has_idle_worker(queue):
        return
    came = max(0, last.added - first.added)
    grown = last.ready - first.ready
    started = came - grown - sum(_growth(queue, name) for name in ("delayed", "waiting-children"))
    if started <= 0:
        return
    rates = f"{came / seconds:.1f} jobs/s in, {started / seconds:.1f} jobs/s out"
    clears = last.ready * seconds / started
    proofs = [
        Proof(f"GET {queue.key('id')}", f"{first.added}, {span(seconds)} later {last.added}"),
        Proof(
            f"LLEN {queue.key('wait')} (and paused, prioritized)", f"{first.ready}, {last.ready}"
        ),
        facts.count(queue, "active"),
    ]
    if grown > 0 and _keeps_coming(queue) and max(clears, _oldest(queue)) >= BACKLOG:
        limit = last.number("concurrency")
        held = f" The global concurrency is {limit}." if limit else ""
        yield TOO_FEW_WORKERS.verdict(
            f"{rates}: the backlog of {many(last.ready, 'job')} grows and will not clear.{held}",
            *proofs,
        )
    elif clears >= NOTED and grown <= 0:
        yield TOO_FEW_WORKERS.verdict(
            f"{rates}: the backlog of {many(last.ready, 'job')} clears in about "
            f"{span(-last.ready * seconds / grown) if grown else 'no time: it stays as it is'}.",
            *proofs,
            level=Level.OK,
            fix="Wait, or start more workers.",
        )


def _has_idle_worker(queue: QueueLook) -> bool:
    return any(client.is_blocked for client in queue.workers())


def _growth(queue: QueueLook, name: str) -> int:
    return queue.last.counts[name] - queue.first.counts[name]


def _keeps_coming(queue: QueueLook) -> bool:
    """Whether jobs were added all the time, and not in one burst."""
    last = queue.last
    begins = queue.first.at
    if len(last.events) >= EVENTS:
        # At high rates those that are read do not reach back to the first look.
        begins = max(begins, last.events[-1].at)
    length = max(1, last.at - begins)
    adds = [event.at for event in last.events if event.name == "added" and event.at > begins]
    return len({min(HALVES - 1, (at - begins) * HALVES // length) for at in adds}) == HALVES


def _oldest(queue: QueueLook) -> float:
    """Seconds for which the next job has waited."""
    jobs = [job for job in queue.last.next if job.exists and job.timestamp]
    return (queue.last.at - jobs[0].timestamp) / 1000 if jobs else 0.0
