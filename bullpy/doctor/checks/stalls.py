"""Jobs that were taken from their worker: its loop was blocked, or the job kills who runs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bullpy.doctor.checks import facts
from bullpy.doctor.clients import Client
from bullpy.doctor.look import Job, QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, some, span

LOOP_BLOCKED = Cause(
    code="loop-blocked",
    number=43,
    level=Level.WARNING,
    title="A worker blocks its own event loop and loses its jobs",
    symptom="Jobs are done twice; the log says `could not renew lock` or `Missing lock for job`.",
    why="A worker renews the locks of its jobs from its event loop. Code that computes without "
    "giving the loop a turn (a CPU-bound processor in Node, or in the Python port) keeps it from "
    "that: the lock ends, another worker takes the job, and the first one goes on with it. The "
    "worker's connection stays, which tells it from one that died.",
    fix="Move the computation off the loop: a sandboxed processor in Node, a `def` processor in "
    "bullpy, which runs in a child process. A longer lockDuration only hides it.",
    certainty=Certainty.WATCHED,
    refutes=("a crashed worker", "a lost connection"),
    rank=42,
    # Its silence while it computes looks like that of a frozen one.
    silences=frozenset({"poison-job", "worker-frozen", "worker-never-fetched"}),
)
POISON = Cause(
    code="poison-job",
    number=45,
    level=Level.WARNING,
    title="A job that its workers do not survive",
    symptom="Workers crash or restart again and again, always with the same job.",
    why="Each worker that took the job stopped renewing its lock: the process ran out of memory, "
    "crashed in native code, or was killed. After `maxStalledCount` stalls BullMQ fails the job "
    "with `job stalled more than allowable limit`.",
    fix="Look at the job's data and at the workers' last lines. Run it alone, in a child process "
    "with a memory limit.",
    refutes=("an error that the processor raised",),
    rank=44,
)

STALLED_OUT = "job stalled more than allowable limit"
"""What BullMQ writes as the reason, in all versions and languages."""

RECENT = 3_600_000
"""ms for which a stall is taken for today's trouble."""

SAME = 2_000
"""ms by which the start of a job and the last sign of its worker may differ."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """A job that was started, stalled and was started again; times in ms by Redis's clock."""

    job_id: str
    started: int
    stalled: int


@CHECKS.queue(LOOP_BLOCKED)
def loop_blocked(queue: QueueLook) -> Iterator[Verdict]:
    """Jobs that were taken from workers that are still connected."""
    last = queue.last
    taken = list(_taken(queue))
    if not taken or not queue.look.knows_clients:
        return
    workers = queue.workers()
    for each in taken:
        for worker in workers:
            if _is_silent_since(queue, worker, each.started):
                yield LOOP_BLOCKED.verdict(
                    f"Worker {worker} took job {each.job_id} and has been silent for "
                    f"{span(worker.idle)}, though it is connected; its lock ended, and the job "
                    "was given to another worker. Its event loop is blocked, or it is frozen.",
                    facts.events(queue, f"active, stalled, active for {each.job_id}"),
                    Proof("CLIENT LIST", f"flags={worker.flags} idle={worker.idle}"),
                )
                return
    # Afterwards: several jobs at different times, and no worker was started anew since.
    times = sorted(each.stalled for each in taken)
    newcomers = [client for client in workers if last.at - client.age * 1000 > times[0] - SAME]
    if times[-1] - times[0] < 2 * SAME or not workers or newcomers:
        return
    yield LOOP_BLOCKED.verdict(
        f"{many(len({each.job_id for each in taken}), 'job')} "
        f"({some(each.job_id for each in taken)}) were taken from their workers and started "
        "again, and all workers have been connected since before that.",
        facts.events(queue, f"active, stalled, active, {len(taken)} times"),
        Proof("CLIENT LIST", f"youngest worker: age={min(client.age for client in workers)}"),
        certainty=Certainty.PROBABLE,
        refutes=("a crashed worker that was restarted",),
    )


@CHECKS.queue(POISON)
def poison_job(queue: QueueLook) -> Iterator[Verdict]:
    """Jobs that stalled as often as they may, or are on the way there."""
    last = queue.last
    since = last.at - RECENT
    failed = [
        job
        for job in last.failed
        if STALLED_OUT in job.failed_reason and _ended(queue, job) >= since
    ]
    cycling = [
        job
        for job in (*last.active, *last.next)
        if job.exists and (job.stalls >= 2 or STALLED_OUT in job.deferred_failure)
    ]
    jobs = [*cycling, *failed]
    if not jobs:
        return
    worst = max(jobs, key=lambda job: job.stalls)
    proofs = [Proof(f"HGET {queue.key(worst.id)} stc", str(worst.stalls))]
    if worst in failed:
        proofs.append(Proof(f"HGET {queue.key(worst.id)} failedReason", worst.failed_reason))
    times = f"{worst.stalls} workers" if worst.stalls > 1 else "a worker"
    others = [job.id for job in jobs if job.id != worst.id]
    yield POISON.verdict(
        f"Job {worst.id} was lost by {times}"
        + (" and has failed for it." if worst in failed else " and goes on.")
        + (f" Likewise {some(others)}." if others else ""),
        *proofs,
        certainty=Certainty.CERTAIN if worst.stalls > 1 else Certainty.PROBABLE,
    )


def _taken(queue: QueueLook) -> Iterator[_Taken]:
    since = queue.last.at - RECENT
    started: dict[str, int] = {}
    stalled: dict[str, int] = {}
    for event in reversed(queue.last.events):
        if event.name == "active":
            lost = stalled.pop(event.job_id, None)
            if lost is not None and event.job_id in started and lost >= since:
                yield _Taken(event.job_id, started[event.job_id], lost)
            started[event.job_id] = event.at
        elif event.name == "stalled":
            stalled[event.job_id] = event.at
        elif event.name in facts.ENDS:
            started.pop(event.job_id, None)
            stalled.pop(event.job_id, None)


def _is_silent_since(queue: QueueLook, worker: Client, started: int) -> bool:
    """Whether its last sign of life was the start of that job, and of no other that it may hold."""
    last = queue.last
    heard = last.at - worker.idle * 1000
    begun = {event.job_id: event.at for event in reversed(last.events) if event.name == "active"}
    at_work = [begun.get(job.id, job.processed_on) for job in last.active if job.lock]
    return (
        not worker.is_blocked
        and abs(heard - started) <= SAME
        and not any(abs(heard - at) <= SAME for at in at_work)
    )


def _ended(queue: QueueLook, job: Job) -> int:
    """By Redis's clock where an event tells; else by the worker's."""
    for event in queue.last.events:
        if event.job_id == job.id and event.name == "failed":
            return event.at
    return job.finished_on
