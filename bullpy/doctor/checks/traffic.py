"""What others do to the server: too many connections, and commands that hold everybody up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bullpy.doctor.look import Look, Server
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, span

TOO_MANY_CLIENTS = Cause(
    code="too-many-clients",
    number=41,
    level=Level.BLOCKED,
    title="Redis refuses connections: too many clients",
    symptom="`ERR max number of clients reached` at start or after a reconnect; some processes "
    "work and others do not.",
    why="Redis takes `maxclients` connections, hosted ones often 20 to 100. A BullMQ queue has "
    "one, a worker two or three, a QueueEvents two, in each process; queues made per request and "
    "never closed add up.",
    fix="Close what is not needed, share connections, make one Queue per process, or raise "
    "maxclients.",
    refutes=("a wrong password", "a dead server"),
    rank=7,
)
SLOW_COMMANDS = Cause(
    code="slow-commands",
    number=48,
    level=Level.WARNING,
    title="Slow commands hold everybody up",
    symptom="Everything is slow now and then; clients report timeouts though Redis is up.",
    why="Redis runs one command at a time. KEYS reads the whole database, and health checks and "
    "dashboards like to call it; scripts over huge lists and large values are slow, too. All "
    "others wait meanwhile.",
    fix="Use SCAN, ZCARD and LLEN in place of KEYS, and small values in place of huge ones.",
    certainty=Certainty.WATCHED,
    rank=70,
)

NEARLY = 0.9
"""Part of `maxclients` from which the next ones will soon be refused."""

SLOW = 50_000
"""Microseconds that a command may take."""

KEYS_SLOW = 5_000
"""Microseconds that KEYS may take on average: it comes again, and grows with the data."""

OFTEN = 300
"""Seconds; KEYS called more often than this is called regularly."""

_OWN = "EVAL \n-- KEYS[1] the queue's `meta`."
"""How the doctor's own script begins in SLOWLOG."""


@CHECKS.server(TOO_MANY_CLIENTS)
def too_many_clients(look: Look) -> Iterator[Verdict]:
    """Whether connections are refused, or soon will be."""
    first, last = look.servers[0], look.server
    rejected = last.number("rejected_connections")
    grown = rejected - first.number("rejected_connections")
    connected, most = last.number("connected_clients"), last.number("maxclients")
    proofs = [
        Proof("INFO stats", f"rejected_connections:{rejected}"),
        Proof("INFO clients", f"connected_clients:{connected} maxclients:{most or '?'}"),
    ]
    if grown > 0:
        yield TOO_MANY_CLIENTS.verdict(
            f"Redis refused {many(grown, 'connection')} in the last {span(look.seconds)}; "
            f"{connected} are open.{_most_from(look)}",
            *proofs,
            certainty=Certainty.WATCHED,
        )
    elif most and connected >= most * NEARLY:
        yield TOO_MANY_CLIENTS.verdict(
            f"{connected} of {most} connections are open: Redis will soon refuse more."
            + (f" It has refused {rejected} already." if rejected else "")
            + _most_from(look),
            *proofs,
            level=Level.WARNING,
            refutes=(),
        )


@CHECKS.server(SLOW_COMMANDS)
def slow_commands(look: Look) -> Iterator[Verdict]:
    """Whether commands were slow while it was looked, or KEYS is called regularly."""
    first, last = look.servers[0], look.server
    slow = max(_new(first, last), default=None)
    if slow is not None and slow[0] >= SLOW:
        took, words, addr = slow
        yield SLOW_COMMANDS.verdict(
            f"{_name(words)} took {took // 1000} ms{_from(addr)}; everybody else waited.",
            Proof("SLOWLOG GET", f"{took} us, {_name(words)}{_from(addr)}"),
        )
        return
    calls = last.calls("keys")
    grown = calls - first.calls("keys")
    cost = _usec_per_call(last, "keys")
    uptime = last.number("uptime_in_seconds")
    is_regular = uptime > OFTEN and calls * OFTEN >= uptime
    if cost < KEYS_SLOW or not (grown > 0 or is_regular):
        return
    addr = next((addr for _, words, addr in last.slow if _name(words) == "KEYS"), "")
    how = f"{many(grown, 'time')} in the last {span(look.seconds)}" if grown > 0 else "regularly"
    yield SLOW_COMMANDS.verdict(
        f"KEYS is called {how}{_from(addr)} and takes {cost / 1000:.0f} ms each time.",
        Proof("INFO commandstats", f"cmdstat_keys:calls={calls},usec_per_call={cost:.0f}"),
        certainty=None if grown > 0 else Certainty.PROBABLE,
    )


def _new(first: Server, last: Server) -> list[tuple[int, str, str]]:
    """Entries of SLOWLOG that came between the looks; it has the newest first."""
    for count in range(len(last.slow) + 1):
        older = last.slow[count:]
        if older == first.slow[: len(older)]:
            return [entry for entry in last.slow[:count] if not entry[1].startswith(_OWN)]
    return []


def _name(words: str) -> str:
    """The command alone: what follows it is a key, or anybody's text."""
    return words.split(" ", maxsplit=1)[0].upper()


def _from(addr: str) -> str:
    return f" from {addr}" if addr else ""


def _usec_per_call(server: Server, command: str) -> float:
    for part in server.commands.get(command, "").split(","):
        name, _, value = part.partition("=")
        if name == "usec_per_call":
            return float(value)
    return 0.0


def _most_from(look: Look) -> str:
    """Which host has most of them, where CLIENT LIST tells."""
    hosts = Counter(client.addr.rpartition(":")[0] for client in look.all_clients())
    if not hosts:
        return ""
    host, number = hosts.most_common(1)[0]
    return f" {number} come from {host}."
