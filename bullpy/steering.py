"""A worker as those around it see it: what it does now, and how to steer it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bullpy import errors
from bullpy.emitter import SafeEmitter
from bullpy.engine.assembly import Engine
from bullpy.engine.slots import Slots
from bullpy.job import Job
from bullpy.types import StopReason


class Steering(SafeEmitter):
    """The part of a worker that looks into its engine while it runs.

    Attributes:
        paused: Whether it fetches nothing until `resume`.
        closed: Whether it has ended.
    """

    paused: bool
    closed: bool
    _engine: Engine | None

    async def wait_until_ready(self) -> None:
        """Wait until Redis has answered the first fetch, and a job would start at once.

        Raises:
            errors.WorkerCrashedError: The worker ended instead.
        """
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def set_ready(*_: object) -> None:
            if not ready.done():
                ready.set_result(None)

        self.once("ready", set_ready)
        self.once("closed", set_ready)
        if self._engine is not None and self._engine.is_ready:
            set_ready()
        await ready
        if self.closed:
            raise errors.WorkerCrashedError("The worker ended before it was ready.")

    async def pause(self, do_not_wait_active: bool = False) -> None:
        """Fetch no more jobs in this worker; waits for the running ones unless told not to."""
        if self.paused:
            return
        self.paused = True
        if self._slots is not None:
            self._slots.pause()
            if not do_not_wait_active:
                await self._slots.idle()
        self.emit("paused")

    def resume(self) -> None:
        """Fetch again after `pause`."""
        if self.paused:
            self.paused = False
            if self._slots is not None:
                self._slots.resume()
            self.emit("resumed")

    def cancel_job(self, job_id: str, reason: str | None = None) -> bool:
        """Stop one running job, by what its isolation allows.

        In a child process `job.should_stop()` is true, then an exception rises, then the child is
        killed; on the event loop it is cancelled. In a thread it fails at once, while the
        function goes on until it looks at `job.should_stop()`. One that takes upstream's
        `AbortSignal` in the worker's own process ends by that alone.

        Returns:
            Whether the job runs here and has not ended yet.
        """
        running = self._slots.running.get(job_id) if self._slots else None
        return running is not None and running.stop(StopReason.CANCELLED, reason)

    def cancelJob(self, job_id: str, reason: str | None = None) -> bool:
        """Upstream's name for `cancel_job`."""
        return self.cancel_job(job_id, reason)

    def cancelAllJobs(self, reason: str | None = None) -> None:
        """Stop all running jobs; see `cancel_job`."""
        for job_id in list(self._slots.running if self._slots else ()):
            self.cancel_job(job_id, reason)

    @property
    def active_jobs(self) -> list[Job[Any]]:
        """The jobs that run here now."""
        return [running.job for running in self._slots.running.values()] if self._slots else []

    @property
    def loop_lag(self) -> float:
        """Seconds that the event loop took to turn, when it was last asked to."""
        return self._engine.loop_lag if self._engine else 0.0

    @property
    def loop_blocks(self) -> int:
        """How often the event loop was blocked for longer than `loop_warning`."""
        return self._engine.loop_blocks if self._engine else 0

    @property
    def last_fetch_age(self) -> float | None:
        """Seconds since Redis last answered a fetch, None before the first."""
        last = self._slots.last_fetch if self._slots else None
        return None if last is None else time.monotonic() - last

    @property
    def _slots(self) -> Slots | None:
        return self._engine.slots if self._engine else None
