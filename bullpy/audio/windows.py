"""Decibels, and sums over windows of whole 10 ms cells: what all definitions share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio.raw import CELLS_PER_SECOND

if TYPE_CHECKING:
    from numpy.typing import NDArray

SILENCE = -160.0
"""dB below which a level counts as silence: less than the last bit of 24-bit audio."""

HOP = CELLS_PER_SECOND // 10
"""Cells from one window to the next where a definition asks for ten a second."""

# Differences of a running sum: what rounding leaves in silence after something loud.
_ROUNDING = 1e-15


def window_means(
    cells: NDArray[np.float64], ends: NDArray[np.int64], length: int, hop: int = 1
) -> NDArray[np.float64]:
    """The mean per frame of every full window.

    Args:
        cells: Shape (cells,): a sum per cell; an incomplete last cell is left out.
        ends: `RawMeasurement.cell_ends()`: frame numbers, one more than complete cells.
        length: Cells of a window.
        hop: Cells from one window to the next; the first starts with the first cell.

    Returns:
        One mean per window; empty when there is no full window. A mean whose magnitude drowns
        in the rounding of the sums before it is 0.
    """
    count = len(ends) - 1
    if count < length:
        return np.zeros(0)
    # Slices and results in place: an hour has 360000 cells, and copies decide the memory.
    first, last = slice(0, count - length + 1, hop), slice(length, None, hop)
    total = np.zeros(count + 1)
    np.cumsum(np.abs(cells[:count]), out=total[1:])
    rounding = total[last] * _ROUNDING
    np.cumsum(cells[:count], out=total[1:])
    sums: NDArray[np.float64] = total[last] - total[first]
    sums[np.abs(sums) <= rounding] = 0.0
    sums /= ends[last] - ends[first]
    return sums


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
