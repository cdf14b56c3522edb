"""What adding jobs costs in bullpy, Node `bullmq` 6 and the upstream Python port.

    python benchmarks/produce.py --json
    python benchmarks/produce.py --only bulk --rounds 5

Three ways to add: one `add` after the other, `--in-flight` of them at a time, and `add_bulk` of
`--bulk` jobs, one call after the other. Each implementation adds in an operating system process
of its own, on the same embedded Valkey server; the order rotates from round to round, and medians
over the rounds are reported. Node runs twice, without and with `enableAutoPipelining` of ioredis;
`ratio_node` compares bullpy with the faster of the two.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import harness

from bullpy import EmbeddedServer, Queue

WAYS = ("add", "concurrent", "bulk")
PRODUCERS = ("bullpy", "node", "node_auto_pipelining", "upstream")
SLOWEST = 100.0
"""Jobs per second that a producer must reach, or the measurement is given up."""


@dataclass(slots=True)
class Series:
    """What one producer reached in one way of adding, round by round."""

    jobs_per_second: list[float] = field(default_factory=list)
    cpu_us_per_job: list[float] = field(default_factory=list)
    server_us_per_job: list[float] = field(default_factory=list)
    version: str = ""
    runtime: str = ""


def main() -> int:
    options = _options()

    async def measure_all(server: EmbeddedServer) -> None:
        found = {way: {name: Series() for name in PRODUCERS} for way in options.only}
        for number in range(options.rounds):
            turn = number % len(PRODUCERS)
            for way in options.only:
                for name in PRODUCERS[turn:] + PRODUCERS[:turn]:
                    await _measure(server, options, way, name, found[way][name])
                    print(
                        f"round {number + 1}, {way}: {name} "
                        f"{found[way][name].jobs_per_second[-1]:.0f} jobs/s",
                        file=sys.stderr,
                        flush=True,
                    )
        result = _result(options, found)
        if options.json:
            print(json.dumps(result), flush=True)
        else:
            _print_table(result, options.only)

    return harness.run(measure_all)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What adding jobs costs.")
    parser.add_argument("--jobs", type=harness.positive, default=20000, help="per measurement")
    parser.add_argument("--in-flight", type=harness.positive, default=200, help="adds at a time")
    parser.add_argument("--bulk", type=harness.positive, default=1000, help="jobs per add_bulk")
    parser.add_argument("--rounds", type=harness.positive, default=3, help="medians over so many")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(WAYS),
        help=f"of {', '.join(WAYS)}, with commas",
    )
    parser.add_argument("--json", action="store_true", help="one object")
    parser.add_argument("--no-uvloop", action="store_true", help="bullpy on asyncio's loop")
    options = parser.parse_args()
    if unknown := set(options.only) - set(WAYS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


async def _measure(
    server: EmbeddedServer, options: argparse.Namespace, way: str, name: str, series: Series
) -> None:
    flags = {
        "bullpy": ["--no-uvloop"] if options.no_uvloop else [],
        "node_auto_pipelining": ["--auto-pipelining"],
    }
    at_a_time = {"add": 1, "concurrent": options.in_flight, "bulk": options.bulk}[way]
    async with Queue(f"bench-{name}", redis=server.url) as queue:
        async with harness.started(
            name.removesuffix("_auto_pipelining"),
            url=server.url,
            queue=queue.name,
            mode="bulk" if way == "bulk" else "add",
            jobs=options.jobs,
            concurrency=at_a_time,
            flags=flags.get(name, []),
        ) as producer:
            series.version, series.runtime = producer.version, producer.runtime
            before = await harness.server_cpu(queue)
            await producer.tell("go")
            done = await producer.expect("done", 30 + options.jobs / SLOWEST)
            used = await harness.server_cpu(queue) - before
        waiting = (await queue.get_job_counts("waiting"))["waiting"]
        await queue.client.flushall()
    if waiting != options.jobs:
        raise harness.BenchmarkError(f"{name} added {waiting} jobs instead of {options.jobs}.")
    series.jobs_per_second.append(round(options.jobs / done["seconds"], 1))
    series.cpu_us_per_job.append(round(done["cpu"] * 1e6 / options.jobs, 1))
    series.server_us_per_job.append(round(used * 1e6 / options.jobs, 1))


def _result(options: argparse.Namespace, found: dict[str, dict[str, Series]]) -> dict[str, Any]:
    some = next(iter(found.values()))
    return {
        "benchmark": "produce",
        "jobs": options.jobs,
        "in_flight": options.in_flight,
        "bulk_size": options.bulk,
        **{way: _row(series) for way, series in found.items()},
        "versions": {name: series.version for name, series in some.items()},
        "runtimes": {name: series.runtime for name, series in some.items()},
    }


def _row(found: dict[str, Series]) -> dict[str, Any]:
    speed = {name: round(median(series.jobs_per_second), 1) for name, series in found.items()}
    return {
        **speed,
        "ratio_node": harness.ratio(
            speed["bullpy"], max(speed["node"], speed["node_auto_pipelining"])
        ),
        "ratio_upstream": harness.ratio(speed["bullpy"], speed["upstream"]),
        "cpu_us_per_job": {
            name: round(median(series.cpu_us_per_job), 1) for name, series in found.items()
        },
        "server_us_per_job": {
            name: round(median(series.server_us_per_job), 1) for name, series in found.items()
        },
        "rounds": {name: series.jobs_per_second for name, series in found.items()},
    }


def _print_table(result: dict[str, Any], ways: list[str]) -> None:
    columns = [*PRODUCERS, "ratio_node", "ratio_upstream"]
    heading = ["jobs/s", *(column.replace("_", " ") for column in columns)]
    print(harness.table([heading, *([way, *(result[way][c] for c in columns)] for way in ways)]))
    for cost in ("cpu_us_per_job", "server_us_per_job"):
        print()
        heading = [cost.replace("_", " "), *(name.replace("_", " ") for name in PRODUCERS)]
        rows = ([way, *(result[way][cost][name] for name in PRODUCERS)] for way in ways)
        print(harness.table([heading, *rows]))
    print(f"\nversions {result['versions']}; runtimes {result['runtimes']}")


if __name__ == "__main__":
    sys.exit(main())
