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

    Found = tuple[
        NDArray[np.float64], NDArray[np.float32], NDArray[np.float64], NDArray[np.float32]
    ]


class LevelPass:
    """Sums of every cell and of every block of the TT dynamic range meter.

    Args:
        rate: Sample rate, Hz.
        channels: Channel count.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self._rate = rate
        self._channels = channels
        self._block = raw.block_frames(rate)
        # The squares of each channel, its samples, and the products of two: rows of one array,
        # since each step in Python keeps the other thread waiting for the interpreter.
        self._rows = 2 * channels + (channels == 2)
        self._sums: Columns[np.float64] = Columns(np.add)
        self._peaks: Columns[np.float32] = Columns(np.maximum)
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
        sums, peaks, block_squares, block_peaks = self._statistics(samples, ends, block_ends)
        self._sums.add(first, sums)
        self._peaks.add(first, peaks)
        self._block_squares.add(first_block, block_squares)
        self._block_peaks.add(first_block, block_peaks)
        for channel, peak in enumerate(block_peaks.max(axis=1)):
            if peak >= raw.CLIP_LEVEL:
                self._count(channel, samples[channel])
            else:
                self._open[channel] = 0

    def result(self, energy: NDArray[np.float64]) -> raw.Cells:
        """The cells, together with the energy that another pass found."""
        squares, sums, products = np.split(
            self._sums.joined(), [self._channels, 2 * self._channels]
        )
        return raw.Cells(
            energy=energy,
            squares=squares,
            sums=sums,
            peaks=self._peaks.joined(),
            products=products[0] if len(products) else np.zeros(0),
        )

    def blocks(self) -> raw.Blocks:
        """The blocks of the TT dynamic range meter."""
        return raw.Blocks(self._block, self._block_squares.joined(), self._block_peaks.joined())

    def clipping(self) -> raw.ClippedSamples:
        """Samples at full scale."""
        return raw.ClippedSamples(self._clipped, self._runs)

    def _statistics(
        self, samples: NDArray[np.float32], ends: NDArray[np.int64], block_ends: NDArray[np.int64]
    ) -> Found:
        """Sums and peaks of a chunk.

        Args:
            samples: Shape (channels, frames).
            ends: Where each cell ends, counted from the first sample.
            block_ends: The same for blocks, which do not end where cells do.

        Returns:
            The rows of sums per cell, peaks of shape (channels, cells), and sums of squares
            and peaks of shape (channels, blocks).
        """
        begin, block_begin = starts(ends), starts(block_ends)
        exact = samples.astype(np.float64)
        rows = np.empty((self._rows, len(ends)))
        np.add.reduceat(exact, begin, axis=1, out=rows[self._channels : 2 * self._channels])
        if len(rows) > 2 * self._channels:
            rows[-1] = np.add.reduceat(exact[0] * exact[1], begin)
        np.square(exact, out=exact)
        np.add.reduceat(exact, begin, axis=1, out=rows[: self._channels])
        block_squares = np.add.reduceat(exact, block_begin, axis=1)
        magnitudes = np.abs(samples)
        peaks = np.maximum.reduceat(magnitudes, begin, axis=1)
        return rows, peaks, block_squares, np.maximum.reduceat(magnitudes, block_begin, axis=1)

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
