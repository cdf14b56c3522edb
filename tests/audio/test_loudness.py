"""EBU Tech 3341 and 3342 (2023), ITU-R BS.1770-5: every case that can be synthesised."""

from __future__ import annotations

import numpy as np
import pytest
from audio.signals import Samples, Segment, measure, raw_of, sequence, sine, stereo

from bullpy.audio.kweighting import KWeighting, k_weighting_sections
from bullpy.audio.loudness import LoudnessCurve

pytestmark = pytest.mark.usefixtures("each_engine")

RATES = (32_000, 44_100, 48_000, 96_000, 192_000)


def tone(*segments: Segment, rate: int = 48_000) -> Samples:
    return stereo(sequence(segments, rate))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("level", [-23.0, -33.0])
def test_tech3341_1_and_2_all_three_time_scales_read_the_level(rate: int, level: float) -> None:
    found = measure(tone((level, 20), rate=rate), rate).loudness
    assert found.integrated == pytest.approx(level, abs=0.1)
    assert found.short_term == pytest.approx(level, abs=0.1)
    assert found.momentary == pytest.approx(level, abs=0.1)


@pytest.mark.parametrize(
    "segments",
    [
        [(-36, 10), (-23, 60), (-36, 10)],
        [(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)],
        [(-26, 20), (-20, 20.1), (-26, 20)],
    ],
    ids=["3", "4", "5"],
)
def test_tech3341_gates_leave_minus_23(segments: list[Segment]) -> None:
    assert measure(tone(*segments)).loudness.integrated == pytest.approx(-23, abs=0.1)


@pytest.mark.parametrize("levels", [(-28, -28, -24, -30, -30), (-28, -28, -24, None, -30, -30)])
def test_tech3341_6_surround_channels_are_weighted(levels: tuple[float | None, ...]) -> None:
    channels = [sequence([(level, 20)]) for level in levels]
    found = measure(np.stack(channels, axis=1)).loudness
    assert found.integrated == pytest.approx(-23, abs=0.1)


def test_tech3341_9_short_term_is_constant() -> None:
    values = analyzed(tone(*[(-20, 1.34), (-30, 1.66)] * 5)).short_term()
    assert values.min() == pytest.approx(-23, abs=0.1)
    assert values.max() == pytest.approx(-23, abs=0.1)


@pytest.mark.parametrize("index", range(20))
def test_tech3341_10_maximum_short_term_wherever_the_burst_starts(index: int) -> None:
    signal = tone((None, index * 0.15), (-23, 3), (None, 1))
    assert measure(signal).loudness.short_term == pytest.approx(-23, abs=0.1)


def test_tech3341_11_maximum_short_term_follows_rising_bursts() -> None:
    segments = [
        part
        for index in range(20)
        for part in [(None, index * 0.15), (-38 + index, 3), (None, 3 - index * 0.15)]
    ]
    values = analyzed(tone(*segments)).short_term()
    for index in range(20):
        assert values[: (index + 1) * 600 - 299].max() == pytest.approx(-38 + index, abs=0.1)


def test_tech3341_12_momentary_is_constant() -> None:
    values = analyzed(tone(*[(-20, 0.18), (-30, 0.22)] * 25)).momentary()[60:]
    assert values.min() == pytest.approx(-23, abs=0.1)
    assert values.max() == pytest.approx(-23, abs=0.1)


@pytest.mark.parametrize("index", range(20))
def test_tech3341_13_maximum_momentary_wherever_the_burst_starts(index: int) -> None:
    signal = tone((None, index * 0.02), (-23, 0.4), (None, 1))
    assert measure(signal).loudness.momentary == pytest.approx(-23, abs=0.1)


def test_tech3341_14_maximum_momentary_follows_rising_bursts() -> None:
    segments = [
        part
        for index in range(20)
        for part in [(None, index * 0.02), (-38 + index, 0.4), (None, 0.4 - index * 0.02)]
    ]
    values = analyzed(tone(*segments)).momentary()
    for index in range(20):
        assert values[: (index + 1) * 80 - 39].max() == pytest.approx(-38 + index, abs=0.1)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [((-20, -30), 10), ((-20, -15), 5), ((-40, -20), 20), ((-50, -35, -20, -35, -50), 15)],
    ids=["1", "2", "3", "4"],
)
def test_tech3342_loudness_range(levels: tuple[float, ...], expected: float) -> None:
    found = measure(tone(*[(level, 20.0) for level in levels]))
    assert found.loudness.lra == pytest.approx(expected, abs=1)


def test_loudness_range_looks_ten_times_a_second() -> None:
    # Level changes that a look once a second would miss or catch by chance.
    segments = [(-20.0 if index % 2 else -40.0, 3.25) for index in range(12)]
    found = analyzed(tone(*segments))
    coarse = np.sort(found.short_term(hop=100))
    fine = np.sort(found.short_term(hop=10))
    assert len(fine) == pytest.approx(10 * len(coarse), abs=10)
    low, high = (fine[round((len(fine) - 1) * share)] for share in (0.10, 0.95))
    assert found.whole().lra == pytest.approx(high - low, abs=1e-9)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_bs1770_full_scale_997_hz_reads_minus_3_01(rate: int, channel: int) -> None:
    signal = np.zeros((5 * rate, 3))
    signal[:, channel] = sine(0, 5, rate, 997)
    # Away from 48 kHz the bilinear transform bends the curve by up to 0.04 dB.
    tolerance = 0.01 if rate in (44_100, 48_000) else 0.05
    assert measure(signal, rate).loudness.integrated == pytest.approx(-3.01, abs=tolerance)


@pytest.mark.parametrize(
    ("hertz", "level"),
    [(25, -11.91), (100, -21.17), (500, -22.347), (2000, -25.374), (10_000, -26.347)],
)
def test_bs2217_tones_read_minus_23(hertz: float, level: float) -> None:
    signal = stereo(sine(level, 29, 48_000, hertz))
    assert measure(signal).loudness.integrated == pytest.approx(-23, abs=0.1)


def test_k_weighting_at_48_khz_is_the_table_of_bs1770() -> None:
    shelf, high_pass = k_weighting_sections(48_000)
    table = (1.53512485958697, -2.69169618940638, 1.19839281085285)
    assert shelf[:3] == pytest.approx(table, abs=1e-13)
    assert shelf[3:] == pytest.approx((-1.69065929318241, 0.73248077421585), abs=1e-13)
    assert high_pass[:3] == (1.0, -2.0, 1.0)
    assert high_pass[3:] == pytest.approx((-1.99004745483398, 0.99007225036621), abs=1e-13)


@pytest.mark.parametrize("rate", [8_000, 48_000, 192_000])
def test_blockwise_filter_equals_a_sample_by_sample_loop(rate: int) -> None:
    signal = np.random.default_rng(1).standard_normal(9_000)
    expected = signal
    for b0, b1, b2, a1, a2 in k_weighting_sections(rate):
        out, first, second = np.empty(len(expected)), 0.0, 0.0
        for index, value in enumerate(expected):
            out[index] = b0 * value + first
            first = b1 * value - a1 * out[index] + second
            second = b2 * value - a2 * out[index]
        expected = out
    weighting = KWeighting(rate, 1)
    blocks = [signal[None, start : start + 4096] for start in range(0, len(signal), 4096)]
    found = np.concatenate([weighting.process(block)[0] for block in blocks])
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(("seconds", "defined"), [(0.399, False), (0.4, True)])
def test_integrated_needs_400_ms(seconds: float, defined: bool) -> None:
    found = measure(tone((-20, seconds))).loudness
    assert (found.integrated is not None) is defined
    assert found.short_term is None
    assert found.lra is None


def analyzed(signal: Samples) -> LoudnessCurve:
    """The loudness of a signal over time."""
    return LoudnessCurve(raw_of(signal))
