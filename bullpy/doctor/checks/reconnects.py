"""Workers that come and go: one connection is cut again and again, or the whole process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bullpy.doctor.checks import states
from bullpy.doctor.clients import Client
from bullpy.doctor.look import QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, span

RECONNECTS = Cause(
    code="consumer-reconnects",
    number=10,
    level=Level.BLOCKED,
    title="The worker's waiting connection is cut again and again",
    symptom="A Python worker takes jobs late or rarely, and logs nothing.",
    why="redis-py 8 closes a connection that has read nothing for 5 s (`socket_timeout`), and a "
    "worker without jobs waits just that long. It connects again 1 to 2 s later. Jobs wait "
    "meanwhile, and one whose sign arrives at the wrong moment waits for the next round.",
    fix="Set `socket_timeout` of that worker's connection above its wait, 15 s or None, or run it "
    "with bullpy, which gives that connection a time limit of its own.",
    certainty=Certainty.WATCHED,
    refutes=("a dead worker", "a paused queue", "a crash of the process"),
    rank=23,
    silences=frozenset({"crash-loop", "producer-without-marker", "too-few-workers", "no-adds"}),
)
CRASH_LOOP = Cause(
    code="crash-loop",
    number=46,
    level=Level.BLOCKED,
    title="A worker connects and vanishes again and again",
    symptom="The platform shows the worker as running or restarting, and jobs are begun and not "
    "ended, or not begun.",
    why="Workers of the queue appear in the list of connections and are gone seconds later. A "
    "supervisor restarts a process that ends each time: an error at start, a job that kills it, or "
    "too little memory.",
    fix="Read the log of the worker's last lines before it ended, and its exit code: 137 is lack "
    "of memory. Let the supervisor wait longer after each crash.",
    certainty=Certainty.WATCHED,
    refutes=("a missing worker", "a paused queue"),
    rank=18,
    silences=frozenset(
        {"no-worker", "worker-never-fetched", "worker-frozen", "producer-without-marker", "no-adds"}
    ),
)

SHORT_LIFE = 60
"""Seconds that a connection of a crashing worker lives at most."""

READ_TIMEOUT = 6
"""Seconds that a connection lives at most which redis-py 8 closes for being silent."""


@dataclass(frozen=True, slots=True)
class _Life:
    """One connection, as far as it was seen.

    Attributes:
        rows: At each look where it was there.
        is_gone: Whether it was missing in the last look.
    """

    rows: Sequence[Client]
    is_gone: bool

    @property
    def last(self) -> Client:
        return self.rows[-1]


@CHECKS.queue(RECONNECTS)
def consumer_reconnects(queue: QueueLook) -> Iterator[Verdict]:
    """A process stays, and the connection in which it waits does not."""
    history = list(queue.worker_history())
    if len(history) < 3:
        return
    groups: dict[tuple[str, str], list[_Life]] = defaultdict(list)
    for life in _lives(history):
        groups[states.host(life.last), states.worker_name(life.last)].append(life)
    looks = len(history)
    for (host, name), lives in groups.items():
        stays = [
            life for life in lives if len(life.rows) == looks and life.last.cmd not in states.WAITS
        ]
        waits = [life for life in lives if life.last.cmd in states.WAITS]
        cut = [life for life in waits if life.is_gone]
        if not stays or len(stays) > 1 or not waits:
            # Several processes of one name on one host cannot be told apart.
            continue
        oldest = stays[0].last.age
        is_young = waits[0].rows[0].age < stays[0].rows[0].age - 3
        absent = sum(
            not any(row.id == life.last.id for life in waits for row in clients)
            for _, clients in history
        )
        new = sum(life.rows[0].id not in _ids(history[0][1]) for life in waits)
        is_known = _times_out(stays[0].last) and any(_was_silent(life.last) for life in cut)
        if len(cut) + int(is_young) < 2 and not (is_known and cut) and not (is_young and new):
            continue
        if not cut and not new:
            continue
        last = queue.last
        who = f"{name} at {host}" if name else f"at {host}"
        yield RECONNECTS.verdict(
            f"The consumer of the worker {who} was missing in {absent} of {looks} looks and "
            f"reconnects again and again; its process has been connected for {span(oldest)}.",
            Proof(
                "CLIENT LIST",
                f"waiting connection ids {', '.join(str(life.last.id) for life in waits)}, "
                f"oldest {max(life.last.age for life in waits)} s; the process's other connection "
                f"{stays[0].last.id}, {oldest} s",
            ),
            *([Proof("CLIENT LIST lib", stays[0].last.library)] if stays[0].last.library else ()),
            level=None if last.ready else Level.WARNING,
            certainty=None if len(cut) + int(is_young) >= 2 else Certainty.PROBABLE,
        )


@CHECKS.queue(CRASH_LOOP)
def crash_loop(queue: QueueLook) -> Iterator[Verdict]:
    """Connections of workers end soon after they began, more than once."""
    history = list(queue.worker_history())
    if len(history) < 3:
        return
    lives = _lives(history)
    ended = [life for life in lives if life.is_gone and life.last.age <= SHORT_LIFE]
    stays = [life.last for life in lives if len(life.rows) == len(history)]
    # Where the Python port's other connection stays, the process has not crashed.
    ports = {
        (states.host(row), states.worker_name(row)) for row in stays if row.cmd not in states.WAITS
    }
    ended = [
        life
        for life in ended
        if (states.host(life.last), states.worker_name(life.last)) not in ports
    ]
    # One connection that ends is a restart. And several at one moment are one process, or a
    # deployment of several.
    moments = {id(life.rows[-1]): _gone_at(history, life) for life in ended}
    if len(set(moments.values())) < 2:
        return
    # A deployment ends old ones, one by one if there are several, and its new ones stay.
    if all(life.rows[0].id in _ids(history[0][1]) for life in ended):
        return
    seconds = history[-1][0] - history[0][0]
    yield CRASH_LOOP.verdict(
        f"Workers of the queue vanished {len(set(moments.values()))} times in {span(seconds)}, "
        f"none of them older than {span(max(life.last.age for life in ended))}.",
        Proof(
            "CLIENT LIST", f"ids {', '.join(str(life.last.id) for life in lives[-6:])}, each new"
        ),
        Proof(f"LLEN {queue.key('wait')} (and prioritized)", many(queue.last.ready, "job")),
        # One that stays does the work meanwhile.
        level=Level.WARNING if any(row.cmd in states.WAITS for row in stays) else None,
    )


def _lives(history: Sequence[tuple[float, list[Client]]]) -> list[_Life]:
    """Connections in the order in which they were made."""
    rows: dict[int, list[Client]] = defaultdict(list)
    for _, clients in history:
        for client in clients:
            rows[client.id].append(client)
    there = _ids(history[-1][1])
    return [_Life(rows[number], number not in there) for number in sorted(rows)]


def _gone_at(history: Sequence[tuple[float, list[Client]]], life: _Life) -> float:
    """The first look without it."""
    number = life.last.id
    seen = max(at for at, clients in history if number in _ids(clients))
    return min(at for at, _ in history if at > seen)


def _ids(clients: Sequence[Client]) -> set[int]:
    return {client.id for client in clients}


def _times_out(client: Client) -> bool:
    """Whether its library closes connections that read nothing for 5 s."""
    library, _, version = client.library.partition(" ")
    major = version.partition(".")[0]
    return library.startswith("redis-py") and major.isdigit() and int(major) >= 8


def _was_silent(client: Client) -> bool:
    return client.is_blocked and client.age <= READ_TIMEOUT and client.age - client.idle <= 1
