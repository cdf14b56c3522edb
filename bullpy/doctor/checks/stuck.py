"""A worker is connected and does not fetch: frozen, never started, or behind its own wait."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bullpy.doctor.checks import states
from bullpy.doctor.clients import Client
from bullpy.doctor.look import NO_KEY, QueueLook, Sample
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, some, span

COMMAND_TIMEOUT = Cause(
    code="command-timeout-below-block",
    number=11,
    level=Level.BLOCKED,
    title="The client's command timeout is shorter than the worker's wait",
    symptom="The worker is online and logs nothing, or `Command timed out`, and never takes a job.",
    why="A worker waits in BZPOPMIN for 5 to 10 s. With ioredis' `commandTimeout` below that the "
    "client gives up waiting, though Redis still serves the wait, and sends its next command "
    "behind it. The answer that tells of a job comes to nobody.",
    fix="Remove `commandTimeout` from the connection options of workers, or set it above 12 s.",
    refutes=("a dead worker", "a frozen process", "a paused queue"),
    rank=22,
    silences=frozenset({"producer-without-marker", "too-few-workers", "no-adds"}),
)
FROZEN = Cause(
    code="worker-frozen",
    number=12,
    level=Level.BLOCKED,
    title="A worker is connected and frozen",
    symptom="The worker is listed as online, and nothing moves.",
    why="Its wait for a job ended, it holds no job, and it has sent nothing since. A living worker "
    "asks again at once. The process is stopped, hibernated or hangs, or its host vanished without "
    "closing the connection. It may have taken the sign that wakes the others with it.",
    fix="Restart that worker, unless `pause()` was called in its process: then `resume()` it. If "
    "it freezes again: look for code that blocks the event loop, let the platform not put it to "
    "sleep, and use TCP keepalive and a watchdog.",
    certainty=Certainty.WATCHED,
    refutes=("a missing worker", "a long job", "a paused queue"),
    rank=24,
    silences=frozenset(
        {"worker-never-fetched", "producer-without-marker", "too-few-workers", "no-adds"}
    ),
)
NEVER_FETCHED = Cause(
    code="worker-never-fetched",
    number=13,
    level=Level.BLOCKED,
    title="A worker is connected and has never asked for a job",
    symptom="The worker is listed as online, and nothing moves.",
    why="It connected, and since then has sent nothing that asks for a job, and holds none. It was "
    "made with `autorun: false` and `run()` was never called, it has no processor, or "
    "`worker.pause()` was called in its process. A worker that is paused there keeps its "
    "connection and stops asking.",
    fix="Call `run()` on the worker, or `resume()` if it was paused in its process.",
    certainty=Certainty.WATCHED,
    refutes=("a missing worker", "a frozen process", "a paused queue"),
    rank=26,
    silences=frozenset({"producer-without-marker", "too-few-workers", "no-adds"}),
)

SILENT = 6
"""Seconds in which a living worker without a job has sent something."""

RETRIES = 17
"""Seconds after which a worker that paused because of an error has tried again (BullMQ: 15)."""

_AFTER = 5
"""Seconds after the end of a wait from which on what a process sends has another reason."""

_ENDS_WAIT = "client|unblock"
"""What bullpy sends on its other connection to end its own wait, for a pause."""

_GREETINGS = frozenset({"info", "hello", "auth", "select", "client", "ping", "command", "readonly"})
"""What a client sends to begin with."""


@CHECKS.queue(COMMAND_TIMEOUT)
def command_timeout(queue: QueueLook) -> Iterator[Verdict]:
    """A client sends commands behind the one in which it waits."""
    seen: dict[int, list[Client]] = defaultdict(list)
    for _, clients in queue.worker_history():
        for client in clients:
            if client.is_blocked and client.qbuf > 0 and client.cmd in states.WAITS:
                seen[client.id].append(client)
    last = queue.last
    is_starved = last.ready > 0 and not last.marker and not states.is_held(queue)
    # One look may meet a connection that is being closed.
    hit = [rows[-1] for rows in seen.values() if len(rows) > 1 or is_starved]
    if not hit:
        return
    proofs = [Proof("CLIENT LIST", f"flags=b cmd={row.cmd} qbuf={row.qbuf}") for row in hit[:2]]
    if last.ready:
        proofs.append(Proof(f"LLEN {queue.key('wait')} (and prioritized)", str(last.ready)))
        proofs.append(Proof(f"ZCARD {queue.key('marker')}", str(int(last.marker))))
    yield COMMAND_TIMEOUT.verdict(
        f"Commands of the worker {some(hit)} queue up behind its own wait: its client's command "
        f"timeout is shorter than the wait.",
        *proofs,
        level=None if last.ready and not queue.moves else Level.WARNING,
    )


@dataclass(frozen=True, slots=True)
class _Silent:
    """Connections of workers that sent nothing, and how many of them cannot be at work."""

    rows: Sequence[Client]
    surplus: int

    @property
    def longest(self) -> list[Client]:
        """As many as cannot be at work, those first that are silent for longest."""
        return sorted(self.rows, key=lambda row: -row.idle)[: self.surplus]


@CHECKS.queue(FROZEN)
def frozen(queue: QueueLook) -> Iterator[Verdict]:
    """A worker's wait ended, it holds no job, and it does not come back."""
    stuck = [
        row
        for each in _silent(queue)
        for row in each.longest
        if row.cmd in states.WAITS and not _speaks(row, queue)
    ]
    if not stuck:
        return
    row = stuck[0]
    last = queue.last
    proofs = [Proof("CLIENT LIST", f"flags={row.flags} cmd={row.cmd} idle={row.idle}")]
    proofs.append(_no_lock(queue))
    if last.ready and not last.marker:
        proofs.append(Proof(f"ZCARD {queue.key('marker')}", "0, though jobs are ready"))
    yield FROZEN.verdict(
        f"The worker {some(stuck)} got an answer {span(row.idle)} ago and has sent nothing since; "
        f"it holds no job.{_ready(last)}",
        *proofs,
        level=_level(queue, stuck),
    )


@CHECKS.queue(NEVER_FETCHED)
def never_fetched(queue: QueueLook) -> Iterator[Verdict]:
    """A worker has connected, and nothing more."""
    stuck = [
        row
        for each in _silent(queue)
        for row in each.longest
        if _only_greeted(row) or _speaks(row, queue)
    ]
    if not stuck:
        return
    row = stuck[0]
    last = queue.last
    ttl = last.stalled_check_ttl
    if _only_greeted(row):
        found = f"connected {span(row.age)} ago and has never asked for a job"
    else:
        found = f"has not asked for a job for {span(row.idle)}, though its process lives"
    yield NEVER_FETCHED.verdict(
        f"The worker {some(stuck)} {found}.{_ready(last)}",
        Proof("CLIENT LIST", f"flags={row.flags} cmd={row.cmd} age={row.age} idle={row.idle}"),
        Proof(
            f"PTTL {queue.key('stalled-check')}", "-2 (absent)" if ttl == NO_KEY else f"{ttl} ms"
        ),
        _no_lock(queue),
        level=_level(queue, stuck),
        # After an error a worker waits for 15 s before it asks again.
        certainty=Certainty.PROBABLE if row.idle < RETRIES else None,
    )


def _silent(queue: QueueLook) -> Iterator[_Silent]:
    """Workers that sent nothing in any look and cannot all be at work, by name."""
    if states.is_held(queue) or states.is_refused(queue):
        return
    first, last = queue.first, queue.last
    if queue.moves and not (first.ready and last.ready):
        # A job may have begun after the first look and ended before the last one. Not so where
        # jobs are ready: who ends one takes the next in the same step.
        return
    if any(sample.counts["active"] > len(sample.active) for sample in (first, last)):
        return
    history = [clients for _, clients in queue.worker_history()]
    if len(history) < 2:
        return
    # The Python port names two connections of a worker, and one of them may have nothing to do.
    port = {
        _process(row)
        for clients in history
        for row in clients
        if _is_of_port(row, queue) and not _only_greeted(row)
    }
    history = [
        [row for row in clients if not (_only_greeted(row) and _process(row) in port)]
        for clients in history
    ]
    # Once for all names: there may be thousands of them.
    looks = [_by_name(clients) for clients in history]
    names = {name for look in looks for name in look}
    for name in names:
        mine = [look.get(name, []) for look in looks]
        rows = [row for row in mine[-1] if _is_silent(row, mine)]
        holders = max(_holders(sample, name, names) for sample in (first, last))
        if len(rows) > holders:
            yield _Silent(rows, len(rows) - holders)


def _by_name(clients: Sequence[Client]) -> dict[str, list[Client]]:
    found: dict[str, list[Client]] = defaultdict(list)
    for row in clients:
        found[states.worker_name(row)].append(row)
    return found


def _is_silent(row: Client, history: Sequence[Sequence[Client]]) -> bool:
    """Whether a connection was there all the time, never waited, and said nothing."""
    rows = [each for clients in history for each in clients if each.id == row.id]
    idle = [each.idle for each in rows]
    return (
        len(rows) == len(history)
        and not any(each.is_blocked for each in rows)
        and row.idle >= SILENT
        and idle == sorted(idle)
        and (row.cmd in states.WAITS or _only_greeted(row))
    )


def _holders(sample: Sample, name: str, names: set[str]) -> int:
    """How many workers hold jobs and may have this name."""
    owners = {
        states.owner(job)
        for job in states.locked(sample)
        # Who did not write a name, or one that no connection has, may be anybody.
        if job.worker == name or job.worker not in names or not job.worker
    }
    return len(owners)


def _is_of_port(row: Client, queue: QueueLook) -> bool:
    """Whether the queue stands in its name as the Python port writes it."""
    return any(each.is_plain and each.queue == queue.name for each in row.listeners)


def _process(row: Client) -> tuple[str, str]:
    """What connections of one process have in common."""
    return states.host(row), states.worker_name(row)


def _speaks(row: Client, queue: QueueLook) -> bool:
    """Whether its process ended the wait itself, or another connection of it spoke since."""
    name = states.worker_name(row)
    names = {row.name, f"bullpy:{name.rpartition(':')[0]}"} if name else set[str]()
    return any(
        other.name in names
        and other.id != row.id
        and states.host(other) == states.host(row)
        and (other.idle + _AFTER <= row.idle or other.cmd == _ENDS_WAIT)
        for other in queue.look.all_clients()
    )


def _only_greeted(row: Client) -> bool:
    return row.cmd.partition("|")[0] in _GREETINGS and row.age - row.idle <= 2


def _no_lock(queue: QueueLook) -> Proof:
    active = queue.last.counts["active"]
    held = len(states.locked(queue.last))
    return Proof(
        f"LLEN {queue.key('active')}",
        str(active) if not active else f"{active}, of which {held} locked by other workers",
    )


def _ready(sample: Sample) -> str:
    return f" {many(sample.ready, 'job')} ready." if sample.ready else ""


def _level(queue: QueueLook, stuck: Sequence[Client]) -> Level:
    """Blocked where jobs wait and nobody else takes them."""
    ids = {row.id for row in stuck}
    others = [row for row in queue.workers() if row.id not in ids and row.is_blocked]
    is_served = bool(others) or bool(states.locked(queue.last)) or queue.moves
    return Level.BLOCKED if queue.last.ready and not is_served else Level.WARNING
