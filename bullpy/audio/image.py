"""The stereo image of a file with two channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio.raw import RawMeasurement
from bullpy.audio.windows import HOP, SILENCE, power_decibels, power_of, window_means

if TYPE_CHECKING:
    from numpy.typing import NDArray

CORRELATION_WINDOW = 40
"""Cells of the windows of `correlation_curve` (400 ms)."""
AUDIBLE = -60.0
"""dBFS; quieter windows do not count as out of phase."""

_WHOLE_LIMIT = -0.1
_WINDOW_LIMIT = -0.5
_WINDOW_SHARE = 0.05
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Stereo:
    """The stereo image of a file with two channels; all None for any other count.

    M and S are the mean squares of mid (L+R)/2 and side (L-R)/2.

    Attributes:
        correlation: sum(LR) / sqrt(sum(LL) sum(RR)), -1 to 1, as correlation meters show it:
            the mean is not removed. None when a channel is silent.
        width: S / (M + S): 0 mono, 0.5 uncorrelated or one-sided, 1 antiphase. There is no
            standard; this ratio of energies is bounded.
        balance: (R - L) / (R + L) of the RMS values, -1 (left) to 1 (right).
        mono_compatibility: Power of the mono sum (L+R)/2 over the mean power of L and R,
            dB: 0 for mono, -3.01 for uncorrelated channels. None when the sum is silent.
        has_phase_issues: Whether playing in mono loses what stereo has; see
            `has_phase_issues`.
    """

    correlation: float | None
    width: float | None
    balance: float | None
    mono_compatibility: float | None
    has_phase_issues: bool | None


def stereo_of(raw: RawMeasurement) -> Stereo:
    """The stereo image of a measured file."""
    if raw.channels != 2:
        return Stereo(None, None, None, None, None)
    left, right = (float(power) for power in raw.cells.squares.sum(axis=1) / raw.frames)
    cross = float(raw.cells.products.sum()) / raw.frames
    floor = power_of(SILENCE)
    if max(left, right) <= floor:
        return Stereo(None, None, None, None, None)
    correlation = None
    if min(left, right) > floor:
        correlation = max(-1.0, min(1.0, cross / (math.sqrt(left) * math.sqrt(right))))
    # Mid plus side is half of left plus right: the mean power that the mono sum is held to.
    mid = max(0.0, (left + right) / 4 + cross / 2)
    side = max(0.0, (left + right) / 4 - cross / 2)
    # A difference of sums that are nearly equal: below this it is their rounding.
    silent = max(floor, _ROUNDING * (left + right))
    return Stereo(
        correlation=correlation,
        width=side / (mid + side),
        balance=(math.sqrt(right) - math.sqrt(left)) / (math.sqrt(right) + math.sqrt(left)),
        mono_compatibility=power_decibels(mid / (mid + side)) if mid > silent else None,
        has_phase_issues=has_phase_issues(correlation, *correlation_curve(raw)),
    )


def has_phase_issues(
    whole: float | None, curve: NDArray[np.float64], power: NDArray[np.float64]
) -> bool:
    """Whether a mono sum loses much of what is heard in stereo.

    True when the correlation of the whole file is below -0.1, or that of at least 5 % of the
    audible 400 ms windows is below -0.5, where channels of equal level lose more than 6 dB in
    the sum. A value around 0 is what unrelated channels have: wide, and no fault.

    Args:
        whole: Correlation of the whole file; None when a channel is silent.
        curve: Correlation per window, NaN where a channel is silent.
        power: Mean square of both channels per window.
    """
    if whole is not None and whole < _WHOLE_LIMIT:
        return True
    audible = (power > power_of(AUDIBLE)) & ~np.isnan(curve)
    out_of_phase = int(np.count_nonzero(curve[audible] < _WINDOW_LIMIT))
    return out_of_phase > 0 and out_of_phase >= _WINDOW_SHARE * int(np.count_nonzero(audible))


def correlation_curve(
    raw: RawMeasurement,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation of 400 ms windows, ten a second.

    Args:
        raw: A measurement of two channels.

    Returns:
        The correlation of each window, NaN where a channel is silent; and its mean square,
        mean of the channels.
    """
    left, right, cross = (
        window_means(cells, raw, CORRELATION_WINDOW, HOP)
        for cells in (*raw.cells.squares, raw.cells.products)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        curve = cross / (np.sqrt(left) * np.sqrt(right))
    floor = power_of(SILENCE)
    curve = np.where((left > floor) & (right > floor), np.clip(curve, -1, 1), np.nan)
    return curve, (left + right) / 2
