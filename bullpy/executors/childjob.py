"""The job as a processor in a child process sees it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from bullpy import errors, steps
from bullpy.jobfields import JobFields
from bullpy.types import JobSnapshot, JobState

T = TypeVar("T")

Call = Callable[[str, tuple[Any, ...]], Any]
"""Asks the worker to call a method of the job; raises what it raised there."""


class ChildJob(JobFields[T]):
    """A job in a child process.

    Every call is a question to the worker, which owns the connection to Redis, and returns when
    Redis has answered. In an `async def` processor the same calls are awaited.
    """

    def __init__(self, fields: dict[str, Any], data: T, call: Call, poll: Callable[[], object]):
        vars(self).update(fields)
        self.data = data
        self._call = call
        self._poll = poll

    def update_progress(self, progress: object) -> Any:
        """Store the job's progress, any JSON value, and tell those who follow the queue.

        Raises:
            errors.JobNotFoundError: The job was removed.
            errors.EncodingError: The value has no JSON form.
        """
        self.progress = progress
        return self._ask("update_progress", progress)

    def updateProgress(self, progress: object) -> Any:
        """Upstream's name for `update_progress`."""
        return self.update_progress(progress)

    def log(self, logRow: str) -> Any:
        """Append a line to the job's log, kept in Redis.

        Returns:
            The number of lines now kept.

        Raises:
            errors.JobNotFoundError: The job was removed.
        """
        return self._ask("log", str(logRow))

    def update_data(self, data: object) -> Any:
        """Replace the job's data.

        Raises:
            errors.JobNotFoundError: The job was removed.
            errors.EncodingError: The value has no JSON form.
        """
        self._ask("update_data", data)
        self.data = data  # type: ignore[assignment]
        return _Done(None) if _on_loop() else None

    def updateData(self, data: object) -> Any:
        """Upstream's name for `update_data`."""
        return self.update_data(data)

    def get_children_values(self) -> Any:
        """The results of the job's children, by their keys."""
        return self._ask("get_children_values")

    def getChildrenValues(self) -> Any:
        """Upstream's name for `get_children_values`."""
        return self.get_children_values()

    def find_jobs(self, value: str, field: str | None = None) -> Any:
        """Look for other jobs of the queue; see `bullpy.Job.find_jobs`.

        Raises:
            errors.RedisError: Redis could not be asked.
        """
        found = [
            JobSnapshot(**{**wire, "state": JobState.of(wire["state"])})
            for wire in self._call("find_jobs", (value, field))
        ]
        return _Done(found) if _on_loop() else found

    def once(self, step: str, function: Callable[[], Any]) -> Any:
        """Do a step of the job, unless an earlier run has done it; see `bullpy.Job.once`.

        Raises:
            errors.EncodingError: The result has no JSON form, or is too large.
            errors.LockLostError: The job is another worker's by now.
        """
        if _on_loop():
            return self._once_awaited(step, function)
        steps.field_of(step)
        encoded = self._call("step_result", (step,))
        if encoded is None:
            encoded = steps.encode(step, function())
            self._call("store_step", (step, encoded))
        return steps.decode(encoded)

    async def _once_awaited(self, step: str, function: Callable[[], Any]) -> Any:
        steps.field_of(step)
        encoded = self._call("step_result", (step,))
        if encoded is None:
            result = function()
            encoded = steps.encode(step, await result if inspect.isawaitable(result) else result)
            self._call("store_step", (step, encoded))
        return steps.decode(encoded)

    def should_stop(self) -> bool:
        """Whether the processor is asked to end: cancelled, timed out, worker stopping."""
        if self._stop is None:
            self._poll()
        return self._stop is not None

    def _ask(self, method: str, *args: object) -> Any:
        value = self._call(method, args)
        return _Done(value) if _on_loop() else value

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.name!r} of {self.queueQualifiedName}>"


class JobSignal:
    """What a processor gets as its third argument: upstream's `AbortSignal` for this job."""

    def __init__(self, job: ChildJob[Any]) -> None:
        self._job = job

    @property
    def aborted(self) -> bool:
        """Whether the processor is asked to end."""
        return self._job.should_stop()

    @property
    def reason(self) -> str | None:
        """Why."""
        reason = self._job.stop_reason
        return self._job.stop_text or (None if reason is None else str(reason))

    def throw_if_aborted(self) -> None:
        """Raise if the processor is asked to end.

        Raises:
            errors.JobCancelledError: It is.
        """
        if self.aborted:
            raise errors.JobCancelledError(f"The job was stopped: {self.reason}.")


class _Done:
    """An awaitable that is done: in a child, each call has its answer when it returns."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __await__(self) -> Any:
        return self._value
        yield  # makes it a generator  # pyright: ignore[reportUnreachable]


def _on_loop() -> bool:
    # Loaded by who uses it: importing it takes as long as starting the interpreter.
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None
