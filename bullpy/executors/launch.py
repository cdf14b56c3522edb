"""Starts child processes: a new interpreter each, or a fork of one that has imported a lot."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import bullpy
from bullpy import codec, errors
from bullpy.executors import frames, groups
from bullpy.executors.frames import Kind

LOST = 2**16
"""What `reap` gives for a child whose fork server has ended."""


class Launched(Protocol):
    """A process that was started.

    Attributes:
        pid: Its process id; also that of its process group.
    """

    pid: int

    def ended(self) -> bool:
        """Whether it has ended; it stays a zombie, and its id its own, until `reap`."""
        ...

    def reap(self) -> int | None:
        """Its exit code, or minus the signal's number, or LOST; None while it runs."""
        ...

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        ...

    def kill(self) -> None:
        """Kill it, and all that it started in its process group."""
        ...


class Launcher(Protocol):
    """Starts child processes."""

    @property
    def parent(self) -> int:
        """The process id of their parent."""
        ...

    async def start(self) -> None:
        """Get ready to launch. Raises errors.ProcessorError where that is impossible."""
        ...

    async def launch(self, sock: socket.socket, stdout: int, stderr: int, marker: int) -> Launched:
        """Start a child with these; the caller closes them afterwards."""
        ...

    async def close(self) -> None:
        """Launch no more."""
        ...


class Spawner:
    """Starts a new interpreter for each child: nothing is shared, and nothing can be broken."""

    @property
    def parent(self) -> int:
        """This process."""
        return os.getpid()

    async def start(self) -> None:
        """Nothing to prepare."""

    async def launch(self, sock: socket.socket, stdout: int, stderr: int, marker: int) -> Launched:
        """Start an interpreter; see `Launcher`."""
        descriptors = (sock.fileno(), marker)
        return _Spawned(_popen("bullpy.executors.child", descriptors, stdout, stderr))

    async def close(self) -> None:
        """Nothing to give back."""


class _Spawned:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    def ended(self) -> bool:
        if groups.CAN_LOOK:
            return self._process.returncode is not None or groups.has_ended(self.pid)
        return self._process.poll() is not None

    def reap(self) -> int | None:
        return self._process.poll()

    def signal(self, number: int) -> None:
        # Not send_signal(): it takes a zombie away, and `kill` could not reach its group.
        if not self.ended():
            os.kill(self.pid, number)

    def kill(self) -> None:
        if self._process.returncode is None:
            groups.kill(self.pid)


class ForkServer:
    """Forks each child from a process that has imported heavy modules once.

    Args:
        surroundings: What `child.surroundings` reads.
        preload: The modules.
        timeout: Seconds that importing them may take.
    """

    def __init__(
        self, surroundings: Mapping[str, Any], preload: Sequence[str], timeout: float
    ) -> None:
        self._surroundings = surroundings
        self._preload = list(preload)
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._answers: _Answers | None = None
        self._reaping: set[asyncio.Task[int]] = set()
        self._turn = asyncio.Lock()

    @property
    def parent(self) -> int:
        """The fork server."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start the server and wait until it has imported the modules.

        Raises:
            errors.ProcessorError: One of them cannot be imported, or it takes too long.
        """
        await self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = _popen("bullpy.executors.forking", (theirs.fileno(),), None, None)
        # Transports send no descriptors: those go over a duplicate of the socket.
        self._sock = ours.dup()
        loop = asyncio.get_running_loop()
        process = self._process
        _, self._answers = await loop.create_unix_connection(
            lambda: _Answers(lambda: self._reap(process)), sock=ours
        )
        self._sock.setblocking(False)
        wire = {**self._surroundings, "preload": self._preload, "parent": os.getpid()}
        self._answers.write(frames.frame(Kind.INIT, codec.dumps(wire)))
        try:
            async with asyncio.timeout(self._timeout):
                failure = codec.loads(await self._answers.next(Kind.READY))
        except (TimeoutError, ConnectionError) as error:
            await self.close()
            raise errors.ProcessorError(
                f"Preloading {', '.join(self._preload)} did not end: {errors.describe(error)}.",
                cause="An import hangs or crashes, or takes longer than child_start_timeout.",
                fix="Try the imports alone; leave out of preload what starts threads.",
            ) from error
        if failure:
            await self.close()
            raise errors.ProcessorError(
                f"Preloading failed: {failure['text']}.",
                cause="A module of preload cannot be imported.",
                fix="Install it, or correct its name.",
            )

    async def launch(self, sock: socket.socket, stdout: int, stderr: int, marker: int) -> Launched:
        """Fork a child; see `Launcher`."""
        async with self._turn:
            if self._answers is None or self._answers.gone.is_set():
                # It crashed, and took its children along.
                await self.start()
            assert self._answers is not None
            assert self._sock is not None
            descriptors = [sock.fileno(), marker, stdout, stderr]
            socket.send_fds(self._sock, [frames.frame(Kind.FORK)], descriptors)
            answers = self._answers
            try:
                async with asyncio.timeout(self._timeout):
                    pid = int(await answers.next(Kind.FORKED))
            except TimeoutError:
                # A fork that hangs would hang every later one.
                await self.close()
                raise
            if pid < 0:
                raise OSError(-pid, os.strerror(-pid))
            return _Forked(pid, answers)

    async def close(self) -> None:
        """End the server; its idle children have ended before."""
        if self._sock is not None:
            self._sock.close()
        if self._answers is not None:
            self._answers.close()
            await self._answers.gone.wait()
            await asyncio.gather(*self._reaping)
        self._sock = self._answers = self._process = None

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        """Its socket has ended, and so does the server."""
        process.kill()
        task = asyncio.create_task(asyncio.to_thread(process.wait))
        self._reaping.add(task)
        task.add_done_callback(self._reaping.discard)


class _Answers(asyncio.Protocol):
    """What a fork server says: new children, and those that have ended."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self.codes: dict[int, int] = {}
        self.gone = asyncio.Event()
        self._transport: asyncio.WriteTransport | None = None
        self._splitter = frames.Splitter()
        self._said: dict[int, asyncio.Queue[bytes | None]] = {
            Kind.READY: asyncio.Queue(),
            Kind.FORKED: asyncio.Queue(),
        }

    async def next(self, kind: int) -> bytes:
        body = None if self.gone.is_set() else await self._said[kind].get()
        if body is None:
            raise ConnectionError("the fork server has ended")
        return body

    def write(self, frame: bytes) -> None:
        assert self._transport is not None
        self._transport.write(frame)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._splitter.feed(data)
        while (found := self._splitter.next()) is not None:
            kind, body = found
            if kind == Kind.ENDED:
                pid, code = codec.loads(body)
                self.codes[pid] = code
            else:
                self._said[kind].put_nowait(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        for queue in self._said.values():
            queue.put_nowait(None)
        self._on_lost()


class _Forked:
    def __init__(self, pid: int, answers: _Answers) -> None:
        self.pid = pid
        self._answers = answers
        self._code: int | None = None

    def ended(self) -> bool:
        return self.reap() is not None

    def reap(self) -> int | None:
        if self._code is None:
            self._code = self._answers.codes.pop(self.pid, None)
            if self._code is None and self._answers.gone.is_set():
                # Its children are killed with it, and nobody learns how each one ended.
                self._code = LOST
        return self._code

    def signal(self, number: int) -> None:
        # Through the server, which alone knows whether the id is still the child's.
        if self.reap() is None:
            self._answers.write(frames.frame(Kind.SIGNAL, codec.dumps([self.pid, number])))

    def kill(self) -> None:
        self.signal(signal.SIGKILL)


def _popen(
    module: str, descriptors: tuple[int, ...], stdout: int | None, stderr: int | None
) -> subprocess.Popen[bytes]:
    """Run one of our modules in a new interpreter, with these descriptors as its arguments."""
    return subprocess.Popen(
        # -P: a logging.py in the current folder must not hide the standard library's.
        [sys.executable, "-P", "-m", module, *map(str, descriptors)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=descriptors,
        env=_environment(),
        # A group of its own: Ctrl-C in a terminal is for the worker, which ends its children.
        process_group=0,
    )


def _environment() -> dict[str, str]:
    """The environment, in which a new interpreter finds bullpy where it is not installed."""
    root = str(Path(bullpy.__file__).resolve().parents[1])
    if root in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        return dict(os.environ)
    # The child sets it back before it imports anything of the user's.
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": root if not path else f"{root}{os.pathsep}{path}"}
