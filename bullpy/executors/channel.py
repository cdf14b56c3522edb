"""A child's end of the socket to its worker."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

from bullpy import errors
from bullpy.executors import frames
from bullpy.executors.frames import Kind

_CHUNK = 2**18

LOOK_EVERY = 0.2
"""Seconds after which a wait for a reply looks whether the job is to end."""


class Channel:
    """Sends and receives frames, from any thread of the child.

    A signal that is to end the job may arrive at any moment. While a frame is being sent or
    taken apart it is only noted, since half a frame would make the socket useless.

    Args:
        sock: The connected socket, blocking.
        on_stop: Called with the body of each STOP frame.
        on_interrupt: Called when a signal was noted meanwhile; may raise.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_stop: Callable[[bytes], None],
        on_interrupt: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._on_stop = on_stop
        self._on_interrupt = on_interrupt
        self._identity = os.fstat(sock.fileno()).st_ino
        self._splitter = frames.Splitter()
        self._received: deque[tuple[int, bytes]] = deque()
        self._lock = threading.Lock()
        self._busy = False
        self._noted = False
        self._asked = 0

    def note_interrupt(self) -> bool:
        """Whether a signal has to wait until the frame under way is through."""
        if self._busy:
            self._noted = True
        return self._busy

    def send(self, kind: int, body: bytes) -> None:
        """Send a frame.

        Raises:
            errors.WorkerStateError: The socket is closed, or is no longer ours.
            OSError: The worker is gone.
        """
        with self._undisturbed():
            self._check()
            if len(body) < _CHUNK:
                self._sock.sendall(frames.frame(kind, body))
            else:
                # Not joined: that would copy a large result.
                self._sock.sendall(frames.HEADER.pack(kind, len(body)))
                self._sock.sendall(body)

    def receive(self) -> tuple[int, bytes]:
        """The next frame that is no STOP; waits for it.

        Raises:
            EOFError: The worker has closed the connection, or is gone.
        """
        # A thread that the last job left behind may still be asking.
        with self._lock:
            while not self._received:
                with self._undisturbed():
                    self._read()
            return self._received.popleft()

    def ask(self, kind: int, body: bytes) -> bytes:
        """Send a frame and wait for the reply. Threads take turns.

        Raises:
            EOFError: The worker has closed the connection, or is gone.
        """
        with self._lock:
            self._asked += 1
            number = frames.NUMBER.pack(self._asked)
            self.send(kind, number + body)
            while True:
                while not self._received:
                    self.poll(LOOK_EVERY)
                _, reply = self._received.popleft()
                # An earlier one, for who was interrupted while waiting, may come first.
                if reply.startswith(number):
                    return reply[len(number) :]

    def poll(self, timeout: float = 0.0) -> None:
        """Take what has arrived, and wait for it that many seconds."""
        with self._undisturbed():
            self._check()
            if select.select([self._sock], [], [], timeout)[0]:
                self._read()

    def poll_if_free(self) -> None:
        """The same without waiting, unless another thread reads already."""
        if self._lock.acquire(blocking=False):
            try:
                self.poll()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Close the socket; in a process that was forked from this one."""
        self._sock.close()

    @contextmanager
    def _undisturbed(self) -> Generator[None]:
        nested, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = nested
        if self._noted and not nested:
            self._noted = False
            self._on_interrupt()

    def _read(self) -> None:
        data = self._sock.recv(_CHUNK)
        if not data:
            raise EOFError
        self._splitter.feed(data)
        while (found := self._splitter.next()) is not None:
            if found[0] == Kind.STOP:
                self._on_stop(found[1])
            else:
                self._received.append(found)

    def _check(self) -> None:
        """Refuse where the socket's number has been closed and given to something else."""
        try:
            same = os.fstat(self._sock.fileno()).st_ino == self._identity
        except OSError:
            same = False
        if not same:
            raise errors.WorkerStateError(
                "The connection to the worker is closed.",
                cause="The processor closed file descriptors that are not its own, or forked.",
            )
