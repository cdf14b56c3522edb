"""What the engine does after a lost reply, and for jobs whose worker is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, cast

from bullpy import errors
from bullpy.backend import Backend
from bullpy.engine.calls import Calls
from bullpy.engine.fetched import Fetched
from bullpy.job import Job
from bullpy.settings import WorkerSettings

_CHUNK = 500


class Recovery:
    """Finds out what a command did whose reply was lost.

    Args:
        backend: The queue's keys and connection.
        calls: The queue's script calls.
    """

    def __init__(self, backend: Backend, calls: Calls) -> None:
        self._backend = backend
        self._calls = calls

    async def adopt(self, token: str, asked: Iterable[int] = ()) -> Fetched:
        """The job that a lost reply gave us: the active one whose lock carries our token.

        In an outage that is longer than the lock, it is the one without a lock that was fetched
        under this worker's name at just that time.

        Args:
            token: For the job's lock.
            asked: The times that the calls gave whose replies were lost, in ms since 1970.

        Returns:
            That job; without one, that nothing was fetched.

        Raises:
            errors.RedisError: Redis could not be asked.
        """
        active = await self._active()
        for job_id, lock in active:
            if lock == token:
                return await self._read(job_id, token)
        for job_id in [job_id for job_id, lock in active if lock is None]:
            by, on = await self._backend.ask(
                "HMGET", self._backend.toKey(job_id), "pb", "processedOn"
            )
            ours = any(self._calls.is_fetched(by, on, time) for time in asked)
            if ours and await self._calls.retake(job_id, token):
                return await self._read(job_id, token)
        return Fetched()

    async def locks(self) -> list[tuple[str, str]]:
        """The id of each active job that is locked, and the token that its lock carries.

        The job that was fetched last comes first.

        Raises:
            errors.RedisError: Redis could not be asked.
        """
        return [(job_id, lock) for job_id, lock in await self._active() if lock is not None]

    async def _active(self) -> list[tuple[str, str | None]]:
        """The id of each active job, and the token that its lock carries, if it has one."""
        found: list[tuple[str, str | None]] = []
        active = await self._backend.ask("LRANGE", self._backend.keys["active"], 0, -1)
        for start in range(0, len(active), _CHUNK):
            ids = [cast("bytes", job_id).decode() for job_id in active[start : start + _CHUNK]]
            locks = await self._backend.ask("MGET", *(self._lock_key(job_id) for job_id in ids))
            for job_id, lock in zip(ids, locks, strict=True):
                token = None if lock is None else cast("bytes", lock).decode("utf-8", "replace")
                found.append((job_id, token))
        return found

    async def was_settled(self, job: Job[Any]) -> bool:
        """Whether a command whose reply was lost did finish or move this job.

        Raises:
            errors.RedisError: Redis could not be asked.
        """
        code, _ = await self._backend.scripts.isFinished(job.id)
        if code != 0:
            return True
        # Not finished and not active: it was delayed, put back, or is waiting for children.
        return await self._backend.ask("LPOS", self._backend.keys["active"], job.id) is None

    async def _read(self, job_id: str, token: str) -> Fetched:
        fields = await self._backend.ask("HGETALL", self._backend.toKey(job_id))
        # Extended here: the outage may have used up most of the lock's time.
        if fields and await self._calls.extend(job_id, token):
            return Fetched(True, self._calls.job(fields, job_id, token))
        return Fetched()

    def _lock_key(self, job_id: str) -> str:
        return f"{self._backend.toKey(job_id)}:lock"


class StalledCheck:
    """Puts jobs back whose lock has expired: at the start, then every interval.

    Args:
        calls: The queue's script calls.
        settings: The interval, and how often a job may stall.
        emit: Called with `"stalled"` and the job's id.
        report: Called with errors of Redis; the check goes on.
    """

    def __init__(
        self,
        calls: Calls,
        settings: WorkerSettings,
        emit: Callable[..., None],
        report: Callable[[errors.RedisError], None],
    ) -> None:
        self._calls = calls
        self._settings = settings
        self._emit = emit
        self._report = report

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(self._settings.stalled_interval)

    async def check(self) -> None:
        """Check once. The script itself makes sure that one worker per interval does."""
        settings = self._settings
        await self._calls.clock.measure()
        try:
            stalled = await self._calls.move_stalled(
                settings.max_stalled_count, settings.stalled_interval
            )
        except errors.RedisError as error:
            self._report(error)
            return
        for job_id in stalled:
            self._emit("stalled", job_id)
