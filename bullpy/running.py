"""`run`: workers as the main thing of a process, with signals and an exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Coroutine
from typing import Any, NoReturn

from bullpy import errors
from bullpy.worker import Worker

log = logging.getLogger("bullpy.worker")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

HURRY_TIMEOUT = 5.0
"""Seconds after the second signal until the process ends, whatever is left; as long again after
the last worker has closed."""


def run(*workers: Worker, hurry_on: Collection[int] = STOP_SIGNALS) -> NoReturn:
    """Run workers until SIGTERM or SIGINT, then drain them and end the process.

    The first signal lets jobs finish until `shutdown_timeout`; the second hands them back at
    once. The exit code is 0 after a clean end, 1 when a worker crashed, and that of
    `SystemExit` when a processor raised it.

    Args:
        workers: At least one; they share one connection and one event loop.
        hurry_on: Which second signals hand jobs back; others change nothing.

    Raises:
        SystemExit: Always, with the exit code.
    """
    if not workers:
        raise errors.ConfigurationError("run() needs a worker.", fix="Call run(worker).")
    code = _with_fast_loop(lambda: run_async(*workers, hurry_on=hurry_on))
    # Processors that hang in threads must not keep the process alive.
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    if any(worker.active_jobs for worker in workers):
        os._exit(code)
    sys.exit(code)


async def run_async(*workers: Worker, hurry_on: Collection[int] = STOP_SIGNALS) -> int:
    """Run workers in the running event loop, with signal handlers; see `run`.

    Returns:
        The exit code that `run` ends the process with.
    """
    loop = asyncio.get_running_loop()
    stopper = _Stopper(workers, hurry_on)
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stopper.signalled, number)
    try:
        results = await asyncio.gather(
            *(stopper.run(worker) for worker in workers), return_exceptions=True
        )
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
        stopper.end()
    for result in results:
        if isinstance(result, BaseException):
            log.critical("%s", errors.describe(result), exc_info=result.__cause__)
            return 1
    return max(worker.exit_code for worker in workers)


class _Stopper:
    """Turns signals into closing, and one worker's end into the end of all."""

    def __init__(self, workers: tuple[Worker, ...], hurry_on: Collection[int]) -> None:
        self._workers = workers
        self._hurry_on = hurry_on
        self._signals = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._kill: asyncio.TimerHandle | None = None
        for worker in workers:
            worker.ends_process = True

    async def run(self, worker: Worker) -> None:
        try:
            await worker.run()
        finally:
            self._explain("another worker of the process ended")
            self.close_all()

    def _explain(self, reason: str) -> None:
        """Let all workers that have not been told why they end say this."""
        for worker in self._workers:
            worker.stop_reason = worker.stop_reason or reason

    def close_all(self, *, force: bool = False) -> None:
        for worker in self._workers:
            task = asyncio.ensure_future(worker.close(force))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def signalled(self, number: int) -> None:
        self._signals += 1
        name = signal.Signals(number).name
        if self._signals == 1:
            log.info("%s: stop fetching, let jobs finish", name)
            self._explain(name)
            self.close_all()
            return
        if number not in self._hurry_on:
            return
        log.warning("%s again: hand the jobs back now", name)
        self.close_all(force=True)
        if self._kill is None:
            loop = asyncio.get_running_loop()
            self._kill = loop.call_later(HURRY_TIMEOUT, os._exit, 128 + number)

    def end(self) -> None:
        if self._kill is not None:
            self._kill.cancel()


def _with_fast_loop(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run under uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        code = runner.run(main())
        # Closing the loop waits for tasks that ignore cancellation and for threads that hang:
        # for ever, if nobody bounds it.
        bound = threading.Timer(HURRY_TIMEOUT, _leave, (code,))
        bound.daemon = True
        bound.start()
    bound.cancel()
    return code


def _leave(code: int) -> None:
    log.error("tasks or threads of processors do not end; the process ends without them")
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
