"""An MP3 that does not tell its length, with a first frame that does."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from bullpy.audio import mpeg
from bullpy.audio.errors import StoreError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BUFFER = 16 * 1024  # decoders ask for a few hundred bytes at a time
_HEADER = 4


def behind_length(file: io.FileIO, first: int) -> BehindLength:
    """The frames of an MP3 behind one that tells a very large length.

    What lies before the first frame, tags or junk, is left out: a decoder knows the file by its
    first bytes then.

    Args:
        file: The MP3; it stays open, and its position follows what was read.
        first: Where its first frame starts.
    """
    return BehindLength(_Frames(file, first))


class BehindLength(io.BufferedReader):
    """What `behind_length` gives."""

    def __init__(self, frames: _Frames) -> None:
        super().__init__(frames, _BUFFER)
        self._frames = frames

    def check(self, name: str) -> None:
        """Raise when it was the disk that failed, not the file that ended.

        Args:
            name: What the error calls the file.

        Raises:
            StoreError: It cannot be read.
        """
        failure = self._frames.failure
        if failure is not None:
            raise StoreError(f"{name!r} cannot be read ({failure.strerror}).") from failure


class _Frames(io.RawIOBase):
    """Keeps what the disk raises: soundfile's callbacks print it and go on."""

    def __init__(self, file: io.FileIO, first: int) -> None:
        self.failure: OSError | None = None
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
            try:
                self._file.seek(self._first + self._position - len(self._length))
                count = self._file.readinto(target) or 0
            except OSError as error:
                self.failure = error
                return 0
        self._position += count
        return count
