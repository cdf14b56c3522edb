"""Plain sums over samples: peaks, RMS, DC offset, clipping, and the stereo image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bullpy.audio.raw import CLIP_LEVEL, CLIP_RUN

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        cross: Mean product of the first two channels; None for mono.
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


class LevelMeter:
    """Sums blocks of one file.

    Args:
        channels: Channel count.
    """

    def __init__(self, channels: int) -> None:
        self._frames = 0
        self._peaks = np.zeros(channels)
        self._sums = np.zeros(channels)
        self._squares = np.zeros(channels)
        self._cross = 0.0
        self._clipped = 0
        self._runs = 0
        self._open_runs = [0] * channels  # clipped samples in a row at the end so far

    def push(self, samples: NDArray[np.float64]) -> None:
        """Add a block of shape (channels, frames)."""
        peaks = np.maximum(samples.max(axis=1), -samples.min(axis=1))
        self._frames += samples.shape[1]
        self._peaks = np.maximum(self._peaks, peaks)
        self._sums += samples.sum(axis=1)
        self._squares += np.einsum("cn,cn->c", samples, samples)
        if len(samples) > 1:
            self._cross += float(samples[0] @ samples[1])
        for channel, peak in enumerate(peaks):
            if peak >= CLIP_LEVEL:
                self._count_clipped(channel, np.abs(samples[channel]) >= CLIP_LEVEL)
            else:
                self._open_runs[channel] = 0

    def result(self) -> Levels:
        """The values of what was pushed so far; there must be at least one frame."""
        frames = self._frames
        return Levels(
            frames=frames,
            peaks=self._peaks.tolist(),
            means=(self._sums / frames).tolist(),
            powers=(self._squares / frames).tolist(),
            cross=self._cross / frames if len(self._peaks) > 1 else None,
            clipping=Clipping(
                samples=self._clipped,
                percentage=100 * self._clipped / (frames * len(self._peaks)),
                runs=self._runs,
            ),
        )

    def _count_clipped(self, channel: int, clipped: NDArray[np.bool_]) -> None:
        self._clipped += int(np.count_nonzero(clipped))
        edges = np.flatnonzero(np.diff(np.concatenate([[False], clipped, [False]]).astype(np.int8)))
        starts, ends = edges[::2], edges[1::2]
        lengths = ends - starts
        carried = self._open_runs[channel]
        if carried and starts[0] == 0:
            lengths[0] += carried
            # It was counted already when it had reached the length in the block before.
            self._runs -= carried >= CLIP_RUN
        self._runs += int(np.count_nonzero(lengths >= CLIP_RUN))
        self._open_runs[channel] = int(lengths[-1]) if clipped[-1] else 0
