"""The benchmarks run to the end and say what they promise; their figures are not judged here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["bullpy", "node", "upstream"]


def run(script: str, *arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", *arguments, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("mode", ["process", "add"])
def test_throughput_reports_each_concurrency(mode: str) -> None:
    rows = run("throughput.py", "--jobs", "200", "--concurrency", "1,20", "--mode", mode)
    assert [row["concurrency"] for row in rows] == [1, 20]
    for row in rows:
        assert (row["mode"], row["jobs"], row["upstream_jobs"]) == (mode, 200, 200)
        assert row["ratio_node"] > 0
        assert row["ratio_upstream"] > 0
        for name in NAMES:
            assert row[name] > 0
            assert row["cpu_us_per_job"][name] > 0
            assert row["versions"][name]


def test_throughput_keeps_every_round() -> None:
    (row,) = run(
        "throughput.py", "--jobs", "50", "--concurrency", "5", "--rounds", "2", "--no-uvloop"
    )
    assert all(len(row["rounds"][name]) == 2 for name in NAMES)
    assert row["runtimes"]["bullpy"].endswith("asyncio")


def test_latency_reports_pickup_and_lateness() -> None:
    (result,) = run("latency.py", "--idle", "1", "--jobs", "3", "--delay", "1", "--deadline", "30")
    for name in ["bullpy", "node"]:
        assert result[name]["picked_up"] == 3
        assert 0 < result[name]["median_ms"] <= result[name]["worst_ms"]
        assert result[name]["delayed_lateness_ms"] is not None
    assert result["ratio_node"] > 0
    assert set(result["upstream"]) == set(result["bullpy"])


def test_jobs_that_are_not_picked_up_show_as_null_with_a_note() -> None:
    (result,) = run("latency.py", "--idle", "0", "--jobs", "1", "--delay", "0", "--deadline", "0")
    for name in NAMES:
        assert result[name]["median_ms"] is None
        assert "not picked up within 0 s" in result["notes"][name]


def test_imports_are_compared() -> None:
    (result,) = run("imports.py", "--runs", "1")
    assert result["ratio_import"] > 0
    assert result["ratio_worker"] > 0
    assert result["median_ms"]["bullpy_help"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_benchmark_leaves_no_process_behind(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "benchmarks/latency.py", "--idle", "100"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        children = wait_for_children(process.pid, 7)
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert not [pid for pid in children if is_alive(pid)]


def wait_for_children(pid: int, count: int) -> list[int]:
    """The server and six workers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = children_of(pid)
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not {count} children within 60 s: {children_of(pid)}")


def children_of(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = [line.split() for line in listed.stdout.splitlines()]
    # `ps` itself is a child of the test, not of the benchmark.
    return [int(child) for child, parent in pairs if int(parent) == pid]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
