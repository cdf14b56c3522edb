"""Jobs that stay in `active`: without an owner, or held for long by one that lives."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor import repairs
from bullpy.doctor.checks import facts
from bullpy.doctor.look import NO_KEY, QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, some, span

WITHOUT_OWNER = Cause(
    code="active-without-owner",
    number=18,
    level=Level.BLOCKED,
    title="Active jobs that nobody works on",
    symptom="A job is `active` for ever, and no worker has it.",
    why="Who works on a job renews its lock. These jobs have none: their worker died or lost them. "
    "The stalled check of any worker puts such jobs back, and leaves the key `stalled-check` when "
    "it runs. Where that key is missing too, nobody checks: there is no worker, or all have "
    "`skipStalledCheck`.",
    fix="Run one worker with its stalled check on, or recover the jobs once with bullpy.",
    refutes=("a long job", "a paused queue"),
    rank=40,
)
LONG_RUNNING = Cause(
    code="long-running",
    number=44,
    level=Level.OK,
    title="A job has been running for long",
    symptom="A job is `active` for minutes or hours, and others wait for it.",
    why="Its lock is renewed, so its worker lives. Whether the processor works or hangs (a request "
    "without a time limit, a lock) Redis cannot tell; progress that does not change speaks for "
    "hanging. BullMQ has no time limit for jobs.",
    fix="Look at that worker. Give the processor a time limit; bullpy's `timeout` ends it.",
    certainty=Certainty.PROBABLE,
    refutes=("a dead worker", "a lost job"),
    rank=64,
)

LONG = 5.0
"""Seconds of running after which an active job is worth a note."""


@CHECKS.queue(WITHOUT_OWNER)
def active_without_owner(queue: QueueLook) -> Iterator[Verdict]:
    """Jobs without a lock at both looks, and whether somebody will notice."""
    lost = facts.ownerless(queue)
    if not lost:
        return
    last = queue.last
    ttl = last.stalled_check_ttl
    is_checked = any(sample.stalled_check_ttl != NO_KEY for sample in queue.samples)
    jobs = f"{many(len(lost), 'active job')} without owner ({some(job.id for job in lost)})"
    proofs = [
        Proof(f"GET {queue.key(lost[0].id)}:lock", "(nil), in both looks"),
        facts.count(queue, "active"),
        Proof(
            f"PTTL {queue.key('stalled-check')}", "-2 (absent)" if ttl == NO_KEY else f"{ttl} ms"
        ),
    ]
    if is_checked:
        when = f" The next check is in {span(ttl / 1000)}" if ttl > 0 else " Checks run"
        yield WITHOUT_OWNER.verdict(
            f"{jobs}; a worker's stalled check will put "
            f"{'it' if len(lost) == 1 else 'them'} back.{when}, and the second one acts.",
            *proofs,
            level=Level.OK,
            fix="Wait for the check; nothing is lost.",
        )
        return
    yield WITHOUT_OWNER.verdict(
        f"{jobs}; nobody runs stalled checks, so nobody will recover "
        f"{'it' if len(lost) == 1 else 'them'}.",
        *proofs,
        fix=f"Run one worker with its stalled check on, or: {repairs.command(queue, 'active')}",
    )


@CHECKS.queue(LONG_RUNNING)
def long_running(queue: QueueLook) -> Iterator[Verdict]:
    """The job that a living worker has held for longest."""
    last = queue.last
    progress = {job.id: job.progress for job in queue.first.active}
    # By the event where there is one: a worker's clock may be wrong.
    begun = {event.job_id: event.at for event in reversed(last.events) if event.name == "active"}
    jobs = [
        (begun.get(job.id, job.processed_on), job)
        for job in facts.held(queue)
        if begun.get(job.id, job.processed_on) > 0
    ]
    if not jobs:
        return
    at, job = min(jobs, key=lambda each: each[0])
    seconds = (last.at - at) / 1000
    if seconds < LONG:
        return
    is_same = progress[job.id] == job.progress
    how = "no progress" if not job.progress else "the same progress" if is_same else "progress"
    yield LONG_RUNNING.verdict(
        f"Job {job.id} has been running for {span(seconds)}, held by {facts.holder(job)}; {how} "
        "between the looks.",
        Proof(f"PTTL {queue.key(job.id)}:lock", f"{job.lock_ttl} ms, the same owner in both looks"),
        Proof(f"HGET {queue.key(job.id)} progress", "not changed" if is_same else "changed"),
    )
