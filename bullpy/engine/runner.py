"""Runs one job's processor behind a barrier that nothing passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bullmq.abort_controller import AbortController

from bullpy import errors, logs
from bullpy.executors.base import Executor
from bullpy.executors.inline import InlineExecutor
from bullpy.executors.thread import ThreadExecutor
from bullpy.hooks import Hooks
from bullpy.job import Job
from bullpy.processors import Processor, ProcessorTable
from bullpy.types import Isolation, StopReason


@dataclass(slots=True)
class Outcome:
    """How a processor ended: with a result, or with an exception."""

    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class Running:
    """A job that this worker holds.

    Attributes:
        job: The job.
        since: When it was taken, on the monotonic clock.
        task: The task of its processor, None before it starts.
        controller: Behind upstream's `AbortSignal`, if the processor takes one.
        settling: Its processor has ended and the outcome is being stored.
        released: It was handed back; whatever its processor still does is discarded.
    """

    job: Job[Any]
    since: float = field(default_factory=time.monotonic)
    task: asyncio.Task[Outcome] | None = None
    controller: AbortController | None = None
    settling: bool = False
    released: bool = False

    def stop(self, reason: StopReason, text: str | None = None) -> bool:
        """Ask the processor to end.

        Returns:
            Whether it hears of it at once; a processor in a thread has to look at
            `job.should_stop()`.
        """
        self.job.request_stop(reason)
        if self.controller is not None:
            self.controller.abort(text or str(reason))
            return True
        if self.task is not None and not self.settling:
            self.task.cancel()
            return True
        return self.task is None and not self.settling


class Runner:
    """Calls the processor for a job, with payload, middleware and executor.

    Args:
        table: The worker's processors.
        hooks: Its middleware.
        queue_name: For the log context.
    """

    def __init__(self, table: ProcessorTable, hooks: Hooks, queue_name: str) -> None:
        self._table = table
        self._queue_name = queue_name
        self._executors: Mapping[Isolation, Executor] = {
            Isolation.LOOP: InlineExecutor(),
            Isolation.THREAD: ThreadExecutor(),
        }
        self._call = hooks.around(self._execute)

    def find(self, job: Job[Any]) -> Processor | None:
        """The processor for this job, if there is one."""
        return self._table.find(job.name)

    async def run(self, running: Running, processor: Processor) -> Outcome:
        """Run the job to its end. Raises nothing but the cancellation of the caller."""
        if processor.wants_signal:
            running.controller = AbortController()
            running.job.signal = running.controller.signal
        running.task = asyncio.create_task(self._guarded(running, processor))
        try:
            return await running.task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            # Stopped before its first step, so that not even `_guarded` saw it.
            return Outcome(error=_stopped(running.job))
        finally:
            running.settling = True

    def close(self) -> None:
        """Let the executors' idle threads go."""
        for executor in self._executors.values():
            executor.close()

    async def _guarded(self, running: Running, processor: Processor) -> Outcome:
        job = running.job
        try:
            # The task is this job's own, so its context needs no leaving.
            logs.enter_job(self._queue_name, job.id, job.name)
            if job.should_stop():
                return Outcome(error=_stopped(job))
            processor.load_payload(job)
            return Outcome(await self._call(job))
        except asyncio.CancelledError as cancelled:
            if job.stop_reason is None:
                # Nobody asked: the processor awaited something that was cancelled.
                return Outcome(error=cancelled)
            return Outcome(error=_stopped(job))
        except BaseException as error:  # noqa: BLE001 - the barrier: one job, never the worker
            return Outcome(error=error)

    async def _execute(self, job: Job[Any]) -> Any:
        processor = self._table.find(job.name)
        assert processor is not None
        args: tuple[Any, ...] = ()
        if processor.arguments > 1:
            args = (job.token,)
        if processor.wants_signal:
            args = (job.token, job.signal)
        return await self._executors[processor.isolation].run(processor, job, args)


def _stopped(job: Job[Any]) -> errors.JobCancelledError:
    return errors.JobCancelledError(f"The job was stopped: {job.stop_reason}.")
