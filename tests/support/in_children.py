"""Processors that a child process finds, of jobs that tests follow by files."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any


def in_a_child(job: Any) -> str:
    return "done"


def _begin(job: Any) -> bool:
    """Note the run; whether it is the job's first."""
    runs = Path(job.data["folder"], "runs")
    with runs.open("a") as file:
        file.write("run\n")
    return runs.stat().st_size == len("run\n")


def _note(job: Any) -> None:
    Path(job.data["folder"], "stopped").write_text(str(job.stop_reason))


def _is_over(job: Any) -> bool:
    return Path(job.data["folder"], "over").exists()


def loses_its_lock(job: Any) -> str:
    """On the first run go on until the job is stopped, or `over` exists where it is deaf."""
    if not _begin(job):
        return "second"
    try:
        while not _is_over(job) and (job.data["deaf"] or not job.should_stop()):
            time.sleep(0.01)
    finally:
        _note(job)
    return "first"


async def loses_its_lock_async(job: Any) -> str:
    """The same on an event loop."""
    if not _begin(job):
        return "second"
    while not _is_over(job):
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            _note(job)
            if not job.data["deaf"]:
                raise
    _note(job)
    return "first"


def _mark(job: Any, name: str, result: Any = None) -> Any:
    """Note that a step was done; gives its result."""
    with Path(job.data["folder"], "steps").open("a") as file:
        file.write(f"{name}\n")
    return result


def _is_to_fail(job: Any) -> bool:
    """Whether this is the run that does not come to its end."""
    failed = Path(job.data["folder"], "failed")
    if failed.exists():
        return False
    failed.touch()
    return True


def in_steps(job: Any) -> Any:
    """Two steps; the first run fails, or its process dies, between them."""
    first = job.once("first", lambda: _mark(job, "first", {"a": (1, 2)}))
    again = job.once("first", lambda: _mark(job, "never"))
    assert first == again == {"a": [1, 2]}
    if _is_to_fail(job):
        if job.data.get("hang"):
            time.sleep(600)
        raise ValueError("between the steps")
    second = job.once("second", lambda: _mark(job, "second"))
    assert second is None
    return first


async def in_steps_async(job: Any) -> Any:
    """The same with async steps."""

    async def do(name: str, result: Any = None) -> Any:
        await asyncio.sleep(0)
        return _mark(job, name, result)

    first = await job.once("first", lambda: do("first", {"a": (1, 2)}))
    again = await job.once("first", lambda: _mark(job, "never"))
    assert first == again == {"a": [1, 2]}
    if _is_to_fail(job):
        raise ValueError("between the steps")
    second = await job.once("second", lambda: do("second"))
    assert second is None
    return first


async def _nothing() -> None: ...


def in_wrong_steps(job: Any) -> Any:
    """A step as the job's data asks for."""
    kind = job.data["kind"]
    if kind == "large":
        return job.once("step", lambda: _mark(job, "step", "x" * 70_000))
    if kind == "async":
        return job.once("step", _nothing)
    if kind == "object":
        return job.once("step", object)
    return job.once(job.data["name"], lambda: _mark(job, "step"))


async def in_wrong_steps_async(job: Any) -> Any:
    """The same, awaited."""
    kind = job.data["kind"]
    if kind == "large":
        return await job.once("step", lambda: _mark(job, "step", "x" * 70_000))
    if kind == "object":
        return await job.once("step", object)
    return await job.once(job.data["name"], lambda: _mark(job, "step"))
