"""What the benchmarks share: worker processes with deadlines, and a clean end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A checkout that is not installed works too, and an installed bullpy is not measured instead.
sys.path.insert(0, str(ROOT))

from benchmarks.workers import common  # noqa: E402
from bullpy import EmbeddedServer, Queue  # noqa: E402

IMPLEMENTATIONS = ("bullpy", "node", "upstream")
START_TIMEOUT = 30.0
"""Seconds for a worker process to import, connect and say that it is ready."""
_STOP_TIMEOUT = 5.0
_NODE = ROOT / "tests" / "node"
_NODE_WORKERS = {"node": "bench_worker.mjs", "node_ffmpeg": "bench_ffmpeg.mjs"}


class BenchmarkError(Exception):
    """A measurement did not take place; the text says why."""


class WorkerProcess:
    """A worker in an operating system process of its own; see benchmarks/workers/common.py."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, errors: Path) -> None:
        self.name = name
        self.version = ""
        self.runtime = ""
        self._process = process
        self._errors = errors

    async def expect(self, event: str, timeout: float) -> dict[str, Any]:
        """The next line, which has to be that event.

        Raises:
            BenchmarkError: Another line, no line in time, or the process ended.
        """
        said = await self.next_event(event, timeout)
        if said is None:
            raise self._error(f"did not say {event!r} within {timeout:g} s")
        return said

    async def next_event(self, event: str, timeout: float) -> dict[str, Any] | None:
        """The same, but None when no line comes within `timeout` seconds.

        Raises:
            BenchmarkError: Another line, or the process ended.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                line = await self._process.stdout.readline()
        except TimeoutError:
            return None
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError:
            raise self._error(f"said {line[:200]!r} instead of {event!r}") from None
        if said.get("event") != event:
            raise self._error(f"said {said} instead of {event!r}")
        return said

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def stop(self) -> None:
        """End the process, by its id, whatever state it is in."""
        with contextlib.suppress(ConnectionError):
            await self.tell("stop")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._process.wait()
        self.kill()
        await self._process.wait()

    def kill(self) -> None:
        if self._process.returncode is None:
            # Its group: it leads a session of its own, which its child processes belong to.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _error(self, what: str) -> BenchmarkError:
        tail = self._errors.read_text(errors="replace")[-1500:].strip()
        ended = self._process.returncode
        state = "" if ended is None else f" (it ended with code {ended})"
        return BenchmarkError(f"{self.name} {what}{state}\n{tail}".strip())


@contextlib.asynccontextmanager
async def started(
    name: str,
    *,
    url: str,
    queue: str,
    mode: str,
    jobs: int = 0,
    concurrency: int = 1,
    flags: Sequence[str] = (),
) -> AsyncIterator[WorkerProcess]:
    """A worker process that is connected and ready; stopped at the end."""
    command = [*_command(name), "--url", url, "--queue", queue, "--mode", mode]
    command += ["--jobs", str(jobs), "--concurrency", str(concurrency), *flags]
    with tempfile.NamedTemporaryFile(prefix="bullpy-bench-", suffix=".err") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors.fileno(),
            cwd=ROOT,
            env=clean_environment(),
            # Ctrl-C is for the parent, which stops its workers in order.
            start_new_session=True,
        )
        worker = WorkerProcess(name, process, Path(errors.name))
        try:
            ready = await worker.expect("ready", START_TIMEOUT)
            worker.version, worker.runtime = ready["version"], ready["runtime"]
            yield worker
        finally:
            try:
                await worker.stop()
            finally:
                worker.kill()


def clean_environment() -> dict[str, str]:
    """The environment without settings of bullpy, so that everybody measures the same."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("BULLPY_") and name != "REDIS_URL"
    }
    return {**kept, "PYTHONPATH": str(ROOT)}


def run(main: Callable[[EmbeddedServer], Coroutine[Any, Any, None]]) -> int:
    """Run a benchmark with a server of its own; everything is stopped on Ctrl-C and SIGTERM.

    Returns:
        The exit code of the process.
    """
    os.environ.clear()
    os.environ.update(clean_environment())

    async def with_server() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        async with EmbeddedServer() as server:
            await main(server)

    try:
        asyncio.run(with_server())
    except asyncio.CancelledError:
        return 130
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def positive(text: str) -> int:
    """For argparse: a whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


BULK = 1000
"""Jobs that `fill` adds in one call."""


async def fill(queue: Queue, jobs: int, **more: Any) -> None:
    """Add equal jobs, whose data holds their number.

    Args:
        queue: Where to.
        jobs: How many.
        more: Further options of each job, in BullMQ's spelling.
    """
    opts = {**common.JOB_OPTIONS, **more}
    for first in range(0, jobs, BULK):
        await queue.add_bulk(
            [
                {"name": common.JOB_NAME, "data": {**common.PAYLOAD, "i": i}, "opts": opts}
                for i in range(first, min(first + BULK, jobs))
            ]
        )


async def server_cpu(queue: Queue) -> float:
    """Seconds of CPU time that the server of this queue has used so far."""
    used = await queue.client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """How many times larger; None when one of them is missing."""
    return round(numerator / denominator, 2) if numerator and denominator else None


def table(rows: Sequence[Sequence[object]]) -> str:
    """Rows as aligned text, the first is the heading; None shows as a dash."""
    texts = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in texts
    )


def _command(name: str) -> list[str]:
    if name not in _NODE_WORKERS:
        return [sys.executable, "-m", f"benchmarks.workers.{name}"]
    node = shutil.which("node")
    if node is None:
        raise BenchmarkError("Node is not installed; the benchmarks need Node 20 or newer.")
    if not (_NODE / "node_modules" / "bullmq6").exists():
        raise BenchmarkError("The Node packages are missing; run: make setup")
    return [node, str(_NODE / _NODE_WORKERS[name])]
