"""Runs one job's processor behind a barrier that nothing passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from bullmq.abort_controller import AbortController

from bullpy import errors, logs
from bullpy.codec import Encoded
from bullpy.executors.base import Executor
from bullpy.executors.inline import InlineExecutor
from bullpy.executors.ladder import exceeded
from bullpy.executors.process import ProcessExecutor
from bullpy.executors.thread import ThreadExecutor
from bullpy.hooks import Hooks
from bullpy.job import Job
from bullpy.processors import Processor, ProcessorTable
from bullpy.settings import WorkerSettings
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
            Whether it has not ended yet.
        """
        if self.job.request_stop(reason, text):
            # Its executor ends it.
            return True
        if self.controller is not None:
            self.controller.abort(text or str(reason))
            return True
        if self.task is not None and not self.settling:
            self.task.cancel()
            return True
        return self.task is None and not self.settling


class Runner:
    """Calls the processor for a job, with payload, middleware, limits and executor.

    Args:
        table: The worker's processors, prepared.
        hooks: Its middleware.
        queue_name: For the log context.
        settings: How children are kept, and how long a stopped processor has.
        size: How many jobs may run at a time now.
    """

    def __init__(
        self,
        table: ProcessorTable,
        hooks: Hooks,
        queue_name: str,
        settings: WorkerSettings,
        size: Callable[[], int],
    ) -> None:
        self._table = table
        self._queue_name = queue_name
        self._grace = settings.stop_grace
        executors: dict[Isolation, Executor] = {
            Isolation.LOOP: InlineExecutor(),
            Isolation.THREAD: ThreadExecutor(),
        }
        isolated = table.isolated(Isolation.PROCESS)
        if isolated:
            executors[Isolation.PROCESS] = ProcessExecutor(
                isolated, settings, size, queue_name, keep_raw=not hooks.middlewares
            )
        self._executors = executors
        # Middleware looks at the result, which a child gives as JSON.
        self._around = hooks.around(self._decoded) if hooks.middlewares else None

    async def start(self) -> None:
        """Start what has to be there before the first job.

        Raises:
            errors.ProcessorError: A module that is to be preloaded cannot be.
        """
        for executor in self._executors.values():
            await executor.start()

    async def ready(self) -> None:
        """Wait until a job that comes now starts at once."""
        for executor in self._executors.values():
            await executor.ready()

    def find(self, job: Job[Any]) -> Processor | None:
        """The processor for this job, if there is one."""
        return self._table.find(job.name)

    async def run(self, running: Running, processor: Processor) -> Outcome:
        """Run the job to its end. Raises nothing but the cancellation of the caller."""
        if processor.wants_signal and processor.isolation is not Isolation.PROCESS:
            running.controller = AbortController()
            running.job.signal = running.controller.signal
        # Not `asyncio.create_task`: twice the calls, on the path of every job.
        loop = asyncio.get_running_loop()
        running.task = loop.create_task(self._guarded(running, processor))
        timers = self._watch_time(running, processor)
        try:
            outcome = await running.task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            # Stopped before its first step, so that not even `_guarded` saw it.
            outcome = Outcome(error=_stopped(running.job))
        finally:
            running.settling = True
            for timer in timers:
                timer.cancel()
        return _judged(running, processor, outcome)

    async def close(self) -> None:
        """Let idle threads and child processes go."""
        for executor in self._executors.values():
            await executor.close()

    def _watch_time(self, running: Running, processor: Processor) -> list[asyncio.TimerHandle]:
        """Watch the timeout of a processor in the worker's own process."""
        timeout = processor.limits.timeout
        if timeout is None or processor.isolation is Isolation.PROCESS:
            return []
        task, loop = running.task, asyncio.get_running_loop()
        assert task is not None
        # A thread, and what takes a signal, can end by itself; then nobody waits for it longer.
        ask = running.job.request_stop if processor.isolation is Isolation.THREAD else running.stop
        return [
            loop.call_later(timeout, ask, StopReason.TIMEOUT, "timeout"),
            loop.call_later(timeout + self._grace, task.cancel),
        ]

    async def _guarded(self, running: Running, processor: Processor) -> Outcome:
        job = running.job
        try:
            # The task is this job's own, so its context needs no leaving.
            logs.enter_job(self._queue_name, job.id, job.name)
            if job.should_stop():
                return Outcome(error=_stopped(job))
            if processor.isolation is not Isolation.PROCESS:
                processor.load_payload(job)
            if self._around is not None:
                return Outcome(await self._around(job))
            return Outcome(await self._execute(job, processor))
        except asyncio.CancelledError as cancelled:
            if job.stop_reason is None:
                # Nobody asked: the processor awaited something that was cancelled.
                return Outcome(error=cancelled)
            return Outcome(error=_stopped(job))
        except BaseException as error:  # noqa: BLE001 - the barrier: one job, never the worker
            return Outcome(error=error)

    def _execute(self, job: Job[Any], processor: Processor) -> Coroutine[Any, Any, Any]:
        args: tuple[Any, ...] = ()
        if processor.wants_signal:
            args = (job.token, job.signal)
        elif processor.arguments > 1:
            args = (job.token,)
        return self._executors[processor.isolation].run(processor, job, args)

    async def _decoded(self, job: Job[Any]) -> Any:
        processor = self._table.find(job.name)
        assert processor is not None
        result = await self._execute(job, processor)
        return result.value if isinstance(result, Encoded) else result


BARRIER = Runner._guarded.__code__  # pyright: ignore[reportPrivateUsage]
"""The code of the frame in whose local `job` a stack tells for which job it is."""


def _judged(running: Running, processor: Processor, outcome: Outcome) -> Outcome:
    """What the outcome of a job is that was stopped, whatever its processor made of it."""
    job = running.job
    reason = job.stop_reason
    if reason is None:
        return outcome
    if reason.is_limit and not isinstance(outcome.error, errors.JobLimitError):
        error = exceeded(reason, processor.limits, seconds=time.monotonic() - running.since)
        return Outcome(error=error or outcome.error)
    if reason is StopReason.CANCELLED and outcome.error is not None and running.controller is None:
        text = f": {job.stop_text}" if job.stop_text else ""
        error = errors.JobCancelledError(f"The job was cancelled{text}.")
        error.trace = getattr(outcome.error, "trace", None)
        return Outcome(error=error)
    return outcome


def _stopped(job: Job[Any]) -> errors.JobCancelledError:
    return errors.JobCancelledError(f"The job was stopped: {job.stop_reason}.")
