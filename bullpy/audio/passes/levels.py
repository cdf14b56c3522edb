"""Plain sums over samples: mean, power, peaks, the product of left and right, clipping."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio import raw
from bullpy.audio.chunks import Chunk, block_segments, cell_segments
from bullpy.audio.passes.columns import Columns
from bullpy.audio.passes.weighting import starts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Sums = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]


class LevelPass:
    """Sums of every cell and of every block of the TT dynamic range meter.

    Args:
        rate: Sample rate, Hz.
        channels: Channel count.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self._rate = rate
        self._stereo = channels == 2
        self._block = raw.block_frames(rate)
        self._sums: Columns[np.float64] = Columns(np.add)
        self._squares: Columns[np.float64] = Columns(np.add)
        self._peaks: Columns[np.float32] = Columns(np.maximum)
        self._products: Columns[np.float64] = Columns(np.add)
        self._block_squares: Columns[np.float64] = Columns(np.add)
        self._block_peaks: Columns[np.float32] = Columns(np.maximum)
        self._clipped = np.zeros(channels, np.int64)
        self._runs = np.zeros(channels, np.int64)
        # Clipped samples in a row at the end so far.
        self._open = np.zeros(channels, np.int64)

    def push(self, chunk: Chunk) -> None:
        """Add the next chunk."""
        samples = chunk.samples
        first, ends = cell_segments(self._rate, chunk.start, chunk.stop)
        first_block, block_ends = block_segments(self._block, chunk.start, chunk.stop)
        # One pass for both: parts that end where a cell or a block does.
        parts = _merged(ends, block_ends[:-1])
        sums, squares, peaks = self._statistics(samples, parts)
        cells = np.searchsorted(parts, starts(ends), side="right")
        blocks = np.searchsorted(parts, starts(block_ends), side="right")
        self._sums.add(first, np.add.reduceat(sums, cells, axis=1))
        self._squares.add(first, np.add.reduceat(squares, cells, axis=1))
        self._peaks.add(first, np.maximum.reduceat(peaks, cells, axis=1))
        self._block_squares.add(first_block, np.add.reduceat(squares, blocks, axis=1))
        self._block_peaks.add(first_block, np.maximum.reduceat(peaks, blocks, axis=1))
        if self._stereo:
            self._products.add(first, self._cross(samples[0], samples[1], ends)[None])
        for channel, peak in enumerate(peaks.max(axis=1)):
            if peak >= raw.CLIP_LEVEL:
                self._count(channel, samples[channel])
            else:
                self._open[channel] = 0

    def result(self, energy: NDArray[np.float64]) -> raw.Cells:
        """The cells, together with the energy that another pass found."""
        return raw.Cells(
            energy=energy,
            squares=self._squares.joined(),
            sums=self._sums.joined(),
            peaks=self._peaks.joined(),
            products=self._products.joined()[0] if self._stereo else np.zeros(0),
        )

    def blocks(self) -> raw.Blocks:
        """The blocks of the TT dynamic range meter."""
        return raw.Blocks(self._block, self._block_squares.joined(), self._block_peaks.joined())

    def clipping(self) -> raw.ClippedSamples:
        """Samples at full scale."""
        return raw.ClippedSamples(self._clipped, self._runs)

    def _statistics(self, samples: NDArray[np.float32], ends: NDArray[np.int64]) -> Sums:
        """Sum, sum of squares and largest magnitude of every segment and channel."""
        exact, begin = samples.astype(np.float64), starts(ends)
        sums = np.add.reduceat(exact, begin, axis=1)
        squares = np.add.reduceat(np.square(exact, out=exact), begin, axis=1)
        return sums, squares, np.maximum.reduceat(np.abs(samples), begin, axis=1)

    def _cross(
        self, left: NDArray[np.float32], right: NDArray[np.float32], ends: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        product = np.multiply(left, right, dtype=np.float64)
        return np.add.reduceat(product, starts(ends))

    def _count(self, channel: int, samples: NDArray[np.float32]) -> None:
        clipped = np.abs(samples) >= raw.CLIP_LEVEL
        self._clipped[channel] += np.count_nonzero(clipped)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], clipped, [False]]).astype(np.int8)))
        begin, end = edges[::2], edges[1::2]
        lengths = end - begin
        carried = self._open[channel]
        if carried and begin[0] == 0:
            lengths[0] += carried
            # It was counted already when it had reached the length in the chunk before.
            self._runs[channel] -= carried >= raw.CLIP_RUN
        self._runs[channel] += np.count_nonzero(lengths >= raw.CLIP_RUN)
        self._open[channel] = lengths[-1] if clipped[-1] else 0


def _merged(ends: NDArray[np.int64], more: NDArray[np.int64]) -> NDArray[np.int64]:
    """Both in order, without repeats."""
    if not len(more):
        return ends
    merged = np.sort(np.concatenate([ends, more]))
    return merged[np.append(True, np.diff(merged) > 0)]
