"""K-weighted energy of every cell: ITU-R BS.1770-5 Annex 1, stages 1 and 2 and the squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio.chunks import Chunk, cell_segments
from bullpy.audio.kweighting import KWeighting
from bullpy.audio.passes.columns import Columns

if TYPE_CHECKING:
    from numpy.typing import NDArray


class WeightingPass:
    """Filters every channel and sums the squares of each cell.

    Args:
        rate: Sample rate, Hz.
        channels: Channel count.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self._rate = rate
        self._energy: Columns[np.float64] = Columns(np.add)
        self._prepare(channels)

    def push(self, chunk: Chunk) -> None:
        """Add the next chunk."""
        first, ends = cell_segments(self._rate, chunk.start, chunk.stop)
        self._energy.add(first, self._energies(chunk.samples, ends))

    def result(self) -> NDArray[np.float64]:
        """Energy, shape (channels, cells)."""
        return self._energy.joined()

    def _prepare(self, channels: int) -> None:
        self._filter = KWeighting(self._rate, channels)

    def _energies(
        self, samples: NDArray[np.float32], ends: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        filtered = self._filter.process(samples.astype(np.float64))
        return np.add.reduceat(np.square(filtered, out=filtered), starts(ends), axis=1)


def starts(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where segments start that end at `ends`."""
    return np.concatenate([[0], ends[:-1]])
