"""A child process as its worker sees it: frames in and out, its output, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from typing_extensions import override

from bullpy import codec, errors
from bullpy.executors import frames
from bullpy.executors.child import EXIT_HUNG_UP
from bullpy.executors.frames import Kind
from bullpy.executors.launch import Launched, Launcher
from bullpy.executors.output import Output
from bullpy.executors.wire import error_to_wire

log = logging.getLogger("bullpy.executors")

EXIT_WAIT = 0.1
"""Seconds that a child may take to end after it closed its socket; then it is killed."""

REAP_WAIT = 5.0
"""Seconds that a killed process may take to be gone; it hangs in the kernel then."""

REAP_EVERY = 0.002
"""Seconds between two looks at a child that is ending."""

DUMP_WAIT = 0.05
"""Seconds that a child has for writing its stack before it is killed."""

Answer = Callable[[str, list[Any]], Awaitable[Any]]
"""Calls a method of the running job."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended.

    Attributes:
        code: Its exit code, or minus the number of the signal that killed it; None if it could
            not be found out.
        hung_up: Its processor closed the socket, or wrote to it what is no frame.
        had_begun: It had begun the last job that it was given.
        tail: The last lines that it wrote to stderr.
    """

    code: int | None
    hung_up: bool
    had_begun: bool
    tail: str


class ChildEndedError(Exception):
    """The child has ended; `exit` says how."""

    def __init__(self, ended: Exit) -> None:
        super().__init__(ended)
        self.exit = ended


class Handle(asyncio.Protocol):
    """One child process.

    Attributes:
        jobs: How many jobs it has been given.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.jobs = 0
        self._ready: asyncio.Future[None] = loop.create_future()
        self._exit: asyncio.Future[Exit] = loop.create_future()
        self._reply: asyncio.Future[tuple[int, bytes]] | None = None
        self._answer: Answer | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._splitter = frames.Splitter()
        self._transport: asyncio.Transport | None = None
        self._launched: Launched | None = None
        self._output: Output | None = None
        self._marker = -1
        self._reaping: asyncio.Task[None] | None = None
        self._killing: asyncio.TimerHandle | None = None
        self._killed = False
        self._hung_up = False

    async def start(self, launcher: Launcher, init: dict[str, Any]) -> None:
        """Launch it.

        Raises:
            OSError: The system starts no process, or has no descriptors left.
        """
        with contextlib.ExitStack() as ours_to_close, contextlib.ExitStack() as theirs_to_close:
            ours, theirs = socket.socketpair()
            ours_to_close.callback(ours.close)
            theirs_to_close.callback(theirs.close)
            reading: list[int] = []
            writing: list[int] = []
            for _ in ("stdout", "stderr"):
                for descriptor, kept, closed in zip(
                    os.pipe(), (reading, writing), (ours_to_close, theirs_to_close), strict=True
                ):
                    kept.append(descriptor)
                    closed.callback(os.close, descriptor)
            # Any file does: only its position is used, which both processes share.
            self._marker = os.open(sys.executable, os.O_RDONLY)
            ours_to_close.callback(os.close, self._marker)
            launched = await launcher.launch(theirs, writing[0], writing[1], self._marker)
            ours_to_close.pop_all()
        self._launched = launched
        stdout, stderr = reading
        self._output = Output(launched.pid, stdout, stderr)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
        except BaseException:
            ours.close()
            self.connection_lost(None)
            raise
        self._write(frames.frame(Kind.INIT, codec.dumps({**init, "parent": launcher.parent})))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._launched.pid if self._launched is not None else 0

    @property
    def is_alive(self) -> bool:
        """Whether it can be given a job."""
        return self._transport is not None and not self._killed

    @property
    def was_killed(self) -> bool:
        """Whether the worker killed it."""
        return self._killed

    async def ready(self) -> None:
        """Wait until it has imported its processors.

        Raises:
            ChildEndedError: It ended before.
        """
        await asyncio.shield(self._ready)

    async def run(
        self, head: bytes, data: bytes, answer: Answer, context: dict[str, str]
    ) -> tuple[int, bytes]:
        """Run one job.

        Args:
            head: Its fields, as JSON.
            data: Its data, as JSON.
            answer: Answers what the job asks for meanwhile.
            context: What the log says of the job with each line of output.

        Returns:
            RESULT or ERROR, and its body.

        Raises:
            ChildEndedError: It ended in the middle of the job.
        """
        output = cast("Output", self._output)
        if not self.is_alive:
            raise ChildEndedError(replace(await self.ended(), had_begun=False))
        self.jobs += 1
        output.forget()
        output.job = context
        self._answer = answer
        self._reply = asyncio.get_running_loop().create_future()
        try:
            self._write(frames.frame_of_two(Kind.JOB, head, data))
            reply = await self._reply
            output.drain()
            return reply
        finally:
            self._reply = self._answer = None
            output.job = {}

    def tail(self) -> str:
        """The last lines of stderr of the running job."""
        output = cast("Output", self._output)
        output.drain()
        return output.tail()

    def stop(self, reason: str, text: str | None) -> None:
        """Let the running job's `should_stop()` be true."""
        wire = {"run": self.jobs, "reason": reason, "text": text}
        self._write(frames.frame(Kind.STOP, codec.dumps(wire)))

    def interrupt(self) -> None:
        """Raise an exception in the processor."""
        if self._launched is not None:
            self._launched.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Let it write where it is, then kill it and what it has started."""
        if self._launched is None or self._killing is not None:
            return
        self._killed = True
        self._launched.signal(signal.SIGUSR1)
        self._killing = asyncio.get_running_loop().call_later(DUMP_WAIT, self._launched.kill)

    def kill_now(self) -> None:
        """Kill it, and what it has started."""
        self._killed = True
        if self._launched is not None:
            self._launched.kill()
        if self._transport is not None:
            # Its end would be heard of, unless a process that it forked holds the socket.
            self._transport.abort()

    def hang_up(self) -> None:
        """Close the socket: it ends after its job."""
        if self._transport is not None:
            self._transport.close()

    async def ended(self) -> Exit:
        """Wait for its end."""
        return await asyncio.shield(self._exit)

    def on_end(self, call: Callable[[], object]) -> None:
        """Call this when it has ended; soon, if it has already."""
        self._exit.add_done_callback(lambda _: call())

    def look(self) -> None:
        """Notice that it has ended although its socket is open: a process it forked has it."""
        if self._launched is not None and self._transport is not None and self._launched.ended():
            self._transport.abort()

    # -- the socket ------------------------------------------------------------------------

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._splitter.feed(data)
        try:
            self._take()
        except ValueError:
            log.warning("a processor wrote to the connection of its child process %d", self.pid)
            self._hung_up = True
            self.kill_now()

    def _take(self) -> None:
        while (found := self._splitter.next()) is not None:
            kind, body = found
            if kind in (Kind.RESULT, Kind.ERROR):
                if self._reply is not None and not self._reply.done():
                    self._reply.set_result(found)
            elif kind == Kind.CALL:
                call = asyncio.create_task(self._call(body))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            elif kind == Kind.LOG:
                self._log(codec.loads(body))
            elif kind == Kind.READY and not self._ready.done():
                self._ready.set_result(None)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        # Owned here: whoever waits for the end waits for `_exit`.
        self._reaping = asyncio.create_task(self._reap())

    def _write(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame)

    async def _call(self, body: bytes) -> None:
        number, asked = body[: frames.NUMBER.size], codec.loads(body[frames.NUMBER.size :])
        reply: dict[str, Any]
        if self._answer is None or asked["run"] != self.jobs:
            # A thread that an earlier job left behind.
            reply = {"error": error_to_wire(errors.JobStateError("The job is over."))}
        else:
            reply = await self._answer(asked["method"], asked["args"])
        self._write(frames.frame(Kind.REPLY, number + codec.dumps(reply)))

    def _log(self, wire: dict[str, Any]) -> None:
        logger = logging.getLogger(wire["name"])
        level = wire["level"]
        if logger.isEnabledFor(level):
            context = self._output.job if self._output is not None else {}
            logger.log(level, "%s", wire["text"], extra={"child": self.pid, **context})

    # -- the end ---------------------------------------------------------------------------

    async def _reap(self) -> None:
        launched, output = cast("Launched", self._launched), cast("Output", self._output)
        if not self._killed:
            self._hung_up = not await _until(launched.ended, EXIT_WAIT)
        if self._killing is not None:
            self._killing.cancel()
        launched.kill()
        if not await _until(lambda: launched.reap() is not None, REAP_WAIT):
            log.error("process %d does not end although it was killed", launched.pid)
        output.drain()
        output.close()
        code = launched.reap()
        hung_up = self._hung_up or code == EXIT_HUNG_UP
        had_begun = os.lseek(self._marker, 0, os.SEEK_CUR) >= self.jobs
        os.close(self._marker)
        for call in self._calls:
            call.cancel()
        ended = Exit(code, hung_up, had_begun, output.tail())
        self._exit.set_result(ended)
        error = ChildEndedError(ended)
        for future in (self._ready, self._reply):
            if future is not None and not future.done():
                future.set_exception(error)
        # Whoever started it may have gone.
        with contextlib.suppress(ChildEndedError, asyncio.InvalidStateError):
            self._ready.exception()


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Look until the condition holds; the system tells of a child's end by a signal only."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(REAP_EVERY)
    return True
