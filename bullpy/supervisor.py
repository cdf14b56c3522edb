"""`bullpy worker --processes`: worker processes under one parent that restarts and stops them.

The parent runs no job and has no connection to Redis. Each worker process is a `bullpy worker` of
its own, and has one socket in common with the parent, whose end tells that the parent is gone.
`BULLPY_SUPERVISOR` holds the socket's descriptor and the process's number. This variable is a
hand-shake between the two and no setting: users never set it, so `settings` does not know it.

On the socket go lines of a word and ids of workers:

| Line | From | Says |
|---|---|---|
| `workers ID...` | the worker process | which workers it has, before they start |
| `ready` | the worker process | all of them are ready |
| `dead ID...` | the parent | workers of a process that has ended: release their jobs |
| `released ID...` | the worker process | that is done |
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bullpy import errors
from bullpy.running import HURRY_TIMEOUT, STOP_SIGNALS
from bullpy.worker import Worker

log = logging.getLogger("bullpy.supervisor")

VARIABLE = "BULLPY_SUPERVISOR"

MARGIN = 4.0
"""Seconds beyond what a worker may take to stop, until the parent kills it. With the default
`shutdown_timeout` the parent ends within 34 s."""

WRONG_CONFIGURATION = 2
"""The exit code of `bullpy worker` that no restart mends."""

HURRY_SIGNAL = signal.SIGINT
"""Hurries a worker process that stops. A second SIGTERM does not: systemd sends SIGTERM to all
processes of a unit, and the parent then passes on its own."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """How long to wait before a worker process is started again. Durations in seconds.

    Attributes:
        first: The first pause; each further one is twice as long.
        longest: What the pause grows to.
        healthy: A process that lived this long starts with the first pause again.
    """

    first: float = 0.5
    longest: float = 30.0
    healthy: float = 30.0

    def pause(self, previous: float | None, lived: float) -> float:
        """The pause after a process that lived so long; `previous` is the one before it."""
        if previous is None or lived >= self.healthy:
            return self.first
        return min(previous * 2, self.longest)


class Supervisor:
    """Keeps worker processes running until it is stopped.

    A process that ends is started again after a pause. Another one that is ready, or the next that
    gets ready, is told to release the jobs that it leaves behind. Two ends are not worth repeating,
    and end all: one with exit code 2 before the process was ready, which is a wrong configuration,
    and one before any process was ever ready.

    Args:
        command: What a worker process runs; it should call `Parent.from_environment`.
        processes: How many.
        patience: Seconds from the signal to stop until what is left is killed; see `patience_for`.
        restarts: The pauses between restarts.
    """

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        *,
        patience: float,
        restarts: Restarts | None = None,
    ) -> None:
        self._command = list(command)
        self._processes = processes
        self._patience = patience
        self._restarts = restarts or Restarts()
        self._children: set[_Child] = set()
        self._dead: set[str] = set()
        self._stopping = asyncio.Event()
        self._hurried = False
        self._signals = 0
        self._kill: asyncio.TimerHandle | None = None
        self._was_ready = False
        self._restarted = 0
        self._failure: int | None = None
        self._codes = [0]

    async def run(self) -> int:
        """Start the worker processes, and keep them until SIGTERM, SIGINT or `stop`.

        The first signal lets them drain, the second hurries them.

        Returns:
            0 when all ended cleanly; the code of the process that made it end; otherwise the
            worst code of those that were stopped. A process that a signal killed counts 128 and
            the signal's number.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            await self._keep_all()
        finally:
            for number in (signal.SIGCHLD, *STOP_SIGNALS):
                loop.remove_signal_handler(number)
            if self._kill is not None:
                self._kill.cancel()
        log.info("all worker processes have stopped; restarts: %d", self._restarted)
        return max(self._codes) if self._failure is None else self._failure

    def stop(self) -> None:
        """Let all processes drain and end, and start none any more."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._signal(signal.SIGTERM, self._patience)

    def hurry(self) -> None:
        """Let all processes hand their jobs back at once."""
        self.stop()
        if self._hurried:
            return
        self._hurried = True
        self._signal(HURRY_SIGNAL, min(self._patience, HURRY_TIMEOUT + MARGIN))

    # -- processes -------------------------------------------------------------------------

    async def _keep_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(1, self._processes + 1):
                    group.create_task(self._keep(number), name=f"bullpy worker process {number}")
        finally:
            # After a cancellation some still run.
            if self._children:
                self.stop()
                await asyncio.wait([child.ended for child in self._children])

    async def _keep(self, number: int) -> None:
        """Start worker process `number`, again and again."""
        pause: float | None = None
        while not self._stopping.is_set():
            end = await self._live(number)
            if self._stopping.is_set():
                self._codes.append(end.stop_code)
                log.info("worker process %s stopped: %s", end.who, end.how)
                return
            if not end.was_ready and (end.code == WRONG_CONFIGURATION or not self._was_ready):
                log.error("worker process %s ended before it was ready: %s", end.who, end.how)
                self._failure = end.exit_code or 1
                self.stop()
                return
            pause = self._restarts.pause(pause, end.lived)
            log.warning("worker process %s ended: %s; restart in %g s", end.who, end.how, pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
                    return
            self._restarted += 1

    async def _live(self, number: int) -> _End:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            child = _Child(self._command, number, self._pass_on)
        except OSError as error:
            return _End(str(number), 1, f"cannot start: {error}")
        log.info("worker process %s started", child.who)
        self._children.add(child)
        code = await asyncio.shield(child.ended)
        self._children.discard(child)
        # What it was told itself, and has not done, is still to be done.
        self._dead |= {*child.workers, *child.asked}
        self._pass_on()
        return _End(child.who, code, _how(code), child.is_ready, loop.time() - started)

    def _pass_on(self, newly_ready: _Child | None = None) -> None:
        """Let a process that is ready release the jobs of those that have ended."""
        if newly_ready is not None:
            self._was_ready = True
            log.info("worker process %s is ready", newly_ready.who)
        living = next((child for child in self._children if child.is_ready), None)
        if living is not None and self._dead:
            living.ask_to_release(self._dead)
            self._dead = set()

    # -- signals ---------------------------------------------------------------------------

    def _reap(self) -> None:
        for child in tuple(self._children):
            child.reap()

    def _signalled(self, number: int) -> None:
        self._signals += 1
        name = signal.Signals(number).name
        if self._signals == 1:
            log.info("%s: stop the worker processes", name)
            self.stop()
        else:
            log.warning("%s again: hurry the worker processes", name)
            self.hurry()

    def _signal(self, number: int, patience: float) -> None:
        """Signal all processes, and kill those that still run after so many seconds."""
        if not self._children:
            return
        for child in self._children:
            child.signal(number)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        if self._kill is not None:
            deadline = min(deadline, self._kill.when())
            self._kill.cancel()
        self._kill = loop.call_at(deadline, self._kill_stuck)

    def _kill_stuck(self) -> None:
        for child in self._children:
            log.error("worker process %s did not stop in time and is killed", child.who)
            child.kill()


def patience_for(workers: Sequence[Worker]) -> float:
    """Seconds that a process with these workers may take to stop, and a margin."""
    longest = max(worker.settings.shutdown_timeout for worker in workers)
    return longest + HURRY_TIMEOUT + MARGIN


class Parent:
    """The supervisor, as its worker process sees it.

    Args:
        line: The socket in common.
        number: Which of the worker processes this is, from 1.
    """

    def __init__(self, line: socket.socket, number: int) -> None:
        self.number = number
        self._line = line
        self._workers: tuple[Worker, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._releasing: set[asyncio.Task[None]] = set()
        # A thread: it has to notice even while the event loop is blocked, or a module loads.
        threading.Thread(target=self._watch, name="bullpy parent", daemon=True).start()

    @classmethod
    def from_environment(cls) -> Parent | None:
        """The parent of this process; None for a process without one.

        From here on the process ends when the parent does.

        Raises:
            errors.ConfigurationError: The variable names no socket.
        """
        # Taken out, because processes that this one starts are none of the supervisor's.
        given = os.environ.pop(VARIABLE, None)
        if given is None:
            return None
        try:
            descriptor, number = (int(part) for part in given.split(":"))
            line = socket.socket(fileno=descriptor)
        except (ValueError, OSError) as error:
            raise errors.ConfigurationError(
                f"{VARIABLE} is {given!r}, which leads to no supervisor.",
                cause="It is bullpy's own, and was copied from another process.",
                fix="Remove it from the environment.",
            ) from error
        line.setblocking(True)
        line.set_inheritable(False)
        return cls(line, number)

    def adopt(self, workers: Sequence[Worker]) -> None:
        """Give names of the user's a number, and tell the parent when all workers are ready.

        From then on the workers release the jobs of processes beside this one that die.
        """
        self._workers = tuple(workers)
        waiting = set(workers)
        self._say("workers", (worker.id for worker in workers))

        def watch(worker: Worker) -> None:
            def ready() -> None:
                waiting.discard(worker)
                if not waiting:
                    self._loop = asyncio.get_running_loop()
                    self._say("ready")

            worker.once("ready", ready)

        for worker in workers:
            if worker.settings.name is not None:
                worker.rename(f"{worker.settings.name}:{self.number}")
            watch(worker)

    def _say(self, word: str, ids: Iterable[str] = ()) -> None:
        with contextlib.suppress(OSError):  # the parent is gone, which `_watch` sees
            self._line.sendall(_line(word, ids))

    def _watch(self) -> None:
        lines = _Lines()
        with self._line, contextlib.suppress(OSError):
            while said := self._line.recv(4096):
                for word, ids in lines.feed(said):
                    # It says so only to a process that is ready, and so has a loop.
                    if word == "dead" and self._loop is not None:
                        with contextlib.suppress(RuntimeError):  # closed: this process ends too
                            self._loop.call_soon_threadsafe(self._release, ids)
        log.warning("the parent process is gone: this worker process ends")
        os.kill(os.getpid(), signal.SIGTERM)
        if self._workers:
            threading.Event().wait(patience_for(self._workers))
            os.kill(os.getpid(), signal.SIGKILL)

    def _release(self, ids: list[str]) -> None:
        task = asyncio.get_running_loop().create_task(self._release_jobs_of(ids))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def _release_jobs_of(self, ids: list[str]) -> None:
        """Let every worker look in its queue; those processes had workers of the same queues."""
        results = await asyncio.gather(
            *(worker.release_jobs_of(ids) for worker in self._workers if worker.running),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                log.error("jobs of a dead process are left to the stalled check", exc_info=result)
        self._say("released", ids)


class _Child:
    """One worker process.

    Reaped by `reap` in the main thread alone, so its pid is its own until then, and no signal
    can hit another process.
    """

    def __init__(
        self, command: Sequence[str], number: int, on_ready: Callable[[_Child], None]
    ) -> None:
        self.is_ready = False
        self.workers: set[str] = set()
        self.asked: set[str] = set()
        self._lines = _Lines()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._on_ready = on_ready
        self._line, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    # Not the terminal's: a process in the background must not read from it.
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    # A group of its own: Ctrl-C is for the parent, which passes it on.
                    process_group=0,
                    env=os.environ | {VARIABLE: f"{theirs.fileno()}:{number}"},
                )
        except BaseException:
            self._line.close()
            raise
        self.pid = self._process.pid
        self.who = f"{number} (pid {self.pid})"
        self._line.setblocking(False)
        asyncio.get_running_loop().add_reader(self._line, self._hear)

    def reap(self) -> None:
        """Look whether it has ended."""
        code = self._process.poll()
        if code is None or self.ended.done():
            return
        # What it said last may still lie there.
        self._hear()
        asyncio.get_running_loop().remove_reader(self._line)
        self._line.close()
        self.ended.set_result(code)

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, together with what it started."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def ask_to_release(self, ids: set[str]) -> None:
        """Tell it the workers of a process that has ended."""
        self.asked |= ids
        # Where its socket is closed or full it ends too, or hangs: then another one is asked.
        with contextlib.suppress(OSError):
            self._line.send(_line("dead", ids))

    def _hear(self) -> None:
        while True:
            try:
                said = self._line.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                said = b""
            if not said:
                # Its end is what SIGCHLD tells.
                asyncio.get_running_loop().remove_reader(self._line)
                return
            for word, ids in self._lines.feed(said):
                self._heard(word, ids)

    def _heard(self, word: str, ids: list[str]) -> None:
        if word == "workers":
            self.workers.update(ids)
        elif word == "released":
            self.asked.difference_update(ids)
        elif word == "ready" and not self.is_ready:
            self.is_ready = True
            self._on_ready(self)


class _Lines:
    """The lines of a socket, as they become whole: a word, and ids."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[str, list[str]]]:
        """What is complete with this data."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        words = [line.decode("ascii", "replace").split() for line in whole]
        return [(found[0], found[1:]) for found in words if found]


def _line(word: str, ids: Iterable[str] = ()) -> bytes:
    return " ".join([word, *sorted(ids)]).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class _End:
    """How a worker process ended; `code` is negative for a signal."""

    who: str
    code: int
    how: str
    was_ready: bool = False
    lived: float = 0.0

    @property
    def exit_code(self) -> int:
        """As a shell counts it."""
        return self.code if self.code >= 0 else 128 - self.code

    @property
    def stop_code(self) -> int:
        """After a signal, which itself ends a process that has no workers yet, or any more."""
        return 0 if -self.code in STOP_SIGNALS else self.exit_code


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
