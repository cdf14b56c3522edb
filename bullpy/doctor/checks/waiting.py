"""Jobs that wait for a reason, and where they are not counted: notes, as a rule."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor.checks import facts
from bullpy.doctor.look import QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, span

DELAYED = Cause(
    code="delayed",
    number=24,
    level=Level.OK,
    title="Jobs are delayed on purpose",
    symptom="A job was added and is not picked up.",
    why="It was added with a `delay`, by a job scheduler, or it failed and waits for its next "
    "attempt (backoff). Such jobs lie in `delayed` until their time has come, and are not counted "
    "as waiting.",
    fix="Wait until it is due, or start it now with job.promote().",
    refutes=("a lost job",),
    rank=60,
)
PRIORITIZED = Cause(
    code="prioritized-not-counted",
    number=26,
    level=Level.OK,
    title="Jobs with a priority are not counted as waiting",
    symptom="`getWaiting()` gives nothing and `waiting` is 0, but jobs were added.",
    why="Jobs with a `priority` lie in `prioritized`, a set of its own. `getWaiting()`, "
    "`getWaitingCount()` and a scaler that reads the length of `wait` do not see them. Workers do, "
    "once `wait` is empty.",
    fix="Count `waiting` and `prioritized` together.",
    refutes=("a lost job",),
    rank=62,
)

WAKES = 11_000
"""ms after which a worker that waits has looked at delayed jobs again: it waits 10 s at most."""


@CHECKS.queue(DELAYED)
def delayed(queue: QueueLook) -> Iterator[Verdict]:
    """How many are delayed, and when the next one is due."""
    last = queue.last
    number = last.counts["delayed"]
    if not number:
        return
    proofs = [facts.count(queue, "delayed")]
    nearest = last.delayed[0] if last.delayed else None
    if nearest is not None:
        shown = f"{nearest.id}, due {facts.moment(nearest.due)}"
        proofs.append(Proof(f"ZRANGE {queue.key('delayed')} 0 0 WITHSCORES", shown))
    overdue = _overdue(queue)
    if overdue:
        yield DELAYED.verdict(
            f"{many(last.due, 'delayed job')} should have started {span(overdue / 1000)} ago, and "
            "a worker that waits does not take them.",
            *proofs,
            level=Level.WARNING,
            certainty=Certainty.WATCHED,
            refutes=(),
            fix="Restart the worker. The Python port of BullMQ sleeps past due times; bullpy "
            "does not. BullMQ before 2.0 needs a QueueScheduler.",
        )
        return
    if last.due:
        when = f"{many(last.due, 'job')} due already, for the next worker that is free"
    elif nearest is not None:
        when = f"the next one is due in {span((nearest.due - last.at) / 1000)}"
    else:
        when = "when they are due is not known"
    yield DELAYED.verdict(f"{many(number, 'delayed job')}: {when}.", *proofs)


@CHECKS.queue(PRIORITIZED)
def prioritized(queue: QueueLook) -> Iterator[Verdict]:
    """Whether counting `wait` alone misses jobs."""
    number = queue.last.counts["prioritized"]
    if not number:
        return
    waiting = facts.in_wait(queue.last)
    yield PRIORITIZED.verdict(
        f"{many(number, 'job')} with a priority: counts of `waiting` say {waiting}.",
        facts.count(queue, "prioritized"),
        facts.count(queue, "wait"),
    )


def _overdue(queue: QueueLook) -> int:
    """Ms for which a due job was left alone by a worker that had nothing else to do; else 0."""
    first, last = queue.first, queue.last
    if not last.delayed or not first.delayed or last.is_paused or queue.moves:
        return 0
    if last.limiter_ttl > 0 or last.number("concurrency") is not None or last.ready:
        return 0
    nearest = last.delayed[0]
    is_same = nearest.id == first.delayed[0].id
    is_late = nearest.due + WAKES < first.at
    has_idle = any(client.is_blocked for client in queue.workers())
    return last.at - nearest.due if is_same and is_late and has_idle else 0
