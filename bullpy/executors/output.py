"""What a child process writes to stdout and stderr, line by line, in the worker's log."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from typing import Any

log = logging.getLogger("bullpy.processor")

LINES_PER_SECOND = 100
"""Lines that are logged of one child; of a flood the rest is counted."""

BYTES_PER_LOOK = 2**20
"""Bytes that are read of one child until its output has to wait."""

LOOK_EVERY = 0.1
"""Seconds that it waits then, so that a flood slows its own job and not the worker."""

LONGEST_LINE = 8192
"""Bytes of a line that are kept."""

TAIL_LINES = 40
"""The last lines of stderr that a crash shows."""

_CHUNK = 2**16

_PIPE = 2**18
"""Bytes that a pipe may hold; Linux and macOS give it 64 KiB unless asked for more."""


class Output:
    """Reads both streams of a child.

    Attributes:
        job: What the log says of the running job: `queue`, `job_id`, `job_name`; empty
            between jobs.
    """

    def __init__(self, pid: int, stdout: int, stderr: int) -> None:
        self.job: dict[str, str] = {}
        self._pid = pid
        self._loop = asyncio.get_running_loop()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._streams = [
            _Stream(stdout, "stdout", logging.INFO),
            _Stream(stderr, "stderr", logging.WARNING),
        ]
        self._read_now = 0
        self._logged_now = 0
        self._left_out = 0
        self._second: asyncio.TimerHandle | None = None
        self._waiting: asyncio.TimerHandle | None = None
        for stream in self._streams:
            os.set_blocking(stream.descriptor, False)
            self._loop.add_reader(stream.descriptor, self._arrived, stream)

    def forget(self) -> None:
        """A new job begins: what was written before is not its own."""
        self._tail.clear()

    def tail(self) -> str:
        """The last lines of stderr since the job began."""
        return "\n".join(self._tail)

    def drain(self) -> None:
        """Read what is there, so that it belongs to the job that just ended."""
        for stream in self._streams:
            # No more than a full pipe, or a process that the job left behind could go on.
            for _ in range(_PIPE // _CHUNK):
                if not stream.is_open or not self._read(stream):
                    break
            if stream.partial:
                self._line(stream, stream.partial)
            stream.partial = b""
            stream.cut = False

    def close(self) -> None:
        """Read no more."""
        for handle in (self._waiting, self._second):
            if handle is not None:
                handle.cancel()
        self._tell_left_out()
        for stream in self._streams:
            if stream.is_open:
                self._end(stream)

    def _arrived(self, stream: _Stream) -> None:
        self._read(stream)
        if self._read_now >= BYTES_PER_LOOK and self._waiting is None:
            for each in self._streams:
                if each.is_open:
                    self._loop.remove_reader(each.descriptor)
            self._waiting = self._loop.call_later(LOOK_EVERY, self._go_on)

    def _go_on(self) -> None:
        self._waiting = None
        self._read_now = 0
        for stream in self._streams:
            if stream.is_open:
                self._loop.add_reader(stream.descriptor, self._arrived, stream)

    def _read(self, stream: _Stream) -> bool:
        try:
            data = os.read(stream.descriptor, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._end(stream)
            return False
        self._start_second()
        self._read_now += len(data)
        self._lines(stream, stream.partial + data)
        return True

    def _lines(self, stream: _Stream, data: bytes) -> None:
        room = LINES_PER_SECOND - self._logged_now
        *lines, rest = data.split(b"\n", max(room, 0))
        for line in lines:
            self._line(stream, line)
        more = rest.count(b"\n")
        if more:
            # A flood: only its end is of use, where the process crashes.
            lines = rest.rsplit(b"\n", TAIL_LINES + 1)
            if more > TAIL_LINES:
                self._left_out += lines.pop(0).count(b"\n") + 1
                stream.cut = False
            rest = lines.pop()
            for line in lines:
                self._line(stream, line)
        if len(rest) > LONGEST_LINE and not stream.cut:
            self._line(stream, rest)
            stream.cut = True
        stream.partial = b"" if stream.cut else rest

    def _line(self, stream: _Stream, line: bytes) -> None:
        if stream.cut:
            # The rest of a line whose beginning was taken already.
            stream.cut = False
            return
        text = line[:LONGEST_LINE].decode(errors="backslashreplace").rstrip()
        if stream.level == logging.WARNING:
            self._tail.append(text)
        if self._logged_now >= LINES_PER_SECOND:
            self._left_out += 1
            return
        self._logged_now += 1
        if text:
            log.log(stream.level, "%s", text, extra={"stream": stream.name, **self._extra()})

    def _extra(self) -> dict[str, Any]:
        return {"child": self._pid, **self.job}

    def _start_second(self) -> None:
        if self._second is None:
            self._second = self._loop.call_later(1.0, self._end_second)

    def _end_second(self) -> None:
        self._second = None
        self._logged_now = 0
        if self._waiting is None:
            self._read_now = 0
        self._tell_left_out()

    def _tell_left_out(self) -> None:
        if self._left_out:
            log.warning(
                "%d more lines of output were not logged", self._left_out, extra=self._extra()
            )
            self._left_out = 0

    def _end(self, stream: _Stream) -> None:
        self._loop.remove_reader(stream.descriptor)
        os.close(stream.descriptor)
        stream.is_open = False


class _Stream:
    def __init__(self, descriptor: int, name: str, level: int) -> None:
        self.descriptor = descriptor
        self.name = name
        self.level = level
        self.is_open = True
        self.partial = b""
        self.cut = False
