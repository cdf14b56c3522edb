"""Generations of BullMQ that do not understand each other."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor.checks import states
from bullpy.doctor.clients import Client
from bullpy.doctor.look import Job, QueueLook, Sample
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, some, span

WITHOUT_MARKER = Cause(
    code="producer-without-marker",
    number=19,
    level=Level.WARNING,
    title="The producer is too old to wake the workers",
    symptom="Each job starts up to 5 s late, though workers are idle.",
    why="Workers since BullMQ 5 sleep until a `marker` appears. Bull and BullMQ up to 4 add jobs "
    "without one, so that workers find them only when their wait of 5 s ends.",
    fix="Upgrade the producer to BullMQ 5 or later.",
    refutes=("a dead worker", "too few workers"),
    rank=40,
)
WITHOUT_PRIORITIES = Cause(
    code="worker-without-priorities",
    number=20,
    level=Level.BLOCKED,
    title="The worker is too old for jobs with a priority",
    symptom="Jobs without a priority run, those with one never do.",
    why="Since BullMQ 4 jobs with a priority wait in a set of their own, `prioritized`. Workers up "
    "to BullMQ 3, and Bull, do not look there.",
    fix="Upgrade the worker to the producer's version of BullMQ, or add jobs without a priority "
    "until then.",
    certainty=Certainty.WATCHED,
    refutes=("a dead worker", "a paused queue"),
    rank=28,
    silences=frozenset({"worker-too-old", "prioritized-not-counted", "too-few-workers"}),
)
TOO_OLD = Cause(
    code="worker-too-old",
    number=21,
    level=Level.WARNING,
    title="The worker is older than the producer",
    symptom="Jobs with a delay or a priority start seconds late.",
    why="The worker waits in BRPOPLPUSH, as BullMQ up to 4 and Bull do. The producer is BullMQ 5 "
    "or later and writes a `marker`, which such a worker does not watch. It sees jobs with a "
    "delay or a priority only when its wait ends.",
    fix="Upgrade the worker to the producer's version of BullMQ.",
    refutes=("a dead worker",),
    rank=42,
)
LEGACY_BULL = Cause(
    code="legacy-bull-worker",
    number=22,
    level=Level.BLOCKED,
    title="A worker of Bull, the library before BullMQ, eats this queue",
    symptom="Every job fails at once with `Missing process handler for job type ...`.",
    why="Bull and BullMQ use the same keys. A Bull worker takes BullMQ's jobs, looks for a handler "
    "of the job's name, which BullMQ does not need, and fails them.",
    fix="Stop the Bull worker, or give the BullMQ queue another name or prefix. Then retry the "
    "failed jobs.",
    refutes=("an error in the processor",),
    rank=15,
    silences=frozenset(
        {"worker-too-old", "worker-without-priorities", "processor-contract", "failed-and-removed"}
    ),
)

_BULL_SAYS = "Missing process handler for job type"

RECENT = 600.0
"""Seconds for which a failure tells of a worker that may still be there."""

LATE = 1.0
"""Seconds from add to start that an idle worker needs only if nothing wakes it."""

LONGEST_WAIT = 11.0
"""Seconds in which a worker that is not woken has looked."""


@CHECKS.queue(WITHOUT_MARKER)
def producer_without_marker(queue: QueueLook) -> Iterator[Verdict]:
    """Jobs are added and nobody is woken."""
    waiting = [row for row in queue.workers() if row.cmd == "bzpopmin" and row.is_blocked]
    if not waiting or states.is_held(queue):
        return
    last = queue.last
    late, prompt = _starts(last)
    unmarked = next((sample for sample in reversed(queue.samples) if _is_unmarked(sample)), None)
    major = last.version[0] if last.version else None
    if major is not None and major <= 4:
        if prompt and len(late) <= prompt and unmarked is None:
            return
        sure = Certainty.CERTAIN if late or unmarked else Certainty.PROBABLE
        text = f"The producer is {last.meta['version'].replace(':', ' ')}, which wakes no worker"
    elif unmarked is not None and not prompt and (major is None or len(late) > 1):
        sure = Certainty.PROBABLE
        text = "Jobs are added without a marker, as Bull and BullMQ up to 4 do"
    else:
        return
    proofs = [Proof(f"HGET {queue.key('meta')} version", last.meta.get("version", "(nil)"))]
    if unmarked is not None:
        proofs.append(
            Proof(f"ZCARD {queue.key('marker')}", f"0, with {many(unmarked.ready, 'job')} ready")
        )
    if late:
        proofs.append(
            Proof(
                f"XREVRANGE {queue.key('events')} + -",
                f"started {', '.join(span(each) for each in late[:3])} after the add",
            )
        )
    proofs.append(Proof("CLIENT LIST", f"flags=b cmd=bzpopmin: {some(waiting)}"))
    yield WITHOUT_MARKER.verdict(
        f"{text}: workers of BullMQ 5 and later find the jobs up to 5 s late.",
        *proofs,
        certainty=sure,
    )


@CHECKS.queue(WITHOUT_PRIORITIES, TOO_OLD)
def old_worker(queue: QueueLook) -> Iterator[Verdict]:
    """A worker that waits as BullMQ up to 4 does, and a newer producer."""
    workers = queue.workers()
    old = [row for row in workers if row.cmd in states.OLD_WAITS]
    if not old:
        return
    last = queue.last
    version = Proof(f"HGET {queue.key('meta')} version", last.meta.get("version", "(nil)"))
    waits = Proof("CLIENT LIST", f"cmd={old[0].cmd}: {some(old)}")
    if len(old) == len(workers) and _leaves_priorities(queue):
        count = last.counts["prioritized"]
        yield WITHOUT_PRIORITIES.verdict(
            f"{many(count, 'job')} with a priority {'waits' if count == 1 else 'wait'}, and the "
            f"worker {some(old)}, which is idle, does not take them: it is older than BullMQ 4.",
            Proof(f"ZCARD {queue.key('prioritized')}", f"{count} in both looks"),
            waits,
            version,
        )
    if (last.version and last.version[0] >= 5) or any(each.marker for each in queue.samples):
        yield TOO_OLD.verdict(
            f"{len(old)} of {many(len(workers), 'connected worker')} is BullMQ 4 or older, or Bull "
            f"({some(old)}); the producer is newer. Delayed and prioritized jobs start late.",
            waits,
            version,
            Proof(f"ZCARD {queue.key('marker')}", str(int(last.marker))),
        )


@CHECKS.queue(LEGACY_BULL)
def legacy_bull(queue: QueueLook) -> Iterator[Verdict]:
    """Jobs failed with what only Bull says."""
    last = queue.last
    failed = [job for job in last.failed if job.failed_reason.startswith(_BULL_SAYS)]
    told = [
        event
        for event in last.events
        if event.fields.get("failedReason", "").startswith(_BULL_SAYS)
    ]
    if not failed and not told:
        return
    newest = max([*(job.finished_on for job in failed), *(event.at for event in told)])
    ago = (last.at - newest) / 1000
    bull = [row for row in queue.workers() if row.cmd in states.OLD_WAITS]
    if ago > RECENT and not bull:
        return
    example = failed[0].failed_reason if failed else told[0].fields["failedReason"]
    of = f"{len(failed)} of the last {many(len(last.failed), 'failed job')}"
    yield LEGACY_BULL.verdict(
        f"A worker of Bull takes jobs of this queue and fails them, the last one {span(ago)} ago"
        + (f": {some(bull)}." if bull else "."),
        Proof(f"HGET {queue.key(failed[0].id if failed else '<job>')} failedReason", example[:120]),
        Proof(f"ZREVRANGE {queue.key('failed')} 0 9", of if failed else "removed"),
        *([Proof("CLIENT LIST", f"cmd={bull[0].cmd}: {some(bull)}")] if bull else ()),
    )


def _is_unmarked(sample: Sample) -> bool:
    """Whether a job has waited for a while, and no marker tells of it."""
    oldest = sample.next[0] if sample.next else None
    return (
        oldest is not None
        and not sample.marker
        and sample.counts["wait"] > 0
        and sample.at - _since(sample, oldest) > LATE * 1000
    )


def _since(sample: Sample, job: Job) -> int:
    """When a job began to wait, by Redis's clock where an event tells."""
    for event in sample.events:
        if event.job_id == job.id and event.name in ("waiting", "added"):
            return event.at
    return job.timestamp


def _starts(sample: Sample) -> tuple[list[float], int]:
    """How jobs began that were added while nothing else waited or ran.

    Returns:
        Seconds that late ones waited, the newest first, and the number of prompt ones.
    """
    late: list[float] = []
    prompt = 0
    busy: set[str] = set()
    alone: dict[str, int] = {}
    for event in reversed(sample.events):
        if event.name == "added":
            if not busy and not alone:
                alone[event.job_id] = event.at
            busy.add(event.job_id)
        elif event.name in ("delayed", "waiting-children"):
            alone.pop(event.job_id, None)
            busy.discard(event.job_id)
        elif event.name == "active":
            busy.add(event.job_id)
            since = alone.pop(event.job_id, None)
            waited = 0.0 if since is None else (event.at - since) / 1000
            if since is not None and waited < LATE / 2:
                prompt += 1
            elif LATE < waited < LONGEST_WAIT:
                late.append(waited)
        elif event.name in ("completed", "failed", "removed"):
            busy.discard(event.job_id)
        elif event.name in ("paused", "resumed"):
            alone.clear()
    return late[::-1], prompt


def _leaves_priorities(queue: QueueLook) -> bool:
    """Whether an idle worker had every chance to take a job with a priority, and did not."""
    first, last = queue.first, queue.last
    if not first.prioritized or not last.prioritized or states.is_held(queue):
        return False
    if last.counts["wait"] or first.prioritized[0].id != last.prioritized[0].id:
        return False
    waited = (last.at - _since(last, last.prioritized[0])) / 1000
    is_long = queue.seconds >= LONGEST_WAIT / 2 or waited > LONGEST_WAIT
    return is_long and all(map(_waits, (clients for _, clients in queue.worker_history())))


def _waits(clients: list[Client]) -> bool:
    return any(row.is_blocked for row in clients)
