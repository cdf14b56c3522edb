"""The log of repairs: who did what to a queue, and when, kept beside the queue.

Each repair that changes something leaves two entries in a stream: one before its first change, so
that a repair that was cut off is seen, and one with what it did.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import secrets
import socket
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

import bullpy
from bullpy import codec, errors
from bullpy.backend import Backend

if TYPE_CHECKING:
    from bullpy.queue import Queue
    from bullpy.repairs.common import Report

_log = logging.getLogger("bullpy.repair")

KEPT = 1000
"""Entries that the log keeps, roughly: two for each repair."""

IDS = 100
"""Ids that an entry keeps of each kind."""

ID_LENGTH = 200
"""Characters that it keeps of an id."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A repair, as the log tells of it.

    Attributes:
        run: Its id.
        repair: Which: `resume`, `orphans`, ...
        who: User, machine and process.
        started: When, in ms since 1970 by Redis's clock.
        ended: When it ended; None if it still runs, or was cut off.
        outcome: `done`, `failed`, or `unfinished`.
        report: What it did: the fields of its report, with the first 100 ids of each kind.
        error: Why it failed; empty if it did not.
    """

    run: str
    repair: str
    who: str
    started: int
    ended: int | None = None
    outcome: str = "unfinished"
    report: dict[str, Any] = field(default_factory=dict[str, Any])
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def log_key(prefix: str, queue: str) -> str:
    """The log's key: outside the queue's own, whose names may be ids, and on the same node."""
    return f"bullpy:{prefix}:{queue}:repairs"


async def read_log(queue: Queue, *, limit: int = 20) -> list[LogEntry]:
    """The last repairs of a queue, the newest first.

    Args:
        queue: The queue.
        limit: How many, 1 or more.

    Raises:
        errors.RedisError: Redis could not be asked, or refused.
    """
    backend = queue.backend
    key = log_key(backend.prefix, backend.name)
    # The entries of two repairs at a time may mix, but hardly of more than twice as many.
    reply = await backend.ask("XREVRANGE", key, "+", "-", "COUNT", min(limit * 4, 2 * KEPT))
    found: dict[str, LogEntry] = {}
    for entry_id, fields in reversed(cast("list[Any]", reply)):
        at = int(cast("bytes", entry_id).partition(b"-")[0])
        texts = [cast("bytes", each).decode("utf-8", "replace") for each in fields]
        entry = _read(found, at, dict(zip(texts[::2], texts[1::2], strict=True)))
        found[entry.run] = entry
    return list(reversed(found.values()))[:limit]


def _read(found: dict[str, LogEntry], at: int, fields: dict[str, str]) -> LogEntry:
    run, step = fields.get("run", ""), fields.get("step", "")
    begun = found.get(run)
    started = begun.started if begun is not None else at
    report: object = {}
    with contextlib.suppress(ValueError):
        report = codec.loads(fields.get("report") or "{}")
    return LogEntry(
        run,
        fields.get("repair", ""),
        fields.get("who", ""),
        started,
        None if step == "began" else at,
        "unfinished" if step == "began" else step,
        cast("dict[str, Any]", report) if isinstance(report, dict) else {},
        fields.get("error", ""),
    )


class Entry:
    """What one repair writes to the log; made by `kept`."""

    def __init__(self, backend: Backend, report: Report) -> None:
        self._backend = backend
        self._report = report
        self._run = secrets.token_hex(6)

    async def begin(self) -> None:
        """Write that the repair begins; before its first change. Again is fine."""
        if self._report.dry_run or self._report.run or self._report.log_error:
            return
        try:
            await self._add("began", {})
        except errors.RedisUnavailableError:
            raise
        except errors.RedisError as error:
            # Somebody who may repair the queue is not kept from it by a key that they may not use.
            self._report.log_error = error.message
            _log.warning("the repair is not written to the log: %s", error.message)
            return
        self._report.run = self._run

    async def end(self, error: errors.BullpyError | None = None) -> None:
        """Write what was done, if anything was begun."""
        if not self._report.run:
            return
        told: dict[str, Any] = {"report": codec.dumps(_bounded(self._report.for_log()))}
        if error is not None:
            told["error"] = error.message[:500]
        await self._add("failed" if error is not None else "done", told)

    async def _add(self, step: str, more: dict[str, Any]) -> None:
        fields = {"run": self._run, "step": step, "repair": self._report.NAME, "who": who()}
        words = [word for pair in (fields | more).items() for word in pair]
        key = log_key(self._backend.prefix, self._backend.name)
        command = ("XADD", key, "MAXLEN", "~", str(KEPT), "*", *words)
        try:
            await self._backend.ask(*command)
        except errors.ReplyLostError:
            # Twice is harmless: entries of one run count as one.
            await self._backend.ask(*command)


@contextlib.asynccontextmanager
async def kept(backend: Backend, report: Report) -> AsyncGenerator[Entry]:
    """Keep what happens inside in the log, once `begin` was called on what this gives.

    Raises:
        errors.RedisError: The end could not be written; the repair was done nevertheless.
    """
    entry = Entry(backend, report)
    try:
        yield entry
    except errors.BullpyError as error:
        # What went wrong is told, rather than that it could not be written down too.
        with contextlib.suppress(errors.RedisError):
            await entry.end(error)
        raise
    await entry.end()


def who() -> str:
    """Who repairs: user, machine, process and version."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number without a name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} pid {os.getpid()} bullpy {bullpy.__version__}"


def _bounded(report: dict[str, Any]) -> dict[str, Any]:
    """The report with few and short ids; what is left out is counted."""
    kept: dict[str, Any] = {}
    for name, value in report.items():
        if isinstance(value, list):
            values = cast("list[Any]", value)
            kept[name] = [_short(each) for each in values[:IDS]]
            if len(values) > IDS:
                kept[f"{name}_left_out"] = len(values) - IDS
        else:
            kept[name] = value
    return kept


def _short(value: object) -> object:
    return value[:ID_LENGTH] if isinstance(value, str) else value
