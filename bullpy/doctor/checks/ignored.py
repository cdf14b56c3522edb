"""`add()` returned, and the queue ignored it: the id exists already, or deduplication says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bullpy.doctor.checks import facts
from bullpy.doctor.look import NO_KEY, NO_TTL, Event, QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Level, Proof, Verdict
from bullpy.doctor.wording import span

DUPLICATE_ID = Cause(
    code="duplicate-id",
    number=28,
    level=Level.OK,
    title="add() was ignored: a job with that id exists",
    symptom="`add()` returns a job, and nothing happens.",
    why="A job added with a `jobId` that exists is ignored without an error, also when that job "
    "has ended: completed and failed jobs keep their ids until they are removed. That is right for "
    "idempotent adds, and a trap for ids that are meant to run again.",
    fix="Use a new id for new work, or remove the old job first (removeOnComplete, removeOnFail).",
    refutes=("a lost connection", "a dead worker"),
    rank=54,
    silences=frozenset({"no-adds"}),
)
DEDUPLICATED = Cause(
    code="deduplicated",
    number=29,
    level=Level.OK,
    title="add() was ignored: deduplication",
    symptom="`add()` returns the id of an older job, and nothing new happens.",
    why="A job with a deduplication id is ignored while the key `de:<id>` is there: until its TTL "
    "ends, or without a TTL until the job that set it has ended.",
    fix="Wait for the TTL or for that job, or call removeDeduplicationKey(id).",
    refutes=("a lost connection", "a dead worker"),
    rank=56,
    silences=frozenset({"no-adds"}),
)

RECENT = 3_600_000
"""ms for which an add that was ignored is worth a note."""

REPEATED = 3
"""Adds in a row that were ignored for jobs that have ended, above which it is no accident."""

ENDED = frozenset({"completed", "failed"})


@CHECKS.queue(DUPLICATE_ID)
def duplicate_id(queue: QueueLook) -> Iterator[Verdict]:
    """Whether adds were ignored lately because of their ids."""
    last = queue.last
    ignored = [
        event
        for event in _recent(queue, "duplicated")
        # A job scheduler that meets its own next job; nobody called add().
        if not event.job_id.startswith("repeat:")
    ]
    if not ignored:
        return
    newest = ignored[0]
    times = Counter(event.job_id for event in ignored)
    place = last.places.get(newest.job_id, "unknown")
    where = {
        "gone": "a job with that id existed then",
        "nowhere": "a job with that id exists, in no list",
        "unknown": "a job with that id exists",
    }.get(place, f"a job with that id is in `{place}`")
    added = last.newest("added")
    in_a_row = [event for event in ignored if added is None or event.at > added.at]
    for_ended = [event for event in in_a_row if last.places.get(event.job_id) in ENDED]
    yield DUPLICATE_ID.verdict(
        f"add() with the id {newest.job_id} was ignored {_times(times[newest.job_id])}, last "
        f"{facts.ago(queue, newest.at)}: {where}."
        + (f" {len(ignored)} adds were ignored in all." if len(times) > 1 else ""),
        facts.events(queue, f"duplicated {newest.job_id} at {facts.moment(newest.at)}"),
        _place(queue, newest.job_id, place),
        level=Level.WARNING if len(for_ended) >= REPEATED else None,
    )


@CHECKS.queue(DEDUPLICATED)
def deduplicated(queue: QueueLook) -> Iterator[Verdict]:
    """Whether adds were ignored lately because of deduplication, and until when that goes on."""
    last = queue.last
    ignored = _recent(queue, "deduplicated", "debounced")
    if not ignored:
        return
    newest = next((event for event in ignored if _stays(queue, event)), ignored[0])
    key = _key(newest)
    times = len({event.at for event in ignored if _key(event) == key})
    ttl = last.deduplicated.get(key, NO_KEY)
    until = {NO_TTL: "no TTL", NO_KEY: "the key has ended since"}.get(
        ttl, f"for another {span(ttl / 1000)}"
    )
    stays = _stays(queue, newest)
    yield DEDUPLICATED.verdict(
        f"add() with the deduplication id {key} was ignored {_times(times)}, last "
        f"{facts.ago(queue, newest.at)}, because of job {newest.job_id} ({until})."
        + (" That job had ended, so every further add is ignored, too." if stays else ""),
        facts.events(queue, f"{newest.name} {key} at {facts.moment(newest.at)}"),
        Proof(f"PTTL {queue.key('de')}:{key}", str(ttl)),
        level=Level.WARNING if stays else None,
        fix=f"queue.removeDeduplicationKey({key!r})" if stays else None,
    )


def _recent(queue: QueueLook, *names: str) -> list[Event]:
    since = queue.last.at - RECENT
    return [event for event in queue.last.events if event.name in names and event.at >= since]


def _key(event: Event) -> str:
    return event.fields.get("deduplicationId") or event.fields.get("debounceId", "")


def _stays(queue: QueueLook, ignored: Event) -> bool:
    """Whether the job that the key names had ended before the add, and the key never ends."""
    if queue.last.deduplicated.get(_key(ignored)) != NO_TTL:
        return False
    return any(
        event.job_id == ignored.job_id
        and event.name in (*facts.ENDS, "removed")
        and event.at < ignored.at
        for event in queue.last.events
    )


def _place(queue: QueueLook, job_id: str, place: str) -> Proof:
    if place in ENDED:
        return Proof(f"ZSCORE {queue.key(place)} {job_id}", "exists")
    return Proof(f"EXISTS {queue.key(job_id)}", "0" if place == "gone" else "1")


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
