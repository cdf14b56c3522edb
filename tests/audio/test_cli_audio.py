"""`bullpy audio analyze`: a table, JSON Lines, and one clear line per bad file."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib import image

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
    done = audio("analyze", "--brief", *sorted(tracks.iterdir()))
    assert done.returncode == 1
    assert all(path.name in done.stdout for path in tracks.iterdir())
    assert "LUFS" in done.stdout
    assert "The file is silent." in done.stdout
    assert "not measured" in done.stdout
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


def test_one_file_has_a_table_with_verdicts_and_exits_3_outside_the_target(tracks: Path) -> None:
    done = audio("analyze", tracks / "clipped.wav", "--target", "streaming")
    assert (done.returncode, done.stderr) == (3, "")
    assert "LU louder than the target -14 +/- 1" in done.stdout
    assert "may clip after lossy encoding" in done.stdout
    assert "samples at full scale" in done.stdout
    assert "outside the target streaming in 2 of 2" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_file_within_its_own_target_exits_0(tracks: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.json"
    target.write_text('{"name": "mine", "lufs": {"min": -30, "max": -5}, "true_peak_max": 3}')
    done = audio("analyze", tracks / "song.flac", "--target", target)
    assert (done.returncode, done.stderr) == (0, "")
    assert "within the target mine" in done.stdout


def test_a_mono_podcast_is_held_to_3_lu_less(tracks: Path) -> None:
    done = audio(
        "analyze", "--json", "--target", "podcast", tracks / "mono.wav", tracks / "song.flac"
    )
    mono, song = (json.loads(line)["target"]["metrics"] for line in done.stdout.splitlines())
    assert mono["loudness.integrated"]["target"] == -19
    assert song["loudness.integrated"]["target"] == -16
    assert song["truePeak.maxDbtp"]["max"] == -1


def test_json_carries_target_comparison_and_verdicts_and_nothing_else_is_printed(
    tracks: Path,
) -> None:
    song, other = tracks / "song.flac", tracks / "speech.wav"
    done = audio("analyze", song, "--json", "--target", "club", "--compare", other)
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert (done.returncode, done.stderr) == (3, "")
    assert found["target"]["ok"] is False
    assert "Convention" in found["target"]["source"]
    lufs = found["comparison"]["lufs"]
    assert lufs["delta"] == pytest.approx(lufs["value"] - lufs["reference"], abs=1e-5)
    assert {"ok", "outside"} <= {item["level"] for item in found["verdicts"]}


def test_a_file_beside_itself_is_the_same(tracks: Path) -> None:
    done = audio("analyze", tracks / "song.flac", "--compare", tracks / "song.flac")
    assert done.returncode == 0
    assert "louder" not in done.stdout
    assert done.stdout.count("same") >= 15


def test_a_reference_that_cannot_be_measured_ends_the_command(tracks: Path) -> None:
    done = audio("analyze", tracks / "song.flac", "--compare", tracks / "not-audio.mp3")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not-audio.mp3" in done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "it is no object"),
        ("{}", "it asks for nothing"),
        ('{"lufs": {"target": "x"}}', "not a number"),
        ('{"lufs": {"target": -14}}', "needs a tolerance"),
        ('{"lufs": {"min": 1, "max": 0}}', "above its maximum"),
    ],
)
def test_a_wrong_target_file_is_one_line_and_exit_2(
    content: str, words: str, tracks: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target.json"
    target.write_text(content)
    done = audio("analyze", tracks / "song.flac", "--target", target)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_wrong_calls_end_with_2_before_anything_is_measured(tracks: Path, tmp_path: Path) -> None:
    song = tracks / "song.flac"
    for arguments in (
        ["--target", "radio"],
        ["--target", str(tmp_path / "none.json")],
        ["--plot", str(tmp_path / "out.txt")],
        ["--plot", str(tmp_path / "none" / "out.png")],
        ["--jobs", "0"],
    ):
        done = audio("analyze", song, *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert "Traceback" not in done.stderr
    assert audio("analyze", "-r", tmp_path).returncode == 2  # an empty folder


def test_unknown_keys_of_a_target_are_told(tracks: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.json"
    target.write_text('{"lufs_target": -14, "tol_lufs": 9, "sparkle": 1}')
    done = audio("analyze", tracks / "song.flac", "--target", target)
    assert done.returncode == 0
    assert "sparkle" in done.stderr


def test_a_folder_needs_recursive(tracks: Path) -> None:
    refused = audio("analyze", tracks)
    assert refused.returncode == 1
    assert "--recursive" in refused.stderr
    walked = audio("analyze", "--json", "--recursive", "--jobs", "3", tracks)
    names = [Path(json.loads(line)["file"]).name for line in walked.stdout.splitlines()]
    assert names == sorted(path.name for path in tracks.iterdir())


@pytest.mark.parametrize("name", ["song.flac", "clipped.wav", "mono.wav", "silence.wav"])
def test_a_picture_is_1600_by_1000_and_no_panel_is_empty(
    name: str, tracks: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    done = audio("analyze", tracks / name, "--plot", out, "--compare", tracks / "speech.wav")
    assert (done.returncode, done.stderr) == (0, "")
    pixels = image.imread(out)
    assert pixels.shape[:2] == (1000, 1600)
    ink = pixels[..., :3].min(axis=2) < 0.75
    panels = {  # rows and columns inside each panel
        "title": (20, 90, 80, 600),
        "figures": (110, 170, 80, 1560),
        "waveform": (235, 410, 95, 1020),
        "loudness": (475, 750, 95, 1020),
        "correlation": (820, 925, 95, 1020),
        "spectrum": (235, 575, 1135, 1555),
    }
    for panel, (top, bottom, left, right) in panels.items():
        assert ink[top:bottom, left:right].mean() > 0.001, panel


def test_pictures_of_several_files_are_named_after_them(tracks: Path, tmp_path: Path) -> None:
    copy = tmp_path / "mono.flac"
    copy.write_bytes((tracks / "song.flac").read_bytes())
    done = audio("analyze", tracks / "mono.wav", copy, "--plot", tmp_path / "out.svg")
    assert done.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "mono.flac",
        "out-mono.svg",
        "out-mono-2.svg",
    }
    assert "<svg" in (tmp_path / "out-mono.svg").read_text()


def test_odd_file_names_neither_break_the_table_nor_the_picture(
    tracks: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "$x_1$ [red]\x1b[2J.wav"
    odd.write_bytes((tracks / "mono.wav").read_bytes())
    done = audio("analyze", odd, "--plot", tmp_path / "out.png")
    assert done.returncode == 0
    assert "$x_1$ [red]" in done.stdout
    assert "\x1b" not in done.stdout
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_a_missing_matplotlib_is_said_before_the_work(tracks: Path, tmp_path: Path) -> None:
    code = f"import sys; sys.modules['matplotlib.figure'] = None; {COMMAND}"
    done = audio("analyze", tracks / "song.flac", "--plot", tmp_path / "out.png", code=code)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'pip install "bullpy[plot]"' in done.stderr


def test_on_a_terminal_there_are_bars_and_colours(tracks: Path) -> None:
    reader, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "analyze", "--target", "streaming",
         str(tracks / "song.flac"), str(tracks / "clipped.wav")],
        stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "140", "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(terminal)
    seen = b""
    try:
        while part := os.read(reader, 65_536):
            seen += part
    except OSError:  # Linux: the other end was closed
        pass
    os.close(reader)
    assert process.wait(60) == 3
    text = seen.decode()
    assert "2 files" in text
    assert "\x1b[1;31m" in text


def test_ctrl_c_ends_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    long = tmp_path / "long.wav"
    soundfile.write(long, np.full((48_000 * 600, 1), 0.1, np.float32), 48_000)
    # The first line of JSON says that the command is at work on the next file.
    short = tmp_path / "short.wav"
    soundfile.write(short, np.full((48_000, 1), 0.1, np.float32), 48_000)
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "analyze", "--json", "--jobs", "1", short, *[long] * 50],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert "short.wav" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 130
    assert complaint == "error: interrupted\n"
