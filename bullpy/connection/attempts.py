"""Attempts to connect: beside one that hears nothing, a fresh one is made again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from bullpy import errors
from bullpy.connection import sockets

FRESH_EACH = 2.0
"""Seconds after which a fresh attempt takes the place of the last one."""

Opened = TypeVar("Opened")


async def first_of(
    attempt: Callable[[], Coroutine[Any, Any, Opened]],
    discard: Callable[[Opened], Awaitable[None]],
) -> Opened:
    """What the first attempt gives that comes to an end.

    What was sent into a black hole is lost, also when the hole ends: the first attempt may wait
    for its time-out then, or for the kernel, which sends again after 1, 3, 7, 15 s. A shorter
    time-out would never reach a server that is merely slow. So the first one keeps its time, and
    a second beside it, at most one, is replaced every 2 s. The second does not end the first
    by finding nobody.

    Args:
        attempt: Makes one.
        discard: Ends what a late one still gave.

    Raises:
        Exception: What an attempt that came to an end raised.
    """
    patient = asyncio.create_task(attempt())
    fresh: asyncio.Task[Opened] | None = None
    kept: asyncio.Task[Opened] | None = None
    try:
        while True:
            running = {patient} if fresh is None else {patient, fresh}
            done, _ = await asyncio.wait(
                running, timeout=FRESH_EACH, return_when=asyncio.FIRST_COMPLETED
            )
            if fresh is not None and done == {fresh} and _is_away(fresh):
                # Refused, while the first one may only be slow.
                fresh = None
                continue
            if done:
                kept = min(done, key=_has_failed)
                return kept.result()
            if fresh is not None:
                await _give_up([fresh], discard)
            fresh = asyncio.create_task(attempt())
    finally:
        left = [task for task in (patient, fresh) if task is not None and task is not kept]
        try:
            await _give_up(left, discard)
        except asyncio.CancelledError:
            if kept is not None and not _has_failed(kept):
                await discard(kept.result())
            raise


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None


def _is_away(task: asyncio.Task[Any]) -> bool:
    return not task.cancelled() and isinstance(task.exception(), errors.RedisUnavailableError)


async def _give_up(
    tasks: list[asyncio.Task[Opened]], discard: Callable[[Opened], Awaitable[None]]
) -> None:
    """End attempts, and what they may have opened."""
    await sockets.end(*tasks)
    for task in tasks:
        if not _has_failed(task):
            await discard(task.result())
