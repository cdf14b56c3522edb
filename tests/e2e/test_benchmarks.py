"""The benchmarks run to the end and say what they promise; their figures are not judged here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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


def test_audio_measures_each_file_with_each_engine() -> None:
    names = ["bullpy", "bullpy_1_thread", "bullpy_numpy", "ffmpeg"]
    options = ["--seconds", "5", "--rounds", "1", "--no-hour", "--tools", ",".join(names)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.audio", "--json", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result["files"]) == ["wav", "flac", "mp3"]
    for rows in result["files"].values():
        assert list(rows) == names
        expected = rows["bullpy"]["values"]["integrated"]
        for name in names[:3]:
            assert 0 < rows[name]["in_process_s"] < rows[name]["process_s"]
            assert rows[name]["values"]["integrated"] == pytest.approx(expected, abs=1e-6)
        assert rows["ffmpeg"].get("missing") or rows["ffmpeg"]["process_s"] > 0
    cold = result["cold_start_ms"]
    assert 0 < cold["python"] < cold["bullpy_first_result"]


def test_audio_leaves_out_a_tool_that_takes_too_long() -> None:
    arguments = ["--seconds", "120", "--rounds", "2", "--no-hour", "--limit", "1"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.audio", "--json"),
            *(*arguments, "--tools", "bullpy_numpy"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for rows in json.loads(done.stdout)["files"].values():
        row = rows["bullpy_numpy"]
        assert row.get("missing") == "not done within 1 s" or row["rounds"] == 1


def test_audio_worker_compares_with_a_node_worker_that_runs_ffmpeg() -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is what is compared with: scripts/setup.sh ffmpeg")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.audio_worker", "--json"),
            *("--files", "2", "--seconds", "10"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["files"], result["distinct_files"], result["seconds"]) == (2, 2, 10)
    for name in ("bullpy", "node_ffmpeg"):
        row = result[name]
        assert 0 < row["first_result_s"] <= row["seconds"]
        assert row["files_per_minute"] == pytest.approx(60 * 2 / row["seconds"], rel=0.01)
        assert row["version"]
    assert result["ratio"] > 0
    assert result["largest_difference_lu"] <= 0.11


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


def test_produce_compares_each_way_of_adding() -> None:
    arguments = ["--jobs", "150", "--in-flight", "20", "--bulk", "40", "--rounds", "2"]
    (result,) = run("produce.py", *arguments)
    for way in ["add", "concurrent", "bulk"]:
        row = result[way]
        assert row["ratio_node"] > 0
        assert row["ratio_upstream"] > 0
        for name in [*NAMES, "node_auto_pipelining"]:
            assert row[name] > 0
            assert row["cpu_us_per_job"][name] > 0
            assert len(row["rounds"][name]) == 2
            assert result["versions"][name]


def test_growth_compares_the_largest_backlog_with_the_smallest() -> None:
    arguments = ["--only", "waiting,prioritized,node_waiting", "--jobs", "60"]
    arguments += ["--backlogs", "2000,100", "--concurrency", "5", "--rounds", "2"]
    (result,) = run("growth.py", *arguments)
    for kind in ["waiting", "prioritized", "node_waiting"]:
        found = result[kind]
        assert [row["backlog"] for row in found["rows"]] == [100, 2000]
        assert found["compared"] == [2000, 100]
        assert found["ratio"] > 0
        for row in found["rows"]:
            assert row["worker_us_per_job"] > 0
            assert len(row["rounds"]["server_us_per_job"]) == 2
            assert row["commands_us_per_job"]["evalsha"] > 0


def test_growth_compares_many_workers_with_few() -> None:
    arguments = ["--only", "workers,processes,node_processes", "--shared-jobs", "300"]
    (result,) = run("growth.py", *arguments, "--workers", "1,3", "--rounds", "1")
    for crew in ["workers", "processes", "node_processes"]:
        assert [row["workers"] for row in result[crew]["rows"]] == [1, 3]
        for row in result[crew]["rows"]:
            assert row["worker_us_per_job"] > 0
            assert row["wall_us_per_job"] > 0


def test_memory_reports_growth_after_the_first_jobs() -> None:
    arguments = ["--jobs", "4000", "--after", "1000", "--ahead", "500", "--every", "0.1"]
    (result,) = run("memory.py", *arguments)
    assert 1000 <= result["after"] <= 4000
    assert result["growth_mb"] <= result["peak_growth_mb"]
    assert [sample[0] for sample in result["samples"]][-1] == 4000
    assert all(worker > 0 and producer > 0 for _, worker, producer in result["samples"])


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


SHORT_ISOLATION = [
    *("--jobs", "60", "--calls", "20", "--starts", "1", "--crashes", "1"),
    *("--busy", "2", "--rounds", "1"),
]


@pytest.fixture(scope="module")
def isolation() -> dict[str, Any]:
    (result,) = run("isolation.py", *SHORT_ISOLATION)
    return result


def test_isolation_reports_all_that_it_measures(isolation: dict[str, Any]) -> None:
    result = isolation
    assert result["notes"] == {}
    direct = {"bullpy_direct_process", "bullpy_direct_thread", "futures", "pebble"}
    assert set(result["calls"]) == {*direct, "overhead_ms"}
    for name in direct:
        assert 0 < result["calls"][name]["median_ms"] <= result["calls"][name]["p99_ms"]
    queued = {f"{whose}_{where}" for whose in ("bullpy", "node") for where in ("process", "thread")}
    assert queued | {"bullpy_loop", "node_loop"} <= set(result["queue"])
    for name in queued:
        assert result["queue"][name]["ms_per_job"] > 0
        assert result["throughput"][name]["jobs_per_second"] > 0
    assert result["throughput"]["ratio_node"] > 0
    workers = {"bullpy_process", "bullpy_preload", "node_process", "node_thread"}
    pools = {"bullpy_direct_process", "bullpy_direct_preload"}
    pools |= {f"{whose}{how}" for whose in ("futures", "pebble") for how in ("", "_spawn")}
    assert set(result["first_call"]) == set(result["respawn"]) == workers | pools
    for name in workers | pools:
        assert result["first_call"][name]["start_to_first_ms"] > 0
        assert result["respawn"][name]["crash_to_next_ms"] > 0
    for name in workers:
        assert result["first_call"][name]["ready_to_first_ms"] > 0
        assert result["first_call"][name]["warm_ms"] > 0
    for name in workers | pools | direct:
        assert result["versions"][name]


def test_isolation_loses_no_lock_while_children_are_busy(isolation: dict[str, Any]) -> None:
    for name in ("bullpy_process", "bullpy_thread", "futures"):
        lag = isolation["loop_lag"][name]
        assert 0 < lag["p50_ms"] <= lag["p99_ms"] <= lag["max_ms"]
    lag = isolation["loop_lag"]["bullpy_process"]
    assert lag["events"] == {"completed": 4, "failed": 0, "stalled": 0, "lockRenewalFailed": 0}
    assert lag["each_job_once"] is True


def test_isolation_measures_only_what_is_asked_for() -> None:
    (result,) = run("isolation.py", "--only", "queue", "--jobs", "40", "--rounds", "2")
    assert "calls" not in result
    assert len(result["each_round"]["queue"]["bullpy_process"]["ms_per_job"]) == 2


@pytest.mark.parametrize(
    ("arguments", "after", "count"),
    [
        # The server, the worker, and what keeps both cores busy.
        (["--only", "loop_lag", "--busy", "60"], "", 4),
        # The server, the worker process, and a child of concurrent.futures.
        (["--only", "calls", "--calls", "20000"], "calls bullpy_direct_thread", 3),
    ],
    ids=["busy children", "pool"],
)
def test_an_interrupted_isolation_benchmark_leaves_no_child_behind(
    arguments: list[str], after: str, count: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "benchmarks/isolation.py", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        while after and not process.stderr.readline().startswith(after):
            assert process.poll() is None
        found = wait_for(descendants_of, process.pid, count)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        wait_until_gone(found)
    finally:
        process.kill()
        # Closes the pipes too.
        process.communicate()
    assert process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_benchmark_leaves_no_process_behind(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "benchmarks/latency.py", "--idle", "100"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        # The server and six workers.
        children = wait_for(children_of, process.pid, 7)
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert not [pid for pid in children if is_alive(pid)]


def wait_for(find: Callable[[int], list[int]], pid: int, count: int) -> list[int]:
    """So many children, or descendants."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = find(pid)
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not {count} processes within 60 s: {find(pid)}")


def wait_until_gone(pids: list[int]) -> None:
    """A child notices the end of its worker a moment later."""
    deadline = time.monotonic() + 10
    while left := {child for child, _ in all_processes()} & set(pids):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def children_of(pid: int) -> list[int]:
    return [child for child, parent in all_processes() if parent == pid]


def descendants_of(pid: int) -> list[int]:
    listed = all_processes()
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in listed if parent == ancestor]
    return found[1:]


def all_processes() -> list[tuple[int, int]]:
    """All processes, each with its parent; without those that have ended and wait for init."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in listed.stdout.splitlines()]
    # `ps` itself is a child of the test, not of the benchmark.
    return [(int(child), int(parent)) for child, parent, state in rows if state[0] != "Z"]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
