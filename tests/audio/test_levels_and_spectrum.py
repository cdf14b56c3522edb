"""Sums, stereo image and spectrum against values known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from audio.signals import measure, sine, stereo

from bullpy.audio.chunks import CHUNK_FRAMES
from bullpy.audio.raw import BANDS

pytestmark = pytest.mark.usefixtures("each_engine")


def test_sine_has_rms_3_01_below_its_peak() -> None:
    levels = measure(stereo(sine(-6, 5))).levels
    assert 20 * math.log10(levels.peaks[0]) == pytest.approx(-6, abs=0.01)
    assert 10 * math.log10(levels.powers[0]) == pytest.approx(-9.01, abs=0.01)


@pytest.mark.parametrize(("right", "expected"), [(1.0, 1.0), (-1.0, -1.0), (0.25, 1.0)])
def test_correlation_tells_polarity_not_level(right: float, expected: float) -> None:
    left = sine(-6, 2)
    found = measure(np.stack([left, right * left], axis=1)).stereo
    assert found.correlation == pytest.approx(expected, abs=1e-9)


def test_uncorrelated_noise_has_no_correlation_and_equal_mid_and_side() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((480_000, 2))
    found = measure(noise).stereo
    assert found.correlation == pytest.approx(0, abs=0.01)
    assert found.width == pytest.approx(0.5, abs=0.01)
    assert found.mono_compatibility == pytest.approx(-3.01, abs=0.1)
    assert found.has_phase_issues is False


def test_dc_offset_is_the_mean() -> None:
    levels = measure(np.full((48_000, 2), [0.25, -0.125])).levels
    assert levels.means == pytest.approx([0.25, -0.125])


@pytest.mark.parametrize("shift", range(-6, 4))
def test_clipped_runs_are_counted_once_across_chunks(shift: int) -> None:
    samples = np.zeros((CHUNK_FRAMES + 100, 1))
    samples[CHUNK_FRAMES + shift :][:5] = 1.0
    samples[20:22] = -1.0
    samples[30:33] = -1.0
    clipping = measure(samples).levels.clipping
    assert (clipping.samples, clipping.runs) == (10, 2)
    assert clipping.percentage == pytest.approx(1000 / len(samples))


def test_a_run_through_three_chunks_is_one() -> None:
    assert measure(np.ones((2 * CHUNK_FRAMES + 4, 1))).levels.clipping.runs == 1


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 96_000, 192_000])
def test_spectrum_of_a_sine_is_at_its_frequency(rate: int) -> None:
    spectrum = measure(stereo(sine(-6, 3, rate, 1000)), rate).spectrum
    assert spectrum.centroid_hz == pytest.approx(1000, abs=12)
    assert spectrum.rolloff_hz == pytest.approx(1000, abs=24)
    assert spectrum.flatness is not None
    assert spectrum.flatness < 0.001
    assert spectrum.bands is not None
    mid = [name for name, _, _ in BANDS].index("mid")
    assert spectrum.bands[mid] / sum(spectrum.bands) == pytest.approx(1, abs=1e-3)


def test_antiphase_stereo_keeps_its_spectrum() -> None:
    tone = sine(-6, 3)
    spectrum = measure(np.stack([tone, -tone], axis=1)).spectrum
    assert spectrum.centroid_hz == pytest.approx(1000, abs=12)


def test_white_noise_is_flat_and_fills_bands_by_width() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((480_000, 1))
    spectrum = measure(noise).spectrum
    assert spectrum.flatness == pytest.approx(math.exp(-0.5772), abs=0.01)  # of chi-square, 2 df
    assert spectrum.rolloff_hz == pytest.approx(0.85 * 24_000, rel=0.01)
    assert spectrum.bands is not None
    shares = [power / sum(spectrum.bands) for power in spectrum.bands]
    widths = [(high - low) / 19_980 for _, low, high in BANDS]
    assert shares == pytest.approx(widths, abs=0.003)  # the narrowest holds 4 bins


def test_frames_quieter_than_60_db_are_left_out_of_medians() -> None:
    quiet = sine(-70, 6, hertz=8000)
    loud = sine(-6, 3, hertz=1000)
    spectrum = measure(np.concatenate([loud, quiet])[:, None]).spectrum
    assert spectrum.centroid_hz == pytest.approx(1000, abs=12)


def test_flux_of_a_steady_tone_is_nothing_and_of_noise_is_something() -> None:
    found = measure(sine(-6, 2, hertz=48_000 / 4096 * 64)[:, None])
    assert found.spectrum.flux == pytest.approx(0, abs=1e-4)
    noise = 0.1 * np.random.default_rng(0).standard_normal((96_000, 1))
    flux = measure(noise).spectrum.flux
    assert flux is not None
    assert flux > 0.01
