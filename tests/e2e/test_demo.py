"""`make demo` from beginning to end, with Node and without."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import ROOT, Process, run

FILES = {
    "speech.wav",
    "song.flac",
    "single.mp3",
    "clipped.wav",
    "silence.wav",
    "mono.wav",
    "high-resolution.flac",
    "not-audio.mp3",
}


Finished = subprocess.CompletedProcess[str]


def _demo(**env: str) -> Finished:
    # Wide enough that no cell of the table is folded.
    found = run(
        sys.executable, ROOT / "examples" / "demo.py", timeout=90, env={"COLUMNS": "240", **env}
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Traceback" not in found.stdout + found.stderr
    return found


def _rows(output: str) -> dict[str, str]:
    """The rows of the table of results, by file."""
    table = output.partition("Results")[2]
    cells = [[cell.strip() for cell in re.split("[│┃]", line)] for line in table.splitlines()]
    return {row[1]: " | ".join(row[2:-1]) for row in cells if len(row) > 3 and row[1] in FILES}


def _assert_results(found: Finished) -> None:
    rows = _rows(found.stdout)
    assert rows.keys() == FILES, found.stdout
    bad = rows.pop("not-audio.mp3")
    assert bad.startswith("failed")
    assert "is not an audio file" in bad
    assert all(row.startswith("completed") for row in rows.values()), rows
    assert re.search(r"-\d+\.\d", rows["song.flac"]), rows


def _assert_nothing_left(found: Finished) -> None:
    _assert_server_is_gone(found.stdout)


def _assert_server_is_gone(output: str) -> None:
    port = re.search(r"Valkey at redis://[^:]*:(\d+)", output)
    assert port is not None, output
    with socket.socket() as probe:
        probe.settimeout(2)
        assert probe.connect_ex(("127.0.0.1", int(port[1]))) != 0, "the server still runs"


@pytest.mark.timeout(120)
def test_demo_with_node_shows_every_result() -> None:
    assert shutil.which("node"), "Node is needed for this test"
    found = _demo()
    assert "producer: Node" in found.stdout
    _assert_results(found)
    _assert_nothing_left(found)


@pytest.mark.timeout(120)
def test_demo_without_node_shows_every_result(tmp_path: Path) -> None:
    found = _demo(PATH=str(tmp_path))
    assert "producer: Python, because Node" in found.stdout
    _assert_results(found)
    _assert_nothing_left(found)


@pytest.mark.parametrize("moment", ["Valkey at", "producer: Node"])
def test_ctrl_c_stops_everything_without_a_traceback(moment: str, tmp_path: Path) -> None:
    demo = (sys.executable, ROOT / "examples" / "demo.py")
    with Process(*demo, env={"TMPDIR": str(tmp_path)}) as process:
        process.wait_for(moment, timeout=60)
        # As a terminal does: to the demo and to all that it started.
        os.killpg(process.pid, signal.SIGINT)
        assert process.end() == 130, process.output
        assert "Traceback" not in process.output
        _assert_server_is_gone(process.output)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    assert not list(tmp_path.glob("bullpy-*"))


def test_a_worker_that_cannot_start_ends_the_demo_with_its_reason() -> None:
    found = run(
        sys.executable, ROOT / "examples" / "demo.py", timeout=60, env={"BULLPY_CONCURRENCY": "0"}
    )
    assert found.returncode == 1
    assert "BULLPY_CONCURRENCY" in found.stderr
    assert found.stderr.rstrip().endswith("error: the worker ended early")
    assert "Traceback" not in found.stderr
    _assert_server_is_gone(found.stdout)
