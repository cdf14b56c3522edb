"""What a job carries: the part of `Job` that a child process has too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from bullpy.types import StopReason

T = TypeVar("T")


class JobFields(Generic[T]):
    """The fields of a job by BullMQ's names, and the same in snake_case.

    Attributes:
        id: The job's id.
        name: Its name, by which workers choose a processor.
        data: What the producer sent; in a processor with a pydantic annotation, the model.
        opts: BullMQ's options (camelCase, milliseconds).
        token: The token of its lock.
        timestamp: When it was created, in milliseconds since 1970.
        crashes: How often it has crashed the child process that ran it.
        deaths: How often a worker process died while it ran the job, and another one noticed
            before the job stalled.
        stop_text: Why it is asked to stop, in the words of who asked; None without any.
    """

    id: str
    name: str
    data: T
    opts: dict[str, Any]
    token: str | None = None
    timestamp: int = 0
    delay: int = 0
    priority: int = 0
    attemptsStarted: int = 0
    processedOn: int = 0
    queueQualifiedName: str = ""
    # What a job has not until something happens to it. On the class, because most jobs are
    # read when none of it has happened, and reading jobs is the hot path.
    processedBy: str | None = None
    deduplicationId: str | None = None
    repeatJobKey: str | None = None
    failedReason: str | None = None
    returnvalue: Any = None
    parentKey: str | None = None
    parent: dict[str, Any] | None = None
    progress: Any = 0
    attemptsMade: int = 0
    stalledCounter: int = 0
    finishedOn: int = 0
    crashes: int = 0
    deaths: int = 0
    stop_text: str | None = None
    _stop: StopReason | None = None
    _on_stop: Callable[[StopReason], None] | None = None

    @property
    def attempts_made(self) -> int:
        """How many attempts have ended so far."""
        return self.attemptsMade

    @property
    def attempts_started(self) -> int:
        """How often a worker has started the job."""
        return self.attemptsStarted

    @property
    def stalled_counter(self) -> int:
        """How often the job lost its worker."""
        return self.stalledCounter

    @property
    def failed_reason(self) -> str | None:
        """Why the job, or its last attempt, failed."""
        return self.failedReason

    @property
    def return_value(self) -> Any:
        """What the processor returned."""
        return self.returnvalue

    @property
    def processed_by(self) -> str | None:
        """The name of the worker that started the job last."""
        return self.processedBy

    @property
    def processed_on(self) -> int:
        """When the last attempt started, in milliseconds since 1970; 0 if none has."""
        return self.processedOn

    @property
    def finished_on(self) -> int:
        """When the job finished, in milliseconds since 1970; 0 if it has not."""
        return self.finishedOn

    def should_stop(self) -> bool:
        """Whether the processor is asked to end: cancelled, timed out, worker stopping."""
        return self._stop is not None

    @property
    def stop_reason(self) -> StopReason | None:
        """Why `should_stop` is true."""
        return self._stop

    def request_stop(self, reason: StopReason, text: str | None = None) -> bool:
        """Ask the processor to end; the first reason stays.

        Args:
            reason: Why.
            text: The same in the words of who asks.

        Returns:
            Whether somebody listens who ends it; see `on_stop`.
        """
        if self._stop is None:
            self._stop = reason
            self.stop_text = text
        if self._on_stop is None:
            return False
        self._on_stop(reason)
        return True

    def on_stop(self, listener: Callable[[StopReason], None] | None) -> None:
        """Let this function end the processor when it is asked to; None for nobody."""
        self._on_stop = listener
