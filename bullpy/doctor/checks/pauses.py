"""The queue is paused, or its jobs lie in two lists of which one is lost at the next resume."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor import repairs
from bullpy.doctor.checks import facts
from bullpy.doctor.look import QueueLook, Sample
from bullpy.doctor.verdicts import CHECKS, Cause, Level, Proof, Verdict
from bullpy.doctor.wording import many

PAUSED = Cause(
    code="paused",
    number=14,
    level=Level.BLOCKED,
    title="The queue is paused for all workers",
    symptom="Waiting jobs pile up, workers are connected and idle, and nothing is logged.",
    why="Somebody called `queue.pause()`, or pressed Pause in a dashboard. That is kept in Redis "
    "and holds for every worker until somebody resumes the queue; restarts do not end it. BullMQ 5 "
    "moves the waiting jobs into the list `paused`, so that `getWaiting()` gives 0; BullMQ 6 "
    "leaves them in `wait`.",
    fix="Resume it from bullpy, which finds the jobs of both majors, or with the major version "
    "that paused it.",
    refutes=("a dead worker", "a lost connection", "a wrong queue name"),
    rank=12,
    silences=frozenset(
        {
            "concurrency-used-up",
            "no-adds",
            "producer-without-marker",
            "rate-limited",
            "too-few-workers",
            "worker-frozen",
            "worker-never-fetched",
        }
    ),
)
SPLIT_PAUSE = Cause(
    code="split-pause",
    number=15,
    level=Level.BLOCKED,
    title="Waiting jobs lie in two lists: BullMQ 5 and 6 share a paused queue",
    symptom="After a resume some jobs are gone: their state is `unknown`, and no worker gets them.",
    why="BullMQ 5 keeps the jobs of a paused queue in `paused`, BullMQ 6 and the Python port keep "
    "them in `wait`. When version 5 resumes, it renames `paused` to `wait` and drops what was "
    "there. On a queue that is not paused, nobody reads `paused` at all.",
    fix="Do not resume it with BullMQ 5. Bring the two lists together with bullpy, and use one "
    "major version on this queue.",
    refutes=("a dead worker",),
    rank=10,
)


@CHECKS.queue(PAUSED)
def paused(queue: QueueLook) -> Iterator[Verdict]:
    """Whether `meta` says that it is paused."""
    last = queue.last
    if not last.is_paused:
        return
    proofs = [
        Proof(f"HGET {queue.key('meta')} paused", last.meta["paused"]),
        facts.count(queue, "wait"),
        facts.count(queue, "paused"),
    ]
    change = last.newest("paused", "resumed")
    since = ""
    if change is not None and change.name == "paused":
        since = f" since {facts.moment(change.at)} ({facts.ago(queue, change.at)})"
        proofs.append(facts.events(queue, f"paused at {facts.moment(change.at)}"))
    yield PAUSED.verdict(
        f"Paused for all workers{since}; {many(facts.startable(last), 'job')} could start.",
        *proofs,
        fix=f"{repairs.command(queue, 'resume')}  (it is safe for BullMQ 5 and 6)"
        f"{_or_in_node(last)}. If it was paused on purpose, leave it.",
    )


@CHECKS.queue(SPLIT_PAUSE)
def split_pause(queue: QueueLook) -> Iterator[Verdict]:
    """Whether there are jobs where the next resume, or no worker, looks."""
    first, last = queue.first, queue.last
    if not (_is_split(first) and _is_split(last)):
        return
    waiting, pausing = facts.in_wait(last), last.counts["paused"]
    proofs = [facts.count(queue, "wait"), facts.count(queue, "paused")]
    proofs.append(Proof(f"HGET {queue.key('meta')} paused", last.meta.get("paused", "(nil)")))
    if last.is_paused:
        message = (
            f"Do not resume this queue with BullMQ 5: it would drop {many(waiting, 'job')} that "
            f"{'is' if waiting == 1 else 'are'} in `wait`, while {pausing} are in `paused`."
        )
        fix = f"{repairs.command(queue, 'resume')}  (it joins both lists first)"
    else:
        message = (
            f"{many(pausing, 'job')} {'lies' if pausing == 1 else 'lie'} in `paused`, though the "
            "queue is not paused: no worker reads that list."
        )
        fix = repairs.command(queue, "orphans")
    yield SPLIT_PAUSE.verdict(message, *proofs, fix=fix)


def _is_split(sample: Sample) -> bool:
    pausing = sample.counts["paused"]
    return pausing > 0 and (not sample.is_paused or facts.in_wait(sample) > 0)


def _or_in_node(sample: Sample) -> str:
    # The major that connected last is the one that paused it, unless both are in use: then only
    # bullpy's own resume is safe.
    if not sample.version or _is_split(sample):
        return ""
    return f", or queue.resume() in BullMQ {sample.version[0]}"
