"""Jobs of a worker process that has died: handed back at once, by a process beside it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from bullpy import errors
from bullpy.backend import Backend
from bullpy.connection.pipelining import retry_pause
from bullpy.engine.calls import Calls
from bullpy.engine.recovery import Recovery
from bullpy.jobhash import DEATHS_FIELD
from bullpy.ownscripts import COUNT_DEATH
from bullpy.settings import WorkerSettings

SECOND_LOOK = 1.0
"""Seconds after which it looks again: the last fetch of a dead process may be on its way still."""

MARGIN = 5.0
"""Seconds beyond the lock's duration until it gives up; the stalled check has the jobs by then."""

log = logging.getLogger("bullpy.worker")


class Orphans:
    """Hands back the jobs of workers that are dead, without a stall and without an attempt.

    The stalled check would do so after the lock's duration and its own interval.

    Args:
        backend: The queue's keys and connection.
        calls: The queue's script calls.
        settings: The lock's duration, and how often a job may lose its worker.
    """

    def __init__(self, backend: Backend, calls: Calls, settings: WorkerSettings) -> None:
        self._backend = backend
        self._calls = calls
        self._recovery = Recovery(backend, calls)
        self._settings = settings

    async def release(self, worker_ids: Iterable[str]) -> list[str]:
        """Put their jobs back to the front of the queue.

        Only jobs whose lock carries a token of those workers are touched, each with exactly that
        token. While Redis is away it waits, as long as such locks can last.

        Returns:
            The ids of the jobs.
        """
        prefixes = tuple(f"{worker_id}:" for worker_id in worker_ids)
        deadline = time.monotonic() + self._settings.lock_duration + MARGIN
        released: list[str] = []
        failures = looks = 0
        while looks < 2 and time.monotonic() < deadline:
            try:
                await self._look(prefixes, released)
            except errors.RedisError as error:
                log.warning(
                    "cannot release the jobs of a dead worker process: %s",
                    error,
                    extra={"queue": self._backend.name, "code": error.code},
                )
                failures += 1
                await asyncio.sleep(retry_pause(failures, 0.05, 1.0))
                continue
            looks += 1
            if looks == 1:
                await asyncio.sleep(SECOND_LOOK)
        return released

    async def _look(self, prefixes: tuple[str, ...], released: list[str]) -> None:
        found = [
            (job_id, token)
            for job_id, token in await self._recovery.locks()
            if token.startswith(prefixes)
        ]
        before = len(released)
        for job_id, token in found:
            try:
                await self._give_back(job_id, token)
            except errors.JobError as gone:
                # Removed, or its lock has run out: the stalled check has it.
                log.debug("job %s is not released: %s", job_id, gone)
            else:
                released.append(job_id)
        if len(released) > before:
            log.warning(
                "released %d jobs of a dead worker process: %s",
                len(released) - before,
                ", ".join(released[before:]),
                extra={"queue": self._backend.name},
            )

    async def _give_back(self, job_id: str, token: str) -> None:
        limit = self._settings.max_stalled_count
        await COUNT_DEATH(
            *(self._backend, job_id, token, DEATHS_FIELD, limit),
            f"job lost its worker process more than {limit} times",
        )
        await self._calls.put_back(job_id, token)
