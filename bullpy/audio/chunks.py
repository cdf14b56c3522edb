"""Blocks of any size become chunks of one size, so that results never depend on the blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio import raw

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Block = NDArray[np.float32] | NDArray[np.int16]
    Split = Callable[[Block, NDArray[np.float32]], None]

CHUNK_FRAMES = 98_304
"""Frames of a chunk: so many that what is done once a chunk costs little, above all waiting for
the interpreter lock; so few that a cancelled job ends at once, and that memory stays small."""
SLOTS = 4
"""Chunks in memory at a time."""
_PADDING = 64  # vector loads at the end of a chunk stay inside its memory


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of the file, together with what comes before it.

    Attributes:
        data: Shape (channels, at least margin + frames): the `margin` samples before the
            chunk (zeros at the start of the file), then its own.
        margin: Samples of earlier chunks in `data`: those of one spectrum frame.
        start: The chunk's first frame in the file.
        frames: Frames of the chunk: `CHUNK_FRAMES`, but for the last one.
    """

    data: NDArray[np.float32]
    margin: int
    start: int
    frames: int

    @property
    def samples(self) -> NDArray[np.float32]:
        """The chunk's own samples, shape (channels, frames)."""
        return self.data[:, self.margin : self.margin + self.frames]

    @property
    def stop(self) -> int:
        """The frame after the last one."""
        return self.start + self.frames


class Chunker:
    """Regroups blocks. A chunk stays valid until `SLOTS` - 1 more were made.

    Args:
        rate: Sample rate, Hz.
        channels: Channel count.
        split: Writes a block of shape (frames, channels) to an array of shape
            (channels, frames); see `split`.
    """

    def __init__(self, rate: int, channels: int, split: Split) -> None:
        self._margin = raw.frame_size(rate)
        width = self._margin + CHUNK_FRAMES + _PADDING
        self._slots = [np.zeros((channels, width), np.float32) for _ in range(SLOTS)]
        self._split = split
        self._made = 0
        self._filled = 0

    def push(self, block: Block) -> Iterator[Chunk]:
        """The chunks that a block of shape (frames, channels) completes."""
        done = 0
        while done < len(block):
            count = min(CHUNK_FRAMES - self._filled, len(block) - done)
            at = self._margin + self._filled
            self._split(block[done : done + count], self._slot()[:, at : at + count])
            self._filled += count
            done += count
            if self._filled == CHUNK_FRAMES:
                yield self._next(CHUNK_FRAMES)

    def finish(self) -> Iterator[Chunk]:
        """The last, shorter chunk, when there is one."""
        if self._filled:
            yield self._next(self._filled)

    def _slot(self) -> NDArray[np.float32]:
        return self._slots[self._made % SLOTS]

    def _next(self, frames: int) -> Chunk:
        chunk = Chunk(self._slot(), self._margin, self._made * CHUNK_FRAMES, frames)
        self._made += 1
        self._filled = 0
        self._slot()[:, : self._margin] = chunk.data[:, frames : frames + self._margin]
        return chunk


def split(block: Block, out: NDArray[np.float32]) -> None:
    """One row per channel, as float32 with full scale 1; 16-bit integers are divided by 2^15.

    Args:
        block: Shape (frames, channels).
        out: Shape (channels, frames).
    """
    if block.dtype == np.int16:
        np.multiply(block.T, np.float32(2**-15), out=out, dtype=np.float32, casting="same_kind")
    else:
        out[:] = block.T


def cell_segments(
    rate: int, start: int, stop: int, cells: int = 1
) -> tuple[int, NDArray[np.int64]]:
    """How groups of cells divide the frames from `start` to `stop`.

    Args:
        rate: Sample rate, Hz.
        start: First frame.
        stop: The frame after the last one, above `start`.
        cells: Cells of a group.

    Returns:
        The number of the first group, and where each group's part ends, counted from
        `start`. The first and the last group may be cut.
    """
    first = raw.full_cells(rate, start) // cells
    last = raw.full_cells(rate, stop) // cells
    ends = raw.cell_ends(rate, (first + 1) * cells, last * cells)[::cells]
    return first, _closed(ends - start, stop - start)


def block_segments(frames: int, start: int, stop: int) -> tuple[int, NDArray[np.int64]]:
    """The same for blocks of `frames` frames."""
    first = start // frames
    ends = np.arange(first + 1, stop // frames + 1, dtype=np.int64) * frames
    return first, _closed(ends - start, stop - start)


def _closed(ends: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    return ends if len(ends) and ends[-1] == length else np.append(ends, np.int64(length))
