"""Dynamics: TT DR, crest factor, PLR, PSR, and the RMS level of short windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio.loudness import ABSOLUTE_GATE, SHORT_TERM, LoudnessCurve
from bullpy.audio.raw import PEAK_CELLS, Blocks, RawMeasurement
from bullpy.audio.windows import HOP, SILENCE, decibels, power_decibels, power_of, window_means

if TYPE_CHECKING:
    from numpy.typing import NDArray

RMS_WINDOW = 30
"""Cells of the windows of `peak_rms` and `avg_rms` (300 ms); one starts every 100 ms."""


@dataclass(frozen=True, slots=True)
class Dynamics:
    """Ratios of peaks to levels, and levels of short windows.

    Attributes:
        range: TT dynamic range, dB; see `dynamic_range`. None when shorter than 6 s.
        range_int: The same as the meter shows it, rounded to a whole number.
        crest: Sample peak over RMS of the whole file, the larger of the channels' values,
            dB; a sine has 3.01.
        peak_rms: Loudest 300 ms, mean square of all channels, dBFS.
        avg_rms: Power mean of all 300 ms windows, dBFS.
        plr: Peak to loudness ratio: true peak minus integrated loudness, LU (EBU Tech 3343).
        psr: Lowest peak to short-term loudness ratio; see `peak_to_short_term`.
    """

    range: float | None
    range_int: int | None
    crest: float | None
    peak_rms: float | None
    avg_rms: float | None
    plr: float | None
    psr: float | None


def dynamics_of(raw: RawMeasurement, curve: LoudnessCurve, integrated: float | None) -> Dynamics:
    """All values of a file.

    Args:
        raw: The measurement.
        curve: Its loudness over time.
        integrated: Its integrated loudness, LUFS.
    """
    dr = dynamic_range(raw.blocks, raw.frames)
    windows = window_means(raw.cells.squares.mean(axis=0), raw, RMS_WINDOW, HOP)
    top = decibels(float(raw.true_peaks.max()))
    return Dynamics(
        range=dr,
        range_int=None if dr is None else math.floor(dr + 0.5),
        crest=crest_factor(raw),
        peak_rms=power_decibels(float(windows.max())) if len(windows) else None,
        avg_rms=power_decibels(float(windows.mean())) if len(windows) else None,
        plr=None if top is None or integrated is None else top - integrated,
        psr=peak_to_short_term(raw.true_peaks, curve.short_term(HOP)),
    )


def dynamic_range(blocks: Blocks, frames: int) -> float | None:
    """The TT dynamic range: "Measuring DR" v1.3 (Pleasurize Music Foundation, 2009).

    Per channel: the level of the loudest fifth of the 3 s blocks (at least one), below the
    second highest of the blocks' sample peaks. The level of a block is sqrt(2 * mean square),
    so that a sine has 0 dB. The value is the mean of the channels; silent ones do not count.
    The last, shorter block counts as a block.

    Args:
        blocks: Sums and peaks per block.
        frames: Frames of the file.

    Returns:
        dB; None with less than two full blocks, and for silence.
    """
    count = blocks.squares.shape[1]
    if frames < 2 * blocks.frames:
        return None
    lengths = np.full(count, blocks.frames, np.float64)
    lengths[-1] = frames - (count - 1) * blocks.frames
    powers = np.sort(2 * blocks.squares / lengths, axis=1)
    loudest = powers[:, -max(1, count // 5) :].mean(axis=1)
    second = np.sort(blocks.peaks, axis=1)[:, -2].astype(np.float64)
    heard = (second * second > power_of(SILENCE)) & (loudest > power_of(SILENCE))
    if not heard.any():
        return None
    ratios: NDArray[np.float64] = 20 * np.log10(second[heard]) - 10 * np.log10(loudest[heard])
    return float(ratios.mean())


def crest_factor(raw: RawMeasurement) -> float | None:
    """Sample peak over RMS of the whole file, the larger of the channels', dB.

    A sine has 3.01 dB. sox and ffmpeg print the same as a plain ratio. None for silence.
    """
    peaks = raw.cells.peaks.max(axis=1).astype(np.float64)
    powers = raw.cells.squares.sum(axis=1) / raw.frames
    heard = (peaks * peaks > power_of(SILENCE)) & (powers > 0)
    if not heard.any():
        return None
    return float(np.max(20 * np.log10(peaks[heard]) - 10 * np.log10(powers[heard])))


def peak_to_short_term(
    true_peaks: NDArray[np.float64], short_term: NDArray[np.float64]
) -> float | None:
    """The lowest PSR: true peak of the last 3 s minus their short-term loudness, LU.

    AES 143rd Convention e-Brief 373 (Shepherd, Grimm, Tapper, Kahsnitz, Kerr, 2017): how
    squashed the densest 3 s are. Windows start every 100 ms; those below -70 LUFS, which are
    no part of the programme, do not count.

    Args:
        true_peaks: Shape (channels, n): linear, one per 100 ms.
        short_term: LUFS, one window every 100 ms.

    Returns:
        LU; None when no window of 3 s is loud enough.
    """
    if not len(short_term):
        return None
    highest = np.lib.stride_tricks.sliding_window_view(
        true_peaks.max(axis=0), SHORT_TERM // PEAK_CELLS
    ).max(axis=1)[: len(short_term)]
    loud = short_term > ABSOLUTE_GATE
    if not loud.any():
        return None
    return float(np.min(20 * np.log10(highest[loud]) - short_term[loud]))
