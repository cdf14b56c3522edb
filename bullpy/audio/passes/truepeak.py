"""True peak: the level of the waveform between its samples, ITU-R BS.1770-5 Annex 2.

Four times oversampling with 24 taps per phase (BS.1770's own table has 12, and reads up to
half a decibel low on bright, limited music), then a parabola through each highest point and
its neighbours, which takes back most of what a grid of four points misses. Stretches that
cannot hold the maximum of their 100 ms are skipped: no interpolated value exceeds the largest
sample around it times the filter's absolute sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio.chunks import Chunk, cell_segments
from bullpy.audio.passes.columns import Columns
from bullpy.audio.raw import PEAK_CELLS

if TYPE_CHECKING:
    from numpy.typing import NDArray

PHASES = 4
HALF = 12
"""Taps on either side of the interpolated point."""
PARABOLA = 1.125
"""The parabola's top is at most an eighth above the highest of three points."""
LAG = 80
"""Points are evaluated so many samples late, when all that a row of them needs is there."""
_BETA = 6.0  # Kaiser window
_ROW = 64
_WIDTH = HALF + _ROW + HALF


class TruePeakPass:
    """The true peak of every channel in every 100 ms.

    Args:
        rate: Sample rate, Hz.
        channels: Channel count.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self._rate = rate
        self._peaks: Columns[np.float64] = Columns(np.maximum)
        self._tail = np.zeros((channels, HALF + LAG), np.float32)
        self._stop = 0
        self._prepare()

    def push(self, chunk: Chunk) -> None:
        """Add the next chunk."""
        self._stop = chunk.stop
        end = chunk.margin + chunk.frames
        self._tail = chunk.data[:, end - LAG - HALF : end].copy()
        self._measure(chunk.data, chunk.start - chunk.margin, chunk.start - LAG, chunk.stop - LAG)

    def result(self) -> NDArray[np.float64]:
        """Peaks, shape (channels, cells of 100 ms)."""
        data = np.pad(self._tail, ((0, 0), (0, LAG + HALF)))
        self._measure(data, self._stop - LAG - HALF, self._stop - LAG, self._stop)
        return self._peaks.joined()

    def _measure(self, data: NDArray[np.float32], origin: int, start: int, stop: int) -> None:
        """The points of frames `start` to `stop`; `data` begins with frame `origin`."""
        start = max(0, start)
        if start < stop:
            first, ends = cell_segments(self._rate, start, stop, PEAK_CELLS)
            self._peaks.add(first, self._segment_peaks(data, start - origin, ends))

    def _prepare(self) -> None:
        self._matrix = _interpolation_matrix()
        self._bound = bound(self._matrix)

    def _segment_peaks(
        self, data: NDArray[np.float32], at: int, ends: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The peak of each segment, shape (channels, segments); frame 0 is column `at`."""
        peaks = np.empty((len(data), len(ends)))
        for row, samples in zip(peaks, data, strict=True):
            begin = 0
            for index, end in enumerate(ends.tolist()):
                row[index] = self._search(samples[at + begin - HALF :], end - begin)
                begin = end
        return peaks

    def _search(self, samples: NDArray[np.float32], frames: int) -> float:
        """The highest point of the first `frames` frames after `HALF` samples."""
        peak = float(np.abs(samples[HALF : HALF + frames]).max())
        rows = -(-frames // _ROW)
        windows = np.lib.stride_tricks.sliding_window_view(samples, _WIDTH)[: rows * _ROW : _ROW]
        nearby = np.maximum(windows.max(axis=1), -windows.min(axis=1))
        chosen = np.flatnonzero(nearby * self._bound > peak)
        if not len(chosen):
            return peak
        grid = (windows[chosen] @ self._matrix).astype(np.float64)
        left, middle, right = grid[:, :-2], grid[:, 1:-1], grid[:, 2:]
        size = np.abs(middle)
        if chosen[-1] == rows - 1:  # what lies beyond the segment is the next one's
            size[-1, (frames - (rows - 1) * _ROW) * PHASES :] = 0.0
        top = (size * PARABOLA > peak) & (size >= np.abs(left)) & (size >= np.abs(right))
        sign = np.sign(middle[top])
        before, at, after = (
            np.maximum(sign * values[top], 0.0) for values in (left, middle, right)
        )
        curve = 2 * at - before - after
        gain = np.square(before - after) / (8 * np.where(curve > 0, curve, np.inf))
        return max(peak, float(np.max(at + gain, initial=0.0)))


def phase(index: int) -> NDArray[np.float64]:
    """Taps -11 to 12 of a windowed sinc for the point `index` / 4 after sample 0."""
    at = np.arange(-HALF + 1, HALF + 1) - index / PHASES
    window = np.i0(_BETA * np.sqrt(np.clip(1 - (at / HALF) ** 2, 0, 1))) / np.i0(_BETA)
    return np.sinc(at) * window


def bound(taps: NDArray[np.float32]) -> float:
    """How far the waveform can exceed the samples around, for taps in columns."""
    return float(np.abs(taps).sum(axis=0).max()) * PARABOLA


def _interpolation_matrix() -> NDArray[np.float32]:
    """Columns that turn a window of samples into a row of four times as many points.

    The first and the last column belong to the neighbouring rows: the parabola needs them.
    """
    phases = [phase(index) for index in range(PHASES)]
    columns = _ROW * PHASES + 2
    matrix = np.zeros((_WIDTH, columns))
    for column in range(columns):
        sample, index = divmod(column - 1, PHASES)
        first = HALF + sample - (HALF - 1)
        if index == 0:  # the sample itself; its other taps are zero and may hang over the edge
            matrix[HALF + sample, column] = 1.0
        else:
            matrix[first : first + 2 * HALF, column] = phases[index]
    return matrix.astype(np.float32)
