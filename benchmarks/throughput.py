"""Jobs per second of bullpy, Node `bullmq` 6 and the upstream Python port.

    python benchmarks/throughput.py --jobs 20000 --json
    python benchmarks/throughput.py --concurrency 1,50 --rounds 3 --mode add

All three work on the same embedded Valkey server in the same run, one after the other, each in
an operating system process of its own; the order rotates from round to round, and medians over
the rounds are reported. With `--mode process` one producer adds equal jobs beforehand, the
worker starts, imports and connects, and the time runs from `go` to the last `completed` event
inside the worker process. With `--mode add`, `--concurrency` is how many calls of `add` are
under way at a time.

bullpy runs as `bullpy.run(worker)` does: under uvloop if it is installed (not with
`--no-uvloop`). Upstream runs on asyncio's loop, and with `socket_timeout=30`: with redis-py 8
its own default of 5 s ends every wait on an empty queue in a time-out and a pause.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from statistics import median

import harness
from harness import IMPLEMENTATIONS

from benchmarks.workers.common import JOB_OPTIONS
from bullpy import EmbeddedServer, Queue

UPSTREAM_JOBS = 5000
"""Upstream is slow at low concurrency: it gets at most so many jobs, and the output says so."""
SLOWEST = 50.0
"""Jobs per second that a worker must reach, or the measurement is given up."""


@dataclass(slots=True)
class Series:
    """What one implementation reached at one concurrency, round by round."""

    jobs_per_second: list[float] = field(default_factory=list)
    cpu_us_per_job: list[float] = field(default_factory=list)
    version: str = ""
    runtime: str = ""


def main() -> int:
    options = _options()

    async def measure_all(server: EmbeddedServer) -> None:
        async with Queue("bench-producer", redis=server.url) as queue:
            identity = str((await queue.client.info("server")).get("valkey_version", "unknown"))
        rows: list[dict[str, object]] = []
        for concurrency in options.concurrency:
            found = await _measure(server, options, concurrency)
            rows.append(_row(options, concurrency, found, f"valkey {identity}"))
            if options.json:
                print(json.dumps(rows[-1]), flush=True)
        if not options.json:
            _print_table(rows)

    return harness.run(measure_all)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Jobs per second of bullpy, Node and upstream.")
    parser.add_argument("--jobs", type=harness.positive, default=20000, help="jobs per measurement")
    parser.add_argument(
        "--concurrency",
        type=lambda text: [harness.positive(part) for part in text.split(",")],
        default=[1, 50, 200],
        help="for example 1,50,200",
    )
    parser.add_argument("--rounds", type=harness.positive, default=1, help="medians over so many")
    parser.add_argument("--mode", choices=["process", "add"], default="process")
    parser.add_argument("--json", action="store_true", help="one object per concurrency")
    parser.add_argument("--no-uvloop", action="store_true", help="bullpy on asyncio's loop")
    parser.add_argument(
        "--node-auto-pipelining", action="store_true", help="ioredis with enableAutoPipelining"
    )
    return parser.parse_args()


async def _measure(
    server: EmbeddedServer, options: argparse.Namespace, concurrency: int
) -> dict[str, Series]:
    found = {name: Series() for name in IMPLEMENTATIONS}
    for number in range(options.rounds):
        turn = number % len(IMPLEMENTATIONS)
        for name in IMPLEMENTATIONS[turn:] + IMPLEMENTATIONS[:turn]:
            series = found[name]
            done = await _measure_one(server, options, concurrency, name, series)
            per_second = done["jobs"] / done["seconds"]
            series.jobs_per_second.append(round(per_second, 1))
            series.cpu_us_per_job.append(round(done["cpu"] * 1e6 / done["jobs"], 1))
            print(
                f"round {number + 1}, {options.mode}, concurrency {concurrency}: "
                f"{name} {per_second:.0f} jobs/s",
                file=sys.stderr,
                flush=True,
            )
    return found


async def _measure_one(
    server: EmbeddedServer,
    options: argparse.Namespace,
    concurrency: int,
    name: str,
    series: Series,
) -> dict[str, float]:
    jobs = _jobs_for(name, options.jobs)
    async with Queue(f"bench-{name}", redis=server.url) as queue:
        if options.mode == "process":
            await harness.fill(queue, jobs)
        async with harness.started(
            name,
            url=server.url,
            queue=queue.name,
            mode=options.mode,
            jobs=jobs,
            concurrency=concurrency,
            flags=_flags(name, options),
        ) as worker:
            series.version, series.runtime = worker.version, worker.runtime
            await worker.tell("go")
            done = await worker.expect("done", 30 + jobs / SLOWEST)
        counts = await queue.get_job_counts()
        await queue.client.flushall()
    left = {state: count for state, count in counts.items() if count}
    kept = min(jobs, JOB_OPTIONS["removeOnComplete"])
    expected = {"completed": kept} if options.mode == "process" else {"waiting": jobs}
    if left != expected:
        raise harness.BenchmarkError(f"{name} left {left} in the queue instead of {expected}.")
    return done


def _jobs_for(name: str, jobs: int) -> int:
    return min(jobs, UPSTREAM_JOBS) if name == "upstream" else jobs


def _flags(name: str, options: argparse.Namespace) -> list[str]:
    if name == "bullpy" and options.no_uvloop:
        return ["--no-uvloop"]
    if name == "node" and options.node_auto_pipelining:
        return ["--auto-pipelining"]
    return []


def _row(
    options: argparse.Namespace, concurrency: int, found: dict[str, Series], server: str
) -> dict[str, object]:
    speed = {name: round(median(series.jobs_per_second), 1) for name, series in found.items()}
    return {
        "benchmark": "throughput",
        "mode": options.mode,
        "concurrency": concurrency,
        "jobs": options.jobs,
        "upstream_jobs": _jobs_for("upstream", options.jobs),
        **speed,
        "ratio_node": harness.ratio(speed["bullpy"], speed["node"]),
        "ratio_upstream": harness.ratio(speed["bullpy"], speed["upstream"]),
        "cpu_us_per_job": {
            name: round(median(series.cpu_us_per_job), 1) for name, series in found.items()
        },
        "rounds": {name: series.jobs_per_second for name, series in found.items()},
        "versions": {name: series.version for name, series in found.items()},
        "runtimes": {name: series.runtime for name, series in found.items()},
        "server": server,
    }


def _print_table(rows: list[dict[str, object]]) -> None:
    columns = ["mode", "concurrency", "jobs", "upstream_jobs", *IMPLEMENTATIONS]
    columns += ["ratio_node", "ratio_upstream"]
    heading = [column.replace("_", " ") for column in columns]
    print(harness.table([heading, *([row[column] for column in columns] for row in rows)]))
    print()
    cpu = [["concurrency", *(f"{name} us CPU/job" for name in IMPLEMENTATIONS)]]
    for row in rows:
        used = row["cpu_us_per_job"]
        assert isinstance(used, dict)
        cpu.append([row["concurrency"], *(used[name] for name in IMPLEMENTATIONS)])
    print(harness.table(cpu))
    print(f"\n{rows[0]['server']}; versions {rows[0]['versions']}; runtimes {rows[0]['runtimes']}")


if __name__ == "__main__":
    sys.exit(main())
