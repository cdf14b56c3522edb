"""One file, read once, measured by every meter."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bullpy import errors

try:
    import numpy as np
except ImportError as error:
    raise errors.MissingExtraError("numpy", "audio") from error

from bullpy.audio import decode
from bullpy.audio.errors import EmptyAudioError
from bullpy.audio.levels import LevelMeter
from bullpy.audio.loudness import LoudnessMeter
from bullpy.audio.report import AudioReport
from bullpy.audio.settings import AudioSettings
from bullpy.audio.spectrum import SpectrumMeter
from bullpy.audio.summary import Measurement, summarize
from bullpy.audio.truepeak import TruePeakMeter

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_FRAMES = 65_536
"""Frames the meters work on at a time, however the blocks come in."""


def analyze(
    path: str | os.PathLike[str],
    *,
    settings: AudioSettings | None = None,
    on_progress: Callable[[float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    block_frames: int = decode.BLOCK_FRAMES,
) -> AudioReport:
    """Measure a WAV, AIFF, FLAC or MP3 file.

    The file is read once, in blocks; memory stays the same for any length. What the content
    is decides, not the name.

    Args:
        path: The file.
        settings: Limits; those of the environment by default.
        on_progress: Called after each block with the share that is done, 0 to 1, when the
            file says how long it is.
        should_stop: Asked after each block; the analysis ends when it says True.
        block_frames: Frames decoded at a time. Results do not depend on it.

    Raises:
        NotAudioError: The content is in no format that can be read.
        CorruptAudioError: The file is damaged.
        EmptyAudioError: There is nothing in it.
        AudioLimitError: It is outside the limits.
        FileMissingError: There is no such file.
        StoreError: It cannot be opened.
        errors.JobCancelledError: `should_stop` said True.
        errors.MissingExtraError: numpy or soundfile is not installed.

    Example:
        >>> analyze("song.flac").loudness.integrated  # doctest: +SKIP
        -14.2
    """
    file_path = Path(path)
    limits = AudioSettings.from_env() if settings is None else settings
    with decode.open_audio(file_path, limits) as audio:
        analyzer = Analyzer(audio.format.sample_rate, audio.format.channels)
        for block in audio.blocks(block_frames):
            analyzer.push(block)
            if on_progress is not None and audio.format.frames is not None:
                on_progress(min(1.0, audio.frames_read / audio.format.frames))
            if should_stop is not None and should_stop():
                raise errors.JobCancelledError(
                    f"The analysis of {file_path.name!r} was stopped "
                    f"after {audio.seconds_read:.1f} s of audio."
                )
        return summarize(file_path.name, audio, analyzer.finish())


class Analyzer:
    """All meters over a stream of blocks of any size.

    Blocks are regrouped into chunks of `CHUNK_FRAMES`, so the results are the same to the
    last bit however the stream is cut.

    Args:
        rate: Sample rate, Hz.
        channels: 1 to 8.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self.loudness = LoudnessMeter(rate, channels)
        self._true_peak = TruePeakMeter(channels)
        self._levels = LevelMeter(channels)
        self._spectrum = SpectrumMeter(rate, channels)
        self._chunk = np.empty((channels, CHUNK_FRAMES), np.float32)
        self._filled = 0
        self._frames = 0

    def push(self, block: NDArray[np.float32]) -> None:
        """Add a block of shape (frames, channels), finite, full scale being 1."""
        done = 0
        while done < len(block):
            count = min(CHUNK_FRAMES - self._filled, len(block) - done)
            self._chunk[:, self._filled : self._filled + count] = block[done : done + count].T
            self._filled += count
            done += count
            if self._filled == CHUNK_FRAMES:
                self._measure(self._chunk)
                self._filled = 0

    def finish(self) -> Measurement:
        """The results. Call it once, at the end.

        Raises:
            EmptyAudioError: Nothing was pushed.
        """
        if self._filled:
            self._measure(np.ascontiguousarray(self._chunk[:, : self._filled]))
        if not self._frames:
            raise EmptyAudioError("There are no samples.")
        levels = self._levels.result()
        # Interpolated points between two samples may all be lower than the samples.
        pairs = zip(self._true_peak.result(), levels.peaks, strict=True)
        peaks = [max(pair) for pair in pairs]
        return Measurement(self.loudness.result(), tuple(peaks), levels, self._spectrum.result())

    def _measure(self, chunk: NDArray[np.float32]) -> None:
        exact = chunk.astype(np.float64)
        self._frames += chunk.shape[1]
        self.loudness.push(exact)
        self._levels.push(exact)
        self._true_peak.push(chunk)
        self._spectrum.push(chunk)
