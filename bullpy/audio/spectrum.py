"""Spectrum: centroid, roll-off, flatness, flux, and the share of seven bands.

Frames of 4096 samples every 1024, periodic Hann window; twice and four times as long at
88.2/96 and 176.4/192 kHz, so that a bin stays near 11 Hz. The power of a frame is the mean
of its channels' powers, so an antiphase stereo signal does not vanish.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio.raw import BANDS, frame_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OVERLAP = 4
_GATE = 1e-6  # mean square of -60 dBFS: quieter frames have no character worth averaging
_ROLLOFF = 0.85
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Medians over the frames above -60 dBFS; None when there is no such frame.

    Attributes:
        centroid_hz: Centre of gravity of the power spectrum, Hz.
        rolloff_hz: Frequency below which 85 % of the power lies, Hz.
        flatness: Geometric over arithmetic mean of the power without DC, 0 to 1.
        flux: Euclidean distance of the magnitudes of consecutive frames; a full-scale sine
            has magnitude 1.
        bands: Power per band of `BANDS`, summed over all frames; None when no frame fits.
    """

    centroid_hz: float | None
    rolloff_hz: float | None
    flatness: float | None
    flux: float | None
    bands: tuple[float, ...] | None


class SpectrumMeter:
    """Analyses blocks of one file.

    Args:
        rate: Sample rate, Hz.
        channels: Channel count.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self._size = frame_size(rate)
        self._hop = self._size // _OVERLAP
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self._size) / self._size)
        # Double precision: numpy's single precision transform is several times slower.
        self._window = window
        # A full-scale sine then has power 1 in its bin: Hann halves, a real tone splits in two.
        self._scale = np.float32((4 / self._size) ** 2 / channels)
        self._power_to_square = 1 / (2 * 1.5)  # Parseval, and Hann's noise bandwidth of 1.5 bins
        self._frequencies = (np.arange(self._size // 2 + 1) * (rate / self._size)).astype(
            np.float32
        )
        self._edges = [
            [min(self._size // 2 + 1, math.ceil(edge * self._size / rate)) for edge in band[1:]]
            for band in BANDS
        ]
        # Reused by every batch: fresh megabytes cost more than the arithmetic on them.
        shape, bins = (channels, _BATCH), self._size // 2 + 1
        self._windowed = np.empty((*shape, self._size))
        self._spectra = np.empty((*shape, bins), np.complex128)
        self._squares = np.empty((_BATCH, bins * 2))
        self._power = np.empty((_BATCH, bins), np.float32)
        self._scratch = np.empty((_BATCH, bins), np.float32)
        self._pending = np.zeros((channels, 0), np.float32)
        self._previous: NDArray[np.float32] | None = None
        self._features: list[NDArray[np.float64]] = []
        self._total = np.zeros(self._size // 2 + 1)

    def push(self, samples: NDArray[np.float32]) -> None:
        """Add a block of shape (channels, frames)."""
        data = np.concatenate([self._pending, samples], axis=1)
        count = max(0, (data.shape[1] - self._size) // self._hop + 1)
        if count:
            frames = np.lib.stride_tricks.sliding_window_view(data, self._size, axis=1)
            frames = frames[:, :: self._hop]
            for start in range(0, count, _BATCH):
                self._measure(self._spectrum(frames[:, start : start + _BATCH]))
        self._pending = data[:, count * self._hop :].copy()

    def result(self) -> Spectrum:
        """The values of what was pushed so far."""
        if not self._features:
            return Spectrum(None, None, None, None, None)
        features = np.concatenate(self._features)
        loud = features[features[:, 0] > _GATE]
        flux = loud[~np.isnan(loud[:, 4]), 4]
        centroid, rolloff, flatness = (
            float(np.median(loud[:, column])) if len(loud) else None for column in (1, 2, 3)
        )
        return Spectrum(
            centroid_hz=centroid,
            rolloff_hz=rolloff,
            flatness=flatness,
            flux=float(np.median(flux)) if len(flux) else None,
            bands=tuple(float(self._total[low:high].sum()) for low, high in self._edges),
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

    def _measure(self, power: NDArray[np.float32]) -> None:
        self._total += power.sum(axis=0, dtype=np.float64)
        total = power.sum(axis=1, dtype=np.float64)
        scratch = self._scratch[: len(power)]
        np.cumsum(power, axis=1, out=scratch)
        rolloff = np.count_nonzero(scratch < _ROLLOFF * scratch[:, -1:], axis=1)
        np.log(np.add(power, np.float32(1e-30), out=scratch), out=scratch)
        tones = np.maximum(power[:, 1:].mean(axis=1, dtype=np.float64), 1e-30)
        flatness = np.exp(scratch[:, 1:].mean(axis=1, dtype=np.float64)) / tones
        columns = [
            total * self._power_to_square,
            (power @ self._frequencies) / np.maximum(total, 1e-30),
            self._frequencies[rolloff],
            np.minimum(flatness, 1.0),
            self._flux(power),
        ]
        self._features.append(np.stack(columns, axis=1).astype(np.float64))

    def _flux(self, power: NDArray[np.float32]) -> NDArray[np.float64]:
        magnitude = np.sqrt(power, out=self._scratch[: len(power)])
        flux = np.full(len(power), np.nan)  # the first frame has none before it
        if self._previous is not None:
            flux[0] = np.linalg.norm(magnitude[0] - self._previous)
        self._previous = magnitude[-1].copy()
        steps = np.subtract(magnitude[1:], magnitude[:-1], out=magnitude[:-1])
        flux[1:] = np.sqrt(np.einsum("ij,ij->i", steps, steps))
        return flux
