"""The passes with their arithmetic done by the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bullpy.audio import raw
from bullpy.audio.kernel import library
from bullpy.audio.kweighting import k_weighting_sections
from bullpy.audio.passes.levels import LevelPass
from bullpy.audio.passes.spectrum import FEATURES, FLOOR, ROLLOFF, SpectrumPass
from bullpy.audio.passes.truepeak import HALF, PARABOLA, PHASES, TruePeakPass, phase
from bullpy.audio.passes.weighting import WeightingPass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bullpy.audio.chunks import Block
    from bullpy.audio.passes.levels import Found

    Array = NDArray[Any]

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector


def split(block: Block, out: NDArray[np.float32]) -> None:
    """See `bullpy.audio.chunks.split`."""
    kernel = library.load()
    function = kernel.split_int16 if block.dtype == np.int16 else kernel.split_float
    whole = np.ascontiguousarray(block)
    function(whole.ctypes.data, *whole.shape, out.ctypes.data, _stride(out))


class KernelWeightingPass(WeightingPass):
    """Two biquads in direct form, sample by sample."""

    def _prepare(self, channels: int) -> None:
        self._kernel = library.load()
        shelf, high_pass = k_weighting_sections(self._rate)
        self._coefficients = np.array([*shelf, *high_pass[3:]])
        self._state = np.zeros((channels, 6))

    def _energies(
        self, samples: NDArray[np.float32], ends: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        energy = np.empty((len(samples), len(ends)))
        self._kernel.weighting(
            *_rows(samples), *_ends(ends), *_data(self._coefficients, self._state, energy)
        )
        return energy


class KernelLevelPass(LevelPass):
    """Sums in double precision, eight samples at a time."""

    def __init__(self, rate: int, channels: int) -> None:
        super().__init__(rate, channels)
        self._kernel = library.load()

    def _statistics(
        self, samples: NDArray[np.float32], ends: NDArray[np.int64], block_ends: NDArray[np.int64]
    ) -> Found:
        channels, cells, blocks = len(samples), len(ends), len(block_ends)
        sums, peaks = np.empty((self._rows, cells)), np.empty((channels, cells), np.float32)
        block_squares = np.empty((channels, blocks))
        block_peaks = np.empty((channels, blocks), np.float32)
        found = (sums, peaks, block_squares, block_peaks)
        self._kernel.statistics(*_rows(samples), *_ends(ends), *_ends(block_ends), *_data(*found))
        return found

    def _count(self, channel: int, samples: NDArray[np.float32]) -> None:
        counters = (self._clipped, self._runs, self._open)
        counts = np.array([counter[channel] for counter in counters])
        self._kernel.clipped(
            samples.ctypes.data, len(samples), raw.CLIP_LEVEL, raw.CLIP_RUN, counts.ctypes.data
        )
        for counter, count in zip(counters, counts, strict=True):
            counter[channel] = count


class KernelTruePeakPass(TruePeakPass):
    """The same filter, one row of samples at a time."""

    def _prepare(self) -> None:
        self._kernel = library.load()
        taps = np.stack([phase(index) for index in range(1, PHASES)]).astype(np.float32)
        self._taps = taps
        self._bounds = peak_bounds()

    def _segment_peaks(
        self, data: NDArray[np.float32], at: int, ends: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        peaks = np.empty((len(data), len(ends)))
        self._kernel.true_peak(
            *_rows(data), at, *_ends(ends), *_data(self._taps), *self._bounds,
            PARABOLA, *_data(peaks),
        )  # fmt: skip
        return peaks


def peak_bounds() -> tuple[float, float]:
    """How high the waveform can rise; truepeak.c says why.

    Returns:
        Two factors: no point, refined by the parabola, exceeds the first times the largest of
        the samples beside it plus the second times the largest second difference around it.
    """
    offset = np.arange(-HALF, HALF + 2)
    # The points 1/4 before sample 0 to sample 1, as weights of the samples -12 to 13.
    points = np.zeros((PHASES + 2, len(offset)))
    points[0, : 2 * HALF] = phase(PHASES - 1)
    points[1, HALF] = points[PHASES + 1, HALF + 1] = 1
    for index in range(1, PHASES):
        points[1 + index, 1 : 2 * HALF + 1] = phase(index)
    lines = np.zeros((PHASES + 1, len(offset)))
    lines[:, HALF] = 1 - np.arange(PHASES + 1) / PHASES
    lines[:, HALF + 1] = np.arange(PHASES + 1) / PHASES
    level, curvature = _split_norms(points[1:] - lines, offset)
    # The parabola adds at most an eighth of the second difference of the points themselves.
    more_level, more_curvature = _split_norms(np.diff(points, 2, axis=0), offset)
    rounding = 1 + 1e-5  # single precision
    return rounding * (1 + level + more_level / 8), rounding * (curvature + more_curvature / 8)


def _split_norms(rows: Array, offset: NDArray[np.int64]) -> tuple[float, float]:
    """The largest absolute sums of filters split into samples 0 and 1, and second differences."""
    mean, slope = rows.sum(axis=1), rows @ offset
    rest = rows.copy()
    rest[:, HALF] -= mean - slope
    rest[:, HALF + 1] -= slope
    differences = np.abs(np.cumsum(np.cumsum(rest, axis=1), axis=1)).sum(axis=1)
    return float((np.abs(mean - slope) + np.abs(slope)).max()), float(differences.max())


class KernelSpectrumPass(SpectrumPass):
    """Single precision transforms of several frames at once."""

    def _prepare(self, channels: int) -> None:
        self._kernel = library.load()
        angle = 2 * np.pi * np.arange(self._size) / self._size
        self._turns = np.stack([np.cos(angle), -np.sin(angle)], axis=1).astype(np.float32)
        self._short_window = self._window.astype(np.float32)
        self._bounds = np.array(self._edges, np.int64)
        self._work = _aligned(self._kernel.spectrum_work(self._size))
        self._previous = np.zeros(self._bins, np.float32)

    def _features(self, data: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        rows = np.empty((count, FEATURES), np.float32)
        self._kernel.spectrum(
            *_rows(data), count, self._size, self._hop,
            *_data(self._short_window, self._turns, self._bounds, self._work),
            self._scale, self._frequencies[1], ROLLOFF, FLOOR,
            *_data(self._total, self._previous, rows),
        )  # fmt: skip
        return rows


def _rows(samples: NDArray[np.float32]) -> tuple[int, int, int]:
    """Address, floats from row to row, and number of rows."""
    return samples.ctypes.data, _stride(samples), len(samples)


def _stride(samples: NDArray[np.float32]) -> int:
    return samples.strides[0] // samples.itemsize


def _ends(ends: NDArray[np.int64]) -> tuple[int, int]:
    return ends.ctypes.data, len(ends)


def _data(*arrays: Array) -> tuple[int, ...]:
    return tuple(array.ctypes.data for array in arrays)


def _aligned(count: int) -> NDArray[np.float32]:
    """An array of float32 whose address is a multiple of `_ALIGNMENT`."""
    memory = np.zeros(count * 4 + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + count * 4].view(np.float32)
