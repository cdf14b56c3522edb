"""What must hold for the true peak of any signal; EBU's cases are in test_ebu.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from audio.signals import measure, peak_burst, raw_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bullpy.audio.chunks import CHUNK_FRAMES

pytestmark = pytest.mark.usefixtures("each_engine")


def decibels(linear: float) -> float:
    return 20 * math.log10(linear)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=300))
def test_never_below_the_sample_peak(values: list[float]) -> None:
    signal = np.array(values)[:, None]
    assert measure(signal).peaks[0] >= np.abs(signal).max()


def test_skipping_quiet_stretches_keeps_the_maximum() -> None:
    random = np.random.default_rng(3)
    spectrum = np.fft.rfft(random.standard_normal(64_000))
    spectrum[round(0.8 * len(spectrum)) :] = 0  # at the Nyquist frequency no filter is right
    loudness = np.repeat(random.uniform(0.01, 0.2, 40), 1600)
    signal = np.fft.irfft(spectrum) * loudness
    padded = np.pad(np.fft.rfft(signal), (0, 15 * 32_000))
    ideal = np.abs(np.fft.irfft(padded)).max() * 16
    assert decibels(measure(signal[:, None]).peaks[0]) == pytest.approx(decibels(ideal), abs=0.05)


def test_a_peak_across_a_chunk_boundary_is_found() -> None:
    signal = peak_burst(48_000, 2)
    middle = int(np.abs(signal).argmax())
    expected = measure(signal[:, None]).peaks[0]
    for shift in range(-100, 20, 7):
        padded = np.concatenate([np.zeros(CHUNK_FRAMES - middle - shift), signal])
        assert measure(padded[:, None]).peaks[0] == pytest.approx(expected, rel=1e-5)


def test_each_100_ms_has_its_own_peak() -> None:
    rate, levels = 48_000, np.array([0.1, 0.8, 0.3, 0.05])
    tone = np.sin(2 * np.pi * 1000 * np.arange(4 * rate // 10) / rate)
    # Silent where cells meet: a sudden change would ring into its neighbour.
    shape = np.outer(levels, np.hanning(rate // 10)).ravel()
    found = raw_of((shape * tone)[:, None], rate).true_peaks
    assert found.shape == (1, 4)
    np.testing.assert_allclose(found[0], levels, rtol=1e-3)
