"""What one pass over a file leaves: numbers of short cells, from which every value follows.

A *cell* is 10 ms. All time-domain results are kept per cell and channel, so a window of any
length (400 ms, 3 s, 300 ms) is a sum or a maximum over whole cells, and no definition needs
the samples again. `bullpy.audio.passes` fills these; `loudness`, `levels` and the like read
them. All levels are linear, full scale being 1.

Where cells end: cell k covers the frames from `cell_ends(rate)[k]` to the next end, and an end
is k * rate / 100 to the nearest frame. At rates that are multiples of 100 Hz every cell has
exactly rate / 100 frames. At the others (11025, 22050 Hz) cells differ by one frame, so that
a window never drifts off its nominal time and a 400 ms block is 400 ms to the nearest sample,
as ITU-R BS.1770-5 Annex 1 asks; cells of a constant rounded length would be 0.2 % short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELLS_PER_SECOND = 100
PEAK_CELLS = 10
"""Cells that share one true peak value: 100 ms."""
BANDS: tuple[tuple[str, float, float], ...] = (
    ("sub", 20, 60),
    ("bass", 60, 150),
    ("low_mid", 150, 500),
    ("mid", 500, 2000),
    ("high_mid", 2000, 5000),
    ("presence", 5000, 10_000),
    ("air", 10_000, 20_000),
)
"""Name and edges in Hz of the seven bands; a band holds the bins in [low, high)."""


@dataclass(frozen=True, slots=True)
class RawMeasurement:
    """The raw results of a whole file.

    Attributes:
        rate: Sample rate, Hz.
        channels: Channel count, 1 to 8.
        frames: Frames measured, at least 1.
        channel_mask: Loudspeaker of each channel; see `containers.Samples`.
        cells: Sums and peaks per 10 ms.
        blocks: Sums and peaks per block of the TT dynamic range meter.
        clipping: Samples at full scale.
        true_peaks: Shape (channels, ceil(cells / PEAK_CELLS)), float64: the true peak of
            every 100 ms, never below the largest sample there. A point between two samples
            belongs to the earlier one. The largest is the true peak of the file.
        spectrum: Per frame of the spectrum.
    """

    rate: int
    channels: int
    frames: int
    channel_mask: int | None
    cells: Cells
    blocks: Blocks
    clipping: ClippedSamples
    true_peaks: NDArray[np.float64]
    spectrum: SpectrumFrames

    @property
    def full_cells(self) -> int:
        """Cells that are complete: the last one usually is not, and no window may use it."""
        return full_cells(self.rate, self.frames)

    def cell_ends(self) -> NDArray[np.int64]:
        """Frame numbers where complete cells start and end; one more than `full_cells`."""
        return cell_ends(self.rate, 0, self.full_cells)


@dataclass(frozen=True, slots=True)
class Cells:
    """Sums and peaks per 10 ms.

    The arrays have one column per cell; the last column may be an incomplete cell, so that
    sums over all columns are sums over the file.

    Attributes:
        energy: Shape (channels, cells), float64: sum of squares after the K-weighting filter,
            before any channel weight.
        squares: Shape (channels, cells), float64: sum of squares.
        sums: Shape (channels, cells), float64: sum.
        peaks: Shape (channels, cells), float32: largest magnitude.
        products: Shape (cells,), float64: sum of left times right; empty unless there are
            two channels.
    """

    energy: NDArray[np.float64]
    squares: NDArray[np.float64]
    sums: NDArray[np.float64]
    peaks: NDArray[np.float32]
    products: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Sums and peaks per block of the TT dynamic range meter, whose blocks are not 3 s.

    Attributes:
        frames: Frames of a block, see `block_frames`; the last block may have fewer.
        squares: Shape (channels, blocks), float64: sum of squares.
        peaks: Shape (channels, blocks), float32: largest magnitude.
    """

    frames: int
    squares: NDArray[np.float64]
    peaks: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ClippedSamples:
    """Samples at full scale.

    Attributes:
        samples: Shape (channels,), int64: samples at or above `CLIP_LEVEL`.
        runs: Shape (channels,), int64: stretches of three and more of these in a row.
    """

    samples: NDArray[np.int64]
    runs: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SpectrumFrames:
    """One value per spectrum frame; all arrays are empty when the file is shorter than one.

    A frame has `size` samples of all channels under a periodic Hann window, and starts
    `hop` samples after the one before. Its power spectrum is the mean of the channels' power
    spectra, scaled so that a full-scale sine on a bin has power 1 there.

    Attributes:
        size: Samples of a frame.
        hop: Samples from one frame to the next.
        power: Shape (frames,), float32: mean square of the windowed signal, undone for the
            window (Parseval): -3.01 dB for a full-scale sine.
        centroid: Shape (frames,), float32: centre of gravity of the power spectrum, Hz.
        rolloff: Shape (frames,), float32: frequency below which 85 % of the power lies, Hz.
        flatness: Shape (frames,), float32: geometric over arithmetic mean of the power of all
            bins but the first (DC), 0 to 1.
        flux: Shape (frames,), float32: Euclidean distance of the magnitudes from those of the
            frame before; NaN in the first frame.
        bands: Shape (frames, 7), float32: power in each of `BANDS`.
        average: Shape (size / 2 + 1,), float64: mean power of every bin over all frames.
    """

    size: int
    hop: int
    power: NDArray[np.float32]
    centroid: NDArray[np.float32]
    rolloff: NDArray[np.float32]
    flatness: NDArray[np.float32]
    flux: NDArray[np.float32]
    bands: NDArray[np.float32]
    average: NDArray[np.float64]


CLIP_LEVEL = 1 - 2**-15
"""Magnitude that counts as clipped: full scale of 16-bit audio."""
CLIP_RUN = 3
"""Clipped samples in a row that make a run."""


def cell_ends(rate: int, first: int, last: int) -> NDArray[np.int64]:
    """Frame numbers where cells `first` to `last` start, to the nearest frame.

    Args:
        rate: Sample rate, Hz.
        first: Number of the first cell.
        last: Number of the last cell, inclusive.
    """
    numbers = np.arange(first, last + 1, dtype=np.int64)
    frames, rest = divmod(rate, CELLS_PER_SECOND)
    if not rest:  # the same, without a slow division
        return numbers * frames
    return (numbers * rate + CELLS_PER_SECOND // 2) // CELLS_PER_SECOND


def full_cells(rate: int, frames: int) -> int:
    """How many cells end within the first `frames` frames."""
    half = CELLS_PER_SECOND // 2
    return ((frames + 1) * CELLS_PER_SECOND - half - 1) // rate


def block_frames(rate: int) -> int:
    """Frames of a block of the TT dynamic range meter: 3 s, and a little more at 44.1 kHz.

    "Measuring DR" v1.3 (Pleasurize Music Foundation, 2009) and its published meters.
    """
    return 3 * (rate + 60 if rate == 44_100 else rate)


def frame_size(rate: int) -> int:
    """Samples of a spectrum frame: 4096 up to 64 kHz, doubled with each doubling above.

    A bin then stays near 11 Hz wide.
    """
    return 4096 * 2 ** max(0, round(math.log2(rate / 46_050)))
