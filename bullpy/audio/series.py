"""Curves for plots, on request: loudness over time, the spectrum, the waveform.

Their size is bounded, whatever the length of the file: a long file has longer steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio.image import correlation_curve
from bullpy.audio.loudness import LoudnessCurve
from bullpy.audio.raw import CELLS_PER_SECOND, RawMeasurement
from bullpy.audio.windows import HOP, SILENCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_POINTS = 6000
"""Values of a loudness or correlation curve: ten minutes at 10 Hz."""
WAVEFORM_POINTS = 2000
"""Values of the waveform overview."""
BANDS_PER_OCTAVE = 12

_LOWEST_HZ = 20.0
_DECIMALS = 2


@dataclass(frozen=True, slots=True)
class Curve:
    """One value per step of time. A value belongs to the end of its window.

    Attributes:
        start: Seconds of the first value.
        step: Seconds from one value to the next.
        values: The values; None where there is none (silence).
    """

    start: float
    step: float
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class SpectrumCurve:
    """The mean power spectrum in bands of a twelfth of an octave.

    Attributes:
        hz: Centre of each band, Hz.
        db: Mean power per bin in the band, dB: 0 for a full-scale sine on a bin. None for
            silence.
    """

    hz: tuple[float, ...]
    db: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """Curves of one file.

    Attributes:
        momentary: Loudness of the last 400 ms, LUFS, at 10 Hz.
        short_term: Loudness of the last 3 s, LUFS, at 10 Hz.
        correlation: Correlation of the last 400 ms, at 10 Hz; empty unless there are two
            channels.
        waveform: Largest sample magnitude of all channels per step, full scale being 1.
        spectrum: The mean spectrum.

    A file of more than ten minutes has longer steps; a loudness is then the loudest of its
    step, a correlation the lowest.
    """

    momentary: Curve
    short_term: Curve
    correlation: Curve
    waveform: Curve
    spectrum: SpectrumCurve


def series_of(raw: RawMeasurement) -> Series:
    """The curves of a measured file."""
    loudness = LoudnessCurve(raw)
    peaks = raw.cells.peaks.max(axis=0).astype(np.float64)
    related = correlation_curve(raw)[0] if raw.channels == 2 else np.zeros(0)
    tenth = HOP / CELLS_PER_SECOND
    return Series(
        momentary=_curve(_heard(loudness.momentary(HOP)), 0.4, tenth, MOST_POINTS),
        short_term=_curve(_heard(loudness.short_term(HOP)), 3.0, tenth, MOST_POINTS),
        correlation=_curve(related, 0.4, tenth, MOST_POINTS, lowest=True),
        waveform=_curve(peaks, 0.01, 1 / CELLS_PER_SECOND, WAVEFORM_POINTS, decimals=4),
        spectrum=_spectrum(raw),
    )


def _heard(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(levels > SILENCE, levels, np.nan)


def _curve(
    values: NDArray[np.float64],
    start: float,
    step: float,
    limit: int,
    *,
    lowest: bool = False,
    decimals: int = _DECIMALS,
) -> Curve:
    """At most `limit` values: the extreme of each group of equally many; NaN becomes None."""
    group = max(1, math.ceil(len(values) / limit))
    padded = np.append(values, np.full(-len(values) % group, np.nan)).reshape(-1, group)
    reduce = np.fmin.reduce if lowest else np.fmax.reduce
    return Curve(
        start=round(start + (group - 1) * step, 3),
        step=round(group * step, 3),
        values=_plain(reduce(padded, axis=1), decimals),
    )


def _spectrum(raw: RawMeasurement) -> SpectrumCurve:
    power = raw.spectrum.average
    if not len(power):
        return SpectrumCurve((), ())
    width = raw.rate / raw.spectrum.size
    octaves = math.log2(raw.rate / 2 / _LOWEST_HZ)
    edges = _LOWEST_HZ * 2 ** (np.arange(int(octaves * BANDS_PER_OCTAVE) + 1) / BANDS_PER_OCTAVE)
    # At low frequencies a band is narrower than a bin: those without a bin are left out.
    bins = np.unique(np.ceil(edges / width).astype(np.int64))
    total = np.concatenate([[0.0], np.cumsum(power)])
    means = (total[bins[1:]] - total[bins[:-1]]) / np.diff(bins)
    centres = (bins[:-1] + bins[1:] - 1) / 2 * width
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = _heard(10 * np.log10(means))
    return SpectrumCurve(tuple(np.round(centres, 1).tolist()), _plain(levels, _DECIMALS))


def _plain(values: NDArray[np.float64], decimals: int) -> tuple[float | None, ...]:
    rounded: list[float] = np.round(values, decimals).tolist()
    return tuple(None if math.isnan(value) else value for value in rounded)
