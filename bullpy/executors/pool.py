"""The children of a worker: started early, kept, and exchanged before they go bad."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from bullpy import errors
from bullpy.executors.handle import ChildEndedError, Handle
from bullpy.executors.launch import Launcher
from bullpy.executors.usage import usage_of
from bullpy.settings import WorkerSettings

log = logging.getLogger("bullpy.executors")

CLOSE_WAIT = 1.0
"""Seconds that children may take to end when the worker does; then they are killed."""

SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
"""Seconds until the next start after one that failed; it doubles each time."""


class Pool:
    """Gives a free child to who has a job, and takes it back.

    Args:
        launcher: Starts processes.
        init: What each child is told first.
        settings: When children are exchanged, and how long a start may take.
        size: How many children there may be now.
        early: How many are started before there is work.
    """

    def __init__(
        self,
        launcher: Launcher,
        init: dict[str, Any],
        settings: WorkerSettings,
        size: Callable[[], int],
        early: int,
    ) -> None:
        self._launcher = launcher
        self._init = init
        self._settings = settings
        self._size = size
        self._early = early
        self._idle: list[Handle] = []
        self._busy: set[Handle] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._leaving: set[Handle] = set()
        self._waiting: deque[asyncio.Future[Handle]] = deque()
        self._failures = 0
        self._pause_until = 0.0
        self._tried = asyncio.Event()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The process ids of all children that can be given a job, or have one."""
        return [child.pid for child in (*self._idle, *self._busy)]

    def start(self) -> None:
        """Start the early ones, without waiting for them."""
        self._fill()

    async def ready(self) -> None:
        """Wait until a child is ready, or the start of one has failed."""
        await self._tried.wait()

    async def take(self) -> Handle:
        """A child that is ready for a job; give it back afterwards.

        Raises:
            errors.ChildStartError: None could be started.
        """
        while self._idle:
            child = self._idle.pop()
            if child.is_alive:
                self._busy.add(child)
                return child
        waiting: asyncio.Future[Handle] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._fill()
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self.give_back(waiting.result())
            raise

    def give_back(self, child: Handle) -> None:
        """The job is over: the child is free, or is exchanged."""
        self._busy.discard(child)
        if child.is_alive:
            # It has started, and done a job: starting works.
            self._failures = 0
            self._pause_until = 0.0
        if self._closed or not child.is_alive:
            self._leave(child)
        elif self._is_used_up(child) or self._count() >= self._size():
            child.hang_up()
            self._leave(child)
        else:
            self._offer(child)
        self._fill()

    async def close(self) -> None:
        """End all children. Closing twice is fine."""
        self._closed = True
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for child in (*self._idle, *self._busy):
            child.hang_up()
            self._leave(child)
        self._idle.clear()
        self._busy.clear()
        for waiting in self._waiting:
            waiting.cancel()
        leaving = [asyncio.create_task(child.ended()) for child in self._leaving]
        if not leaving:
            return
        _, late = await asyncio.wait(leaving, timeout=CLOSE_WAIT)
        for child in list(self._leaving):
            child.kill_now()
        if late:
            await asyncio.wait(late)

    # -- filling ---------------------------------------------------------------------------

    def _count(self) -> int:
        return len(self._idle) + len(self._busy) + len(self._starting)

    def _fill(self) -> None:
        """Start as many children as are wanted: for who waits, and the early ones."""
        if self._closed:
            return
        self._waiting = deque(waiting for waiting in self._waiting if not waiting.done())
        wanted = max(self._early, len(self._busy) + len(self._waiting))
        for _ in range(min(wanted, self._size()) - self._count()):
            task = asyncio.create_task(self._start_one())
            self._starting.add(task)
            task.add_done_callback(self._started)

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("starting a child process failed: %r", error, exc_info=error)
        self._fill()

    async def _start_one(self) -> None:
        pause = self._pause_until - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        child = Handle()
        try:
            await child.start(self._launcher, self._init)
            async with asyncio.timeout(self._settings.child_start_timeout):
                await child.ready()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next start is slower
            self._failed(child, error)
            return
        except BaseException:
            child.kill_now()
            self._leave(child)
            raise
        self._tried.set()
        child.on_end(lambda: self._lost(child))
        self._offer(child)

    def _lost(self, child: Handle) -> None:
        """A child has ended; one that was idle is replaced before it is missed."""
        if child not in self._idle:
            return
        self._idle.remove(child)
        log.warning("the idle child process %d has ended; another is started", child.pid)
        if not child.jobs:
            # What it imports may be what ends it, again and again.
            self._slow_down()
        self._fill()

    def _slow_down(self) -> None:
        """Start the next child only after a pause, which doubles each time."""
        pause = min(SHORTEST_PAUSE * 2**self._failures, LONGEST_PAUSE)
        self._failures = min(self._failures + 1, 16)
        self._pause_until = time.monotonic() + pause

    def _failed(self, child: Handle, error: Exception) -> None:
        """Tell one who waits, so that one job is affected, and go slowly from here on."""
        self._slow_down()
        tail = child.tail() if child.pid and not isinstance(error, ChildEndedError) else ""
        child.kill_now()
        self._leave(child)
        failure = _start_error(error, self._settings.child_start_timeout, tail)
        log.error("%s", failure, extra={"code": failure.code})
        self._tried.set()
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(failure)
                break

    def _offer(self, child: Handle) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                self._busy.add(child)
                waiting.set_result(child)
                return
        self._idle.append(child)

    # -- leaving ---------------------------------------------------------------------------

    def _is_used_up(self, child: Handle) -> bool:
        jobs, memory = self._settings.max_jobs_per_child, self._settings.max_rss_per_child
        if jobs is not None and child.jobs >= jobs:
            return True
        if memory is None:
            return False
        usage = usage_of(child.pid)
        return usage is not None and usage.memory > memory

    def _leave(self, child: Handle) -> None:
        """Let a child end, and remember it until it has."""
        if child.pid == 0:
            return
        self._leaving.add(child)
        child.on_end(lambda: self._leaving.discard(child))


def _start_error(error: Exception, timeout: float, tail: str) -> errors.ChildStartError:
    if isinstance(error, TimeoutError):
        what = f"A child process was not ready within {timeout:g} s."
        cause = "Importing the processor's module hangs, or takes longer than that."
        fix = "Import what is slow inside the processor, or raise child_start_timeout."
    elif isinstance(error, ChildEndedError):
        tail = error.exit.tail
        what = f"A child process ended before it was ready (exit code {error.exit.code})."
        cause = "Importing the processor's module crashes the interpreter, or ends it."
        fix = "Look at its last lines; try to import the module alone."
    else:
        what = f"A child process could not be started: {errors.describe(error)}."
        cause = "The system is out of processes, memory or file descriptors."
        fix = "Lower the concurrency, or raise the limits (ulimit -a)."
    failure = errors.ChildStartError(what, cause=cause, fix=fix)
    failure.trace = f"{failure}\n\nThe child's last lines:\n{tail}" if tail else None
    return failure
