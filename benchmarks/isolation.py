"""What it costs to run `def` processors in child processes, and what a crash costs.

    python benchmarks/isolation.py --json
    python benchmarks/isolation.py --jobs 20000 --calls 5000 --rounds 5

bullpy's children beside its threads, `concurrent.futures.ProcessPoolExecutor`,
`pebble.ProcessPool`, and the sandboxed processors of Node `bullmq` 6, in one run on one embedded
Valkey server; each in an operating system process of its own, one after the other. The order
rotates from round to round. Measured are

- calls: one call of a function that does nothing, without a queue;
- queue: the same through a queue, one job at a time;
- first call: from the start of a worker or pool, and from a worker's `ready`, to the moment the
  first job's function is entered;
- respawn: from a crash of the one child, and from hearing of it, to the next call;
- throughput: jobs per second with two slots, from `go`, and from the first job on;
- loop lag: how late the worker's event loop is while two slots keep a core busy each.

`goals` are what bullpy means to reach; nothing is judged here.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import harness

from bullpy import EmbeddedServer, Queue

SLOTS = 2
"""Jobs at a time where throughput and loop lag are measured."""

SLOWEST = 25.0
"""Jobs, or calls, per second that must be reached, or the measurement is given up."""

LONGEST_START = 10.0
"""Seconds that one start, or one crash and what follows, may take."""

CALLS = ["process", "thread", "futures", "pebble"]
FIRST = ["process", "preload", "futures", "futures-spawn", "pebble", "pebble-spawn"]
CRASH = FIRST
QUEUED = ["process", "thread", "loop"]
ISOLATED = ["process", "thread"]

SECTIONS = ["calls", "queue", "throughput", "first_call", "respawn", "loop_lag"]

GOALS = {
    "calls.overhead_ms": 0.25,
    "first_call.bullpy_process.ready_to_first_ms": 60,
    "respawn.bullpy_process.noticed_to_next_ms": 60,
    "throughput.bullpy_process.jobs_per_second": 3000,
    "loop_lag.bullpy_process.p99_ms": 5,
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: the program, and where it runs the function."""

    worker: str
    isolation: str

    @property
    def name(self) -> str:
        """Such as `bullpy_process`, `bullpy_direct_preload`, `futures_spawn`, `node_thread`."""
        isolation = self.isolation.replace("-", "_")
        if self.worker != "pools":
            return f"{self.worker}_{isolation}"
        whose = isolation.partition("_")[0]
        return isolation if whose in ("futures", "pebble") else f"bullpy_direct_{isolation}"


@dataclass(slots=True)
class Series:
    """What one subject reached, round by round, by kind of figure."""

    figures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, figure: str, *values: float) -> None:
        self.figures.setdefault(figure, []).extend(values)

    def medians(self) -> dict[str, float]:
        return {name: round(median(values), 3) for name, values in self.figures.items()}


Found = dict[str, Series]


class Bench:
    """The measurements, on one server."""

    def __init__(self, server: EmbeddedServer, options: argparse.Namespace, scratch: Path) -> None:
        self._server = server
        self._options = options
        self._scratch = scratch
        self.notes: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.runtimes: dict[str, str] = {}

    async def calls(self) -> Found:
        """Milliseconds per call without a queue."""
        found: Found = {}
        for subject in self._turns([Subject("pools", isolation) for isolation in CALLS]):
            said = await self._measure(subject, "calls", self._options.calls)
            series = found.setdefault(subject.name, Series())
            series.add("median_ms", said["ms"]["p50"])
            series.add("p99_ms", said["ms"]["p99"])
        return found

    async def queue(self) -> Found:
        """Milliseconds per job through a queue, one job at a time."""
        subjects = [Subject(worker, where) for where in QUEUED for worker in ("bullpy", "node")]
        found: Found = {}
        for subject in self._turns(subjects):
            jobs = max(self._options.jobs // 4, 2)
            done = await self._process(subject, jobs, concurrency=1)
            series = found.setdefault(subject.name, Series())
            series.add("ms_per_job", (done["seconds"] - done["first"]) * 1000 / (jobs - 1))
        return found

    async def throughput(self) -> Found:
        """Jobs per second through a queue with two slots."""
        subjects = [Subject(worker, where) for where in ISOLATED for worker in ("bullpy", "node")]
        found: Found = {}
        for subject in self._turns(subjects):
            jobs = self._options.jobs
            done = await self._process(subject, jobs, concurrency=SLOTS)
            series = found.setdefault(subject.name, Series())
            series.add("jobs_per_second", jobs / done["seconds"])
            series.add("after_first_per_second", (jobs - 1) / (done["seconds"] - done["first"]))
            series.add("worker_cpu_us_per_job", done["cpu"] * 1e6 / jobs)
        return found

    async def first_call(self) -> Found:
        """Milliseconds until the first call."""
        return await self._times("first", self._options.starts, FIRST)

    async def respawn(self) -> Found:
        """Milliseconds until the next call after a crash."""
        return await self._times("crash", self._options.crashes, CRASH)

    async def loop_lag(self) -> dict[str, dict[str, Any]]:
        """How late the event loop is beside two busy slots."""
        found: dict[str, dict[str, Any]] = {}
        # The pool's loop has nothing to do: it shows what the machine itself makes of it.
        subjects = [
            (Subject("bullpy", "process"), self._options.busy),
            (Subject("pools", "futures"), self._options.busy / 2),
            (Subject("bullpy", "thread"), self._options.busy / 2),
        ]
        for subject, busy in subjects:
            # Two turns of both slots, so that locks are renewed and children change jobs.
            flags = ["--seconds", str(busy / 2)]
            said = await self._measure(subject, "lag", 2 * SLOTS, flags, concurrency=SLOTS)
            row = found[subject.name] = {
                f"{name}_ms": said["ms"][name] for name in ("p50", "p99", "max")
            }
            row["samples"] = said["ms"]["samples"]
            if "idle_ms" in said:
                row["idle_p99_ms"] = said["idle_ms"]["p99"]
                row["events"] = said["events"]
                row["each_job_once"] = said["each_job_once"]
        return found

    async def _times(self, mode: str, count: int, pools: Sequence[str]) -> Found:
        subjects = [
            *(Subject("bullpy", where) for where in ("process", "preload")),
            *(Subject("node", where) for where in ISOLATED),
            *(Subject("pools", where) for where in pools),
        ]
        found: Found = {}
        for subject in self._turns(subjects):
            flags = ["--scratch", str(self._scratch)]
            try:
                said = await self._measure(subject, mode, count, flags)
            except harness.BenchmarkError as error:
                # One of many: the others are still worth their time.
                self.notes[f"{mode} {subject.name}"] = str(error)[-300:]
                continue
            series = found.setdefault(subject.name, Series())
            for name, values in said.items():
                if name != "event":
                    series.add(f"{name}_ms", *values)
        return found

    def _turns(self, subjects: list[Subject]) -> list[Subject]:
        """All subjects once in each round, each round beginning with another one."""
        turns: list[Subject] = []
        for number in range(self._options.rounds):
            turn = number % len(subjects)
            turns += subjects[turn:] + subjects[:turn]
        return turns

    async def _measure(
        self,
        subject: Subject,
        mode: str,
        count: int,
        flags: Sequence[str] = (),
        *,
        concurrency: int = 1,
    ) -> dict[str, Any]:
        """Have a worker process measure `count` of something."""
        patience = {"first": LONGEST_START, "crash": LONGEST_START, "calls": 1 / SLOWEST}
        async with self._started(subject, mode, count, concurrency, flags) as worker:
            self._remember(subject, worker)
            await worker.tell("go")
            limit = 60 + count * patience.get(mode, self._options.busy)
            said = await worker.expect("measured", limit)
        async with Queue("bench-sweep", redis=self._server.url) as queue:
            await queue.client.flushall()
        self._say(mode, subject, said)
        return said

    async def _process(self, subject: Subject, jobs: int, *, concurrency: int) -> dict[str, float]:
        """Have a worker process so many jobs that wait."""
        async with Queue(f"bench-{subject.name}", redis=self._server.url) as queue:
            await harness.fill(queue, jobs)
            async with self._started(
                subject, "process", jobs, concurrency, queue=queue.name
            ) as worker:
                self._remember(subject, worker)
                await worker.tell("go")
                done = await worker.expect("done", 60 + jobs / SLOWEST)
            counts = await queue.get_job_counts()
            await queue.client.flushall()
        left = {state: count for state, count in counts.items() if count}
        if set(left) != {"completed"}:
            raise harness.BenchmarkError(f"{subject.name} left {left} in the queue.")
        self._say("process", subject, done)
        return done

    def _started(
        self,
        subject: Subject,
        mode: str,
        count: int,
        concurrency: int,
        flags: Sequence[str] = (),
        queue: str = "bench",
    ) -> Any:
        return harness.started(
            subject.worker,
            url=self._server.url,
            queue=queue,
            mode=mode,
            jobs=count,
            concurrency=concurrency,
            flags=["--isolation", subject.isolation, *flags],
        )

    def _remember(self, subject: Subject, worker: harness.WorkerProcess) -> None:
        self.versions[subject.name] = worker.version
        self.runtimes[subject.name] = worker.runtime

    def _say(self, mode: str, subject: Subject, said: dict[str, Any]) -> None:
        told = {name: value for name, value in said.items() if name not in ("event", "jobs")}
        print(f"{mode} {subject.name}: {json.dumps(told)[:200]}", file=sys.stderr, flush=True)


def main() -> int:
    options = _options()
    # A crash on purpose leaves no memory dump; the worker processes inherit it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))

    async def measure_all(server: EmbeddedServer) -> None:
        async with Queue("bench-producer", redis=server.url) as queue:
            identity = str((await queue.client.info("server")).get("valkey_version", "unknown"))
        with tempfile.TemporaryDirectory(prefix="bullpy-bench-") as scratch:
            bench = Bench(server, options, Path(scratch))
            result = await _result(bench, options, f"valkey {identity}")
        if options.json:
            print(json.dumps(result))
        else:
            _print_tables(result)

    return harness.run(measure_all)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What child processes cost: bullpy, pools of processes, Node's sandbox."
    )
    parser.add_argument("--jobs", type=_positive, default=4000, help="jobs per throughput run")
    parser.add_argument("--calls", type=_positive, default=1000, help="calls per executor")
    parser.add_argument("--starts", type=_positive, default=3, help="starts per round")
    parser.add_argument("--crashes", type=_positive, default=7, help="crashes per round")
    parser.add_argument("--busy", type=float, default=10.0, help="seconds of two busy children")
    parser.add_argument("--rounds", type=_positive, default=3, help="medians over so many")
    parser.add_argument(
        "--only", type=_sections, default=SECTIONS, help=f"for example {','.join(SECTIONS[:2])}"
    )
    parser.add_argument("--json", action="store_true", help="one object")
    options = parser.parse_args()
    if not 0 < options.busy < 3600:
        parser.error("--busy: more than 0, and less than an hour")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _sections(text: str) -> list[str]:
    wanted = text.split(",")
    if unknown := set(wanted) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"{unknown.pop()!r}; there are {', '.join(SECTIONS)}")
    return [what for what in SECTIONS if what in wanted]


async def _result(bench: Bench, options: argparse.Namespace, server: str) -> dict[str, Any]:
    sections: dict[str, Any] = {}
    each_round: dict[str, Any] = {}
    for what in options.only:
        if what == "loop_lag":
            sections[what] = await bench.loop_lag()
            continue
        found: Found = await getattr(bench, what)()
        sections[what] = {**_medians(found), **_compared(what, found)}
        each_round[what] = {name: _rounded(series) for name, series in found.items()}
    return {
        "benchmark": "isolation",
        "rounds": options.rounds,
        "jobs": options.jobs,
        "calls_per_round": options.calls,
        "starts": options.starts * options.rounds,
        "crashes": options.crashes * options.rounds,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        **sections,
        "goals": GOALS,
        "notes": bench.notes,
        "each_round": each_round,
        "versions": bench.versions,
        "runtimes": bench.runtimes,
        "server": server,
    }


def _compared(what: str, found: Found) -> dict[str, float | None]:
    """What follows from two figures of a section."""
    if what == "calls":
        return {"overhead_ms": _overhead(found, "bullpy_direct", "median_ms", "thread")}
    if what == "queue":
        return {
            "overhead_ms": _overhead(found, "bullpy", "ms_per_job", "thread"),
            "node_overhead_ms": _overhead(found, "node", "ms_per_job", "loop"),
        }
    if what == "throughput":
        speed = _medians(found)
        return {
            "ratio_node": harness.ratio(
                speed["bullpy_process"]["jobs_per_second"], speed["node_process"]["jobs_per_second"]
            )
        }
    return {}


def _medians(found: Found) -> dict[str, Any]:
    return {name: series.medians() for name, series in found.items()}


def _rounded(series: Series) -> dict[str, list[float]]:
    return {name: [round(value, 3) for value in values] for name, values in series.figures.items()}


def _overhead(found: Found, whose: str, figure: str, over: str) -> float:
    """By how much a child process is slower than something else."""
    process, other = (
        median(found[f"{whose}_{where}"].figures[figure]) for where in ("process", over)
    )
    return round(process - other, 3)


def _print_tables(result: dict[str, Any]) -> None:
    for what in [what for what in SECTIONS if what in result]:
        section = result[what]
        rows = {name: row for name, row in section.items() if isinstance(row, dict)}
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        heading = [what.replace("_", " "), *(column.replace("_", " ") for column in columns)]
        print(
            harness.table(
                [
                    heading,
                    *([name, *(_cell(row.get(c)) for c in columns)] for name, row in rows.items()),
                ]
            )
        )
        for name in sorted(section.keys() - rows.keys()):
            print(f"{name.replace('_', ' ')}: {section[name]}")
        print()
    for what, note in result["notes"].items():
        print(f"{what}: {note}")
    print(f"goals: {result['goals']}")
    print(f"{result['server']}; versions {result['versions']}")


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    return value


if __name__ == "__main__":
    sys.exit(main())
