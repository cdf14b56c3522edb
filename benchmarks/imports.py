"""Time to import bullpy and the upstream port, and to show the help of the command line.

    python benchmarks/imports.py --json

Each is a fresh process, started in turn; medians of `--runs`, in milliseconds. `import bullpy`
loads its names on first use, so `from bullpy import Worker` is what compares with
`import bullmq`. `python -c pass` is the part of it that is Python's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from statistics import median

import harness

TIMEOUT = 60.0
COMMANDS = {
    "python": ["-c", "pass"],
    "import_bullpy": ["-c", "import bullpy"],
    "import_bullpy_worker": ["-c", "from bullpy import Worker"],
    "import_bullmq": ["-c", "import bullmq"],
    "bullpy_help": ["-m", "bullpy", "--help"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Time to import bullpy, and of bullpy --help.")
    parser.add_argument("--runs", type=int, default=7, help="medians over so many")
    parser.add_argument("--json", action="store_true", help="one object")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs: at least 1")
    runs: dict[str, list[float]] = {name: [] for name in COMMANDS}
    try:
        for name in COMMANDS:
            _milliseconds(name)  # writes the compiled files
        for _ in range(options.runs):
            for name, times in runs.items():
                times.append(round(_milliseconds(name), 1))
    except harness.BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    medians = {name: round(median(times), 1) for name, times in runs.items()}
    result = {
        "benchmark": "imports",
        "runs": options.runs,
        "median_ms": medians,
        "ratio_import": harness.ratio(medians["import_bullmq"], medians["import_bullpy"]),
        "ratio_worker": harness.ratio(medians["import_bullmq"], medians["import_bullpy_worker"]),
        "runs_ms": runs,
        "python": ".".join(map(str, sys.version_info[:3])),
    }
    if options.json:
        print(json.dumps(result))
    else:
        rows = [(name.replace("_", " "), time_) for name, time_ in medians.items()]
        print(harness.table([("", "median ms"), *rows]))
    return 0


def _milliseconds(name: str) -> float:
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, *COMMANDS[name]],
            cwd=harness.ROOT,
            env=harness.clean_environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise harness.BenchmarkError(f"{name} took more than {TIMEOUT:g} s.") from None
    if done.returncode:
        raise harness.BenchmarkError(f"{name} failed:\n{done.stderr.strip()[-1500:]}")
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    sys.exit(main())
