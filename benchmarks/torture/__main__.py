"""Workers under torture: is any job lost, stuck, failed for no reason, or run twice for none?

    python -m benchmarks.torture --seconds 60 --json
    python -m benchmarks.torture --seed 7 --bad 4 --keep build/torture

Four worker processes, a producer in Python and one in Node, and a Valkey server with
`appendfsync always` behind a proxy. At random, but as the seed says, workers and children are
killed and stopped, connections cut and silenced, replies lost, and the server is restarted. Then
everything settles, and every job is looked at. The exit code is 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import harness
from benchmarks.torture import controller, report
from benchmarks.torture.verdict import judge


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; gives the exit code: 0 all is well, 1 something is wrong, 130 interrupted."""
    wanted = _parse(arguments)
    kept: dict[str, str] = harness.clean_environment()
    os.environ.clear()
    os.environ.update(kept)
    try:
        if wanted.keep is not None:
            wanted.keep.mkdir(parents=True, exist_ok=True)
            if any(wanted.keep.iterdir()):
                raise harness.BenchmarkError(f"{wanted.keep} is not empty.")
            return asyncio.run(_run(wanted, wanted.keep.resolve()))
        with tempfile.TemporaryDirectory(prefix="bullpy-torture-") as folder:
            return asyncio.run(_run(wanted, Path(folder)))
    except asyncio.CancelledError:
        return 130
    except harness.BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1


async def _run(wanted: argparse.Namespace, folder: Path) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    options = controller.Options(
        wanted.seed, wanted.seconds, wanted.rate, wanted.bad, wanted.settle, folder
    )
    longest = wanted.seconds + 3 * wanted.settle + 120
    try:
        async with asyncio.timeout(longest):
            result = await controller.run(options, lambda line: print(line, file=sys.stderr))
    except TimeoutError as error:
        raise harness.BenchmarkError(f"It did not come to its end in {longest:g} s.") from error
    verdict = judge(result.evidence)
    found = report.as_object(options, result, verdict)
    report.keep(options, result, found)
    print(json.dumps(found) if wanted.json else report.as_text(found), flush=True)
    return 0 if verdict.ok else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of load and faults")
    parser.add_argument("--seed", type=int, default=None, help="replays a run; random by default")
    parser.add_argument("--bad", type=float, default=0.0, help="percent of jobs that are bad")
    parser.add_argument("--rate", type=float, default=20.0, help="entries a second")
    parser.add_argument("--settle", type=float, default=40.0, help="seconds that it may take")
    parser.add_argument("--keep", type=Path, help="an empty folder for ledger and logs")
    parser.add_argument("--json", action="store_true", help="one object in place of text")
    wanted = parser.parse_args(arguments)
    if wanted.seed is None:
        wanted.seed = random.SystemRandom().randrange(10**6)
    return wanted


if __name__ == "__main__":
    sys.exit(main())
