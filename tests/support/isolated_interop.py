"""Processors in child processes whose jobs, children and listeners are in Node."""

from __future__ import annotations

import asyncio
from typing import Any

from bullpy import Queue, WaitForChildren


def fails_deeply(job: Any) -> None:
    try:
        _open(job.data["file"])
    except KeyError as missing:
        raise RuntimeError(f"no such track: {job.data['file']} ü 🚀") from missing


def _open(name: str) -> None:
    raise KeyError(name)


def collect(job: Any) -> Any:
    return sorted(job.get_children_values().values())


def add_a_child_and_wait(job: Any) -> Any:
    values = job.get_children_values()
    if not values:
        asyncio.run(_add_child(job))
        raise WaitForChildren
    return list(values.values())


async def _add_child(job: Any) -> None:
    async with Queue(job.data["queue"], redis=job.data["redis"]) as queue:
        parent = {"id": job.id, "queue": job.queueQualifiedName}
        await queue.add("child", {"n": 21}, parent=parent)


def tell(job: Any) -> str:
    job.update_progress({"step": 1})
    job.log("from the child ü")
    job.update_data({"seen": True})
    return "日本語 \x00 end"


def wait_for_a_stop(job: Any) -> None:
    job.log("waiting")
    while not job.should_stop():
        pass
    raise RuntimeError("told to stop")
