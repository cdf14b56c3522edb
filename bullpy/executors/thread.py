"""Processors in threads: they may block, but cannot be stopped from outside."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import queue
import threading
from collections.abc import Callable
from typing import Any

from bullpy.job import Job
from bullpy.processors import Processor

_Call = tuple[Callable[[], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class ThreadExecutor:
    """Runs `def` processors in daemon threads, as many as jobs run at a time.

    Not `concurrent.futures`: its threads are joined when the interpreter ends, so one
    processor that hangs would keep a stopped worker alive for ever.
    """

    _numbers = itertools.count(1)

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._idle = 0
        self._threads = 0
        self._lock = threading.Lock()

    async def start(self) -> None:
        """Nothing to prepare."""

    async def ready(self) -> None:
        """It always is."""

    async def run(self, processor: Processor, job: Job[Any], args: tuple[Any, ...]) -> Any:
        """Run the processor in a thread and wait for it; the event loop stays free."""
        loop = asyncio.get_running_loop()
        job.bind(loop)
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def call() -> Any:
            return context.run(processor.target, job, *args)

        with self._lock:
            if self._idle == 0:
                self._start_thread()
            else:
                self._idle -= 1
        self._calls.put((call, future, loop))
        return await future

    async def close(self) -> None:
        """Let idle threads end; busy ones end after their job."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _start_thread(self) -> None:
        self._threads += 1
        threading.Thread(
            target=self._work, name=f"bullpy-{next(self._numbers)}", daemon=True
        ).start()

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future, loop = item
            try:
                outcome, error = call(), None
            except BaseException as raised:  # noqa: BLE001 - told to who awaits the job
                outcome, error = None, raised
            with self._lock:
                self._idle += 1
            try:
                loop.call_soon_threadsafe(_settle, future, outcome, error)
            except RuntimeError:
                return  # the loop has closed: the worker was stopped without waiting
            del item, call, future, outcome, error


def _settle(future: asyncio.Future[Any], outcome: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(outcome)
    elif isinstance(error, StopIteration):
        # A future does not take StopIteration.
        future.set_exception(RuntimeError(f"the processor raised StopIteration: {error}"))
    else:
        future.set_exception(error)
