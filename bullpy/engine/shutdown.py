"""Ends a worker in bounded time: let jobs finish, then hand the others back."""

from __future__ import annotations

import asyncio
import logging

from bullpy.engine.runner import Running
from bullpy.engine.settle import Settler
from bullpy.engine.slots import Slots
from bullpy.types import StopReason

log = logging.getLogger("bullpy.worker")

CANCEL_GRACE = 1.0
"""Seconds that a cancelled processor has for its `finally` blocks."""

RELEASE_TIMEOUT = 3.0
"""Seconds that handing jobs back may take, so that a dead Redis cannot hold the process."""


async def drain(slots: Slots, settler: Settler, *, timeout: float) -> list[str]:
    """Wait for the running jobs, then stop and hand back those that did not finish.

    Locks must be renewed until this returns.

    A processor that is stopped has a second for its `finally` blocks; what it returns by then
    still counts.

    Args:
        slots: Told to stop already.
        settler: Hands the jobs back.
        timeout: Seconds that jobs may take to finish.

    Returns:
        The ids of the jobs that were handed back, or left to the stalled check when Redis
        could not be reached.
    """
    if await _idle(slots, timeout):
        return []
    left = list(slots.running.values())
    ids = [running.job.id for running in left]
    log.warning(
        "%d jobs did not finish in time and are handed back: %s",
        len(left),
        ", ".join(ids),
    )
    for running in left:
        running.stop(StopReason.SHUTDOWN, "the worker is stopping")
    if await _idle(slots, CANCEL_GRACE):
        return ids
    unfinished = [running for running in slots.running.values() if not running.settling]
    for running in unfinished:
        # A late result is discarded from here on: the job is another worker's.
        running.released = True
    await _release(unfinished, settler)
    slots.abandon()
    return ids


async def _release(unfinished: list[Running], settler: Settler) -> None:
    try:
        async with asyncio.timeout(RELEASE_TIMEOUT):
            await asyncio.gather(*(settler.release(running) for running in unfinished))
    except TimeoutError:
        log.error(
            "Redis did not answer in %.1f s; %d jobs return through the stalled check",
            RELEASE_TIMEOUT,
            len(unfinished),
        )


async def _idle(slots: Slots, timeout: float) -> bool:
    try:
        async with asyncio.timeout(timeout):
            await slots.idle()
    except TimeoutError:
        return False
    return True
