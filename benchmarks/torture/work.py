"""The processors. What a job does stands in its data; see `plan`."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import time
from typing import Any

from benchmarks.torture.ledger import PlannedError, run_of

HANG_TIMEOUT = 1.0
"""Seconds that a job may take which hangs."""


async def plain(job: Any) -> dict[str, Any]:
    """On the worker's event loop."""
    with run_of(job):
        await asyncio.sleep(job.data["work"])
        return _result(job)


def isolated(job: Any) -> dict[str, Any]:
    """In a child process, where it waits."""
    with run_of(job):
        time.sleep(job.data["work"])
        return _result(job)


def crunch(job: Any) -> dict[str, Any]:
    """In a child process, where it keeps a core busy."""
    with run_of(job):
        until = time.monotonic() + job.data["work"]
        while time.monotonic() < until:
            sum(range(1000))
        return _result(job)


async def gather(job: Any) -> dict[str, Any]:
    """A parent: gives what its children gave."""
    with run_of(job):
        values = await job.get_children_values()
        return _result(job) | {"children": sorted(value["id"] for value in values.values())}


def gather_isolated(job: Any) -> dict[str, Any]:
    """The same in a child process."""
    with run_of(job):
        values = job.get_children_values()
        return _result(job) | {"children": sorted(value["id"] for value in values.values())}


def segfault(job: Any) -> None:
    """Kills its child process."""
    with run_of(job):
        ctypes.string_at(0)


def hang(job: Any) -> None:
    """Goes on for ever; some do not even listen to exceptions."""
    with run_of(job):
        while True:
            with contextlib.suppress(BaseException if job.data["deaf"] else ()):
                time.sleep(60)


async def hang_on_loop(job: Any) -> None:
    """Waits for ever on the worker's event loop."""
    with run_of(job):
        await asyncio.sleep(3600)


def _result(job: Any) -> dict[str, Any]:
    if job.attemptsMade < job.data["fails"]:
        raise PlannedError(f"attempt {job.attemptsMade}")
    return {"id": job.id}
