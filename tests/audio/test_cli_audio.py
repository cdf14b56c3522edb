"""`bullpy audio analyze`: a table, JSON Lines, and one clear line per bad file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "from bullpy.cli.audio import app; app(prog_name='bullpy audio')"


def audio(*arguments: str | Path, code: str = COMMAND) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "140"},
    )


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracks")
    made = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "make_tracks.py"), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert sorted(made.stdout.split()) == sorted(path.name for path in folder.iterdir())
    return folder


def test_the_example_tracks_are_eight_and_always_the_same(tracks: Path, tmp_path: Path) -> None:
    script = ROOT / "examples" / "make_tracks.py"
    subprocess.run([sys.executable, script, tmp_path], capture_output=True, timeout=60, check=True)
    names = sorted(path.name for path in tracks.iterdir())
    assert len(names) == 8
    assert all((tracks / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_table_of_all_tracks_and_one_line_for_the_bad_one(tracks: Path) -> None:
    done = audio("analyze", *sorted(tracks.iterdir()))
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 8  # the header and seven files
    assert "LUFS" in done.stdout
    assert "silence" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "not-audio.mp3" in line
    assert "text" in line


def test_json_is_one_object_per_line(tracks: Path) -> None:
    names = ["speech.wav", "not-audio.mp3", "mono.wav"]
    done = audio("analyze", "--json", *(tracks / name for name in names))
    assert done.returncode == 1
    first, second, third = (json.loads(line) for line in done.stdout.splitlines())
    assert first["metadata"]["sampleRate"] == 48_000
    assert second["error"]["code"] == "not-audio"
    assert third["stereo"]["correlation"] is None


def test_good_files_exit_0_and_leave_stderr_empty(tracks: Path) -> None:
    done = audio("analyze", tracks / "single.mp3")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_decoder_does_not_write_to_the_terminal(good: Path, tmp_path: Path) -> None:
    content = (good / "ok.mp3").read_bytes()
    half = len(content) // 2
    damaged = tmp_path / "damaged.mp3"
    damaged.write_bytes(content[:half] + bytes(range(251)) * 16 + content[half + 4016 :])
    done = audio("analyze", damaged)
    assert "mpg123" not in done.stderr
    assert "resync" not in done.stderr


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    done = audio("analyze", tmp_path / "none.wav")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("missing", ["numpy", "soundfile"])
def test_a_missing_extra_says_what_to_install(missing: str, tracks: Path) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; {COMMAND}"
    done = audio("analyze", tracks / "speech.wav", code=code)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f'error: {missing} is not installed. Install it with: pip install "bullpy[audio]"'
    ]


def test_the_command_loads_nothing_heavy_before_it_runs() -> None:
    code = (
        "import sys, bullpy.cli.audio, bullpy.audio; "
        "print([name for name in ('numpy', 'soundfile', 'redis', 'rich.table') "
        "if name in sys.modules])"
    )
    assert audio(code=code).stdout.strip() == "[]"
