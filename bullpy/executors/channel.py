"""A child's end of the socket to its worker."""

from __future__ import annotations

import itertools
import os
import queue
import select
import socket
import threading
from collections import deque
from collections.abc import Callable

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
        self._identity = os.fstat(sock.fileno()).st_ino
        self._splitter = frames.Splitter()
        self._orders: deque[tuple[int, bytes]] = deque()
        self._answers: dict[bytes, queue.SimpleQueue[bytes]] = {}
        self._numbers = itertools.count(1)
        self._reading = threading.Lock()
        self._sending = threading.Lock()
        self._undisturbed = _Undisturbed(on_interrupt)

    def note_interrupt(self) -> bool:
        """Whether a signal has to wait until the frame under way is through."""
        return self._undisturbed.note()

    def send(self, kind: int, body: bytes) -> None:
        """Send a frame.

        Raises:
            errors.WorkerStateError: The socket is closed, or is no longer ours.
            OSError: The worker is gone.
        """
        with self._undisturbed, self._sending:
            self._check()
            if len(body) < _CHUNK:
                self._sock.sendall(frames.frame(kind, body))
            else:
                # Not joined: that would copy a large result.
                self._sock.sendall(frames.HEADER.pack(kind, len(body)))
                self._sock.sendall(body)

    def receive(self) -> tuple[int, bytes]:
        """The next order of the worker; waits for it.

        Raises:
            EOFError: The worker has closed the connection, or is gone.
        """
        while not self._orders:
            with self._undisturbed, self._reading:
                self._read()
        return self._orders.popleft()

    def ask(self, kind: int, body: bytes) -> bytes:
        """Send a frame and wait for the reply.

        Raises:
            EOFError: The worker has closed the connection, or is gone.
        """
        number = frames.NUMBER.pack(next(self._numbers))
        answer = self._answers[number] = queue.SimpleQueue()
        try:
            self.send(kind, number + body)
            while True:
                # Another thread that reads already, reads for all.
                wait = 0.0 if self.poll_if_free(LOOK_EVERY) else LOOK_EVERY
                try:
                    return answer.get(wait > 0, wait)
                except queue.Empty:
                    continue
        finally:
            del self._answers[number]

    def poll_if_free(self, timeout: float = 0.0) -> bool:
        """Take what has arrived, and wait for it that many seconds.

        Returns:
            False when another thread reads already.
        """
        with self._undisturbed:
            if not self._reading.acquire(blocking=False):
                return False
            try:
                self._check()
                if select.select([self._sock], [], [], timeout)[0]:
                    self._read()
            finally:
                self._reading.release()
        return True

    def close(self) -> None:
        """Close the socket; in a process that was forked from this one."""
        self._sock.close()

    def _read(self) -> None:
        data = self._sock.recv(_CHUNK)
        if not data:
            raise EOFError
        self._splitter.feed(data)
        while (found := self._splitter.next()) is not None:
            kind, body = found
            if kind == Kind.STOP:
                self._on_stop(body)
            elif kind == Kind.REPLY:
                size = frames.NUMBER.size
                # Who asked may have been interrupted meanwhile.
                if (answer := self._answers.get(body[:size])) is not None:
                    answer.put(body[size:])
            else:
                self._orders.append(found)

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


class _Undisturbed:
    """Holds signals back while the main thread is inside; a context of its own for speed."""

    def __init__(self, on_interrupt: Callable[[], None]) -> None:
        self._on_interrupt = on_interrupt
        # Signals arrive in the main thread alone.
        self._main = threading.get_ident()
        self._depth = 0
        self._noted = False

    def note(self) -> bool:
        """Note a signal, if the main thread is inside; tells whether it is."""
        if self._depth:
            self._noted = True
        return self._depth > 0

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            self._depth += 1

    def __exit__(self, kind: object, _error: object, _trace: object) -> None:
        if threading.get_ident() != self._main:
            return
        self._depth -= 1
        if self._noted and not self._depth:
            self._noted = False
            if kind is None:
                self._on_interrupt()
