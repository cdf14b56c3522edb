"""Decibels, and sums over windows of whole 10 ms cells: what all definitions share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio.raw import CELLS_PER_SECOND, RawMeasurement, cell_ends

if TYPE_CHECKING:
    from numpy.typing import NDArray

SILENCE = -160.0
"""dB below which a level counts as silence: less than the last bit of 24-bit audio."""

HOP = CELLS_PER_SECOND // 10
"""Cells from one window to the next where a definition asks for ten a second."""

# Differences of a running sum: what rounding leaves in silence after something loud.
_ROUNDING = 1e-15
# Windows at a time, times their hop: an hour has 360000 cells, and copies decide the memory.
_PART_CELLS = 20_000


def window_means(
    cells: NDArray[np.float64], raw: RawMeasurement, length: int, hop: int = 1
) -> NDArray[np.float64]:
    """The mean per frame of every full window.

    Args:
        cells: Shape (cells,): a sum per cell; an incomplete last cell is left out.
        raw: The measurement that they are from.
        length: Cells of a window.
        hop: Cells from one window to the next, at most `length`; the first starts with the
            first cell.

    Returns:
        One mean per window; empty when there is no full window. A mean whose magnitude drowns
        in the rounding of the sums before it is 0.
    """
    means = np.empty(max(0, (raw.full_cells - length) // hop + 1))
    before = size_before = 0.0
    for at in range(0, len(means), _PART_CELLS // hop):
        part = means[at : at + _PART_CELLS // hop]
        start, stop = at * hop, (at + len(part) - 1) * hop + length
        total = _running(before, cells[start:stop])
        size = _running(size_before, np.abs(cells[start:stop]))
        ends = cell_ends(raw.rate, start, stop)
        np.subtract(total[length::hop], total[:-length:hop], out=part)
        part[np.abs(part) <= size[length::hop] * _ROUNDING] = 0.0
        part /= ends[length::hop] - ends[:-length:hop]
        following = len(part) * hop
        before, size_before = total[following], size[following]
    return means


def _running(before: float, cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum up to each cell, the first being that of the cells before these."""
    total = np.empty(len(cells) + 1)
    total[0] = before
    total[1:] = cells
    return np.cumsum(total, out=total)


def power_decibels(power: float | None) -> float | None:
    """10 log10; None for None and for silence."""
    if power is None or power <= power_of(SILENCE):
        return None
    return 10 * math.log10(power)


def decibels(amplitude: float | None) -> float | None:
    """20 log10; None for None and for silence."""
    return None if amplitude is None else power_decibels(amplitude * amplitude)


def power_of(level: float) -> float:
    """The mean square of a level in dB."""
    return 10 ** (level / 10)
