"""The processes of a run: four workers that are started again when they end, and two producers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.harness import ROOT, BenchmarkError, clean_environment
from benchmarks.torture import ledger, program
from benchmarks.torture.faults import Deeds

STARTING = 5.0
"""Seconds in which a worker process may not have its signal handlers yet."""

LONGEST_STOP = program.SHUTDOWN_TIMEOUT + 8.0
"""Seconds after SIGTERM until a worker process must have ended: `shutdown_timeout`, the grace of
processors, Redis being away, and a busy machine."""

RESTART_PAUSE = 0.2


@dataclass(slots=True)
class Exit:
    """The end of a worker process.

    Attributes:
        worker: Its process id.
        at: When.
        code: Its exit code; negative for a signal.
        asked: The signal that the controller sent it, None if it ended by itself.
        age: Seconds that it lived.
        took: Seconds from SIGTERM to its end.
    """

    worker: int
    at: float
    code: int
    asked: str | None
    age: float
    took: float | None = None


class WorkerSlot:
    """One of the worker processes, and its successors.

    Attributes:
        number: Which one.
        is_disturbed: The controller is doing something to it.
    """

    def __init__(self, number: int, folder: Path, url: str, deeds: Deeds) -> None:
        self.number = number
        self.is_disturbed = False
        self.exits: list[Exit] = []
        self._folder = folder
        self._url = url
        self._deeds = deeds
        self._process: asyncio.subprocess.Process | None = None
        self._born = 0.0
        self._asked: tuple[str, float] | None = None
        self._closing = False
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Of the process that lives now, or lived last."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process, and its successors whenever it ends."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; SIGKILL and SIGTERM are remembered as the reason of its end."""
        if not self.is_alive:
            return
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._asked = (number.name, time.time())
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def ended(self, pid: int, timeout: float) -> bool:
        """Wait until that process has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.pid == pid and self.is_alive:
                    self._changed.clear()
                    await self._changed.wait()
        return self.pid != pid or not self.is_alive

    async def stop(self) -> None:
        """Let the process end in order, without a successor."""
        self._closing = True
        self.signal(signal.SIGTERM)
        if self.is_alive and not await self.ended(self.pid, LONGEST_STOP):
            self.kill()
        if self._keeper is not None:
            await asyncio.gather(self._keeper, return_exceptions=True)

    def kill(self) -> None:
        """End it and its children at once."""
        self._closing = True
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def _spawn(self) -> None:
        with (self._folder / f"worker-{self.number}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.torture.program"),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={
                    **clean_environment(),
                    "TORTURE_URL": self._url,
                    ledger.PATH_VARIABLE: str(self._folder / "ledger"),
                },
                start_new_session=True,
            )
        self._born = time.time()
        self._asked = None

    async def _keep(self) -> None:
        while True:
            assert self._process is not None
            code = await self._process.wait()
            asked, since = self._asked or (None, None)
            now = time.time()
            took = now - since if since is not None and asked == "SIGTERM" else None
            self.exits.append(Exit(self.pid, now, code, asked, now - self._born, took))
            self._deeds.note("worker-ended", worker=self.pid, note=f"code {code}, asked {asked}")
            self._changed.set()
            if self._closing:
                return
            await asyncio.sleep(RESTART_PAUSE)
            if self._closing:
                return
            await self._spawn()
            self._deeds.note("worker-started", worker=self.pid, note=f"slot {self.number}")


class ProducerProcess:
    """A process that adds its part of the plan, and pauses and resumes when told."""

    def __init__(self, name: str, command: Sequence[str], errors: Path) -> None:
        self.name = name
        self._command = command
        self._errors = errors
        self._file: IO[bytes] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._number = 0

    async def start(self) -> None:
        """Start the process."""
        self._file = self._errors.open("ab")
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._file,
            cwd=ROOT,
            env=clean_environment(),
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read())

    async def ask(self, operation: str, timeout: float) -> bool:
        """Let it do something; gives whether it was done in time.

        Raises:
            BenchmarkError: The process has ended.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        self._number += 1
        number = self._number
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        request: dict[str, Any] = {"id": number, "op": operation}
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            await self._process.stdin.drain()
            async with asyncio.timeout(timeout):
                await answer
        except TimeoutError:
            return False
        except ConnectionError as error:
            raise self._ended() from error
        finally:
            self._answers.pop(number, None)
        return True

    async def stop(self) -> None:
        """End it: it listens to the end of its stdin."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3.0):
                await process.wait()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._file is not None:
            self._file.close()

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            answer = self._answers.get(json.loads(line)["id"])
            if answer is not None and not answer.done():
                answer.set_result(None)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._ended())

    def _ended(self) -> BenchmarkError:
        tail = self._errors.read_text(errors="replace")[-1500:]
        return BenchmarkError(f"The {self.name} producer has ended.\n{tail}")
