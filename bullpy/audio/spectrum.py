"""Spectrum of a whole file: centroid, roll-off, flatness, flux, and the share of seven bands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio.raw import RawMeasurement

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GATE = 1e-6  # mean square of -60 dBFS: quieter frames have no character worth averaging


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


def spectrum_of(raw: RawMeasurement) -> Spectrum:
    """Medians over a file's frames."""
    frames = raw.spectrum
    if not len(frames.power):
        return Spectrum(None, None, None, None, None)
    loud = frames.power > _GATE
    return Spectrum(
        centroid_hz=_median(frames.centroid[loud]),
        rolloff_hz=_median(frames.rolloff[loud]),
        flatness=_median(frames.flatness[loud]),
        flux=_median(frames.flux[loud & ~np.isnan(frames.flux)]),
        bands=tuple(frames.bands.sum(axis=0, dtype=np.float64).tolist()),
    )


def _median(values: NDArray[np.float32]) -> float | None:
    return float(np.median(values)) if len(values) else None
