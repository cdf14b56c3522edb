"""Programme loudness: ITU-R BS.1770-5 with EBU Tech 3341 and 3342 (2023).

Everything follows from the K-weighted energy of 10 ms cells (0.3 MB per hour). Momentary and
short-term maxima are then exact on a 10 ms grid; meters that look every 100 ms fail EBU Tech
3341 cases 13 and 14.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio.raw import RawMeasurement
from bullpy.audio.speakers import channel_weights
from bullpy.audio.windows import HOP, SILENCE, window_means

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOMENTARY = 40
"""Cells of a momentary window (400 ms)."""
SHORT_TERM = 300
"""Cells of a short-term window (3 s)."""
ABSOLUTE_GATE = -70.0
"""LUFS; BS.1770-5 Annex 1: quieter blocks are no part of the programme."""

_RELATIVE_GATE = -10.0  # LU, BS.1770-5 Annex 1
_RANGE_GATE = -20.0  # LU, Tech 3342
_OFFSET = -0.691  # BS.1770-5 Annex 1: makes a 997 Hz full-scale sine in one channel -3.01


@dataclass(frozen=True, slots=True)
class Loudness:
    """Loudness of a whole programme; None where it is not defined.

    Attributes:
        integrated: Gated loudness, LUFS. None when shorter than 400 ms or all below the gate.
        short_term: Loudest 3 s, LUFS. None when shorter than 3 s.
        momentary: Loudest 400 ms, LUFS. None when shorter than 400 ms.
        lra: Loudness range, LU. None when shorter than 3 s or all below the gate.
    """

    integrated: float | None
    short_term: float | None
    momentary: float | None
    lra: float | None


class LoudnessCurve:
    """Loudness over time, from which the values of the whole programme follow.

    Channels are weighted by the loudspeaker that they feed; see `speakers`.

    Args:
        raw: The measurement.
    """

    def __init__(self, raw: RawMeasurement) -> None:
        self._energy = np.array(channel_weights(raw.channels, raw.channel_mask)) @ raw.cells.energy
        self._raw = raw

    def momentary(self, hop: int = 1) -> NDArray[np.float64]:
        """Loudness of every 400 ms window, one each `hop` cells, LUFS (Tech 3341 section 2.2)."""
        return _loudness(self._means(MOMENTARY, hop))

    def short_term(self, hop: int = 1) -> NDArray[np.float64]:
        """Loudness of every 3 s window, one each `hop` cells, LUFS (Tech 3341 section 2.2)."""
        return _loudness(self._means(SHORT_TERM, hop))

    def whole(self) -> Loudness:
        """The values of the whole programme."""
        return Loudness(
            integrated=_integrated(self._means(MOMENTARY, HOP)),
            short_term=_loudest(self._means(SHORT_TERM, 1)),
            momentary=_loudest(self._means(MOMENTARY, 1)),
            lra=loudness_range(self._means(SHORT_TERM, HOP)),
        )

    def _means(self, length: int, hop: int) -> NDArray[np.float64]:
        return window_means(self._energy, self._raw, length, hop)


def loudness_range(power: NDArray[np.float64]) -> float | None:
    """EBU Tech 3342 (2023): spread between the 10th and the 95th percentile, nearest rank.

    Tech 3342 lets file-based meters append 1.5 s of silence; this one does not (the
    difference is below 0.01 LU).

    Args:
        power: Mean weighted power of 3 s windows, ten a second or more.

    Returns:
        LU; None when no window reaches -70 LUFS.
    """
    loud = power[_loudness(power) >= ABSOLUTE_GATE]
    if not len(loud):
        return None
    gate = _loudness(np.mean(loud, keepdims=True)) + _RANGE_GATE
    levels = np.sort(_loudness(loud))
    levels = levels[levels >= gate]
    low, high = (_nearest_rank(len(levels), percent) for percent in (10, 95))
    return float(levels[high] - levels[low])


def _nearest_rank(count: int, percent: int) -> int:
    """Tech 3342 section 3.2: round((n - 1) * p / 100 + 1), halves upwards; counted from 0."""
    return ((count - 1) * percent + 50) // 100


def _loudness(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """BS.1770-5 Annex 1 equation 2."""
    return _OFFSET + 10 * np.log10(np.maximum(power, 1e-30))


def _loudest(power: NDArray[np.float64]) -> float | None:
    if not len(power):
        return None
    loudest = float(_loudness(power.max(keepdims=True))[0])
    return loudest if loudest > SILENCE else None


def _integrated(power: NDArray[np.float64]) -> float | None:
    """BS.1770-5 Annex 1, equations 4 to 7: both gates are strict."""
    loud = power[_loudness(power) > ABSOLUTE_GATE]
    if not len(loud):
        return None
    gate = _loudness(np.mean(loud, keepdims=True)) + _RELATIVE_GATE
    return float(_loudness(np.mean(loud[_loudness(loud) > gate], keepdims=True))[0])
