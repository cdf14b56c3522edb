"""What is broken, when, and how: drawn from the seed; and the record of what was done."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

FAULTS = (
    *("worker-kill", "worker-stop", "worker-term", "child-kill"),
    *("cut", "half-open-command", "half-open-blocking", "half-open-locks"),
    *("lose-fetch", "lose-finish", "black-hole", "client-kill", "script-flush"),
    *("redis-term", "redis-kill", "redis-stop", "pause"),
)
"""All kinds. Each is done once before one is done again."""

SHORTEST_REST, LONGEST_REST = 0.3, 1.1
"""Seconds between the end of one fault and the next."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of the schedule.

    Attributes:
        kind: One of `FAULTS`.
        rest: Seconds to wait before it.
        worker: Which worker slot it hits, if it hits one.
        chance: From 0 to 1, for whatever else is left to chance.
    """

    kind: str
    rest: float
    worker: int
    chance: float


def draw(seed: int, count: int, workers: int) -> list[Fault]:
    """The first so many faults of a seed."""
    dice = random.Random(f"faults {seed}")
    deck: list[str] = []
    faults: list[Fault] = []
    while len(faults) < count:
        if not deck:
            deck = list(FAULTS)
            dice.shuffle(deck)
        rest = dice.uniform(SHORTEST_REST, LONGEST_REST)
        faults.append(Fault(deck.pop(), rest, dice.randrange(workers), dice.random()))
    return faults


@dataclass(slots=True)
class Deed:
    """What was done, to whom, and when.

    Attributes:
        kind: A fault, or what followed from one (`worker-ended`), or `lag`.
        at: When it began.
        until: When it was over.
        worker: Process id of the worker that it hit.
        child: Process id of the child that it hit.
        note: More about it.
    """

    kind: str
    at: float
    until: float
    worker: int | None = None
    child: int | None = None
    note: str = ""


class Deeds:
    """The record, in order.

    Args:
        write: Called with each deed when it begins, for a log.
    """

    def __init__(self, write: Callable[[Deed], None] = lambda _: None) -> None:
        self.all: list[Deed] = []
        self._write = write

    def note(
        self,
        kind: str,
        *,
        worker: int | None = None,
        child: int | None = None,
        note: str = "",
        lasted: float = 0.0,
    ) -> Deed:
        """Record a deed that begins now, or has lasted for so many seconds."""
        now = time.time()
        deed = Deed(kind, now - lasted, now, worker, child, note)
        self.all.append(deed)
        self._write(deed)
        return deed

    def over(self, deed: Deed) -> None:
        """Record that it is over."""
        deed.until = time.time()

    def counts(self) -> dict[str, int]:
        """How often each fault was done."""
        counted = Counter(deed.kind for deed in self.all)
        return {kind: counted[kind] for kind in FAULTS if counted[kind]}
