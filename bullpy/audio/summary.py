"""From what the meters found to the report: decibels, ratios, and the reason of each None."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bullpy.audio import report
from bullpy.audio.decode import AudioFile
from bullpy.audio.levels import Levels, levels_of
from bullpy.audio.loudness import SILENCE, Loudness, LoudnessCurve
from bullpy.audio.raw import BANDS, RawMeasurement
from bullpy.audio.report import AudioReport, AudioWarning
from bullpy.audio.spectrum import Spectrum, spectrum_of

_LOW_RATE = 22_050  # Hz; below, the K-weighting curve is off by more than 0.1 dB
_MOMENTARY_SECONDS = 0.4
_SHORT_TERM_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the meters found.

    Attributes:
        loudness: See `Loudness`.
        peaks: True peak per channel, linear.
        levels: See `Levels`.
        spectrum: See `Spectrum`.
    """

    loudness: Loudness
    peaks: tuple[float, ...]
    levels: Levels
    spectrum: Spectrum

    @classmethod
    def of(cls, raw: RawMeasurement) -> Measurement:
        """The values that follow from a measurement."""
        peaks = tuple(raw.true_peaks.max(axis=1).tolist())
        return cls(LoudnessCurve(raw).whole(), peaks, levels_of(raw), spectrum_of(raw))


def summarize(name: str, audio: AudioFile, found: Measurement) -> AudioReport:
    """The report of a file that was read to its end.

    Args:
        name: The file's name.
        audio: The file.
        found: What the meters found in it.
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
        stereo=_stereo(levels),
        dynamics=_dynamics(found),
        rms=_rms(levels),
        dc_offset=report.DcOffset(levels.means[0], _second(levels.means)),
        spectral=report.Spectral(
            spectrum.centroid_hz, spectrum.rolloff_hz, spectrum.flatness, spectrum.flux
        ),
        spectral_bands=_bands(spectrum),
        metadata=metadata,
        warnings=(),
    )
    reasons = _null_reasons(plain)
    return dataclasses.replace(plain, warnings=(*_file_warnings(audio, levels), *reasons))


def _true_peak(found: Measurement) -> report.TruePeak:
    peaks, samples = found.peaks, found.levels.peaks
    return report.TruePeak(
        max_dbtp=_decibels(max(peaks)),
        max_linear=max(peaks),
        left_dbtp=_decibels(peaks[0]),
        right_dbtp=_decibels(_second(peaks)),
        sample_peak_left=_decibels(samples[0]),
        sample_peak_right=_decibels(_second(samples)),
        clipping=found.levels.clipping,
    )


def _stereo(levels: Levels) -> report.Stereo:
    mid_side = levels.mid_side()
    if len(levels.powers) != 2 or mid_side is None:
        return report.Stereo(None, None, None, None, None)
    mid, side = mid_side
    left, right = (math.sqrt(power) for power in levels.powers)
    correlation = levels.correlation() if min(left, right) > _linear(SILENCE) else None
    if max(left, right) <= _linear(SILENCE):
        return report.Stereo(correlation, None, None, None, None)
    # Mid plus side is half of left plus right: the mean power that the mono sum is held to.
    return report.Stereo(
        correlation=correlation,
        width=side / (mid + side),
        balance=(right - left) / (right + left),
        mono_compatibility=_decibels(math.sqrt(mid / (mid + side))),
        has_phase_issues=correlation is not None and correlation < 0,
    )


def _dynamics(found: Measurement) -> report.Dynamics:
    ratios = [
        peak / math.sqrt(power)
        for peak, power in zip(found.levels.peaks, found.levels.powers, strict=True)
        if _decibels(peak) is not None and power > 0
    ]
    top, integrated = _decibels(max(found.peaks)), found.loudness.integrated
    return report.Dynamics(
        crest=_decibels(max(ratios)) if ratios else None,
        plr=None if top is None or integrated is None else top - integrated,
    )


def _rms(levels: Levels) -> report.Rms:
    values = [math.sqrt(power) for power in levels.powers]
    mean = math.sqrt(sum(levels.powers) / len(levels.powers))
    return report.Rms(_decibels(values[0]), _decibels(_second(values)), _decibels(mean))


def _bands(spectrum: Spectrum) -> report.SpectralBands:
    powers = spectrum.bands or (0.0,) * len(BANDS)
    total = sum(powers)
    audible = _decibels(math.sqrt(total)) is not None
    bands = {
        name: report.Band(
            energy_db=_decibels(math.sqrt(power / total)) if audible else None,
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
    if audio.replaced:
        text = f"{audio.replaced} samples were NaN or infinite and count as 0."
        warnings.append(AudioWarning("non-finite-samples", text))
    if info.sample_rate < _LOW_RATE:
        text = f"At {info.sample_rate} Hz the loudness weighting is up to 0.5 dB off."
        warnings.append(AudioWarning("low-sample-rate", text))
    if info.channels == 1:
        text = "Loudness counts one channel; played on two speakers it is 3.01 LU louder."
        warnings.append(AudioWarning("mono", text))
    if info.channels > 2:
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
    if field in ("loudness.shortTerm", "loudness.lra") and seconds < _SHORT_TERM_SECONDS:
        return "too-short", f"Needs {_SHORT_TERM_SECONDS:g} s of audio."
    if field in ("loudness.integrated", "loudness.momentary", "dynamics.plr") and (
        seconds < _MOMENTARY_SECONDS
    ):
        return "too-short", f"Needs {_MOMENTARY_SECONDS:g} s of audio."
    if field.startswith(("loudness.", "dynamics.plr")):
        return "below-gate", "No part is louder than -70 LUFS."
    if field.startswith("spectralBands."):
        return "no-energy", "The band is empty, or the file is too short for a spectrum."
    if field.startswith("spectral."):
        return "no-energy", "No two spectrum frames in a row are louder than -60 dBFS."
    if field == "stereo.monoCompatibility":
        return "antiphase", "The mono sum is silent."
    return "silence", "A channel is silent."


def _decibels(amplitude: float | None) -> float | None:
    """20 log10; None for None and for silence."""
    if amplitude is None or amplitude <= _linear(SILENCE):
        return None
    return 20 * math.log10(amplitude)


def _linear(decibels: float) -> float:
    return 10 ** (decibels / 20)


def _second(values: Sequence[float]) -> float | None:
    return values[1] if len(values) > 1 else None
