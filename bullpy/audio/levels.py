"""Plain sums over samples: peaks, RMS, DC offset, clipping, and the stereo image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bullpy.audio.raw import RawMeasurement


@dataclass(frozen=True, slots=True)
class Clipping:
    """Samples at full scale.

    Attributes:
        samples: How many, over all channels.
        percentage: Of all samples, 0 to 100.
        runs: Stretches of three and more in a row, over all channels.
    """

    samples: int
    percentage: float
    runs: int


@dataclass(frozen=True, slots=True)
class Levels:
    """Sums of a whole file; every list has one value per channel.

    Attributes:
        frames: Frames summed.
        peaks: Largest magnitude, full scale being 1.
        means: Mean value: the DC offset.
        powers: Mean square.
        cross: Mean product of left and right; None unless there are two channels.
        clipping: See `Clipping`.
    """

    frames: int
    peaks: list[float]
    means: list[float]
    powers: list[float]
    cross: float | None
    clipping: Clipping

    def correlation(self) -> float | None:
        """Correlation of left and right, -1 to 1, as correlation meters show it.

        The mean is not removed: sum(LR) / sqrt(sum(LL) sum(RR)). None for mono or when a
        channel is silent.
        """
        if self.cross is None:
            return None
        both = math.sqrt(self.powers[0]) * math.sqrt(self.powers[1])
        return max(-1.0, min(1.0, self.cross / both)) if both > 0 else None

    def mid_side(self) -> tuple[float, float] | None:
        """Mean square of mid (L+R)/2 and of side (L-R)/2; None for mono."""
        if self.cross is None:
            return None
        half = (self.powers[0] + self.powers[1]) / 4
        return max(0.0, half + self.cross / 2), max(0.0, half - self.cross / 2)


def levels_of(raw: RawMeasurement) -> Levels:
    """Sums over all cells of a file."""
    cells, frames = raw.cells, raw.frames
    clipped = int(raw.clipping.samples.sum())
    return Levels(
        frames=frames,
        peaks=cells.peaks.max(axis=1).tolist(),
        means=(cells.sums.sum(axis=1) / frames).tolist(),
        powers=(cells.squares.sum(axis=1) / frames).tolist(),
        cross=float(cells.products.sum()) / frames if raw.channels == 2 else None,
        clipping=Clipping(
            samples=clipped,
            percentage=100 * clipped / (frames * raw.channels),
            runs=int(raw.clipping.runs.sum()),
        ),
    )
