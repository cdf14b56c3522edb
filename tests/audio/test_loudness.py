"""ITU-R BS.1770-5 and its test material BS.2217; EBU's cases are in test_ebu.py."""

from __future__ import annotations

import numpy as np
import pytest
from audio.signals import Samples, Segment, measure, sequence, sine, stereo

from bullpy.audio.kweighting import KWeighting, k_weighting_sections

pytestmark = pytest.mark.usefixtures("each_engine")

RATES = (32_000, 44_100, 48_000, 96_000, 192_000)


def tone(*segments: Segment, rate: int = 48_000) -> Samples:
    return stereo(sequence(segments, rate))


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
