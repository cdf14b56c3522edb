"""Watching workers from outside while things break."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from bullpy import Worker

ROOT = Path(__file__).resolve().parents[2]


class Ledger:
    """What happened to the jobs of some workers: starts, ends, events.

    Attributes:
        started: Executions begun, by job id.
        ended: Executions that came to their end, by job id.
        completed: `completed` events, by job id.
        failed: The errors of `failed` events, by job id.
        stalled: Ids of `stalled` events.
        errors: `error` events, as (monotonic time, error).
    """

    def __init__(self, *workers: Worker) -> None:
        self.started: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.completed: Counter[str] = Counter()
        self.failed: dict[str, list[BaseException]] = {}
        self.stalled: list[str] = []
        self.errors: list[tuple[float, BaseException]] = []
        self.first_start: float | None = None
        self._changed = asyncio.Event()
        for worker in workers:
            self.watch(worker)

    def watch(self, worker: Worker) -> Worker:
        worker.on("completed", self._on_completed)
        worker.on("failed", self._on_failed)
        worker.on("stalled", self._on_stalled)
        worker.on("error", self._on_error)
        return worker

    def processor(self, work: float | Callable[[Any], Awaitable[Any]] = 0.0) -> Any:
        """A processor that takes `work` seconds, or does it, and is counted."""

        async def process(job: Any) -> Any:
            self.begin(job.id)
            result = await work(job) if callable(work) else await asyncio.sleep(work, job.id)
            self.end(job.id)
            return result

        return process

    def begin(self, job_id: str) -> None:
        if self.first_start is None:
            self.first_start = time.monotonic()
        self.started[job_id] += 1
        self._changed.set()

    def end(self, job_id: str) -> None:
        self.ended[job_id] += 1
        self._changed.set()

    async def until(self, condition: Callable[[], Any], timeout: float) -> None:
        """Wait until something that this ledger sees makes the condition true."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not within {timeout} s: {self}") from None

    async def until_completed(self, count: int, timeout: float) -> None:
        await self.until(lambda: len(self.completed) >= count, timeout)

    def _on_completed(self, job: Any, _result: Any = None, *_: Any) -> None:
        self.completed[job.id] += 1
        self._changed.set()

    def _on_failed(self, job: Any, error: BaseException, *_: Any) -> None:
        self.failed.setdefault(job.id, []).append(error)
        self._changed.set()

    def _on_stalled(self, job_id: str, *_: Any) -> None:
        self.stalled.append(job_id)
        self._changed.set()

    def _on_error(self, error: BaseException, *_: Any) -> None:
        self.errors.append((time.monotonic(), error))
        self._changed.set()

    def __str__(self) -> str:
        return (
            f"{len(self.started)} started, {len(self.completed)} completed, failed {self.failed}, "
            f"stalled {self.stalled}, errors {[str(error) for _, error in self.errors[-5:]]}"
        )


def outage_lines(caplog: pytest.LogCaptureFixture, url: str) -> list[str]:
    """What bullpy warned of, but for what it said about other servers than that."""
    told = [
        record
        for record in caplog.records
        if record.name.startswith("bullpy") and record.levelno >= logging.WARNING
    ]
    return [record.getMessage() for record in told if getattr(record, "redis", url) == url]


class Program:
    """A Python program of its own: waits for its lines, sends it signals, ends it."""

    def __init__(self, source: str, **environment: str) -> None:
        self.lines: list[str] = []
        self._source = textwrap.dedent(source)
        self._environment = environment
        self._changed = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-u",
            "-c",
            self._source,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self._environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._reader is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def says(self, text: str, timeout: float = 20.0) -> str:
        """Wait until it has printed a line that contains the text."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    self._changed.clear()
                    for line in self.lines:
                        if text in line:
                            return line
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {text!r} within {timeout} s in:\n{self.output}") from None

    async def ends(self, timeout: float) -> int:
        """Wait until it has ended, and its output is read; gives the exit code."""
        assert self._process is not None
        assert self._reader is not None
        try:
            async with asyncio.timeout(timeout):
                code = await self._process.wait()
                await asyncio.shield(self._reader)
                return code
        except TimeoutError:
            raise AssertionError(f"still runs after {timeout} s:\n{self.output}") from None

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip())
            self._changed.set()


async def eventually(
    condition: Callable[[], Awaitable[Any]], timeout: float, every: float = 0.02
) -> Any:
    """Ask again and again until the answer is true; for state that sends no event."""
    answer: Any = None
    try:
        async with asyncio.timeout(timeout):
            while not (answer := await condition()):  # noqa: ASYNC110 - Redis tells nobody
                await asyncio.sleep(every)
    except TimeoutError:
        raise AssertionError(f"not within {timeout} s; the last answer was {answer!r}") from None
    return answer
