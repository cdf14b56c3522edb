"""Work that waits for the network, done beside a caller who can end it at any moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Generic, TypeVar

from bullpy import errors
from bullpy.audio.errors import StoreError
from bullpy.audio.stores.base import Watch

_T = TypeVar("_T")

_LOOK = 0.02  # seconds between two looks at should_stop
_FAREWELL = 0.05  # seconds given to the thread to let go of what it holds


class AbortedError(Exception):
    """The caller has gone. Raised in the thread that works, and seen by nobody else."""


class Abort:
    """Ends work that is stuck in a system call, from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._called = threading.Event()
        self._breaks: list[Callable[[], object]] = []

    def call(self) -> None:
        """End the work: what it waits for is broken."""
        with self._lock:
            self._called.set()
            for breaks in self._breaks:
                breaks()

    def check(self) -> None:
        """Raise AbortedError when the caller has gone."""
        if self._called.is_set():
            raise AbortedError

    def sleep(self, seconds: float) -> None:
        """Wait, or raise AbortedError as soon as the caller has gone."""
        self._called.wait(seconds)
        self.check()

    @contextmanager
    def breaking(self, breaks: Callable[[], object]) -> Generator[None]:
        """While inside, `breaks` is called (in the caller's thread) to end the work."""
        with self._lock:
            self.check()
            self._breaks.append(breaks)
        try:
            yield
        finally:
            with self._lock:
                self._breaks.remove(breaks)


class _Thread(threading.Thread, Generic[_T]):
    """Runs the work and keeps what came of it. A daemon: a name server must not hold an exit."""

    def __init__(self, work: Callable[[Abort], _T], abort: Abort) -> None:
        super().__init__(name="bullpy-audio-download", daemon=True)
        self._work = work
        self._abort = abort
        self.ended = threading.Event()
        self.result: list[_T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result.append(self._work(self._abort))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self.error = error
        finally:
            self.ended.set()


def watched(
    work: Callable[[Abort], _T],
    watch: Watch,
    *,
    what: str,
    timeout: float,
    share: Callable[[], float] = lambda: 0.0,
) -> _T:
    """The result of work that runs in a thread, while the caller's thread looks on.

    Args:
        work: Does it; it gives `Abort` the means to end it.
        watch: Who is told and asked.
        what: Names the work in messages.
        timeout: Seconds that it may take.
        share: How much of it is done, 0 to 1.

    Raises:
        errors.JobCancelledError: `watch.should_stop` said True.
        StoreError: It took longer than `timeout`.
    """
    abort = Abort()
    thread = _Thread(work, abort)
    deadline = time.monotonic() + timeout
    told = 0.0
    thread.start()
    try:
        while not thread.ended.wait(_LOOK):
            if watch.should_stop():
                raise errors.JobCancelledError(f"{what} was stopped.")
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{what} took longer than {timeout:g} s.",
                    cause="The store or the network is slow, or sends nothing at all.",
                    fix="Raise BULLPY_AUDIO_DOWNLOAD_TIMEOUT if this is how fast it is.",
                )
            now = share()
            if now > told:
                told = now
                watch.on_share(now)
    finally:
        if not thread.ended.is_set():
            abort.call()
            thread.ended.wait(_FAREWELL)
    if thread.error is not None:
        raise thread.error
    watch.on_share(1.0)
    return thread.result[0]
