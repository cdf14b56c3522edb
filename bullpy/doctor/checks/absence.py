"""There is nobody: no worker for a queue, none for the children's queue, nobody who adds."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor.checks import states
from bullpy.doctor.clients import workers_of
from bullpy.doctor.look import NO_KEY, QueueLook, Sample
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, span

NO_WORKER = Cause(
    code="no-worker",
    number=8,
    level=Level.BLOCKED,
    title="No worker is connected",
    symptom="Jobs pile up, and none starts.",
    why="A worker's connection carries the queue's name, and a living worker renews the key "
    "`stalled-check` every 30 s. Neither is there. Often the platform starts only the web process: "
    "Railway takes one line of a Procfile, `web` before `worker`. Or the worker ends at start, "
    "because a variable or a model is missing.",
    fix="Start a worker for this queue. On Railway make a service of its own for it, with its own "
    "start command. If there is one, read its log from the start: it did not get as far as Redis.",
    refutes=("a paused queue", "a rate limit"),
    rank=30,
    silences=frozenset({"producer-without-marker", "too-few-workers"}),
)
NO_ADDS = Cause(
    code="no-adds",
    number=9,
    level=Level.OK,
    title="No job has arrived for long",
    symptom="The worker waits, nothing is in the queue, and the API says that it adds jobs.",
    why="Each add leaves an event with the time of Redis. If users have triggered work since the "
    "last one, the API's `add()` did not reach this Redis: it is still waiting for a connection. "
    "BullMQ's queue waits for ever by default. Redis cannot tell this from a quiet hour.",
    fix="If jobs should have come: look in the API's log for connection errors, and await `add()` "
    "with a time limit. `bullpy doctor --peer URL` compares both sides.",
    certainty=Certainty.PROBABLE,
    refutes=("jobs that wait", "a dead worker"),
    rank=80,
)
CHILD_WITHOUT_WORKER = Cause(
    code="child-without-worker",
    number=27,
    level=Level.BLOCKED,
    title="A parent waits for children in a queue without a worker",
    symptom="A job of a flow stays in `waiting-children`, and its own worker is idle.",
    why="A parent starts when all its children have ended. The children lie in another queue, and "
    "nobody works on that one.",
    fix="Start a worker for the children's queue.",
    refutes=("a dead worker of the parent's queue",),
    rank=32,
)

QUIET = 600.0
"""Seconds without an add after which that is worth a note."""


@CHECKS.queue(NO_WORKER)
def no_worker(queue: QueueLook) -> Iterator[Verdict]:
    """Jobs are there, and nobody to take them."""
    last = queue.last
    if last.added is None and not last.ready:
        return
    if any(clients for _, clients in queue.worker_history()):
        return
    if queue.moves or any(states.locked(sample) for sample in queue.samples):
        # Somebody works; CLIENT LIST may be forbidden, or a proxy hides names.
        return
    ready = last.ready + last.due
    if last.stalled_check_ttl != NO_KEY and not _has_just_died(queue, ready):
        return
    proofs = _proofs(queue)
    if ready:
        yield NO_WORKER.verdict(
            f"{many(ready, 'job')} {'is' if ready == 1 else 'are'} ready, and no worker is "
            f"connected{_last_start(last)}.{_elsewhere(queue)}",
            Proof(f"LLEN {queue.key('wait')} (and paused, prioritized, due)", str(ready)),
            *proofs,
            level=Level.WARNING if last.is_paused else None,
            certainty=None if last.stalled_check_ttl == NO_KEY else Certainty.PROBABLE,
            refutes=("a paused queue", "a rate limit") if not states.is_held(queue) else (),
        )
    elif delayed := last.counts["delayed"]:
        yield NO_WORKER.verdict(
            f"No worker is connected: {many(delayed, 'delayed job')} will not start when due.",
            Proof(f"ZCARD {queue.key('delayed')}", str(delayed)),
            *proofs,
            level=Level.WARNING,
            refutes=(),
        )
    elif not last.counts["active"]:
        yield NO_WORKER.verdict(
            "No worker is connected, and no job waits for one.",
            *proofs,
            level=Level.OK,
            refutes=(),
            fix="Nothing needs to be done before a job arrives; then start a worker.",
        )


@CHECKS.queue(NO_ADDS)
def no_adds(queue: QueueLook) -> Iterator[Verdict]:
    """A worker waits, and nobody has added anything for long."""
    last = queue.last
    if last.added is None or not queue.has_live_worker or last.is_paused:
        return
    if any(last.counts[name] for name in last.counts if name not in ("completed", "failed")):
        return
    adds = [event.at for event in last.events if event.name == "added"]
    newest = max([*adds, *(job.timestamp for job in (*last.completed, *last.failed))], default=0)
    silent = (last.at - newest) / 1000
    if not newest or silent < QUIET:
        return
    rhythm = ""
    if len(adds) >= 10:
        usual = (max(adds) - min(adds)) / 1000 / (len(adds) - 1)
        rhythm = f" Before that one came every {span(usual)}."
    yield NO_ADDS.verdict(
        f"No job has arrived for {span(silent)}; a worker waits.{rhythm}",
        Proof(
            f"XREVRANGE {queue.key('events')} + - COUNT 200",
            f"last added {span(silent)} ago" if adds else "no added",
        ),
        Proof(f"GET {queue.key('id')}", str(last.added)),
    )


@CHECKS.queue(CHILD_WITHOUT_WORKER)
def child_without_worker(queue: QueueLook) -> Iterator[Verdict]:
    """Parents wait here for children that nobody works on."""
    parents = queue.last.counts["waiting-children"]
    if not parents:
        return
    for (prefix, name), child in queue.children.items():
        waiting = child.ready + child.due
        named = workers_of(queue.look.all_clients(), prefix, name)
        if not waiting or any(client.db == queue.db for client in named) or states.locked(child):
            continue
        is_recent = child.stalled_check_ttl != NO_KEY
        if is_recent and not queue.look.knows_clients:
            continue
        yield CHILD_WITHOUT_WORKER.verdict(
            f"{many(parents, 'job')} {'waits' if parents == 1 else 'wait'} for children; "
            f"{waiting} of those are ready in {prefix}:{name}, which has no worker.",
            Proof(f"ZCARD {queue.key('waiting-children')}", str(parents)),
            Proof(f"LLEN {prefix}:{name}:wait (and paused, prioritized, due)", str(waiting)),
            _renewed(f"{prefix}:{name}:stalled-check", child),
            fix=f"Start a worker for the queue {name}"
            + (", and resume that queue: it is paused." if child.is_paused else "."),
            certainty=Certainty.PROBABLE if is_recent else None,
        )


def _has_just_died(queue: QueueLook, ready: int) -> bool:
    """Whether the key of a worker is still there, and the worker is not."""
    first, last = queue.first.stalled_check_ttl, queue.last.stalled_check_ttl
    is_renewed = first == NO_KEY or last > first - queue.seconds * 500
    return bool(ready and queue.look.knows_clients and not is_renewed and not states.is_held(queue))


def _proofs(queue: QueueLook) -> list[Proof]:
    found = [_renewed(queue.key("stalled-check"), queue.last)]
    if queue.look.knows_clients:
        looks = len(queue.look.clients)
        found.append(Proof("CLIENT LIST", f"no worker's name in {many(looks, 'look')}"))
    return found


def _renewed(key: str, sample: Sample) -> Proof:
    ttl = sample.stalled_check_ttl
    return Proof(f"PTTL {key}", "-2 (expired)" if ttl == NO_KEY else f"{ttl} ms, not renewed")


def _last_start(sample: Sample) -> str:
    started = sample.newest("active")
    if started is None:
        return "; none was ever started, as far as the events reach" if sample.events else ""
    return f"; the last job was started {span((sample.at - started.at) / 1000)} ago"


def _elsewhere(queue: QueueLook) -> str:
    dbs = sorted({client.db for client in queue.workers_in_other_dbs()})
    if not dbs:
        return ""
    return f" Workers of a queue of this name are in db {', '.join(map(str, dbs))}."
