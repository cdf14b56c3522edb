"""Runs all benchmarks shortly, in about four minutes.

python benchmarks/run.py            short runs, as tables
python benchmarks/run.py --full     the lengths and rounds that figures to publish need
python benchmarks/run.py --json     JSON lines instead of tables
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys

import harness

SHORT = {
    "imports.py": [],
    "throughput.py": ["--jobs", "10000", "--concurrency", "1,50"],
    "produce.py": ["--jobs", "5000", "--rounds", "1"],
    "growth.py": [
        *("--only", "waiting,workers", "--backlogs", "1000,100000", "--rounds", "1"),
        *("--workers", "1,16", "--shared-jobs", "8000"),
    ],
    "memory.py": ["--jobs", "100000", "--after", "20000"],
    "latency.py": ["--idle", "15", "--jobs", "10", "--deadline", "30"],
    "isolation.py": ["--rounds", "1"],
}
FULL = {
    "imports.py": [],
    "throughput.py": ["--jobs", "20000", "--concurrency", "1,50,200", "--rounds", "5"],
    "produce.py": ["--rounds", "5"],
    "growth.py": ["--rounds", "5"],
    "memory.py": [],
    "latency.py": [],
    "isolation.py": ["--jobs", "20000", "--calls", "5000", "--busy", "30", "--rounds", "5"],
}
TIMEOUT = 1800.0
"""Seconds for one benchmark; each has shorter deadlines of its own."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Run all benchmarks.")
    parser.add_argument("--full", action="store_true", help="long runs")
    parser.add_argument("--json", action="store_true", help="JSON lines")
    options = parser.parse_args()
    # A terminal sends Ctrl-C to the benchmark too, which stops what it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    worst = 0
    for script, arguments in (FULL if options.full else SHORT).items():
        if not options.json:
            print(f"\n== {script} {' '.join(arguments)}", flush=True)
        code = _run(script, [*arguments, *(["--json"] if options.json else [])])
        if code == 130:
            return code
        worst = max(worst, code)
    return worst


def _run(script: str, arguments: list[str]) -> int:
    path = harness.ROOT / "benchmarks" / script
    process = subprocess.Popen([sys.executable, str(path), *arguments])
    try:
        return process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        print(f"{script} did not end within {TIMEOUT:g} s", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


if __name__ == "__main__":
    sys.exit(main())
