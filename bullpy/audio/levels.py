"""Plain sums over samples: peaks, RMS, DC offset and clipping."""

from __future__ import annotations

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
        clipping: See `Clipping`.
    """

    frames: int
    peaks: list[float]
    means: list[float]
    powers: list[float]
    clipping: Clipping


def levels_of(raw: RawMeasurement) -> Levels:
    """Sums over all cells of a file."""
    cells, frames = raw.cells, raw.frames
    clipped = int(raw.clipping.samples.sum())
    return Levels(
        frames=frames,
        peaks=cells.peaks.max(axis=1).tolist(),
        means=(cells.sums.sum(axis=1) / frames).tolist(),
        powers=(cells.squares.sum(axis=1) / frames).tolist(),
        clipping=Clipping(
            samples=clipped,
            percentage=100 * clipped / (frames * raw.channels),
            runs=int(raw.clipping.runs.sum()),
        ),
    )
