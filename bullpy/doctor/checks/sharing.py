"""Several environments work on one queue."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator

from bullpy.doctor.checks import states
from bullpy.doctor.clients import Client
from bullpy.doctor.look import QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, some

SHARED = Cause(
    code="shared-with-others",
    number=47,
    level=Level.WARNING,
    title="Workers of another environment take jobs of this queue",
    symptom="Jobs are done, and not by this worker: about half of them never show up in its log, "
    "or fail for reasons that belong to other code.",
    why="Whoever connects a worker to the same database, prefix and queue gets a share of the "
    "jobs: a developer's machine, a test environment, a forgotten deployment. Each job names the "
    "worker that ran it.",
    fix="Stop the worker that does not belong here, or give each environment a Redis, database or "
    "prefix of its own.",
    certainty=Certainty.PROBABLE,
    refutes=("lost jobs",),
    rank=60,
)

_PERSONAL = frozenset(
    {
        "laptop",
        "local",
        "localhost",
        "macbook",
        "macbookpro",
        "desktop",
        "home",
        "dev",
        "develop",
        "development",
        "debug",
        "staging",
        "stage",
        "test",
        "testing",
        "qa",
        "preview",
        "sandbox",
    }
)
"""Words in a worker's name that tell of an environment other than production."""


@CHECKS.queue(SHARED)
def shared_with_others(queue: QueueLook) -> Iterator[Verdict]:
    """Workers of different kinds of names, or of inside and outside, share the jobs."""
    last = queue.last
    done = Counter(
        job.worker for job in (*last.completed, *last.failed, *last.active) if job.worker
    )
    rows = queue.workers()
    connected = {name for row in rows if (name := states.worker_name(row))}
    if done:
        # Who is connected and had no job yet takes the next one.
        done.update(dict.fromkeys(connected - set(done), 0))
    foreign = {name for name in done if _is_personal(name)}
    total = sum(done.values())
    if foreign and len(foreign) < len(done) and total:
        share = sum(done[name] for name in foreign)
        yield SHARED.verdict(
            f"{share} of the last {many(total, 'job')} were taken by {some(sorted(foreign))}, "
            f"beside {some(sorted(set(done) - foreign))}.",
            *_proofs(queue, done),
        )
        return
    outside = [row for row in rows if _is_outside(row)]
    if outside and len(outside) < len(rows):
        yield SHARED.verdict(
            f"Workers from the internet ({some(outside)}) and from the private network share the "
            "queue.",
            Proof(
                "CLIENT LIST", f"{len(outside)} of {many(len(rows), 'worker')} at {some(outside)}"
            ),
        )
        return
    families = {_family(name) for name in done if done[name]}
    if len(families) > 1:
        counts = ", ".join(f"{number} by {name}" for name, number in done.most_common(4))
        yield SHARED.verdict(
            "Workers of several kinds share the queue: of the last "
            f"{many(total, 'job')}, {counts}.",
            *_proofs(queue, done),
            level=Level.OK,
            fix="Nothing, if all of them belong here.",
        )


def _proofs(queue: QueueLook, done: Counter[str]) -> Iterator[Proof]:
    for name, number in done.most_common(3):
        yield Proof(f"HGET {queue.key('<job>')} pb", f"{name}: {many(number, 'job')}")


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z]+", name.lower()) if len(word) > 1]


def _is_personal(name: str) -> bool:
    return not _PERSONAL.isdisjoint(_words(name))


def _family(name: str) -> str:
    """The first word of a name that is no number or identifier; empty without one."""
    for part in re.split(r"[-_.:@/ ]+", name.lower()):
        word = part.rstrip("0123456789")
        if len(word) > 2 and word.isalpha() and not re.fullmatch("[0-9a-f]{6,}", part):
            return word
    return ""


def _is_outside(row: Client) -> bool:
    try:
        return ipaddress.ip_address(states.host(row).strip("[]")).is_global
    except ValueError:
        return False
