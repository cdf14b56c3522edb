"""The fork server: `python -m bullpy.executors.forking FD`.

It imports heavy modules once. Each child is then a fork of it, which takes milliseconds and
shares their memory until it is written to. It runs no job itself.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
from collections import deque
from types import FrameType
from typing import Any, NoReturn

from bullpy import codec
from bullpy.executors import child, frames, groups
from bullpy.executors.frames import Kind
from bullpy.executors.wire import error_to_wire

_DESCRIPTORS = 4
"""Of a FORK: the child's socket, marker, stdout and stderr."""


class Server:
    """Forks children on request, signals them, and tells how they ended.

    Args:
        sock: The socket to the worker.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._splitter = frames.Splitter()
        self._descriptors: deque[int] = deque()
        self._children: set[int] = set()
        self._wakeup, self._woken = os.pipe()

    def main(self) -> NoReturn:
        """Serve until the worker closes the socket."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.set_blocking(self._woken, False)
        # Any handler will do: what wakes the loop is the descriptor.
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._sock, self._wakeup], [], [])
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
                self._reap()
            if self._sock in ready:
                self._read()

    def _read(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._sock, 2**16, _DESCRIPTORS * 8)
        if not data:
            for pid in self._children:
                groups.kill(pid)
            os._exit(0)
        self._descriptors += descriptors
        self._splitter.feed(data)
        while (found := self._splitter.next()) is not None:
            kind, body = found
            if kind == Kind.INIT:
                self._preload(codec.loads(body))
            elif kind == Kind.FORK:
                self._fork()
            elif kind == Kind.SIGNAL:
                pid, number = codec.loads(body)
                if pid in self._children:
                    groups.kill(pid) if number == signal.SIGKILL else os.kill(pid, number)

    def _preload(self, init: dict[str, Any]) -> None:
        import importlib

        child.surroundings(init)
        child.die_with_parent(init["parent"])
        failure = None
        try:
            for name in init["preload"]:
                importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - told to the worker
            failure = error_to_wire(error)
        self._sock.sendall(frames.frame(Kind.READY, codec.dumps(failure)))

    def _fork(self) -> None:
        # Fewer have arrived where this process may open no more.
        count = min(_DESCRIPTORS, len(self._descriptors))
        descriptors = [self._descriptors.popleft() for _ in range(count)]
        try:
            if count < _DESCRIPTORS:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            answer = os.fork()
            if answer == 0:
                self._become_child(*descriptors)
            self._children.add(answer)
        except OSError as error:
            answer = -(error.errno or errno.EAGAIN)
        for descriptor in descriptors:
            os.close(descriptor)
        self._sock.sendall(frames.frame(Kind.FORKED, str(answer).encode()))

    def _become_child(self, sock: int, marker: int, stdout: int, stderr: int) -> NoReturn:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setpgid(0, 0)
        for descriptor in (self._sock.fileno(), self._wakeup, self._woken):
            os.close(descriptor)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.close(stdout)
        os.close(stderr)
        try:
            child.serve(sock, marker)
        except BaseException as error:  # noqa: BLE001 - a child never returns into the server
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(1)

    def _reap(self) -> None:
        for pid in list(self._children):
            if groups.CAN_LOOK and groups.has_ended(pid):
                # What it left behind, while its id is still its own.
                groups.kill(pid)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            self._children.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            self._sock.sendall(frames.frame(Kind.ENDED, codec.dumps([pid, code])))


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass


if __name__ == "__main__":
    Server(socket.socket(fileno=int(sys.argv[1]))).main()
