"""What Redis writes to its disk: saves that fail, and data that a restart or a FLUSH took."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor.look import Look, QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, span
from bullpy.registry import Record

PERSISTENCE = Cause(
    code="persistence-failing",
    number=36,
    level=Level.BLOCKED,
    title="Redis cannot save to its disk and refuses writes",
    symptom="`add()` fails with `MISCONF Redis is configured to save RDB snapshots`, workers "
    "cannot finish jobs.",
    why="The last snapshot or append to the AOF failed: the disk is full, read-only or not "
    "writable for Redis, or fork() had no memory. With `stop-writes-on-bgsave-error yes`, the "
    "default, Redis then refuses all writes, so that nothing is accepted that it cannot keep.",
    fix="Free space or mend permissions in Redis's `dir` (its log names the error), then run "
    "BGSAVE: writes go on once it succeeds.",
    refutes=("a dead worker", "a full memory"),
    rank=4,
    silences=frozenset({"worker-frozen", "worker-never-fetched", "too-few-workers"}),
)
DATA_GONE = Cause(
    code="data-gone",
    number=42,
    level=Level.BLOCKED,
    title="The queue's data was deleted, or lost in a restart",
    symptom="All jobs are gone at once, counters start again at 1, waiting callers wait for ever.",
    why="Somebody ran FLUSHALL or FLUSHDB (a test, a deploy script, a cache that is cleared), or "
    "Redis restarted and had nothing on disk to load. Redis counts FLUSH since its start only, "
    "so that an old one says little.",
    fix="Turn on the AOF (appendonly yes), forbid FLUSH to the application's user, and add the "
    "jobs again.",
    certainty=Certainty.WATCHED,
    refutes=("a defect of the workers",),
    rank=8,
    silences=frozenset({"never-added", "no-adds"}),
)

DAY = 86_400
"""Seconds since Redis's start within which a FLUSH is taken for the reason of an empty queue."""

OLDER = 2
"""Seconds by which a process is older than the server, at least: INFO counts whole ones."""


@CHECKS.server(PERSISTENCE)
def persistence_failing(look: Look) -> Iterator[Verdict]:
    """Whether the last save failed, and whether writes are refused because of it."""
    info = look.server.info
    failing = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if info.get(name) == "err"
    ]
    refused, grown = look.server.errors.get("MISCONF", 0), look.growth("MISCONF")
    if not failing and grown <= 0:
        return
    proofs = [Proof("INFO persistence", f"{name}:err") for name in failing]
    proofs.append(Proof("INFO errorstats", f"errorstat_MISCONF:count={refused}"))
    if grown > 0:
        yield PERSISTENCE.verdict(
            f"Redis cannot write to its disk and refused {many(grown, 'command')} in the last "
            f"{span(look.seconds)}.",
            *proofs,
            certainty=Certainty.WATCHED,
        )
    elif refused and failing != ["aof_last_bgrewrite_status"]:
        yield PERSISTENCE.verdict(
            f"Redis cannot write to its disk and refuses writes: {many(refused, 'command')} since "
            "it started.",
            *proofs,
        )
    else:
        yield PERSISTENCE.verdict(
            "Redis's last save to its disk failed. Unless stop-writes-on-bgsave-error is off, "
            "writes are refused; in any case a restart loses jobs.",
            *proofs,
            level=Level.WARNING,
            refutes=(),
        )


@CHECKS.server(DATA_GONE)
def flushed_now(look: Look) -> Iterator[Verdict]:
    """Whether somebody ran FLUSH, or Redis restarted, between the looks."""
    first, last = look.servers[0], look.server
    is_same = first.info.get("run_id") == last.info.get("run_id")
    if not is_same:
        # A failover to another node is none: its data is that of the first one.
        if last.number("uptime_in_seconds") > look.seconds + 1:
            return
        yield DATA_GONE.verdict(
            f"Redis restarted within the last {span(look.seconds)}{_keeps(look)}.",
            Proof("INFO server", f"run_id:{last.info.get('run_id', '')[:8]}, another than before"),
            Proof("INFO persistence", f"aof_enabled:{last.info.get('aof_enabled', '?')}"),
            level=Level.WARNING if _loaded(look) else Level.BLOCKED,
        )
        return
    for command in ("flushall", "flushdb"):
        if last.calls(command) > first.calls(command):
            yield DATA_GONE.verdict(
                f"Somebody ran {command.upper()} in the last {span(look.seconds)}.",
                Proof(
                    "INFO commandstats",
                    f"cmdstat_{command}: {first.calls(command)} calls, then {last.calls(command)}",
                ),
            )


@CHECKS.queue(DATA_GONE)
def data_gone(queue: QueueLook) -> Iterator[Verdict]:
    """Whether the queue had jobs before, as far as the server remembers."""
    first, last, server = queue.first, queue.last, queue.look.server
    uptime = server.number("uptime_in_seconds")
    if first.added is not None and (last.added or 0) < first.added:
        yield DATA_GONE.verdict(
            f"The counter of adds fell from {first.added} to {last.added or 0} between the looks: "
            "the queue was deleted.",
            Proof(f"GET {queue.key('id')}", f"{first.added}, then {last.added or '(nil)'}"),
        )
        return
    if last.added is not None or not uptime or any(last.counts.values()):
        return
    places = queue.elsewhere.places if queue.elsewhere else ()
    if any(place.queue == queue.name and place.added for place in places):
        return
    witness = _witness(queue, uptime)
    if witness is not None:
        ends = witness.processed + witness.failed
        did = f"added {many(witness.added, 'job')}" if witness.added else f"run {many(ends, 'job')}"
        yield DATA_GONE.verdict(
            f"Redis started {span(uptime)} ago{_keeps(queue.look)}. The {witness.role} "
            f"{witness.name or witness.host}, which is older, has {did} of a queue of which "
            "nothing is left.",
            Proof("INFO server", f"uptime_in_seconds:{uptime}"),
            Proof(
                "bullpy ps", f"{witness.role} started {span(last.at / 1000 - witness.started)} ago"
            ),
            Proof(f"GET {queue.key('id')}", "(nil)"),
            certainty=Certainty.CERTAIN,
        )
        return
    flushes = server.calls("flushall") + server.calls("flushdb")
    # Events are written by every add: on a server without XADD there never were jobs.
    if flushes and uptime < DAY and server.calls("xadd"):
        yield DATA_GONE.verdict(
            f"Redis was emptied by FLUSH {_times(flushes)} since it started {span(uptime)} ago, "
            f"and nothing of {queue.prefix}:{queue.name} is left; no job was added since.",
            Proof("INFO commandstats", f"cmdstat_flushall and cmdstat_flushdb: {flushes} calls"),
            Proof(f"GET {queue.key('id')}", "(nil)"),
            Proof("INFO server", f"uptime_in_seconds:{uptime}"),
            # Where not even a worker leaves a key, the name may be a wrong one.
            level=None if last.exists else Level.WARNING,
            certainty=Certainty.PROBABLE,
            refutes=(),
            fix="Add the jobs again. If the API has added some since the FLUSH, it writes "
            "elsewhere: compare its fingerprint (bullpy doctor --peer URL).",
        )


def _witness(queue: QueueLook, uptime: int) -> Record | None:
    """A process of bullpy that had to do with jobs before Redis started."""
    known = queue.look.registry
    records = known.of(queue.prefix, queue.name) if known is not None else ()
    began = queue.last.at / 1000 - uptime
    older = (each for each in records if each.started < began - OLDER)
    return next((each for each in older if each.processed + each.failed + each.added), None)


def _loaded(look: Look) -> bool:
    """Whether it keeps an AOF, or loaded keys from a snapshot when it started (Redis 7)."""
    info = look.server.info
    return info.get("aof_enabled") == "1" or look.server.number("rdb_last_load_keys_loaded") > 0


def _keeps(look: Look) -> str:
    return "" if _loaded(look) else " and loaded nothing from its disk"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
