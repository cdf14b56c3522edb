"""One job in one child: what it may use, and the ladder that ends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from bullpy import errors
from bullpy.executors.handle import Handle
from bullpy.executors.usage import Usage, usage_of
from bullpy.job import Job
from bullpy.limits import Limits, shown_bytes
from bullpy.types import StopReason

LOOK_EVERY = 0.1
"""Seconds between two looks at the memory and the CPU time of a child with such limits."""

LOOK_SELDOM = 1.0
"""Seconds between two looks at whether a child without them still lives."""

_SOON = {
    # The worker hands the job back a second after it asked (`shutdown.CANCEL_GRACE`).
    StopReason.SHUTDOWN: (0.2, 0.8),
    # Another worker may run the job already.
    StopReason.LOCK_LOST: (0.0, 1.0),
    StopReason.MEMORY_LIMIT: (0.0, 0.0),
}
"""Seconds until the exception, and until the kill, where they do not follow from the grace."""


class Ladder:
    """Watches a job's limits, and ends it: first softly, then by an exception, then by a kill.

    1. `job.should_stop()` is true.
    2. SIGTERM raises an exception in the processor.
    3. SIGKILL ends the child, and what it has started.

    A job over its time goes to the second step at once, one that is cancelled after half of
    the grace, one over its memory to the third.

    Args:
        child: The child that runs the job.
        job: The job.
        limits: What it may use.
        grace: Seconds from the first step to the last.
    """

    def __init__(self, child: Handle, job: Job[Any], limits: Limits, grace: float) -> None:
        self._child = child
        self._job = job
        self._limits = limits
        self._grace = grace
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._looking: asyncio.TimerHandle | None = None
        self._since = time.monotonic()
        self._cpu_before = 0.0
        self._used: Usage | None = None
        self._kill_at = float("inf")
        job.on_stop(self._stop)
        if limits.timeout is not None:
            self._later(limits.timeout, self._out_of_time)
        if limits.cpu is not None:
            before = usage_of(child.pid)
            self._cpu_before = before.cpu if before is not None else 0.0
        self._look_every = LOOK_EVERY if limits.need_process else LOOK_SELDOM
        self._looking = self._loop.call_later(self._look_every, self._look)

    def close(self) -> None:
        """The job has ended: watch it no more."""
        self._job.on_stop(None)
        for timer in self._timers:
            timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    @property
    def exceeded(self) -> errors.JobLimitError | None:
        """The limit that the job has exceeded, None if it has not."""
        return exceeded(
            self._job.stop_reason,
            self._limits,
            seconds=time.monotonic() - self._since,
            memory=self._used.memory if self._used is not None else 0,
            cpu=self._cpu(),
        )

    def _out_of_time(self) -> None:
        self._job.request_stop(
            StopReason.TIMEOUT, f"The job ran longer than its timeout of {self._limits.timeout:g} s"
        )

    def _look(self) -> None:
        self._looking = self._loop.call_later(self._look_every, self._look)
        self._child.look()
        usage = usage_of(self._child.pid) if self._limits.need_process else None
        if usage is None:
            return
        self._used = usage
        memory, cpu = self._limits.memory, self._limits.cpu
        if memory is not None and usage.memory > memory:
            self._job.request_stop(StopReason.MEMORY_LIMIT)
        elif cpu is not None and self._cpu() > cpu:
            text = f"The job used more than its {cpu:g} s of CPU time"
            self._job.request_stop(StopReason.CPU_LIMIT, text)

    def _cpu(self) -> float:
        return self._used.cpu - self._cpu_before if self._used is not None else 0.0

    def _stop(self, reason: StopReason) -> None:
        """Begin the ladder; a later reason may only shorten it."""
        half = 0.0 if reason.is_limit else self._grace / 2
        interrupt, kill = _SOON.get(reason, (half, self._grace))
        kill_at = time.monotonic() + kill
        if kill_at >= self._kill_at:
            return
        self._kill_at = kill_at
        self._child.stop(reason, self._job.stop_text)
        if kill:
            self._later(interrupt, self._child.interrupt)
        self._later(kill, self._child.kill)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers.append(self._loop.call_later(seconds, call))


def exceeded(
    reason: StopReason | None,
    limits: Limits,
    *,
    seconds: float,
    memory: int = 0,
    cpu: float = 0.0,
) -> errors.JobLimitError | None:
    """The error for a job that was stopped for this reason, None if it was for no limit.

    Args:
        reason: Why it was stopped.
        limits: Its limits.
        seconds: For how long it ran.
        memory: Bytes that it had.
        cpu: Seconds of CPU time that it used.
    """
    if reason is StopReason.TIMEOUT and limits.timeout is not None:
        return errors.JobTimeoutError(
            f"The job ran longer than its timeout of {limits.timeout:g} s: "
            f"it was ended after {seconds:.1f} s.",
            fix="Raise the processor's timeout, or let the job do less.",
        )
    if reason is StopReason.MEMORY_LIMIT and limits.memory is not None:
        return errors.MemoryLimitError(
            f"The job used more than its memory limit of {shown_bytes(limits.memory)}: "
            f"its process had {shown_bytes(memory)}.",
            fix="Raise the processor's memory, or let the job hold less at a time.",
        )
    if reason is StopReason.CPU_LIMIT and limits.cpu is not None:
        return errors.CpuLimitError(
            f"The job used more than its limit of {limits.cpu:g} s of CPU time: "
            f"it was ended after {cpu:.1f} s.",
            fix="Raise the processor's cpu, or let the job do less.",
        )
    return None
