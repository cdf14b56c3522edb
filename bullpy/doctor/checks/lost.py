"""Jobs of which only half is there: a hash in no list, an id without hash, data that is no JSON."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor import repairs
from bullpy.doctor.look import Job, QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, some

ORPHANED = Cause(
    code="orphaned-jobs",
    number=16,
    level=Level.BLOCKED,
    title="Jobs exist that are in no list",
    symptom="`job.getState()` gives `unknown`, and the job is never run.",
    why="The job's hash is there and its id is in no list or set of the queue, so that no worker "
    "can find it. It happens when BullMQ 5 resumes a queue to which version 6 or the Python port "
    "has added jobs, when Redis evicts a list, or when somebody deletes one.",
    fix="Put them back into the queue; bullpy does that while workers run.",
    refutes=("a dead worker", "a paused queue"),
    rank=18,
)
UNDECODABLE = Cause(
    code="undecodable-data",
    number=32,
    level=Level.BLOCKED,
    title="A job's data is not JSON",
    symptom="One job stays in `active` and comes back again and again; workers report errors of "
    "JSON.parse or json.loads.",
    why="Something other than BullMQ wrote or cut the field `data`. Workers fetch the job and "
    "cannot read it, so that it neither completes nor fails; its lock ends, and it is handed to "
    "the next worker.",
    fix="Look at the field, then mend it or remove the job. Find out who writes into the queue.",
    refutes=("a dead worker", "a slow job"),
    rank=38,
    silences=frozenset({"active-without-owner", "loop-blocked", "long-running", "poison-job"}),
)
WITHOUT_DATA = Cause(
    code="ids-without-data",
    number=33,
    level=Level.BLOCKED,
    title="Ids wait of which no job is left",
    symptom="Processors get empty jobs or workers report a missing key; jobs seem to be lost.",
    why="The id is in a list or set of the queue, and the hash with name and data is gone: Redis "
    "evicted it, somebody deleted keys, or a program pushed ids into the list by hand. What the "
    "jobs were is lost.",
    fix="Set maxmemory-policy to noeviction, drop the ids, and add those jobs again.",
    refutes=("a wrong processor",),
    rank=16,
)


@CHECKS.queue(ORPHANED)
def orphaned_jobs(queue: QueueLook) -> Iterator[Verdict]:
    """Ids that were in no list at the first look, and are in none at the last."""
    first, last = queue.first, queue.last
    if last.meta.get("version", "").startswith("bullmq-pro"):
        # Its groups keep jobs in lists of their own.
        return
    lost = [
        job_id
        for job_id, place in last.places.items()
        if place == "nowhere" and first.places.get(job_id) == "nowhere"
    ]
    if not lost:
        return
    yield ORPHANED.verdict(
        f"{many(len(lost), 'job')} {'is' if len(lost) == 1 else 'are'} in no list, so that no "
        f"worker can find {'it' if len(lost) == 1 else 'them'}: {some(lost)}. There may be more.",
        Proof(f"EXISTS {queue.key(lost[0])}", "1"),
        Proof(f"LPOS {queue.key('wait|paused|active')} {lost[0]}", "(nil), in both looks"),
        Proof(
            f"ZSCORE {queue.key('prioritized|delayed|waiting-children|completed|failed')} "
            f"{lost[0]}",
            "(nil), in both looks",
        ),
        fix=repairs.command(queue, "orphans"),
    )


@CHECKS.queue(UNDECODABLE)
def undecodable_data(queue: QueueLook) -> Iterator[Verdict]:
    """Active jobs whose data is no JSON."""
    before = {job.id for job in queue.first.active}
    for job in queue.last.active:
        if not job.exists or job.data_is_json is not False or job.id not in before:
            continue
        # Redis reads JSON a little more strictly than Node does: only a job that its worker has
        # given up, or lost, is certain.
        is_given_up = job.lock is None or job.stalls > 0
        yield UNDECODABLE.verdict(
            f"Job {job.id} is active and its data is not JSON: no worker can read it"
            + (f"; {many(job.starts, 'start')} so far." if job.starts else "."),
            Proof(f"HGET {queue.key(job.id)} data", "not JSON (not shown)"),
            _lock(queue, job),
            level=Level.BLOCKED if is_given_up else Level.WARNING,
            certainty=Certainty.CERTAIN if is_given_up else Certainty.PROBABLE,
            fix=f"Look at HGET {queue.key(job.id)} data, then mend the field or remove the job.",
        )


@CHECKS.queue(WITHOUT_DATA)
def ids_without_data(queue: QueueLook) -> Iterator[Verdict]:
    """Ids in the lists without a hash."""
    last = queue.last
    elsewhere = {
        name: [job.id for job in jobs if not job.exists]
        for name, jobs in (
            ("active", last.active),
            ("prioritized", last.prioritized),
            ("delayed", last.delayed),
        )
    }
    elsewhere = {name: ids for name, ids in elsewhere.items() if ids}
    ids = [*last.without_data, *(job_id for found in elsewhere.values() for job_id in found)]
    if not ids:
        return
    parts: list[str] = []
    if last.without_data:
        parts.append(f"{len(last.without_data)} of {last.checked} waiting ids that were checked")
    parts += [f"{many(len(found), 'id')} in `{name}`" for name, found in elsewhere.items()]
    evicted = queue.look.server.number("evicted_keys")
    proofs = [Proof(f"EXISTS {queue.key(ids[0])}", "0")]
    if evicted:
        proofs.append(Proof("INFO stats", f"evicted_keys:{evicted}"))
    yield WITHOUT_DATA.verdict(
        f"{' and '.join(parts)} have no data: {some(ids)}."
        + (f" Redis has evicted {many(evicted, 'key')} since it started." if evicted else ""),
        *proofs,
        fix=f"{repairs.command(queue, 'ids')}; then add those jobs again"
        + (", and set maxmemory-policy to noeviction." if evicted else "."),
    )


def _lock(queue: QueueLook, job: Job) -> Proof:
    state = "(nil)" if job.lock is None else "held"
    return Proof(f"GET {queue.key(job.id)}:lock", f"{state}; stalled {job.stalls} times")
