"""Notices when the event loop does not turn, and says which function blocks it.

A loop that is blocked fetches nothing, and every job beside the one that blocks it waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import sysconfig
import threading
import time
import traceback
import weakref
from types import CodeType, FrameType
from typing import cast

from bullpy.engine.runner import BARRIER
from bullpy.job import Job

DEEPEST = 30
"""Frames of a stack that are logged, from the innermost outwards."""

SECOND_THOUGHT = 0.05
"""Seconds that a loop gets which is late because the whole process stood still."""

log = logging.getLogger("bullpy.watchdog")


class LoopWatch:
    """Watches one event loop from a thread.

    The thread asks the loop for a sign twice per threshold, which is all that this costs. Jobs cost
    nothing.

    Args:
        loop: The loop.
        threshold: Seconds without a turn that are worth a line in the log.

    Attributes:
        blocks: How often the loop was blocked for longer.
        longest: The longest such block, in seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, threshold: float) -> None:
        self._loop = loop
        self._threshold = threshold
        self.blocks = 0
        self.longest = 0.0
        self._lag = 0.0
        self._asked_at: float | None = None
        self._users = 0
        self._stop = threading.Event()
        self._loop_thread = threading.get_ident()

    @property
    def lag(self) -> float:
        """Seconds that the loop took for its last sign, or takes for the one that is due."""
        asked_at = self._asked_at
        return self._lag if asked_at is None else max(self._lag, time.monotonic() - asked_at)

    def acquire(self) -> LoopWatch:
        """Count one more user; the first starts the thread."""
        self._users += 1
        if self._users == 1:
            self._stop = threading.Event()
            self._loop_thread = threading.get_ident()
            threading.Thread(
                target=self._watch, args=(self._stop,), name="bullpy-watchdog", daemon=True
            ).start()
        return self

    def release(self) -> None:
        """Count one user less; the last ends the thread, for which nobody has to wait."""
        self._users -= 1
        if self._users == 0:
            self._stop.set()

    def _watch(self, stop: threading.Event) -> None:
        pause = self._threshold / 2
        due = time.monotonic() + pause
        while not stop.wait(pause):
            sign = threading.Event()
            # When it should have woken up: it does not where native code keeps the interpreter's
            # lock, and such code blocks the loop as well.
            asked_at = self._asked_at = due
            try:
                self._loop.call_soon_threadsafe(sign.set)
            except RuntimeError:
                return  # the loop is closed
            seen = None
            if not sign.wait(self._threshold) and not sign.wait(SECOND_THOUGHT):
                seen = self._blocked(asked_at)
                while not sign.wait(1.0):
                    if stop.is_set():
                        return
            self._lag = time.monotonic() - asked_at
            self._asked_at = None
            if self._lag > self._threshold:
                self._ended(seen, self._lag)
            due = time.monotonic() + pause

    def _blocked(self, asked_at: float) -> _Blocker | None:
        """Say what blocks the loop now."""
        frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage]
        if frame is None:
            return None
        blocker = _Blocker(frame)
        message = "the event loop is blocked for %.1f s by %s; all that runs on it waits"
        record = log.makeRecord(
            *(log.name, logging.WARNING, __file__, 0, message),
            (time.monotonic() - asked_at, blocker.where),
            exc_info=None,
            extra=blocker.job,
            sinfo=blocker.stack,
        )
        if log.isEnabledFor(logging.WARNING):
            log.handle(record)
        return blocker

    def _ended(self, blocker: _Blocker | None, lasted: float) -> None:
        self.blocks += 1
        self.longest = max(self.longest, lasted)
        log.warning(
            "the event loop was blocked for %.1f s by %s",
            lasted,
            # Without the interpreter's lock this thread stands still too.
            "something that let no thread run: native code, or a process that was stopped"
            if blocker is None
            else blocker.where,
            extra=blocker.job if blocker else None,
        )


class _Blocker:
    """What the stack of the loop's thread tells: where it is, and for which job."""

    def __init__(self, innermost: FrameType) -> None:
        frames = [frame for frame, _ in traceback.walk_stack(innermost)]
        culprit = next((frame for frame in frames if _is_users(frame.f_code)), innermost)
        code = culprit.f_code
        name = getattr(code, "co_qualname", code.co_name)
        self.where = f"{name} ({code.co_filename}:{culprit.f_lineno})"
        self.job = _job_of(frames)
        shown = traceback.StackSummary.extract(
            (frame, frame.f_lineno) for frame in reversed(frames[:DEEPEST])
        )
        self.stack = "Stack of the event loop:\n" + "".join(shown.format()).rstrip()


def _job_of(frames: list[FrameType]) -> dict[str, object]:
    """The job for whose processor the frames are; empty where it is a task of its own."""
    for frame in frames:
        if frame.f_code is BARRIER:
            job = cast("Job[object] | None", frame.f_locals.get("job"))
            if job is not None:
                queue = job.queueQualifiedName.rpartition(":")[2]
                return {"queue": queue, "job_id": job.id, "job_name": job.name}
    return {}


def _is_users(code: CodeType) -> bool:
    """Whether it is neither Python's, nor an installed package's, nor bullpy's."""
    path = code.co_filename
    return not path.startswith(_NOT_USERS) and not path.startswith("<frozen")


_NOT_USERS = tuple(
    {
        *(f"{sysconfig.get_paths()[name]}{os.sep}" for name in ("stdlib", "purelib", "platlib")),
        f"{os.path.dirname(os.path.dirname(__file__))}{os.sep}",  # noqa: PTH120
    }
)


def watch(threshold: float) -> LoopWatch:
    """The watch of the running event loop; give it back with `release`.

    Workers with the same threshold share one, so that a block is told once.
    """
    loop = asyncio.get_running_loop()
    found = _watches.get((loop, threshold))
    if found is None:
        found = _watches[loop, threshold] = LoopWatch(loop, threshold)
    return found.acquire()


_watches: weakref.WeakValueDictionary[tuple[asyncio.AbstractEventLoop, float], LoopWatch] = (
    weakref.WeakValueDictionary()
)
