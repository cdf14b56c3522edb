"""Redis's memory: keys that it evicts, and writes that it refuses because it is full."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor.checks import facts
from bullpy.doctor.look import Look, QueueLook, Server
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, span

EVICTED = Cause(
    code="evicted-keys",
    number=34,
    level=Level.BLOCKED,
    title="Redis throws keys away when it is full",
    symptom="Jobs vanish, ids are given out twice, locks disappear while jobs run.",
    why="With a `maxmemory-policy` other than `noeviction` Redis makes room by deleting keys: the "
    "`allkeys` policies take jobs, lists and counters, the `volatile` ones take locks and limits. "
    "BullMQ has no way to notice. Caches need that, queues must not have it.",
    fix="Set maxmemory-policy to noeviction, and give queue and cache each their own Redis.",
    refutes=("a defect of the workers",),
    rank=6,
)
OUT_OF_MEMORY = Cause(
    code="out-of-memory",
    number=35,
    level=Level.BLOCKED,
    title="Redis is full and refuses writes",
    symptom="`add()` fails with `OOM command not allowed when used memory > 'maxmemory'`, and "
    "workers cannot finish jobs.",
    why="With `noeviction` Redis refuses all commands that need memory once `used_memory` has "
    "reached `maxmemory`. BullMQ's scripts are such commands, also the one that ends a job. Often "
    "completed and failed jobs fill it, which BullMQ keeps for ever by default.",
    fix="Raise maxmemory, or remove old jobs (queue.clean), and set removeOnComplete and "
    "removeOnFail.",
    refutes=("a dead worker", "a lost connection"),
    rank=5,
    silences=frozenset({"worker-frozen", "worker-never-fetched", "too-few-workers"}),
)

NEARLY = 0.9
"""Part of `maxmemory` from which it will soon be full."""


@CHECKS.server(EVICTED)
def evicted_keys(look: Look) -> Iterator[Verdict]:
    """Whether keys are evicted now, were, or may be."""
    server = look.server
    policy = server.info.get("maxmemory_policy", "")
    evicted = server.number("evicted_keys")
    grown = evicted - look.servers[0].number("evicted_keys")
    proofs = [
        Proof("INFO memory", f"maxmemory_policy:{policy}"),
        Proof("INFO stats", f"evicted_keys:{evicted}"),
    ]
    if grown > 0:
        yield EVICTED.verdict(
            f"Redis evicted {many(grown, 'key')} in the last {span(look.seconds)}, "
            f"{evicted} since it started: jobs are being lost.",
            *proofs,
            certainty=Certainty.WATCHED,
        )
    elif policy in ("", "noeviction"):
        if evicted:
            yield EVICTED.verdict(
                f"Redis evicted {many(evicted, 'key')} earlier; its policy is noeviction now, so "
                "that is over.",
                *proofs,
                level=Level.OK,
                certainty=Certainty.PROBABLE,
                refutes=(),
                fix="Look for jobs that lost their data: ids-without-data and orphaned-jobs.",
            )
    elif evicted:
        yield EVICTED.verdict(
            f"Redis has evicted {many(evicted, 'key')} since it started ({policy}); there may be "
            "jobs among them, and it will go on.",
            *proofs,
            level=Level.WARNING,
            certainty=Certainty.PROBABLE,
        )
    else:
        keeps_jobs = policy.startswith("volatile")
        what = "locks and limits" if keeps_jobs else "jobs"
        when = f"at {_mib(server)} MiB" if server.number("maxmemory") else "once it has a maxmemory"
        yield EVICTED.verdict(
            f"Redis may evict {what} when it is full, {when}: its policy is {policy}, and a queue "
            "needs noeviction.",
            *proofs,
            level=Level.WARNING,
            refutes=(),
        )


@CHECKS.queue(EVICTED)
def reset_counter(queue: QueueLook) -> Iterator[Verdict]:
    """Whether there are more jobs than were ever added: the counter itself was evicted."""
    evicted = queue.look.server.number("evicted_keys")
    added, jobs = queue.last.added or 0, sum(queue.last.counts.values())
    # BullMQ 4 may have a marker among them.
    if not evicted or jobs <= added + 1:
        return
    yield EVICTED.verdict(
        f"{jobs} jobs are here and the counter of adds says {added}: Redis evicted the counter. "
        "New jobs get ids that exist, and are ignored.",
        Proof(f"GET {queue.key('id')}", str(queue.last.added)),
        *(facts.count(queue, name) for name, number in queue.last.counts.items() if number),
        Proof("INFO stats", f"evicted_keys:{evicted}"),
        fix=f"Set maxmemory-policy to noeviction, then SET {queue.key('id')} above the highest id.",
    )


@CHECKS.server(OUT_OF_MEMORY)
def out_of_memory(look: Look) -> Iterator[Verdict]:
    """Whether Redis is full, refuses writes because of it, or soon will."""
    server = look.server
    used, most = server.number("used_memory"), server.number("maxmemory")
    refused, grown = server.errors.get("OOM", 0), look.growth("OOM")
    policy = server.info.get("maxmemory_policy", "")
    keeps = policy in ("", "noeviction")
    proofs = [
        Proof("INFO memory", f"used_memory:{used} maxmemory:{most} maxmemory_policy:{policy}"),
        Proof("INFO errorstats", f"errorstat_OOM:count={refused}"),
    ]
    if grown > 0:
        yield OUT_OF_MEMORY.verdict(
            f"Redis is full and refused {many(grown, 'command')} in the last {span(look.seconds)}.",
            *proofs,
            certainty=Certainty.WATCHED,
        )
    elif not most or not keeps:
        # A full cache that evicts is as it should be; `evicted-keys` tells what that means here.
        return
    elif used >= most:
        yield OUT_OF_MEMORY.verdict(
            f"Redis is full: {used / most:.0%} of maxmemory ({_mib(server)} MiB) are used. Writes "
            "are refused.",
            *proofs,
        )
    elif used >= most * NEARLY:
        earlier = f" It has refused {many(refused, 'command')} already." if refused else ""
        yield OUT_OF_MEMORY.verdict(
            f"Redis is nearly full: {used / most:.0%} of maxmemory ({_mib(server)} MiB) are used."
            + earlier,
            *proofs,
            level=Level.WARNING,
            refutes=(),
        )


def _mib(server: Server) -> int:
    return round(server.number("maxmemory") / 2**20)
