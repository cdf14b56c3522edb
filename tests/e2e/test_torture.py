"""The torture test runs to its end, finds nothing, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from support.processes import ROOT, Process, run

from benchmarks.torture.plan import BAD_KINDS, GOOD_KINDS

SEED = 1
SECONDS = 60


@pytest.mark.timeout(250)
def test_minute_with_bad_jobs_loses_nothing_and_repeats_nothing_for_no_reason() -> None:
    done = run(
        *(sys.executable, "-m", "benchmarks.torture", "--json"),
        *("--seconds", str(SECONDS), "--seed", str(SEED), "--bad", "4"),
        timeout=240,
        cwd=ROOT,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["violations"] == [], json.dumps(found, indent=1)
    assert done.returncode == 0, done.stderr
    assert (found["seed"], found["bad_percent"], found["verdict"]) == (SEED, 4, "pass")
    # What the run was: jobs of all kinds, several faults, and a verdict over all of them.
    assert set(found["jobs"]) == {*GOOD_KINDS, *BAD_KINDS, "flow-child", "iteration", "late"}
    assert sum(found["faults"].values()) >= 5
    assert found["acknowledged"] == sum(found["jobs"].values()) - found["jobs"]["iteration"]
    assert sum(found["states"].values()) == sum(found["jobs"].values())
    assert found["duplicates"]["unexplained"] == 0
    assert found["settled_after"] is not None
    assert found["late_jobs_after"] < 3
    assert found["connections"] is None or 1 <= found["connections"] <= 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_no_process_behind(number: signal.Signals) -> None:
    with Process(sys.executable, "benchmarks/torture.py", "--seconds", "60", cwd=ROOT) as process:
        process.wait_for("60 s of load and faults", timeout=60)
        # The server, four workers and two producers; the workers' children come on top.
        found = descendants_of(process.pid)
        assert len(found) >= 7
        assert process.stop(number, timeout=40) == 130
        wait_until_gone(found)


def wait_until_gone(pids: set[int]) -> None:
    """A child notices the end of its worker a moment later."""
    deadline = time.monotonic() + 10
    while left := {pid for pid, _ in all_processes()} & pids:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def descendants_of(pid: int) -> set[int]:
    listed = all_processes()
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in listed if parent == ancestor]
    return set(found[1:])


def all_processes() -> list[tuple[int, int]]:
    """All processes, each with its parent; without those that have ended and wait for init."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,stat=,comm="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 3) for line in listed.stdout.splitlines()]
    return [
        (int(child), int(parent))
        for child, parent, state, name in rows
        if state[0] != "Z" and name != "ps"
    ]
