"""The file in which each run of a job leaves its start and its end, whatever kills it.

Lines of JSON, each written with one call to a file that is open for appending, so that processes
do not mix them up. Times are the machine's clock, which Redis reads too.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH_VARIABLE = "TORTURE_LEDGER"
WORKER_VARIABLE = "TORTURE_WORKER"
"""The id of the worker process, which its children inherit."""

_numbers = itertools.count(1)


class PlannedError(Exception):
    """What a job raises because its payload says so."""


@dataclass(slots=True)
class Run:
    """One run of a job.

    Attributes:
        job: The job's id.
        number: Tells runs apart.
        worker: Process id of the worker.
        process: Where the processor ran: the worker, or a child of it.
        attempts_made: What the job knew of earlier attempts.
        start: When it began.
        end: When it came to its end; None if it never did.
        error: `Type: message` if it raised.
        planned: It raised because its payload says so.
    """

    job: str
    number: str
    worker: int
    process: int
    attempts_made: int
    start: float
    end: float | None = None
    error: str | None = None
    planned: bool = False

    @property
    def finished(self) -> bool:
        """Whether the work was done."""
        return self.end is not None and self.error is None


def note(event: str, **fields: object) -> None:
    """Write a line, from whichever process."""
    line = json.dumps({"event": event, "at": time.time(), "pid": os.getpid(), **fields})
    descriptor = os.open(os.environ[PATH_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


@contextmanager
def run_of(job: Any) -> Generator[None]:
    """Record the run of a job around its work."""
    number = f"{os.getpid()}-{next(_numbers)}"
    note(
        "start",
        job=job.id,
        run=number,
        worker=int(os.environ[WORKER_VARIABLE]),
        attempts_made=job.attemptsMade,
    )
    try:
        yield
    except BaseException as error:
        planned = isinstance(error, PlannedError)
        note("raise", run=number, error=f"{type(error).__name__}: {error}"[:200], planned=planned)
        raise
    note("end", run=number)


class Reader:
    """Follows the file as it grows.

    Attributes:
        runs: All runs so far, in the order of their starts.
        ready: When each worker process said that it is ready, by process id.
    """

    def __init__(self, path: Path) -> None:
        self.runs: list[Run] = []
        self.ready: dict[int, float] = {}
        self._by_number: dict[str, Run] = {}
        self._path = path
        self._offset = 0

    def read(self) -> None:
        """Take in what has been written since."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.take(json.loads(line) for line in whole.splitlines())

    def take(self, lines: Iterable[dict[str, Any]]) -> None:
        """Take in these lines."""
        for line in lines:
            match line["event"]:
                case "ready":
                    self.ready[line["pid"]] = line["at"]
                case "start":
                    run = Run(
                        *(line["job"], line["run"], line["worker"], line["pid"]),
                        *(line["attempts_made"], line["at"]),
                    )
                    self.runs.append(run)
                    self._by_number[run.number] = run
                case _:
                    run = self._by_number[line["run"]]
                    run.end = line["at"]
                    run.error, run.planned = line.get("error"), line.get("planned", False)

    def open_runs(self) -> list[Run]:
        """Runs that have not come to their end."""
        return [run for run in self.runs if run.end is None]
