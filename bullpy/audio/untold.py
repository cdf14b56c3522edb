"""An MP3 that does not tell its length, with a first frame that does."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from bullpy.audio import mpeg

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BUFFER = 16 * 1024  # decoders ask for a few hundred bytes at a time
_HEADER = 4


def behind_length(file: io.FileIO, first: int) -> io.BufferedReader:
    """The frames of an MP3 behind one that tells a very large length.

    What lies before the first frame, tags or junk, is left out: a decoder knows the file by its
    first bytes then.

    Args:
        file: The MP3; it stays open, and its position follows what was read.
        first: Where its first frame starts.
    """
    return io.BufferedReader(_BehindLength(file, first), _BUFFER)


class _BehindLength(io.RawIOBase):
    def __init__(self, file: io.FileIO, first: int) -> None:
        self._file = file
        self._first = first
        self._size = file.seek(0, os.SEEK_END) - first
        file.seek(first)
        self._length = mpeg.length_frame(file.read(_HEADER))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        whole = len(self._length) + self._size
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: whole}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        target = memoryview(buffer).cast("B")
        part = self._length[self._position :][: len(target)]
        if part:
            count = len(part)
            target[:count] = part
        else:
            self._file.seek(self._first + self._position - len(self._length))
            count = self._file.readinto(target) or 0
        self._position += count
        return count
