"""Power spectrum of overlapping frames, and what each frame says of it.

Frames of 4096 samples every 1024, periodic Hann window; longer at high rates, see
`raw.frame_size`. The power of a frame is the mean of its channels' powers, so an antiphase
stereo signal does not vanish.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio import raw
from bullpy.audio.chunks import Chunk
from bullpy.audio.passes.columns import Columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROLLOFF = 0.85
FLOOR = 1e-30
"""Added to every power before the logarithm; far below the rounding of a transform."""
FEATURES = 5 + len(raw.BANDS)
"""Columns of a frame's row: power, centroid, rolloff, flatness, flux, and the bands."""
_OVERLAP = 4
_BATCH = 16


class SpectrumPass:
    """Features of every frame, and the mean spectrum.

    Args:
        rate: Sample rate, Hz.
        channels: Channel count.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self._size = raw.frame_size(rate)
        self._hop = self._size // _OVERLAP
        self._bins = self._size // 2 + 1
        self._window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self._size) / self._size)
        # A full-scale sine then has power 1 in its bin: Hann halves, a real tone splits in two.
        self._scale = np.float32((4 / self._size) ** 2 / channels)
        self._power_to_square = 1 / (2 * 1.5)  # Parseval, and Hann's noise bandwidth of 1.5 bins
        self._frequencies = (np.arange(self._bins) * (rate / self._size)).astype(np.float32)
        self._edges = [
            min(self._bins, math.ceil(edge * self._size / rate))
            for edge in (*(low for _, low, _ in raw.BANDS), raw.BANDS[-1][2])
        ]
        # One list of chunks' rows would be there twice when they are joined.
        self._rows: Columns[np.float32] = Columns(np.add)
        self._total = np.zeros(self._bins)
        self._rows.add(0, np.zeros((FEATURES, 0), np.float32))  # a file shorter than a frame
        self._prepare(channels)

    def push(self, chunk: Chunk) -> None:
        """Add the next chunk: the frames that end in it."""
        first, count = self._frames(chunk.start), self._frames(chunk.stop)
        if count > first:
            at = first * self._hop - chunk.start + chunk.margin
            self._rows.add(first, self._features(chunk.data[:, at:], count - first).T)

    def result(self) -> raw.SpectrumFrames:
        """The values of all frames."""
        rows = self._rows.joined().T
        if len(rows):
            rows[0, 4] = np.nan  # the first frame has none before it
        power, centroid, rolloff, flatness, flux = (rows[:, i] for i in range(5))
        return raw.SpectrumFrames(
            size=self._size,
            hop=self._hop,
            power=power,
            centroid=centroid,
            rolloff=rolloff,
            flatness=flatness,
            flux=flux,
            bands=rows[:, 5:],
            average=self._total / len(rows) if len(rows) else np.zeros(0),
        )

    def _frames(self, stop: int) -> int:
        """Frames that end within the first `stop` samples."""
        return max(0, (stop - self._size) // self._hop + 1)

    def _prepare(self, channels: int) -> None:
        # Reused by every batch: fresh megabytes cost more than the arithmetic on them. Double
        # precision: numpy's single precision transform is several times slower.
        shape = (channels, _BATCH)
        self._windowed = np.empty((*shape, self._size))
        self._spectra = np.empty((*shape, self._bins), np.complex128)
        self._squares = np.empty((_BATCH, self._bins * 2))
        self._power = np.empty((_BATCH, self._bins), np.float32)
        self._scratch = np.empty((_BATCH, self._bins), np.float32)
        self._previous = np.zeros(self._bins, np.float32)

    def _features(self, data: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """The rows of `count` frames, the first of which starts `data`."""
        frames = np.lib.stride_tricks.sliding_window_view(data, self._size, axis=1)
        frames = frames[:, : count * self._hop : self._hop]
        return np.concatenate(
            [
                self._measure(self._spectrum(frames[:, at : at + _BATCH]))
                for at in range(0, count, _BATCH)
            ]
        )

    def _spectrum(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Power spectra of a batch, mean of the channels."""
        count = frames.shape[1]
        windowed, spectra = self._windowed[:, :count], self._spectra[:, :count]
        np.multiply(frames, self._window, out=windowed)
        np.fft.rfft(windowed, axis=2, out=spectra)
        parts = spectra.view(np.float64)  # real and imaginary parts, alternating
        squares = self._squares[:count]
        np.einsum("cfk,cfk->fk", parts, parts, out=squares)
        power = self._power[:count]
        np.add(squares[:, ::2], squares[:, 1::2], out=power, casting="same_kind")
        power *= self._scale
        return power

    def _measure(self, power: NDArray[np.float32]) -> NDArray[np.float32]:
        self._total += power.sum(axis=0, dtype=np.float64)
        total = power.sum(axis=1, dtype=np.float64)
        scratch = self._scratch[: len(power)]
        np.cumsum(power, axis=1, out=scratch)
        rolloff = np.count_nonzero(scratch < ROLLOFF * scratch[:, -1:], axis=1)
        np.log(np.add(power, np.float32(FLOOR), out=scratch), out=scratch)
        tones = np.maximum(power[:, 1:].mean(axis=1, dtype=np.float64), FLOOR)
        flatness = np.exp(scratch[:, 1:].mean(axis=1, dtype=np.float64)) / tones
        bands = [
            power[:, low:high].sum(axis=1, dtype=np.float64)
            for low, high in zip(self._edges, self._edges[1:], strict=False)
        ]
        columns = [
            total * self._power_to_square,
            (power @ self._frequencies) / np.maximum(total, FLOOR),
            self._frequencies[rolloff],
            np.minimum(flatness, 1.0),
            self._flux(power),
            *bands,
        ]
        return np.stack(columns, axis=1).astype(np.float32)

    def _flux(self, power: NDArray[np.float32]) -> NDArray[np.float64]:
        magnitude = np.sqrt(power, out=self._scratch[: len(power)])
        flux = np.empty(len(power))
        flux[0] = np.linalg.norm(magnitude[0] - self._previous)
        self._previous = magnitude[-1].copy()
        steps = np.subtract(magnitude[1:], magnitude[:-1], out=magnitude[:-1])
        flux[1:] = np.sqrt(np.einsum("ij,ij->i", steps, steps))
        return flux
