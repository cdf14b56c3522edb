"""Frames: the messages between a worker and its child processes.

A frame is a kind (one byte), the length of its body (four bytes, big endian), and the body.
Bodies are JSON, or begin with JSON of a given length where the rest is passed on as it is.
"""

from __future__ import annotations

import struct
from enum import IntEnum

HEADER = struct.Struct("!BI")
NUMBER = struct.Struct("!I")
"""The number that a CALL begins with, and its REPLY."""
_LENGTH = struct.Struct("!I")

LONGEST = 2**32 - 1
"""Bytes that a frame's body may have."""


class Kind(IntEnum):
    """What a frame says. Up to 9 the worker speaks, from 10 on the child."""

    INIT = 1
    """Where the processors are, and the parent's surroundings."""
    JOB = 2
    """A job to run: its fields, then its data."""
    STOP = 3
    """The job is to end; why."""
    REPLY = 4
    """What a call of the job gave."""
    FORK = 5
    """To a fork server: fork a child; the sockets travel along."""
    SIGNAL = 6
    """To a fork server: send a signal to a child."""

    READY = 10
    """The processors are imported, or which of them could not be."""
    RESULT = 11
    """What the processor returned, as JSON."""
    ERROR = 12
    """What it raised."""
    CALL = 13
    """The job asks the worker for something."""
    LOG = 14
    """A record of `logging`."""
    FORKED = 15
    """From a fork server: the process id of a new child, or minus the number of an error."""
    ENDED = 16
    """From a fork server: a child has ended, and how."""


def frame(kind: int, body: bytes = b"") -> bytes:
    """A frame of one body."""
    return HEADER.pack(kind, len(body)) + body


def frame_of_two(kind: int, head: bytes, rest: bytes) -> bytes:
    """A frame whose body is JSON and something that is passed on as it is."""
    size = _LENGTH.size + len(head) + len(rest)
    return b"".join((HEADER.pack(kind, size), _LENGTH.pack(len(head)), head, rest))


def two_of(body: bytes) -> tuple[bytes, bytes]:
    """The two parts of such a body."""
    (size,) = _LENGTH.unpack_from(body)
    start = _LENGTH.size
    return body[start : start + size], body[start + size :]


_KINDS = frozenset(Kind)


class Splitter:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        self._buffer += data

    def next(self) -> tuple[int, bytes] | None:
        """The next whole frame, None when there is none yet.

        Raises:
            ValueError: What was fed is no frame.
        """
        buffer = self._buffer
        if len(buffer) < HEADER.size:
            return None
        kind, size = HEADER.unpack_from(buffer)
        if kind not in _KINDS:
            raise ValueError(f"{kind} is no kind of frame")
        end = HEADER.size + size
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view:
            body = bytes(view[HEADER.size : end])
        del buffer[:end]
        return kind, body
