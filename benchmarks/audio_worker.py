"""Audio files per minute through a queue: bullpy's worker, and a Node worker that runs ffmpeg.

    python -m benchmarks.audio_worker --json
    python -m benchmarks.audio_worker --files 2 --seconds 10

Both take the same MP3 files, of `--seconds`, from a queue on an embedded server, one worker after
the other, with `--concurrency` jobs at a time. bullpy measures everything that it reports; Node
runs `ffmpeg -nostats -i FILE -af ebur128=peak=true -f null -` per job, which measures loudness
and true peak alone. There are `--distinct` different files, made from different seeds; with more
jobs than these, each is the file of several jobs. The time is from the start of work to the last
result, child processes and imports included. What both say of integrated loudness is compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import audio, harness
from benchmarks.workers import common
from bullpy import EmbeddedServer, Queue

GOAL = 3.0
"""How many times more files per minute than Node with ffmpeg."""
WORKERS = {"bullpy": "audio", "node_ffmpeg": "node_ffmpeg"}
SLOWEST = 20.0
"""Seconds of audio measured per second, at least, or the measurement is given up."""
LARGEST_DIFFERENCE = 0.11
"""LU that both may differ in integrated loudness: ffmpeg says one digit after the point."""


def main() -> int:
    options = _options()
    if shutil.which("ffmpeg") is None:
        print("ffmpeg is not installed; run: scripts/setup.sh ffmpeg", file=sys.stderr)
        return 1

    async def measure(server: EmbeddedServer) -> None:
        with tempfile.TemporaryDirectory(prefix="bullpy-bench-") as folder:
            result = await _measure(server.url, Path(folder), options)
        if options.json:
            print(json.dumps(result), flush=True)
        else:
            _print_table(result)

    return harness.run(measure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Audio files per minute through a queue.")
    parser.add_argument("--files", type=harness.positive, default=100, help="jobs")
    parser.add_argument("--distinct", type=harness.positive, default=4, help="different files")
    parser.add_argument("--seconds", type=harness.positive, default=240, help="of each file")
    parser.add_argument("--concurrency", type=harness.positive, default=2, help="of each worker")
    parser.add_argument("--json", action="store_true", help="one object")
    return parser.parse_args()


async def _measure(url: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    names = [f"{seed}.mp3" for seed in range(min(options.distinct, options.files))]
    for seed, name in enumerate(names):
        audio.write_music([folder / name], options.seconds, seed=seed)
    result: dict[str, Any] = {
        "benchmark": "audio_worker",
        "files": options.files,
        "distinct_files": len(names),
        "seconds": options.seconds,
        "concurrency": options.concurrency,
        "goal": GOAL,
    }
    loudness: dict[str, dict[str, float]] = {}
    for name, module in WORKERS.items():
        result[name], loudness[name] = await _one(url, name, module, folder, names, options)
    result["ratio"] = harness.ratio(
        result["bullpy"]["files_per_minute"], result["node_ffmpeg"]["files_per_minute"]
    )
    result["largest_difference_lu"] = _compared(loudness)
    return result


async def _one(
    url: str, name: str, module: str, folder: Path, names: list[str], options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, float]]:
    """One worker's figures, and the integrated loudness that it found of each file."""
    queue_name = f"audio-{name}"
    async with Queue(queue_name, redis=url) as queue:
        await queue.add_bulk(
            [
                {
                    "name": common.JOB_NAME,
                    "data": {**common.PAYLOAD, "fileKey": names[number % len(names)]},
                }
                for number in range(options.files)
            ]
        )
        async with harness.started(
            module,
            url=url,
            queue=queue_name,
            mode="process",
            jobs=options.files,
            concurrency=options.concurrency,
            flags=["--scratch", str(folder)],
        ) as worker:
            await worker.tell("go")
            done = await worker.expect("done", 30 + options.files * options.seconds / SLOWEST)
            found = {
                job.data["fileKey"]: float(job.returnvalue["loudness"]["integrated"])
                for job in await queue.getCompleted(0, options.files)
            }
            row = {
                "files_per_minute": round(60 * done["jobs"] / done["seconds"], 1),
                "seconds": round(done["seconds"], 3),
                "first_result_s": round(done["first"], 3),
                "version": worker.version,
                "runtime": worker.runtime,
            }
    return row, found


def _compared(loudness: dict[str, dict[str, float]]) -> float:
    """How far both are apart at most, LU.

    Raises:
        harness.BenchmarkError: So far that they cannot have measured the same.
    """
    mine, theirs = (loudness[name] for name in WORKERS)
    if mine.keys() != theirs.keys():
        raise harness.BenchmarkError(f"not the same files: {sorted(mine)}, {sorted(theirs)}")
    largest = max(abs(mine[name] - theirs[name]) for name in mine)
    if largest > LARGEST_DIFFERENCE:
        raise harness.BenchmarkError(f"the loudness of a file differs by {largest:.2f} LU")
    return round(largest, 3)


def _print_table(result: dict[str, Any]) -> None:
    rows: list[tuple[object, ...]] = [("", "files per minute", "seconds", "first result s")]
    for name in WORKERS:
        row = result[name]
        rows.append((name, row["files_per_minute"], row["seconds"], row["first_result_s"]))
    print(
        f"{result['files']} jobs on {result['distinct_files']} different MP3 files "
        f"of {result['seconds']} s, {result['concurrency']} at a time"
    )
    print(harness.table(rows))
    print(f"ratio {result['ratio']}, goal {result['goal']}")


if __name__ == "__main__":
    sys.exit(main())
