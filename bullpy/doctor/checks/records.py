"""What bullpy's processes say about themselves, where Redis alone does not tell it."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor.look import QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, span
from bullpy.registry import Record, index_of, key_of

RECENT = 30.0
"""Seconds for which an error that a worker met is worth a word."""

TOLD = 3
"""Workers that are told of at most."""

WORKER_LEFT = Cause(
    code="worker-left",
    number=0,
    level=Level.OK,
    title="Who served the queue last, and how that ended",
    symptom="There were workers, and now there is none.",
    why="A worker of bullpy leaves its reason behind for an hour: a signal, a crash, an error at "
    "its start. One that was killed, or whose machine went away, says no goodbye: its record is "
    "just not written any more.",
    fix="Look at the log of that process from there on, and start it again.",
    certainty=Certainty.STATED,
)
WORKER_PAUSED = Cause(
    code="worker-paused",
    number=0,
    level=Level.BLOCKED,
    title="Every worker is paused in its own process",
    symptom="Workers are connected, the queue is not paused, and jobs wait.",
    why="`worker.pause()` was called: that worker fetches nothing until `worker.resume()`, and "
    "Redis does not know about it. The worker's own record says so.",
    fix="Call worker.resume() in that process, or restart it.",
    certainty=Certainty.STATED,
    refutes=("a paused queue", "a frozen process"),
    silences=frozenset(["worker-never-fetched", "worker-frozen", "too-few-workers"]),
    rank=20,
)
WORKER_ERROR = Cause(
    code="worker-error",
    number=0,
    level=Level.OK,
    title="A worker met an error a moment ago",
    symptom="Jobs run late, or not, and the worker's log has errors.",
    why="The worker's record holds the last error that was no job's failure: it could not fetch, "
    "renew a lock or store a result.",
    fix="Do what the error says.",
    certainty=Certainty.STATED,
)


@CHECKS.queue(WORKER_LEFT)
def left(queue: QueueLook) -> Iterator[Verdict]:
    """None is there, and some have been."""
    registry = queue.look.registry
    if registry is None or queue.workers() or _live(queue):
        return
    gone = [record for record in registry.gone() if _is_of(record, queue)]
    if not gone:
        return
    last = gone[0]
    ended = last.ended.reason if last.ended else "without goodbye: killed, or its machine is gone"
    since = registry.at - last.ended.at if last.ended else last.silence(registry.at)
    code = "" if last.ended is None or last.ended.code is None else f", exit code {last.ended.code}"
    yield WORKER_LEFT.verdict(
        f"The last worker, {_who(last)}, left {span(since)} ago: {ended}{code}. "
        f"{many(len(gone), 'worker')} left within the last hour.",
        Proof(f"GET {key_of(last.prefix, last.queue, last.id)}", f"ended: {ended}{code}"),
    )


@CHECKS.queue(WORKER_PAUSED)
def paused(queue: QueueLook) -> Iterator[Verdict]:
    """All workers that there are say that they are paused."""
    live = _live(queue)
    states = {record.state for record in live}
    others = len(queue.workers()) > len(live)
    if states != {"paused"} or others or not queue.last.ready or queue.last.is_paused:
        return
    yield WORKER_PAUSED.verdict(
        f"{many(len(live), 'worker')} of this queue {'is' if len(live) == 1 else 'are'} paused in "
        f"the own process: {', '.join(map(_who, live[:TOLD]))}; {many(queue.last.ready, 'job')} "
        "ready.",
        Proof(f"ZRANGE {index_of(queue.prefix, queue.name)} 0 -1, their records", "state: paused"),
    )


@CHECKS.queue(WORKER_ERROR)
def erring(queue: QueueLook) -> Iterator[Verdict]:
    """The newest error that a living worker tells."""
    registry = queue.look.registry
    live = [record for record in _live(queue) if record.last_error is not None]
    if registry is None or not live:
        return
    newest = max(live, key=lambda record: record.last_error.at if record.last_error else 0.0)
    error = newest.last_error
    assert error is not None
    age = registry.at - error.at
    if age <= RECENT:
        yield WORKER_ERROR.verdict(
            f"{_who(newest)} met an error {span(age)} ago: {error.text}",
            Proof(f"GET {key_of(newest.prefix, newest.queue, newest.id)}", error.code or "error"),
        )


def _live(queue: QueueLook) -> list[Record]:
    registry = queue.look.registry
    return [] if registry is None else [each for each in registry.live() if _is_of(each, queue)]


def _is_of(record: Record, queue: QueueLook) -> bool:
    return (record.prefix, record.queue, record.db) == (queue.prefix, queue.name, queue.db)


def _who(record: Record) -> str:
    return record.name or f"{record.host}:{record.pid}"
