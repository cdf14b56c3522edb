"""Which jobs are added when and by whom, and what each demands: all drawn from the seed."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.torture.work import HANG_TIMEOUT

PRODUCERS = ("node", "python")

ALWAYS = 99
"""`fails` of a job that never succeeds."""

MAX_CRASHES = 2
"""bullpy's default: after so many crashes of its child a job fails for good."""

GOOD_KINDS = {
    "plain": 5,
    "isolated": 4,
    "crunch": 2,
    "long": 1,
    "delayed": 3,
    "prioritized": 3,
    "flaky": 3,
    "doomed": 1,
    "flow": 2,
    "flow-broken": 1,
}
BAD_KINDS = {"segfault": 1, "hang": 1, "poison": 1}

SCHEDULERS: dict[str, dict[str, Any]] = {
    "node-every": {"producer": "node", "repeat": {"every": 700}, "step_ms": 700},
    "python-cron": {
        "producer": "python",
        "repeat": {"pattern": "*/2 * * * * *"},
        "step_ms": 2000,
    },
}


@dataclass(frozen=True, slots=True)
class Demand:
    """How a job has to end if nobody disturbs it.

    Attributes:
        state: `completed` or `failed`.
        attempts: How many attempts it takes.
        allowed: How many it may take.
        crashes: How many of them end with the death of its child.
        reason: What `failedReason` has to contain.
        runs: Whether it runs at all.
        children: Ids of the jobs whose results its own result names.
    """

    state: str = "completed"
    attempts: int = 1
    allowed: int = 1
    crashes: int = 0
    reason: str = ""
    runs: bool = True
    children: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spec:
    """One job.

    Attributes:
        id: Its id.
        kind: What it stands for.
        name: The processor it is for.
        data: Its payload.
        opts: Its options in BullMQ's spelling.
        demand: How it has to end.
        at: Seconds after the start of the run when it is added.
        producer: Who adds it.
        children: The jobs it waits for, added with it.
    """

    id: str
    kind: str
    name: str
    data: dict[str, Any]
    opts: dict[str, Any]
    demand: Demand
    at: float = 0.0
    producer: str = "python"
    children: tuple[Spec, ...] = ()

    def wire(self) -> dict[str, Any]:
        """What a producer has to know."""
        entry = asdict(self)
        del entry["demand"]
        return entry

    def family(self) -> Generator[Spec]:
        """The job itself, and those below it."""
        yield self
        for child in self.children:
            yield from child.family()


@dataclass(slots=True)
class Plan:
    """All jobs of a run.

    Attributes:
        entries: What producers add, in the order of time.
    """

    entries: list[Spec] = field(default_factory=list)

    def jobs(self) -> dict[str, Spec]:
        """Every job by its id, children too."""
        return {spec.id: spec for entry in self.entries for spec in entry.family()}


def draw(seed: int, seconds: float, rate: float, bad_percent: float) -> Plan:
    """Draw a plan.

    Args:
        seed: The same one gives the same plan.
        seconds: For how long jobs are added.
        rate: Entries a second, both producers together.
        bad_percent: How many of a hundred entries are bad.
    """
    dice = _Dice(random.Random(f"plan {seed}"))
    times = sorted(dice.random.uniform(0, seconds) for _ in range(round(seconds * rate)))
    bad = set(dice.random.sample(range(len(times)), round(len(times) * bad_percent / 100)))
    kinds = [
        dice.one_of(BAD_KINDS if number in bad else GOOD_KINDS) for number in range(len(times))
    ]
    return Plan(
        [
            dice.entry(f"t{number}", kind, at)
            for number, (kind, at) in enumerate(zip(kinds, times, strict=True))
        ]
    )


def late(count: int) -> Plan:
    """Jobs that show after the run whether workers are awake."""
    dice = _Dice(random.Random(0))
    names = ("plain", "isolated")
    return Plan([dice.simple(f"late{n}", "late", names[n % 2], work=0.01) for n in range(count)])


class _Dice:
    def __init__(self, chance: random.Random) -> None:
        self.random = chance
        self._decks: dict[int, list[str]] = {}

    def one_of(self, kinds: dict[str, int]) -> str:
        """A kind, as from a deck of cards, so that a short run has all of them."""
        deck = self._decks.setdefault(id(kinds), [])
        if not deck:
            deck += [kind for kind, weight in kinds.items() for _ in range(weight)]
            self.random.shuffle(deck)
        return deck.pop()

    def entry(self, job_id: str, kind: str, at: float) -> Spec:
        producer = "python" if kind == "poison" else self.random.choice(PRODUCERS)
        make = getattr(self, f"_{kind.replace('-', '_')}")
        spec: Spec = make(job_id)
        return Spec(**{**_shallow(spec), "kind": kind, "at": round(at, 3), "producer": producer})

    def simple(
        self,
        job_id: str,
        kind: str,
        name: str,
        *,
        work: float | None = None,
        fails: int = 0,
        attempts: int | None = None,
        opts: dict[str, Any] | None = None,
    ) -> Spec:
        """A job that runs, fails so many times, and then succeeds if it has attempts left."""
        work = round(self.random.uniform(0.02, 0.6), 3) if work is None else work
        attempts = attempts or self.random.choice([1, 3])
        demand = (
            Demand("failed", attempts, attempts, reason="PlannedError")
            if fails >= attempts
            else Demand("completed", fails + 1, attempts)
        )
        options: dict[str, Any] = {"attempts": attempts, **(opts or {})}
        if attempts > 1:
            options["backoff"] = self.random.choice(
                [{"type": "fixed", "delay": 200}, {"type": "exponential", "delay": 100}]
            )
        return Spec(job_id, kind, name, {"work": work, "fails": fails}, options, demand)

    def _anywhere(self) -> str:
        return self.random.choice(["plain", "isolated", "crunch"])

    def _plain(self, job_id: str) -> Spec:
        return self.simple(job_id, "plain", "plain")

    def _isolated(self, job_id: str) -> Spec:
        return self.simple(job_id, "isolated", "isolated")

    def _crunch(self, job_id: str) -> Spec:
        return self.simple(job_id, "crunch", "crunch", work=round(self.random.uniform(0, 0.08), 3))

    def _long(self, job_id: str) -> Spec:
        # Some are longer than a lock lasts, and than a worker waits for them when it stops.
        work = round(self.random.uniform(1.5, 4.0), 3)
        return self.simple(job_id, "long", self.random.choice(["plain", "isolated"]), work=work)

    def _delayed(self, job_id: str) -> Spec:
        opts = {"delay": self.random.randint(200, 4000)}
        return self.simple(job_id, "delayed", self._anywhere(), opts=opts)

    def _prioritized(self, job_id: str) -> Spec:
        opts = {"priority": self.random.randint(1, 20)}
        return self.simple(job_id, "prioritized", self._anywhere(), opts=opts)

    def _flaky(self, job_id: str) -> Spec:
        fails = self.random.randint(1, 3)
        return self.simple(job_id, "flaky", self._anywhere(), fails=fails, attempts=fails + 2)

    def _doomed(self, job_id: str) -> Spec:
        attempts = self.random.randint(1, 3)
        return self.simple(job_id, "doomed", self._anywhere(), fails=ALWAYS, attempts=attempts)

    def _flow(self, job_id: str) -> Spec:
        children = tuple(
            self.simple(
                f"{job_id}-{number}",
                "flow-child",
                self._anywhere(),
                fails=self.random.choice([0, 0, 1]),
                attempts=4,
            )
            for number in range(self.random.randint(2, 3))
        )
        return self._parent(job_id, children)

    def _flow_broken(self, job_id: str) -> Spec:
        good = self.simple(f"{job_id}-0", "flow-child", "plain", attempts=4)
        opts = {"failParentOnFailure": True}
        bad = self.simple(
            f"{job_id}-1", "flow-child", self._anywhere(), fails=ALWAYS, attempts=1, opts=opts
        )
        parent = self._parent(job_id, (good, bad))
        demand = Demand("failed", 1, 5, reason=bad.id, runs=False)
        return Spec(**{**_shallow(parent), "demand": demand})

    def _parent(self, job_id: str, children: Sequence[Spec]) -> Spec:
        name = self.random.choice(["gather", "gather_isolated"])
        opts = {"attempts": 5, "backoff": {"type": "fixed", "delay": 300}}
        demand = Demand(allowed=5, children=tuple(child.id for child in children))
        data = {"work": 0, "fails": 0}
        return Spec(job_id, "flow", name, data, opts, demand, children=tuple(children))

    def _segfault(self, job_id: str) -> Spec:
        attempts = self.random.randint(1, 4)
        opts = {"attempts": attempts, "backoff": {"type": "fixed", "delay": 100}}
        crashes = min(attempts, MAX_CRASHES)
        demand = Demand("failed", crashes, attempts, crashes, "SIGSEGV")
        return Spec(job_id, "segfault", "segfault", {}, opts, demand)

    def _hang(self, job_id: str) -> Spec:
        attempts = self.random.randint(1, 2)
        opts = {"attempts": attempts, "backoff": {"type": "fixed", "delay": 100}}
        demand = Demand("failed", attempts, attempts, reason=f"timeout of {HANG_TIMEOUT:g} s")
        data = {"deaf": self.random.random() < 0.5}
        name = self.random.choice(["hang", "hang_on_loop"])
        return Spec(job_id, "hang", name, data, opts, demand)

    def _poison(self, job_id: str) -> Spec:
        demand = Demand("failed", 1, 3, reason="its data is not JSON", runs=False)
        return Spec(job_id, "poison", self._anywhere(), {}, {"attempts": 3}, demand)


def _shallow(spec: Spec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in Spec.__dataclass_fields__}
