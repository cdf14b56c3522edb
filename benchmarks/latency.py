"""How soon an idle worker starts a job: bullpy, Node `bullmq` 6 and the upstream Python port.

    python benchmarks/latency.py --json
    python benchmarks/latency.py --idle 10 --delay 2 --deadline 20

Two workers of each kind, each in a process and on a queue of its own, idle for `--idle`
seconds on one embedded Valkey server. Then one of the two gets `--jobs` jobs at random moments
0.2 to 1.5 s apart (the same moments in every run; `--seed`), the other one job that is due
after `--delay` seconds. Measured is, on the machine's clock in milliseconds,

- pick-up: start of the processor, in the worker, minus the moment just before `add`;
- lateness: start of the processor minus the moment just before `add`, minus the delay.

All workers have their defaults, upstream too: what its default time-outs do to an idle worker
is the point. A job that did not start within `--deadline` seconds of its adding (or of being
due) counts as later than any other; a median or a worst value that it decides is null, and
`note` says so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import sys
import time
from dataclasses import dataclass
from statistics import median

import harness
from harness import IMPLEMENTATIONS, WorkerProcess

from bullpy import EmbeddedServer, Queue

SHORTEST_GAP, LONGEST_GAP = 0.2, 1.5


@dataclass(slots=True)
class Measured:
    """Of one implementation, in milliseconds; infinity is a job that did not start in time."""

    pickup: list[float]
    lateness: float
    version: str
    runtime: str


def main() -> int:
    options = _options()

    async def measure_all(server: EmbeddedServer) -> None:
        async with contextlib.AsyncExitStack() as stack:
            workers = await _start_workers(server, stack)
            await asyncio.sleep(options.idle)
            async with asyncio.TaskGroup() as group:
                tasks = {
                    name: group.create_task(
                        _measure(server, options, name, *workers[name], place=place)
                    )
                    for place, name in enumerate(IMPLEMENTATIONS)
                }
        result = _result(options, {name: task.result() for name, task in tasks.items()})
        if options.json:
            print(json.dumps(result))
        else:
            _print_table(result)

    return harness.run(measure_all)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How soon an idle worker starts a job.")
    parser.add_argument("--idle", type=_seconds, default=40.0, help="seconds before the first job")
    parser.add_argument("--jobs", type=int, default=20, help="jobs whose pick-up is measured")
    parser.add_argument("--delay", type=_seconds, default=7.0, help="seconds, of the delayed job")
    parser.add_argument("--deadline", type=_seconds, default=60.0, help="seconds to wait for a job")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    parser.add_argument("--json", action="store_true", help="one object")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error("--jobs: at least 1")
    return options


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError("not negative, and finite")
    return number


async def _start_workers(
    server: EmbeddedServer, stack: contextlib.AsyncExitStack
) -> dict[str, tuple[WorkerProcess, WorkerProcess]]:
    """For each implementation the worker for the pick-up and the one for the delayed job."""
    found: dict[str, tuple[WorkerProcess, WorkerProcess]] = {}
    for name in IMPLEMENTATIONS:
        first, second = [
            await stack.enter_async_context(
                harness.started(name, url=server.url, queue=f"{what}-{name}", mode="latency")
            )
            for what in ("pickup", "delayed")
        ]
        found[name] = (first, second)
    return found


async def _measure(
    server: EmbeddedServer,
    options: argparse.Namespace,
    name: str,
    pickup: WorkerProcess,
    delayed: WorkerProcess,
    *,
    place: int,
) -> Measured:
    """Both measurements of one implementation, at the same time."""
    moments = random.Random(f"{options.seed} {name}")
    async with (
        Queue(f"pickup-{name}", redis=server.url) as jobs,
        Queue(f"delayed-{name}", redis=server.url) as delays,
    ):
        # The clients connect before the clock runs, and the delayed jobs do not fall due at once.
        await asyncio.gather(jobs.whoami(), delays.whoami())
        await asyncio.sleep(place * SHORTEST_GAP)
        late = asyncio.create_task(_lateness(delays, delayed, options))
        try:
            found = await _pickup(jobs, pickup, options, moments)
            return Measured(found, await late, pickup.version, pickup.runtime)
        finally:
            late.cancel()


async def _lateness(queue: Queue, worker: WorkerProcess, options: argparse.Namespace) -> float:
    due = time.time() * 1000 + options.delay * 1000
    await queue.add("delayed", {"n": 0}, delay=options.delay)
    started = await _starts(worker, 1, options.delay + options.deadline)
    return round(started.get(0, math.inf) - due, 2)


async def _pickup(
    queue: Queue, worker: WorkerProcess, options: argparse.Namespace, moments: random.Random
) -> list[float]:
    gaps = [moments.uniform(SHORTEST_GAP, LONGEST_GAP) for _ in range(options.jobs)]
    collecting = asyncio.create_task(_starts(worker, options.jobs, sum(gaps) + options.deadline))
    added: list[float] = []
    try:
        for n, gap in enumerate(gaps):
            await asyncio.sleep(gap)
            added.append(time.time() * 1000)
            await queue.add("pickup", {"n": n})
        started = await collecting
    finally:
        collecting.cancel()
    waits = [started.get(n, math.inf) - at for n, at in enumerate(added)]
    limit = options.deadline * 1000
    return [round(wait, 2) if wait <= limit else math.inf for wait in waits]


async def _starts(worker: WorkerProcess, jobs: int, timeout: float) -> dict[int, float]:
    """When each job started first, as far as they did within that many seconds."""
    found: dict[int, float] = {}
    deadline = time.monotonic() + timeout
    while len(found) < jobs:
        said = await worker.next_event("start", deadline - time.monotonic())
        if said is None:
            break
        found.setdefault(said["n"], said["at"])
    return found


def _result(options: argparse.Namespace, found: dict[str, Measured]) -> dict[str, object]:
    summary = {name: _summary(one, options) for name, one in found.items()}

    def compare(field: str, other: str) -> float | None:
        return harness.ratio(summary[other][field], summary["bullpy"][field])

    return {
        "benchmark": "latency",
        "idle_s": options.idle,
        "jobs": options.jobs,
        "delay_s": options.delay,
        "deadline_s": options.deadline,
        **summary,
        "ratio_node": compare("median_ms", "node"),
        "ratio_upstream": compare("median_ms", "upstream"),
        "notes": {name: note for name, one in found.items() if (note := _note(one, options))},
        "pickups_ms": {name: [_finite(wait) for wait in one.pickup] for name, one in found.items()},
        "versions": {name: one.version for name, one in found.items()},
        "runtimes": {name: one.runtime for name, one in found.items()},
    }


def _summary(one: Measured, options: argparse.Namespace) -> dict[str, float | None]:
    return {
        "median_ms": _finite(median(one.pickup)),
        "worst_ms": _finite(max(one.pickup)),
        "picked_up": sum(map(math.isfinite, one.pickup)),
        "delayed_lateness_ms": _finite(one.lateness),
    }


def _note(one: Measured, options: argparse.Namespace) -> str:
    missing = len(one.pickup) - sum(map(math.isfinite, one.pickup))
    notes: list[str] = []
    if missing:
        notes.append(f"{missing} jobs not picked up within {options.deadline:g} s")
    if math.isinf(one.lateness):
        notes.append(f"delayed job not picked up within {options.deadline:g} s of being due")
    return "; ".join(notes)


def _finite(number: float) -> float | None:
    """A number that JSON has; None for infinity."""
    return round(number, 2) if math.isfinite(number) else None


def _print_table(result: dict[str, object]) -> None:
    fields = ["median_ms", "worst_ms", "picked_up", "delayed_lateness_ms"]
    rows: list[list[object]] = [["", *(field.replace("_", " ") for field in fields)]]
    for name in IMPLEMENTATIONS:
        summary = result[name]
        assert isinstance(summary, dict)
        rows.append([name, *(summary[field] for field in fields)])
    print(harness.table(rows))
    print(f"\nidle {result['idle_s']} s, {result['jobs']} jobs, delay {result['delay_s']} s")
    notes = result["notes"]
    assert isinstance(notes, dict)
    for name, note in notes.items():
        print(f"{name}: {note}")


if __name__ == "__main__":
    sys.exit(main())
