"""Jobs that fail: unseen, as they are removed, or because the processor cannot be called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bullpy.doctor.checks import facts
from bullpy.doctor.look import QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, span

REMOVED = Cause(
    code="failed-and-removed",
    number=30,
    level=Level.WARNING,
    title="Jobs fail and are removed at once",
    symptom="Jobs vanish: the queue is empty, and nothing was done.",
    why="With `removeOnFail: true` a job that fails leaves nothing but an event in the queue's "
    "stream, which keeps its reason for a while. If all jobs end like that, nobody sees it in "
    "counts or dashboards.",
    fix="Keep failed jobs (`removeOnFail: { count: 1000 }`) and mend what the reason says.",
    refutes=("jobs that were never added", "a dead worker", "a lost connection"),
    rank=46,
)
CONTRACT = Cause(
    code="processor-contract",
    number=31,
    level=Level.BLOCKED,
    title="The processor is not what the worker can call",
    symptom="Every job fails at once with the same TypeError.",
    why="The Python port awaits the processor and calls it with job and token, so it needs "
    "`async def process(job, token)`; and a result must have a JSON form, as it is stored in "
    "Redis. The reason of the failure names which of that is broken. The work of a job whose "
    "result has no JSON form was done.",
    fix="Correct the processor's signature or its result. bullpy takes `def` and `async def`, with "
    "or without the token.",
    certainty=Certainty.CERTAIN,
    refutes=("a lost connection", "a dead worker"),
    rank=39,
    silences=frozenset({"failed-and-removed"}),
)

SHOWN = 160
"""Characters that are shown of a reason."""

RECENT = 3_600_000
"""ms for which a failure is worth a warning though jobs have completed since."""

_BROKEN = (
    (
        re.compile(r"object \S+ can't be used in 'await' expression"),
        "the processor is a plain `def`, which the Python port cannot call",
        "Make it `async def`, or run it with bullpy, which runs a `def` in a child process.",
    ),
    (
        re.compile(r"takes (?:from )?\d+ (?:to \d+ )?positional arguments? but [12] (?:was|were)"),
        "the processor does not take what the worker gives it: job and token",
        "Declare it as `async def process(job, token)`; bullpy also takes `process(job)`.",
    ),
    (
        re.compile(
            r"is not JSON serializable|not JSON compliant|Converting circular structure to JSON"
            r"|Do not know how to serialize a BigInt|has no JSON form|nested too deeply for JSON"
        ),
        "what the processor returns has no JSON form",
        "Return plain dicts, lists, strings and numbers; only the result of the work was lost.",
    ),
    (
        re.compile(r"processor is not a function|processFn is not a function"),
        "the worker has no processor",
        "Give the worker a function.",
    ),
)


@dataclass(frozen=True, slots=True)
class _Failure:
    at: int
    job_id: str
    reason: str


@CHECKS.queue(REMOVED)
def failed_and_removed(queue: QueueLook) -> Iterator[Verdict]:
    """Whether the newest failure has left nothing but its event."""
    last = queue.last
    later: set[str] = set()
    gone: list[_Failure] = []
    kept = {job.id for job in last.failed}
    cleaned = last.newest("cleaned")
    for event in last.events:
        if event.name == "failed" and event.job_id not in later | kept:
            gone.append(_Failure(event.at, event.job_id, event.fields.get("failedReason", "")))
        if event.job_id and event.name != "retries-exhausted":
            # What came after the failure, such as a retry or a removal by hand, explains it.
            later.add(event.job_id)
    if not gone or any(event.name == "failed" and event.job_id in kept for event in last.events):
        return
    newest = gone[0]
    # With `removeOnFail: n` the newest n stay, and somebody may have cleaned.
    if last.counts["failed"] > len(kept) or (cleaned and cleaned.at > newest.at):
        return
    ends = [event for event in last.events if event.name in facts.ENDS]
    lost = len(gone)
    all_fail = ends[0].name == "failed" and lost * 2 > len(ends)
    is_recent = last.at - newest.at < RECENT
    took = _took(queue, newest)
    yield REMOVED.verdict(
        f"Failed and removed: {lost} of the last {many(len(ends), 'job')} that ended. Job "
        f"{newest.job_id} failed {facts.ago(queue, newest.at)}{took}: {newest.reason[:SHOWN]}",
        facts.events(queue, f"failed {newest.job_id}: {newest.reason[:SHOWN]}"),
        Proof(f"EXISTS {queue.key(newest.job_id)}", "0"),
        facts.count(queue, "failed"),
        level=None if all_fail and is_recent else Level.OK,
    )


@CHECKS.queue(CONTRACT)
def processor_contract(queue: QueueLook) -> Iterator[Verdict]:
    """Whether the newest failures say that the processor cannot be called."""
    last = queue.last
    completed = max(
        [
            *(event.at for event in last.events if event.name == "completed"),
            *(job.finished_on for job in last.completed),
        ],
        default=0,
    )
    for failure in _failures(queue):
        for pattern, what, fix in _BROKEN:
            if not pattern.search(failure.reason):
                continue
            goes_well = completed > failure.at
            if goes_well and last.at - failure.at > RECENT:
                return
            yield CONTRACT.verdict(
                f"Jobs fail because {what}: job {failure.job_id}, "
                f"{facts.ago(queue, failure.at)}: {failure.reason[:SHOWN]}",
                Proof(f"HGET {queue.key(failure.job_id)} failedReason", failure.reason[:SHOWN]),
                Proof(f"ZCARD {queue.key('completed')}", _since(goes_well=goes_well)),
                level=Level.WARNING if goes_well else Level.BLOCKED,
                fix=fix,
            )
            return


def _failures(queue: QueueLook) -> list[_Failure]:
    """The failures that are known, newest first."""
    last = queue.last
    found = {
        event.job_id: _Failure(event.at, event.job_id, event.fields.get("failedReason", ""))
        for event in reversed(last.events)
        if event.name == "failed"
    }
    for job in last.failed:
        found.setdefault(job.id, _Failure(job.finished_on, job.id, job.failed_reason))
    return sorted(found.values(), key=lambda each: -each.at)


def _took(queue: QueueLook, failure: _Failure) -> str:
    for event in queue.last.events:
        if event.job_id == failure.job_id and event.name == "active" and event.at <= failure.at:
            return f", {span((failure.at - event.at) / 1000)} after its start"
    return ""


def _since(*, goes_well: bool) -> str:
    return "others have completed since" if goes_well else "none has completed since"
