"""One file, read once, measured by every meter."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from bullpy import errors

if importlib.util.find_spec("numpy") is None:
    raise errors.MissingExtraError("numpy", "audio")

from bullpy.audio import decode, pipeline
from bullpy.audio.measuring import Measurer, engine
from bullpy.audio.report import AudioReport
from bullpy.audio.series import series_of
from bullpy.audio.settings import AudioSettings
from bullpy.audio.summary import Measurement, summarize


def analyze(
    path: str | os.PathLike[str],
    *,
    settings: AudioSettings | None = None,
    on_progress: Callable[[float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    block_frames: int = decode.BLOCK_FRAMES,
    series: bool = False,
) -> AudioReport:
    """Measure a WAV, AIFF, FLAC or MP3 file, or with `bullpy[aac]` an M4A, Ogg or WMA file.

    The file is read once, in blocks; memory stays the same for any length. What the content
    is decides, not the name.

    Args:
        path: The file.
        settings: Limits; those of the environment by default.
        on_progress: Called in this thread with the share of the file's bytes that is done, 0
            to 1, when it rose; with 1 at the end.
        should_stop: Asked in this thread after each piece of work, every few milliseconds; the
            analysis ends when it says True.
        block_frames: Frames decoded at a time, at most. Results do not depend on it.
        series: Whether the report holds curves for plots.

    Raises:
        NotAudioError: The content is in no format that can be read.
        DecoderMissingError: It needs `bullpy[aac]`, which is not installed.
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
        info = audio.format
        measurer = Measurer(info.sample_rate, info.channels, engine(), info.channel_mask)

        def on_turn() -> None:
            if should_stop is not None and should_stop():
                raise errors.JobCancelledError(
                    f"The analysis of {file_path.name!r} was stopped "
                    f"after {audio.seconds_read:.1f} s of audio."
                )
            progress(audio.share_read)

        progress = _rising(on_progress)
        # Larger blocks would only make who cancels wait.
        blocks = audio.blocks(min(block_frames, decode.BLOCK_FRAMES), integers=True)
        pipeline.run(
            measurer.chunks(blocks), measurer.steps, threads=limits.threads, on_turn=on_turn
        )
        raw = measurer.finish()
    progress(1.0)
    found = Measurement.of(raw)
    return summarize(file_path.name, audio, found, series_of(raw) if series else None)


def _rising(on_progress: Callable[[float], None] | None) -> Callable[[float], None]:
    """Tells of a share only when it is larger than all before."""
    told = 0.0

    def progress(share: float) -> None:
        nonlocal told
        if on_progress is not None and share > told:
            told = share
            on_progress(share)

    return progress
