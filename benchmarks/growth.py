"""Whether a job costs more when many wait, or when many workers take them.

    python benchmarks/growth.py --json
    python benchmarks/growth.py --backlogs 1000,100000 --workers 1,4 --rounds 1

For each backlog, a worker process does `--jobs` jobs that do nothing while so many others wait
behind them: in the list of those that wait, or in the set of those that have a priority. For each
number of workers, that many share `--shared-jobs` jobs: `Worker` objects in one process,
processes, and processes of Node's. The cost of a job is the CPU time of the server and of the
workers; the wall time depends more on what else the machine does. `ratio` compares the largest
backlog with the smallest, and the most workers with the fewest.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import harness

from bullpy import EmbeddedServer, Queue

GOAL = 1.2
KINDS: dict[str, tuple[str, dict[str, int]]] = {
    "waiting": ("bullpy", {}),
    "prioritized": ("bullpy", {"priority": 1}),
    "node_waiting": ("node", {}),
}
"""Whose worker, and options of the jobs."""
CREWS = ("workers", "processes", "node_processes")
COSTS = ("server_us_per_job", "worker_us_per_job", "wall_us_per_job")
SLOWEST = 50.0
"""Jobs per second that workers must reach, or the measurement is given up."""
TOP = 5


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server has used so far: CPU seconds, and microseconds by command."""

    cpu: float
    commands: dict[str, tuple[int, int]]

    @classmethod
    async def of(cls, queue: Queue) -> Usage:
        stats = await queue.client.info("commandstats")
        commands = {
            name.removeprefix("cmdstat_"): (int(stat["calls"]), int(stat["usec"]))
            for name, stat in stats.items()
        }
        return cls(await harness.server_cpu(queue), commands)

    def since(self, before: Usage, jobs: int) -> dict[str, float]:
        """Microseconds per job of the dearest commands; those inside scripts are in them too."""
        used = {
            name: round((usec - before.commands.get(name, (0, 0))[1]) / jobs, 2)
            for name, (_, usec) in self.commands.items()
        }
        return dict(sorted(used.items(), key=lambda item: -item[1])[:TOP])


def main() -> int:
    options = _options()

    async def measure_all(server: EmbeddedServer) -> None:
        result: dict[str, Any] = {
            "benchmark": "growth",
            "jobs": options.jobs,
            "concurrency": options.concurrency,
            "goal": GOAL,
        }
        for part in options.only:
            if part in KINDS:
                result[part] = await _backlogs(options, part)
            else:
                result[part] = await _crew(server, options, part)
        if options.json:
            print(json.dumps(result), flush=True)
        else:
            _print_tables(result, options.only)

    return harness.run(measure_all)


def _options() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return sorted(harness.positive(part) for part in text.split(","))

    parser = argparse.ArgumentParser(description="Does a job cost more when there are many?")
    parser.add_argument("--jobs", type=harness.positive, default=5000, help="per measurement")
    parser.add_argument("--backlogs", type=numbers, default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--concurrency", type=harness.positive, default=50)
    parser.add_argument("--workers", type=numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--shared-jobs", type=harness.positive, default=16_000)
    parser.add_argument(
        "--shared-concurrency", type=harness.positive, default=1, help="of each of many workers"
    )
    parser.add_argument("--rounds", type=harness.positive, default=3, help="medians over so many")
    parts = [*KINDS, *CREWS]
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=parts,
        help=f"of {', '.join(parts)}, with commas",
    )
    parser.add_argument("--json", action="store_true", help="one object")
    options = parser.parse_args()
    if unknown := set(options.only) - set(parts):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


async def _backlogs(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Each backlog waits in a server of its own, so that the rounds can take turns."""
    name, opts = KINDS[kind]
    rounds: dict[int, list[dict[str, Any]]] = {backlog: [] for backlog in options.backlogs}
    async with contextlib.AsyncExitStack() as stack:
        queues: dict[int, tuple[EmbeddedServer, Queue]] = {}
        for backlog in options.backlogs:
            server = await stack.enter_async_context(EmbeddedServer())
            queue = await stack.enter_async_context(Queue("bench-growth", redis=server.url))
            queues[backlog] = server, queue
        for _ in range(options.rounds):
            for backlog, (server, queue) in queues.items():
                missing = backlog + options.jobs - await queue.count()
                await harness.fill(queue, missing, **opts)
                rounds[backlog].append(await _part(name, server, options, queue))
                _tell(f"{kind} {backlog}", rounds[backlog][-1])
    rows = [{"backlog": backlog, **_medians(found)} for backlog, found in rounds.items()]
    return _compared(rows, "backlog")


async def _part(
    name: str, server: EmbeddedServer, options: argparse.Namespace, queue: Queue
) -> dict[str, Any]:
    """One worker does some of the jobs that wait, and leaves the rest."""
    async with harness.started(
        name,
        url=server.url,
        queue=queue.name,
        mode="share",
        jobs=options.jobs,
        concurrency=options.concurrency,
    ) as worker:
        left = await queue.count()
        before = await Usage.of(queue)
        await worker.tell("go")
        done = await worker.expect("done", 30 + options.jobs / SLOWEST)
        await _until(queue, "active")
        after = await Usage.of(queue)
        # Those that were fetched before the worker had stopped to fetch are a few more.
        taken = left - await queue.count()
    return {
        "server_us_per_job": (after.cpu - before.cpu) * 1e6 / taken,
        "worker_us_per_job": done["cpu"] * 1e6 / options.jobs,
        "wall_us_per_job": done["seconds"] * 1e6 / options.jobs,
        "commands_us_per_job": after.since(before, taken),
    }


async def _crew(server: EmbeddedServer, options: argparse.Namespace, crew: str) -> dict[str, Any]:
    rounds: dict[int, list[dict[str, Any]]] = {workers: [] for workers in options.workers}
    async with Queue("bench-growth-workers", redis=server.url) as queue:
        for _ in range(options.rounds):
            for workers, found in rounds.items():
                await harness.fill(queue, options.shared_jobs)
                found.append(await _shared(server, options, queue, crew, workers))
                _tell(f"{crew} {workers}", found[-1])
        await queue.client.flushall()
    rows = [{"workers": workers, **_medians(found)} for workers, found in rounds.items()]
    return {
        "jobs": options.shared_jobs,
        "concurrency": options.shared_concurrency,
        **_compared(rows, "workers"),
    }


async def _shared(
    server: EmbeddedServer, options: argparse.Namespace, queue: Queue, crew: str, workers: int
) -> dict[str, Any]:
    """Many workers empty a queue."""
    jobs = options.shared_jobs
    async with contextlib.AsyncExitStack() as stack:
        started = [
            await stack.enter_async_context(
                harness.started(
                    "node" if crew == "node_processes" else "bullpy",
                    url=server.url,
                    queue=queue.name,
                    mode="share",
                    concurrency=options.shared_concurrency,
                    flags=["--workers", str(workers)] if crew == "workers" else [],
                )
            )
            for _ in range(1 if crew == "workers" else workers)
        ]
        before = await Usage.of(queue)
        began = time.monotonic()
        for worker in started:
            await worker.tell("go")
        await _until(queue, "waiting", "active", timeout=30 + jobs / SLOWEST)
        after = await Usage.of(queue)
        for worker in started:
            await worker.tell("report")
        reports = [await worker.expect("report", 10) for worker in started]
    done = sum(report["jobs"] for report in reports)
    if done != jobs:
        raise harness.BenchmarkError(f"{workers} {crew} did {done} jobs instead of {jobs}.")
    ended = max(report["last"] for report in reports)
    return {
        "server_us_per_job": (after.cpu - before.cpu) * 1e6 / jobs,
        "worker_us_per_job": sum(report["cpu"] for report in reports) * 1e6 / jobs,
        "wall_us_per_job": (ended - began) * 1e6 / jobs,
        "commands_us_per_job": after.since(before, jobs),
    }


async def _until(queue: Queue, *states: str, timeout: float = 30.0) -> None:
    """Wait until no job is in any of these states."""
    deadline = time.monotonic() + timeout
    while any((await queue.get_job_counts(*states)).values()):
        if time.monotonic() > deadline:
            raise harness.BenchmarkError(f"jobs are {' or '.join(states)} after {timeout:g} s")
        await asyncio.sleep(0.05)


def _medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    middle = {cost: round(median(one[cost] for one in rounds), 1) for cost in COSTS}
    typical = min(rounds, key=lambda one: abs(one[COSTS[0]] - middle[COSTS[0]]))
    return {
        **middle,
        "commands_us_per_job": typical["commands_us_per_job"],
        "rounds": {cost: [round(one[cost], 1) for one in rounds] for cost in COSTS},
    }


def _compared(rows: list[dict[str, Any]], by: str) -> dict[str, Any]:
    def ratio(cost: Callable[[dict[str, Any]], float]) -> float | None:
        return harness.ratio(cost(rows[-1]), cost(rows[0]))

    return {
        "rows": rows,
        "compared": [rows[-1][by], rows[0][by]],
        # Of the CPU time of server and workers together.
        "ratio": ratio(lambda row: row["server_us_per_job"] + row["worker_us_per_job"]),
        **{
            f"ratio_{cost.split('_')[0]}": ratio(lambda row, cost=cost: row[cost]) for cost in COSTS
        },
    }


def _tell(what: str, row: dict[str, Any]) -> None:
    costs = ", ".join(f"{cost.split('_')[0]} {row[cost]:.1f} us" for cost in COSTS)
    print(f"{what}: {costs} per job", file=sys.stderr, flush=True)


def _print_tables(result: dict[str, Any], parts: list[str]) -> None:
    for part in parts:
        by = "workers" if part in CREWS else "backlog"
        heading = [part.replace("_", " "), *(cost.replace("_", " ") for cost in COSTS)]
        rows = [[row[by], *(row[cost] for cost in COSTS)] for row in result[part]["rows"]]
        ratios = ["ratio", *(result[part][f"ratio_{cost.split('_')[0]}"] for cost in COSTS)]
        print(harness.table([heading, *rows, ratios]))
        print()


if __name__ == "__main__":
    sys.exit(main())
