"""The result of an analysis, typed, and its JSON form.

Every number is finite or None. Each None has a `Warning` whose message names the field and
says why: silence has no level, and JSON has no minus infinity.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

from pydantic.alias_generators import to_camel

from bullpy.audio.dynamics import Dynamics
from bullpy.audio.image import Stereo
from bullpy.audio.levels import Clipping
from bullpy.audio.loudness import Loudness
from bullpy.audio.series import Series

ENGINE = "bullpy-audio"
ENGINE_VERSION = "0.3.0"
"""Changes whenever a value of an unchanged file may change."""

_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class TruePeak:
    """Peak levels; see `bullpy.audio.passes.truepeak`.

    Attributes:
        max_dbtp: Highest true peak of all channels, dBTP. Above 0 for an over.
        max_linear: The same, full scale being 1; 0 for silence.
        left_dbtp: True peak of the first channel, dBTP.
        right_dbtp: True peak of the second channel, dBTP; None for mono.
        sample_peak_left: Largest sample of the first channel, dBFS.
        sample_peak_right: Largest sample of the second channel, dBFS; None for mono.
        clipping: Samples at full scale.
    """

    max_dbtp: float | None
    max_linear: float
    left_dbtp: float | None
    right_dbtp: float | None
    sample_peak_left: float | None
    sample_peak_right: float | None
    clipping: Clipping


@dataclass(frozen=True, slots=True)
class Rms:
    """10 log10 of the mean square, dBFS; a full-scale sine has -3.01 (no AES17 offset).

    Attributes:
        left: First channel.
        right: Second channel; None for mono.
        average: Mean square of all channels.
    """

    left: float | None
    right: float | None
    average: float | None


@dataclass(frozen=True, slots=True)
class DcOffset:
    """Mean sample value, full scale being 1, before any filter.

    Attributes:
        left: First channel.
        right: Second channel; None for mono.
    """

    left: float
    right: float | None


@dataclass(frozen=True, slots=True)
class Spectral:
    """Medians over frames above -60 dBFS; see `bullpy.audio.spectrum.Spectrum`."""

    centroid_hz: float | None
    rolloff_hz: float | None
    flatness: float | None
    flux: float | None


@dataclass(frozen=True, slots=True)
class Band:
    """One band's part of the power of all seven.

    Attributes:
        energy_db: 10 log10 of the share, dB: 0 when all power is in this band.
        percentage: The share, 0 to 100.
        range: The band's edges, such as `20-60 Hz`.
    """

    energy_db: float | None
    percentage: float | None
    range: str


@dataclass(frozen=True, slots=True)
class SpectralBands:
    """The seven bands, edges 20 60 150 500 2000 5000 10000 20000 Hz."""

    sub: Band
    bass: Band
    low_mid: Band
    mid: Band
    high_mid: Band
    presence: Band
    air: Band
    total_percentage: float | None


@dataclass(frozen=True, slots=True)
class Metadata:
    """The file and who measured it.

    Attributes:
        file_name: Its name.
        format: Container, such as `WAV`, `FLAC` or `MP3`.
        codec: Coding of the samples, such as `PCM_16` or `MPEG_LAYER_III`.
        sample_rate: Hz.
        channels: Count.
        bit_depth: Bits of a sample; None (left out of the JSON) for lossy codecs.
        duration: Seconds that were decoded.
        frames: Frames that were decoded.
        size_bytes: Size of the file.
    """

    file_name: str
    format: str
    codec: str
    sample_rate: int
    channels: int
    bit_depth: int | None
    duration: float
    frames: int
    size_bytes: int
    engine: str = ENGINE
    engine_version: str = ENGINE_VERSION


@dataclass(frozen=True, slots=True)
class AudioWarning:
    """Something a reader of the result should know.

    Attributes:
        code: Stable identifier, such as `silence` or `truncated`.
        message: What is the case, and which fields are null because of it.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class AudioReport:
    """What was measured of one file.

    Attributes:
        loudness: See `bullpy.audio.loudness`.
        true_peak: Peak levels and clipping.
        stereo: See `bullpy.audio.image`.
        dynamics: See `bullpy.audio.dynamics`.
        rms: RMS levels.
        dc_offset: Mean sample values.
        spectral: See `bullpy.audio.spectrum`.
        spectral_bands: Shares of seven bands.
        metadata: The file and who measured it.
        warnings: What a reader should know; the reason of each None.
        series: Curves for plots, when they were asked for.
    """

    loudness: Loudness
    true_peak: TruePeak
    stereo: Stereo
    dynamics: Dynamics
    rms: Rms
    dc_offset: DcOffset
    spectral: Spectral
    spectral_bands: SpectralBands
    metadata: Metadata
    warnings: tuple[AudioWarning, ...]
    series: Series | None = None

    def to_wire(self) -> dict[str, object]:
        """The report as plain JSON types with camelCase names, numbers to 6 decimals."""
        wire: dict[str, object] = {
            to_camel(field.name): _wire(getattr(self, field.name))
            for field in dataclasses.fields(self)
        }
        loudness = wire["loudness"]
        metadata = wire["metadata"]
        assert isinstance(loudness, dict)
        assert isinstance(metadata, dict)
        loudness["unit"] = "LUFS"
        if self.metadata.bit_depth is None:
            del metadata["bitDepth"]
        if self.series is None:
            del wire["series"]
        return wire


def null_fields(report: AudioReport) -> list[str]:
    """Dotted camelCase names of the measured fields that are None."""
    found: list[str] = []
    for field in dataclasses.fields(report):
        if field.name not in ("metadata", "warnings", "series"):
            _collect_nulls(to_camel(field.name), getattr(report, field.name), found)
    return found


def _collect_nulls(name: str, value: object, found: list[str]) -> None:
    if value is None:
        found.append(name)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            _collect_nulls(f"{name}.{to_camel(field.name)}", getattr(value, field.name), found)


def _wire(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            to_camel(field.name): _wire(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, tuple):
        return [_wire(item) for item in cast("tuple[object, ...]", value)]
    return round(value, _DECIMALS) if isinstance(value, float) else value
