"""How long measuring audio takes, beside ffmpeg, pyloudnorm and librosa.

    python -m benchmarks.audio --json
    python -m benchmarks.audio --seconds 60 --no-hour
    make bench-audio                             installs the other tools first

All measure the same generated stereo files, one after the other and in turns. `in_process_s` is
one measurement after imports, `process_s` a fresh process from start to end; medians of
`--rounds`. bullpy measures everything that it reports, the others what they have: see `TOOLS`.
A tool that is not installed is reported as missing, with what to install. One that takes more than
`--limit` seconds for a file has fewer rounds, and when it does not end in that time, no figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile

from benchmarks import harness

RATE = 44_100
KINDS = ("wav", "flac", "mp3")
GOALS = {"wav": 7.0, "flac": 4.0, "mp3": 4.0}
"""How many times faster than ffmpeg bullpy should be, in process."""
PEAK_GOALS_MB = {"file": 40.0, "hour": 65.0}
OTHERS = harness.ROOT / "build" / "bench-audio"
"""Where `make bench-audio` puts the packages of the other tools."""
LOOP = 60
"""Seconds of music before it repeats."""
FFMPEG = ("-hide_banner", "-nostats", "-i", "{file}", "-af", "ebur128=peak=true", "-f", "null", "-")
TOOLS = {
    "bullpy": "everything, two threads",
    "bullpy_1_thread": "everything, one thread",
    "bullpy_numpy": "everything, without the kernel",
    "ffmpeg": "ebur128=peak=true: integrated, short-term, momentary, range, true peak",
    "pyav": "the same filter of FFmpeg, in process",
    "pyloudnorm": "integrated loudness",
    "librosa": "centroid, roll-off, flatness, onset strength (flux)",
}
COLD_STARTS = {
    "python": "pass",
    "numpy_soundfile": "import numpy, soundfile",
    "bullpy_import": "from bullpy.audio import analyze",
    "bullpy_audio": "from bullpy.audio import analyze; from bullpy.audio.measuring import engine; "
    "engine()",
    "bullpy_first_result": "import sys; from bullpy.audio import analyze; analyze(sys.argv[1])",
}
"""What a fresh process does; the last one measures a WAV file of `FIRST_SECONDS`."""
FIRST_SECONDS = 1


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="bullpy-bench-") as folder:
        try:
            result = _measure(Path(folder), options)
        except (harness.BenchmarkError, subprocess.TimeoutExpired) as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    if options.json:
        print(json.dumps(result))
    else:
        _print_tables(result)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time to measure audio, beside other tools.")
    parser.add_argument("--seconds", type=harness.positive, default=240, help="of each file")
    parser.add_argument("--rounds", type=harness.positive, default=5, help="medians over so many")
    parser.add_argument(
        "--limit", type=harness.positive, default=120, help="seconds for a tool and a file"
    )
    parser.add_argument("--tools", default=",".join(TOOLS), help="which, separated by commas")
    parser.add_argument("--no-hour", action="store_true", help="leave out one hour of WAV")
    parser.add_argument("--json", action="store_true", help="one object")
    options = parser.parse_args()
    options.tools = options.tools.split(",")
    if unknown := set(options.tools) - set(TOOLS):
        parser.error(f"--tools: unknown: {', '.join(sorted(unknown))}")
    return options


def _measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    files = {kind: folder / f"music.{kind}" for kind in KINDS}
    write_music(list(files.values()), options.seconds)
    tools = {name: _missing(name) for name in TOOLS if name in options.tools}
    found = {
        kind: _compare(path, tools, options.rounds, options.limit) for kind, path in files.items()
    }
    result: dict[str, Any] = {
        "benchmark": "audio",
        "seconds": options.seconds,
        "rounds": options.rounds,
        "tools": TOOLS,
        "engine": _version()["audio engine"],
        "files": found,
        "ratios": {kind: _ratios(kind, rows) for kind, rows in found.items()},
        "goals": {"ratio": GOALS, "peak_mb": PEAK_GOALS_MB},
        "cold_start_ms": _cold_starts(folder, options.rounds),
    }
    if not options.no_hour:
        hour = folder / "hour.wav"
        write_music([hour], 3600)
        names = ("bullpy", "bullpy_1_thread", "ffmpeg")
        result["hour"] = _compare(
            hour, {name: tools[name] for name in names if name in tools}, 1, 900
        )
    return result


def write_music(paths: list[Path], seconds: int, *, seed: int = 1) -> None:
    """Pink noise under a slow envelope with a tone, pressed like a loud master; by the suffix.

    The channels share half of their noise. What is longer than `LOOP` seconds repeats.
    """
    writers = [
        soundfile.SoundFile(path, "w", samplerate=RATE, channels=2, subtype=_subtype(path))
        for path in paths
    ]
    try:
        for block in itertools.islice(itertools.cycle(_music(min(seconds, LOOP), seed)), seconds):
            for writer in writers:
                writer.write(block)
    finally:
        for writer in writers:
            writer.close()


def _music(seconds: int, seed: int) -> Iterator[Any]:
    random = np.random.default_rng(seed)
    pink = 1 / np.sqrt(np.maximum(np.fft.rfftfreq(2 * RATE, 1 / RATE), 30.0))
    fade = np.sin(np.pi * (np.arange(2 * RATE) + 0.5) / (2 * RATE))[:, None]
    time_ = np.arange(RATE) / RATE
    tail = np.zeros((RATE, 2))
    for second in range(seconds):
        white = random.standard_normal((2 * RATE, 3))
        noise = np.fft.irfft(np.fft.rfft(white, axis=0) * pink[:, None], axis=0)
        noise = (noise[:, :2] + noise[:, 2:]) / noise.std() * fade
        level = 0.1 + 0.15 * (1 - np.cos(2 * np.pi * (second + time_) / 12))[:, None]
        tone = 0.15 * np.sin(2 * np.pi * 440 * time_)[:, None]
        yield np.tanh(level * (tail + noise[:RATE]) + tone) * 0.98
        tail = noise[RATE:]


def _subtype(path: Path) -> str | None:
    return None if path.suffix == ".mp3" else "PCM_16"


def _compare(path: Path, tools: dict[str, str | None], rounds: int, limit: float) -> dict[str, Any]:
    """Each tool's figures; one after the other in every round, so that all see the same noise.

    Args:
        path: The file.
        tools: Their names, each with what is missing.
        rounds: How often, at most.
        limit: Seconds for all rounds of a tool; what has used them is left out of the others.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name, why in tools.items() if not why}
    left = dict.fromkeys(runs, limit)
    for _ in range(rounds):
        for name, done in runs.items():
            if left[name] <= 0:
                continue
            started = time.perf_counter()
            found = _run(name, path, left[name])
            left[name] -= time.perf_counter() - started
            if found is not None:
                done.append(found)
    rows: dict[str, Any] = {name: {"missing": why} for name, why in tools.items() if why}
    for name, done in runs.items():
        if not done:
            rows[name] = {"missing": f"not done within {limit:g} s"}
            continue
        within = [one["in_process_s"] for one in done if one["in_process_s"] is not None]
        rows[name] = {
            "in_process_s": round(median(within), 4) if within else None,
            "process_s": round(median(one["process_s"] for one in done), 4),
            "peak_mb": done[-1]["peak_mb"],
            "rounds": len(done),
            "values": done[-1]["values"],
        }
    return {name: rows[name] for name in tools}


def _run(name: str, path: Path, limit: float) -> dict[str, Any] | None:
    """One fresh process; its own figures, and how long it took from start to end.

    None when it did not end in time.
    """
    try:
        return _measured(name, path, limit)
    except subprocess.TimeoutExpired:
        return None


def _measured(name: str, path: Path, limit: float) -> dict[str, Any]:
    if name == "ffmpeg":
        command = ["ffmpeg", *(part.format(file=path) for part in FFMPEG)]
        seconds, _ = _timed(name, command, limit)
        return {"in_process_s": None, "process_s": seconds, "peak_mb": None, "values": {}}
    command = [sys.executable, "-m", "benchmarks.audio_tools", name, str(path)]
    seconds, output = _timed(name, command, limit)
    own: dict[str, Any] = json.loads(output)
    # The tool measures twice, the second time with all that first calls set up.
    return {**own, "process_s": seconds - own["in_process_s"]}


def _timed(name: str, command: list[str], limit: float = 60.0) -> tuple[float, str]:
    """Seconds that a process took, and what it printed; `TimeoutExpired` after `limit` seconds."""
    environment = harness.clean_environment()
    if name in ("pyav", "pyloudnorm", "librosa"):
        environment["PYTHONPATH"] = f"{OTHERS}:{environment['PYTHONPATH']}"
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=harness.ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except OSError as error:
        raise harness.BenchmarkError(f"{name}: {error}") from None
    if done.returncode:
        raise harness.BenchmarkError(f"{name} failed:\n{done.stderr.strip()[-1500:]}")
    return time.perf_counter() - started, done.stdout


def _missing(name: str) -> str | None:
    """What to install when a tool is not there."""
    if name.startswith("bullpy"):
        return None
    if name == "ffmpeg":
        return None if shutil.which("ffmpeg") else "apt-get install ffmpeg"
    package = "av" if name == "pyav" else name
    there = (OTHERS / package).exists()
    return None if there else "make bench-audio"


def _ratios(kind: str, rows: dict[str, Any]) -> dict[str, float | None]:
    """How many times faster than ffmpeg, whose process starts in no time."""
    bullpy, ffmpeg, pyav = (rows.get(name, {}) for name in ("bullpy", "ffmpeg", "pyav"))
    other = ffmpeg.get("process_s") or pyav.get("in_process_s")
    return {
        "in_process": harness.ratio(other, bullpy.get("in_process_s")),
        "process": harness.ratio(other, bullpy.get("process_s")),
        "goal": GOALS[kind],
    }


def _cold_starts(folder: Path, rounds: int) -> dict[str, float]:
    """Medians, milliseconds."""
    file = folder / "first.wav"
    write_music([file], FIRST_SECONDS)
    times: dict[str, list[float]] = {name: [] for name in COLD_STARTS}
    for _ in range(rounds):
        for name, code in COLD_STARTS.items():
            times[name].append(_timed(name, [sys.executable, "-c", code, str(file)])[0])
    return {name: round(1000 * median(found), 1) for name, found in times.items()}


def _version() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        _timed("version", [sys.executable, "-m", "bullpy", "version", "--json"])[1]
    )
    return found


def _print_tables(result: dict[str, Any]) -> None:
    print(f"engine: {result['engine']}")
    sections = {**result["files"], **({"hour": result["hour"]} if "hour" in result else {})}
    for name, rows in sections.items():
        lines: list[tuple[object, ...]] = [(name, "in process s", "process s", "peak MB")]
        for tool, row in rows.items():
            if "missing" in row:
                lines.append((tool, "missing:", row["missing"], ""))
            else:
                lines.append((tool, row["in_process_s"], row["process_s"], row["peak_mb"]))
        print(harness.table(lines))
        if name in result["ratios"]:
            print(f"times faster than ffmpeg: {result['ratios'][name]}")
        print()
    print(f"cold start, ms: {result['cold_start_ms']}")


if __name__ == "__main__":
    sys.exit(main())
