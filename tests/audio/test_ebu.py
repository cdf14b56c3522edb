"""EBU Tech 3341 (2023) and Tech 3342 (2023): every case that can be synthesised.

At 32, 44.1, 48, 96 and 192 kHz, and beside other meters. The cases that need recordings are
3341 #7 and #8 and 3342 #5 and #6. All tones are 1 kHz, all levels peak levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio import meters
from audio.signals import Segment, measure, peak_burst, peak_tone, raw_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bullpy.audio import analyze
from bullpy.audio.loudness import Loudness, LoudnessCurve, loudness_range
from bullpy.audio.summary import Measurement
from bullpy.audio.windows import power_of

RATES = (32_000, 44_100, 48_000, 96_000, 192_000)
Audio = NDArray[np.float32]

at_every_rate = pytest.mark.parametrize("rate", RATES)


def tone(segments: Sequence[Segment], rate: int, channels: int = 2) -> Audio:
    """1 kHz sines and silences of whole 10 ms, which are whole periods at each of `RATES`."""
    period = np.sin(2 * np.pi * 1000 * np.arange(rate // 100) / rate).astype(np.float32)
    parts = [
        np.tile(np.float32(0 if level is None else 10 ** (level / 20)) * period, cells)
        for level, seconds in segments
        if (cells := round(seconds * 100))
    ]
    return np.repeat(np.concatenate(parts)[:, None], channels, axis=1)


def loudness(segments: Sequence[Segment], rate: int) -> Loudness:
    return curve(segments, rate).whole()


def curve(segments: Sequence[Segment], rate: int) -> LoudnessCurve:
    return LoudnessCurve(raw_of(tone(segments, rate), rate))


def decibels(linear: float) -> float:
    return 20 * math.log10(linear)


# -- Tech 3341: loudness --------------------------------------------------------------------


@at_every_rate
@pytest.mark.parametrize("level", [-23.0, -33.0], ids=["1", "2"])
def test_3341_1_2_all_time_scales_read_the_level(rate: int, level: float) -> None:
    found = loudness([(level, 20)], rate)
    assert found.integrated == pytest.approx(level, abs=0.1)
    assert found.short_term == pytest.approx(level, abs=0.1)
    assert found.momentary == pytest.approx(level, abs=0.1)


@at_every_rate
def test_3341_1_mono_is_one_channel(rate: int) -> None:
    mono = LoudnessCurve(raw_of(tone([(-23, 20)], rate, channels=1), rate)).whole()
    assert mono.integrated == pytest.approx(-23 - 3.01, abs=0.1)


@at_every_rate
@pytest.mark.parametrize(
    "segments",
    [
        [(-36, 10), (-23, 60), (-36, 10)],
        [(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)],
        [(-26, 20), (-20, 20.1), (-26, 20)],
    ],
    ids=["3", "4", "5"],
)
def test_3341_3_4_5_gates_leave_minus_23(rate: int, segments: list[Segment]) -> None:
    assert loudness(segments, rate).integrated == pytest.approx(-23, abs=0.1)


@at_every_rate
@pytest.mark.parametrize(
    "levels", [(-28, -28, -24, -30, -30), (-28, -28, -24, None, -30, -30)], ids=["5.0", "5.1"]
)
def test_3341_6_surround_channels_are_weighted(rate: int, levels: tuple[float | None, ...]) -> None:
    signal = np.concatenate([tone([(level, 20)], rate, channels=1) for level in levels], axis=1)
    found = LoudnessCurve(raw_of(signal, rate)).whole()
    assert found.integrated == pytest.approx(-23, abs=0.1)


@at_every_rate
def test_3341_9_short_term_is_constant(rate: int) -> None:
    values = curve([(-20, 1.34), (-30, 1.66)] * 5, rate).short_term()
    assert values.min() == pytest.approx(-23, abs=0.1)
    assert values.max() == pytest.approx(-23, abs=0.1)


@at_every_rate
def test_3341_10_maximum_short_term_wherever_the_burst_starts(rate: int) -> None:
    for index in range(20) if rate == 48_000 else (0, 7, 19):
        found = loudness([(None, index * 0.15), (-23, 3), (None, 1)], rate)
        assert found.short_term == pytest.approx(-23, abs=0.1)


@at_every_rate
def test_3341_11_maximum_short_term_follows_rising_bursts(rate: int) -> None:
    segments = [
        part
        for index in range(20)
        for part in [(None, index * 0.15), (-38 + index, 3), (None, 3 - index * 0.15)]
    ]
    values = curve(segments, rate).short_term()
    for index in range(20):
        assert values[: (index + 1) * 600 - 299].max() == pytest.approx(-38 + index, abs=0.1)


@at_every_rate
def test_3341_12_momentary_is_constant(rate: int) -> None:
    values = curve([(-20, 0.18), (-30, 0.22)] * 25, rate).momentary()[60:]
    assert values.min() == pytest.approx(-23, abs=0.1)
    assert values.max() == pytest.approx(-23, abs=0.1)


@at_every_rate
def test_3341_13_maximum_momentary_wherever_the_burst_starts(rate: int) -> None:
    for index in range(20) if rate == 48_000 else (0, 3, 7, 19):
        found = loudness([(None, index * 0.02), (-23, 0.4), (None, 1)], rate)
        assert found.momentary == pytest.approx(-23, abs=0.1)


@at_every_rate
def test_3341_14_maximum_momentary_follows_rising_bursts(rate: int) -> None:
    segments = [
        part
        for index in range(20)
        for part in [(None, index * 0.02), (-38 + index, 0.4), (None, 0.4 - index * 0.02)]
    ]
    values = curve(segments, rate).momentary()
    for index in range(20):
        assert values[: (index + 1) * 80 - 39].max() == pytest.approx(-38 + index, abs=0.1)


# -- Tech 3341: true peak -------------------------------------------------------------------


@at_every_rate
@pytest.mark.parametrize(
    ("divisor", "amplitude", "degrees", "expected"),
    [(4, 0.5, 0, -6.0), (4, 0.5, 45, -6.0), (6, 0.5, 60, -6.0), (8, 0.5, 67.5, -6.0),
     (4, 1.41, 45, 3.0)],
    ids=["15", "16", "17", "18", "19"],
)  # fmt: skip
def test_3341_15_to_19_true_peak_of_tones(
    rate: int, divisor: int, amplitude: float, degrees: float, expected: float
) -> None:
    signal = peak_tone(rate, divisor, amplitude, degrees)
    for peak in measure(np.stack([signal, signal], axis=1), rate).peaks:
        assert expected - 0.4 <= decibels(peak) <= expected + 0.2
        assert decibels(peak) == pytest.approx(decibels(amplitude), abs=0.02)


@at_every_rate
@pytest.mark.parametrize("offset", range(4), ids=["20", "21", "22", "23"])
def test_3341_20_to_23_true_peak_between_samples(rate: int, offset: int) -> None:
    signal = peak_burst(rate, offset)
    peak = decibels(max(measure(signal[:, None], rate).peaks))
    assert -0.4 <= peak <= 0.2
    assert peak == pytest.approx(decibels(ideal_peak(signal)), abs=0.02)


def ideal_peak(signal: NDArray[np.floating], factor: int = 16) -> float:
    """The largest magnitude of the band-limited signal, on a grid `factor` times finer."""
    fine = np.fft.irfft(np.fft.rfft(signal), factor * len(signal)) * factor
    return float(np.abs(fine).max())


# -- Tech 3342: loudness range --------------------------------------------------------------


@at_every_rate
@pytest.mark.parametrize(
    ("levels", "expected"),
    [((-20, -30), 10), ((-20, -15), 5), ((-40, -20), 20), ((-50, -35, -20, -35, -50), 15)],
    ids=["1", "2", "3", "4"],
)
def test_3342_1_to_4_loudness_range(rate: int, levels: tuple[float, ...], expected: float) -> None:
    found = loudness([(level, 20.0) for level in levels], rate)
    assert found.lra == pytest.approx(expected, abs=1)


ALTERNATION: list[Segment] = [(-20, 23.5), (-39, 5.8)] * 2
"""About 30 s in which a look once a second misses most of the quiet windows."""


def test_loudness_range_looks_at_least_ten_times_a_second() -> None:
    # The tone's power is known, so that the windows need no filter.
    powers = np.concatenate([np.full(round(s * 100), power_of(level)) for level, s in ALTERNATION])  # type: ignore[arg-type]
    total = np.concatenate([[0.0], np.cumsum(powers)])
    windows = (total[300:] - total[:-300]) / 300
    exact, once_a_second = loudness_range(windows[::10]), loudness_range(windows[::100])
    assert exact is not None
    assert once_a_second is not None
    assert exact - once_a_second > 10
    assert loudness(ALTERNATION, 48_000).lra == pytest.approx(exact, abs=0.05)


def test_loudness_range_equals_ffmpeg_where_libebur128_looks_too_seldom(tmp_path: Path) -> None:
    signal = tone(ALTERNATION, 48_000)
    found = analyze(written(tmp_path, signal, 48_000)).loudness.lra
    assert found == pytest.approx(meters.ffmpeg(tmp_path / "signal.wav").lra, abs=0.1)
    assert found is not None
    assert abs(found - meters.libebur128(signal, 48_000)[1]) > 5


# -- Beside other meters --------------------------------------------------------------------


def programme(seed: int, seconds: float, rate: int, channels: int = 2) -> Audio:
    """Noise with more bass than treble, whose level moves as that of speech or music does."""
    random = np.random.default_rng(seed)
    frames = round(seconds * rate)
    spectrum = np.fft.rfft(random.standard_normal((frames, channels)), axis=0)
    hertz = np.fft.rfftfreq(frames, 1 / rate)[:, None]
    pink = spectrum / np.sqrt(np.maximum(hertz, 20)) * (hertz < 0.4 * rate)
    noise = np.fft.irfft(pink, frames, axis=0)
    knots = random.uniform(-32, -12, round(seconds / 2) + 2)
    level = np.interp(np.arange(frames) / rate, np.arange(len(knots)) * 2, knots)[:, None]
    return (10 ** (level / 20) * noise / noise.std()).astype(np.float32)


def written(folder: Path, signal: Audio, rate: int) -> Path:
    soundfile.write(folder / "signal.wav", signal, rate, subtype="FLOAT")
    return folder / "signal.wav"


@pytest.mark.parametrize(("seed", "rate"), [(1, 44_100), (3, 48_000), (3, 96_000)])
def test_agrees_with_ffmpeg_and_libebur128(seed: int, rate: int, tmp_path: Path) -> None:
    signal = programme(seed, 40, rate)
    report = analyze(written(tmp_path, signal, rate))
    other = meters.ffmpeg(tmp_path / "signal.wav")
    # ffmpeg prints one decimal, which costs up to 0.05 of the 0.1 allowed.
    assert report.loudness.integrated == pytest.approx(other.integrated, abs=0.1)
    assert report.loudness.lra == pytest.approx(other.lra, abs=0.1)
    assert report.true_peak.max_dbtp == pytest.approx(other.true_peak, abs=0.1)
    integrated, _ = meters.libebur128(signal, rate)
    assert report.loudness.integrated == pytest.approx(integrated, abs=1e-6)


def test_loudness_range_is_that_of_the_windows_of_libebur128() -> None:
    signal = programme(2, 40, 48_000)
    found = LoudnessCurve(raw_of(signal))
    windows = np.array(meters.libebur128_short_term(signal, 48_000))
    assert found.short_term(10) == pytest.approx(windows, abs=1e-6)
    assert found.whole().lra == pytest.approx(
        loudness_range(10 ** ((windows + 0.691) / 10)), abs=1e-6
    )


def test_ffmpeg_the_program_and_pyav_say_the_same(tmp_path: Path) -> None:
    path = written(tmp_path, programme(4, 10, 48_000), 48_000)
    assert meters.ffmpeg(path) == pytest.approx(meters.from_pyav(path), abs=0.11)


@pytest.mark.parametrize("channels", [1, 6])
def test_other_channel_counts_agree_with_libebur128(channels: int) -> None:
    signal = programme(5, 10, 48_000, channels)
    found = measure(signal).loudness.integrated
    assert found == pytest.approx(meters.libebur128(signal, 48_000)[0], abs=1e-6)


# -- What must hold for any programme -------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("block", [1000, 8192, 65_536, 400_000])
def test_values_do_not_depend_on_blocks_or_threads(block: int, threads: int) -> None:
    signal = programme(6, 8, 44_100)
    expected = numbers(signal, 44_100, len(signal), 1)
    assert numbers(signal, 44_100, block, threads) == pytest.approx(expected, abs=1e-9)


def numbers(signal: Audio, rate: int, block: int, threads: int) -> list[float]:
    found = Measurement.of(raw_of(signal, rate, block, threads=threads))
    values = [*vars_of(found.loudness), *found.peaks, *vars_of(found.dynamics)]
    return [*values, *vars_of(found.stereo), *found.levels.powers, *(found.spectrum.bands or ())]


def vars_of(value: object) -> list[float]:
    return [getattr(value, name) for name in value.__slots__]  # type: ignore[attr-defined]


SHORT = programme(7, 8, 32_000)
"""One programme for all properties: what varies is what is done to it."""
WHOLE = measure(SHORT, 32_000)


@settings(max_examples=10, deadline=None)
@given(st.floats(-15, 30))
def test_gain_shifts_loudness_by_itself(gain: float) -> None:
    # As float64: rounding to float32 is no part of the property.
    louder = measure(SHORT * np.float32(10 ** (gain / 20)), 32_000)
    assert WHOLE.loudness.integrated is not None
    assert louder.loudness.integrated == pytest.approx(WHOLE.loudness.integrated + gain, abs=1e-4)
    assert louder.loudness.lra == pytest.approx(WHOLE.loudness.lra, abs=1e-4)
    assert decibels(max(louder.peaks)) == pytest.approx(decibels(max(WHOLE.peaks)) + gain, abs=1e-4)
    assert louder.dynamics.range == pytest.approx(WHOLE.dynamics.range, abs=1e-4)


def test_swapped_channels_mirror_the_result() -> None:
    swapped = measure(SHORT[:, ::-1], 32_000)
    assert swapped.loudness.integrated == pytest.approx(WHOLE.loudness.integrated, abs=1e-9)
    assert swapped.peaks == WHOLE.peaks[::-1]
    assert WHOLE.stereo.balance is not None
    assert swapped.stereo.balance == pytest.approx(-WHOLE.stereo.balance, abs=1e-9)
    assert swapped.stereo.correlation == pytest.approx(WHOLE.stereo.correlation, abs=1e-9)


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 4))
def test_repeating_a_programme_keeps_its_loudness(times: int) -> None:
    repeated = measure(np.tile(SHORT, (times, 1)), 32_000)
    assert WHOLE.loudness.integrated is not None
    # Only the blocks across the seams are new.
    assert repeated.loudness.integrated == pytest.approx(WHOLE.loudness.integrated, abs=0.3)
    assert repeated.peaks == pytest.approx(WHOLE.peaks, abs=1e-2)
    assert repeated.loudness.momentary is not None
    assert WHOLE.loudness.momentary is not None
    assert repeated.loudness.momentary >= WHOLE.loudness.momentary - 1e-6


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 40), st.integers(4, 40))
def test_silence_around_a_programme_leaves_its_loudness(before: int, after: int) -> None:
    rate, padding = 32_000, 3200  # tenths of a second keep the blocks where they are

    def padded(left: int, right: int) -> Loudness:
        ends = ((left * padding, right * padding), (0, 0))
        return measure(np.pad(SHORT, ends), rate).loudness

    # Blocks that are partly silence are new, once; more silence adds nothing.
    assert padded(before + 4, after).integrated == pytest.approx(padded(4, 4).integrated, abs=1e-6)
    assert padded(before, after).integrated == pytest.approx(WHOLE.loudness.integrated, abs=0.3)


@pytest.mark.parametrize("factor", [2, 3])
def test_resampling_leaves_the_true_peak(factor: int) -> None:
    # Band-limited well below half the rate, where resampling loses nothing.
    finer = np.fft.irfft(np.fft.rfft(SHORT, axis=0), factor * len(SHORT), axis=0) * factor
    found = measure(finer, factor * 32_000)
    assert [decibels(peak) for peak in found.peaks] == pytest.approx(
        [decibels(peak) for peak in WHOLE.peaks], abs=0.1
    )
