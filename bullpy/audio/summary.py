"""From what the meters found to the report: decibels, ratios, and the reason of each None."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from bullpy.audio import report
from bullpy.audio.decode import AudioFile
from bullpy.audio.dynamics import Dynamics, dynamics_of
from bullpy.audio.image import Stereo, stereo_of
from bullpy.audio.levels import Levels, levels_of
from bullpy.audio.loudness import Loudness, LoudnessCurve
from bullpy.audio.raw import BANDS, RawMeasurement
from bullpy.audio.report import AudioReport, AudioWarning
from bullpy.audio.series import Series
from bullpy.audio.spectrum import Spectrum, spectrum_of
from bullpy.audio.windows import SILENCE, decibels, power_decibels, power_of

_LOW_RATE = 22_050  # Hz; below, the K-weighting curve is off by more than 0.1 dB
_NEEDED_SECONDS = {
    "loudness.integrated": 0.4,
    "loudness.momentary": 0.4,
    "dynamics.plr": 0.4,
    "loudness.shortTerm": 3.0,
    "loudness.lra": 3.0,
    "dynamics.psr": 3.0,
    "dynamics.range": 6.02,  # 44.1 kHz has blocks of 3.004 s
    "dynamics.rangeInt": 6.02,
    "dynamics.peakRms": 0.3,
    "dynamics.avgRms": 0.3,
}
"""Shortest file for which a field is defined."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the meters found.

    Attributes:
        loudness: See `Loudness`.
        peaks: True peak per channel, linear.
        levels: See `Levels`.
        stereo: See `Stereo`.
        dynamics: See `Dynamics`.
        spectrum: See `Spectrum`.
    """

    loudness: Loudness
    peaks: tuple[float, ...]
    levels: Levels
    stereo: Stereo
    dynamics: Dynamics
    spectrum: Spectrum

    @classmethod
    def of(cls, raw: RawMeasurement) -> Measurement:
        """The values that follow from a measurement."""
        curve = LoudnessCurve(raw)
        loudness = curve.whole()
        return cls(
            loudness=loudness,
            peaks=tuple(raw.true_peaks.max(axis=1).tolist()),
            levels=levels_of(raw),
            stereo=stereo_of(raw),
            dynamics=dynamics_of(raw, curve, loudness.integrated),
            spectrum=spectrum_of(raw),
        )


def summarize(
    name: str, audio: AudioFile, found: Measurement, series: Series | None = None
) -> AudioReport:
    """The report of a file that was read to its end.

    Args:
        name: The file's name.
        audio: The file.
        found: What the meters found in it.
        series: Its curves, when they were asked for.
    """
    info, levels, spectrum = audio.format, found.levels, found.spectrum
    metadata = report.Metadata(
        file_name=name,
        format=info.container,
        codec=info.codec,
        sample_rate=info.sample_rate,
        channels=info.channels,
        bit_depth=info.bit_depth,
        duration=audio.seconds_read,
        frames=audio.frames_read,
        size_bytes=info.size_bytes,
    )
    plain = AudioReport(
        loudness=found.loudness,
        true_peak=_true_peak(found),
        stereo=found.stereo,
        dynamics=found.dynamics,
        rms=_rms(levels),
        dc_offset=report.DcOffset(levels.means[0], _second(levels.means)),
        spectral=report.Spectral(
            spectrum.centroid_hz, spectrum.rolloff_hz, spectrum.flatness, spectrum.flux
        ),
        spectral_bands=_bands(spectrum),
        metadata=metadata,
        warnings=(),
        series=series,
    )
    reasons = _null_reasons(plain)
    return dataclasses.replace(plain, warnings=(*_file_warnings(audio, levels), *reasons))


def _true_peak(found: Measurement) -> report.TruePeak:
    peaks, samples = found.peaks, found.levels.peaks
    return report.TruePeak(
        max_dbtp=decibels(max(peaks)),
        max_linear=max(peaks),
        left_dbtp=decibels(peaks[0]),
        right_dbtp=decibels(_second(peaks)),
        sample_peak_left=decibels(samples[0]),
        sample_peak_right=decibels(_second(samples)),
        clipping=found.levels.clipping,
    )


def _rms(levels: Levels) -> report.Rms:
    powers = levels.powers
    return report.Rms(
        left=power_decibels(powers[0]),
        right=power_decibels(_second(powers)),
        average=power_decibels(sum(powers) / len(powers)),
    )


def _bands(spectrum: Spectrum) -> report.SpectralBands:
    powers = spectrum.bands or (0.0,) * len(BANDS)
    total = sum(powers)
    audible = total > power_of(SILENCE)
    bands = {
        name: report.Band(
            energy_db=power_decibels(power / total) if audible else None,
            percentage=100 * power / total if audible else None,
            range=f"{low:g}-{high:g} Hz",
        )
        for (name, low, high), power in zip(BANDS, powers, strict=True)
    }
    return report.SpectralBands(**bands, total_percentage=100.0 if audible else None)


def _file_warnings(audio: AudioFile, levels: Levels) -> list[AudioWarning]:
    info = audio.format
    warnings: list[AudioWarning] = []
    missing = audio.missing_seconds()
    if missing:
        text = f"The file ends about {missing:.2f} s before the length in its header."
        warnings.append(AudioWarning("truncated", f"{text} What is there was measured."))
    elif info.ends_inside_frame:
        text = "The file ends inside an MP3 frame: it was cut off, and its length is not known."
        warnings.append(AudioWarning("truncated", f"{text} What is there was measured."))
    if audio.unread_bytes:
        text = f"The file goes on for {audio.unread_bytes} bytes behind the length that it tells."
        warnings.append(AudioWarning("unread-audio", f"{text} They were not measured."))
    if audio.replaced:
        text = f"{audio.replaced} samples were NaN or infinite and count as 0."
        warnings.append(AudioWarning("non-finite-samples", text))
    if info.sample_rate < _LOW_RATE:
        text = f"At {info.sample_rate} Hz the loudness weighting is up to 0.5 dB off."
        warnings.append(AudioWarning("low-sample-rate", text))
    if info.channels == 1:
        text = "Loudness counts one channel; played on two speakers it is 3.01 LU louder."
        warnings.append(AudioWarning("mono", text))
    if info.channels > 2 and info.channel_mask is None:
        text = f"Loudness takes {info.channels} channels in the order of WAV files."
        warnings.append(AudioWarning("channel-order-assumed", text))
    if levels.clipping.runs:
        text = f"{levels.clipping.runs} runs of three and more samples at full scale."
        warnings.append(AudioWarning("clipping", text))
    return warnings


def _null_reasons(plain: AudioReport) -> list[AudioWarning]:
    """One warning per reason, naming the fields that are None because of it."""
    fields: dict[tuple[str, str], list[str]] = {}
    for field in report.null_fields(plain):
        fields.setdefault(_reason(field, plain), []).append(field)
    return [
        AudioWarning(code, f"{text} Null: {', '.join(names)}.")
        for (code, text), names in fields.items()
    ]


def _reason(field: str, plain: AudioReport) -> tuple[str, str]:
    channels, seconds = plain.metadata.channels, plain.metadata.duration
    if channels == 1 and (field.startswith("stereo.") or "right" in field.lower()):
        return "mono", "There is one channel."
    if channels > 2 and field.startswith("stereo."):
        return "not-stereo", f"There are {channels} channels."
    if plain.true_peak.max_dbtp is None:
        return "silence", "The file is silent."
    needed = _NEEDED_SECONDS.get(field)
    if needed is not None and seconds < needed:
        return "too-short", f"Needs {needed:g} s of audio."
    if field.startswith("loudness.") or field in ("dynamics.plr", "dynamics.psr"):
        return "below-gate", "No part is louder than -70 LUFS."
    if field.startswith("spectralBands."):
        return "no-energy", "The band is empty, or the file is too short for a spectrum."
    if field.startswith("spectral."):
        return "no-energy", "No two spectrum frames in a row are louder than -60 dBFS."
    if field == "stereo.monoCompatibility":
        return "antiphase", "The mono sum is silent."
    if field.startswith("dynamics.range"):
        return "silence", "Less than two blocks of 3 s hold sound."
    return "silence", "A channel is silent."


def _second(values: Sequence[float]) -> float | None:
    return values[1] if len(values) > 1 else None
