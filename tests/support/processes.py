"""Run commands as a user does: real processes, with deadlines, and nothing left behind."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
BULLPY = (sys.executable, "-m", "bullpy")


def environment(**extra: str) -> dict[str, str]:
    """The environment without settings of whoever runs the tests, and with bullpy importable."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("BULLPY_") and name != "REDIS_URL"
    }
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path, "NO_COLOR": "1"} | extra


def run(
    *command: str | Path,
    timeout: float = 30.0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; raises `TimeoutExpired` for one that hangs."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=environment(**(env or {})),
        input=input,
        check=False,
    )


def bullpy(
    *arguments: str | Path,
    timeout: float = 30.0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `bullpy` with these arguments to its end."""
    return run(*BULLPY, *arguments, timeout=timeout, cwd=cwd, env=env)


class Process:
    """A command that keeps running, whose output can be waited for; killed at the end."""

    def __init__(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env=environment(**(env or {})),
            # A group of its own, so that what it started can be ended with it.
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._seen: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """What has been read so far."""
        return "".join(self._seen)

    def wait_for(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """Read on until a line matches; fails with the output when none does in time."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(
                    f"no line matched {pattern!r} in {timeout} s:\n{self.output}"
                ) from None
            if line is None:
                raise AssertionError(f"ended before a line matched {pattern!r}:\n{self.output}")
            self._seen.append(line)
            found = re.search(pattern, line)
            if found:
                return found

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self, timeout: float = 20.0) -> int:
        """Wait for it to end by itself; gives the exit code."""
        code = self._process.wait(timeout)
        self._reader.join(5)
        while not self._lines.empty():
            line = self._lines.get()
            if line is not None:
                self._seen.append(line)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Signal it and wait for its end; gives the exit code."""
        self.send(number)
        return self.end(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


def worker(*arguments: str | Path, cwd: Path | None = None, **env: str) -> Process:
    """Start `bullpy worker` with readable logs."""
    return Process(*BULLPY, "worker", "--log-format", "console", *arguments, cwd=cwd, env=env)
