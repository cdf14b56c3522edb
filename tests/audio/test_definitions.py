"""Dynamics, stereo image and curves against values known in closed form."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio.signals import measure, raw_of, sequence, sine, stereo

from bullpy.audio import analyze
from bullpy.audio.series import MOST_POINTS, WAVEFORM_POINTS, series_of


def test_dynamic_range_of_a_sine_is_nothing() -> None:
    dynamics = measure(stereo(sine(-6, 12))).dynamics
    assert dynamics.range == pytest.approx(0, abs=1e-3)
    assert dynamics.range_int == 0


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_dynamic_range_is_the_loudest_fifth_below_the_second_highest_peak(rate: int) -> None:
    block = 132_480 if rate == 44_100 else 144_000
    levels = [-20.0] * 8 + [-14.0] * 2  # the loudest fifth of ten blocks
    signal = np.concatenate([sine(level, block / rate, rate) for level in levels])
    signal[100] = 1.0  # the highest peak: not the one that counts
    signal[block + 100] = 0.5
    assert measure(signal[:, None], rate).dynamics.range == pytest.approx(-6.02 + 14, abs=0.02)


def test_dynamic_range_is_the_mean_of_the_channels_that_sound() -> None:
    tone = sine(-20, 12)
    spiked = tone.copy()
    spiked[[100, 200_000, 400_000]] = 1.0
    found = measure(np.stack([tone, spiked, np.zeros(len(tone))], axis=1)).dynamics
    assert found.range == pytest.approx((0 + 20) / 2, abs=0.02)
    assert found.range_int == 10


@pytest.mark.parametrize(("seconds", "defined"), [(5.9, False), (6.0, True)])
def test_dynamic_range_needs_two_blocks(seconds: float, defined: bool) -> None:
    assert (measure(stereo(sine(-20, seconds))).dynamics.range is not None) is defined


def test_rms_of_short_windows() -> None:
    found = measure(stereo(sequence([(-10, 0.9), (-30, 0.9)]))).dynamics
    assert found.peak_rms == pytest.approx(-13.01, abs=0.02)
    # 16 windows: 7 loud, 2 on the edge (two thirds and one third loud), 7 quiet.
    loud, quiet = 0.1 / 2, 0.001 / 2
    mean = (8 * loud + 8 * quiet) / 16
    assert found.avg_rms == pytest.approx(10 * math.log10(mean), abs=0.02)


def test_crest_of_the_more_dynamic_channel() -> None:
    impulse = 0.001 * np.ones(96_000)
    impulse[500] = 1
    found = measure(np.stack([sine(-6, 2), impulse], axis=1)).dynamics
    expected = -10 * math.log10((1 + 95_999e-6) / 96_000)
    assert found.crest == pytest.approx(expected, abs=1e-3)


def test_peak_to_loudness_ratios() -> None:
    # Dense for 4 s, then as loud with a peak in each second.
    tone = stereo(sine(-20, 8))
    tone[48_000 * 4 + 2000 :: 48_000] = 0.9
    found = measure(tone)
    assert found.loudness.integrated is not None
    assert found.dynamics.psr == pytest.approx(0, abs=0.05)  # -20 dBTP over -20 LUFS
    top = 20 * math.log10(max(found.peaks))
    assert found.dynamics.plr == pytest.approx(top - found.loudness.integrated, abs=1e-9)
    assert found.dynamics.plr > 15


def test_what_is_no_programme_does_not_count_for_psr() -> None:
    noise = 1e-5 * np.random.default_rng(1).choice([-1, 1], (48_000 * 4, 2))
    tone = stereo(sine(-20, 4))
    tone[1000::12_000] = 0.9
    whole = measure(np.concatenate([tone, noise])).dynamics.psr
    assert whole is not None
    assert whole > 3


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, False), (0.02, False), (0.2, True), (1.0, True)]
)
def test_phase_issues_are_stretches_that_vanish_in_mono(share: float, expected: bool) -> None:
    noise = 0.1 * np.random.default_rng(2).standard_normal((480_000, 1))
    both = np.repeat(noise, 2, axis=1)
    both[: int(share * len(both)), 1] *= -1
    assert measure(both).stereo.has_phase_issues is expected


@pytest.mark.parametrize(("left", "right", "balance"), [(1, 0, -1), (0, 1, 1), (1, 1, 0)])
def test_balance_tells_the_side(left: int, right: int, balance: float) -> None:
    tone = sine(-6, 2)
    found = measure(np.stack([left * tone, right * tone], axis=1)).stereo
    assert found.balance == pytest.approx(balance)
    assert found.has_phase_issues is False


def test_width_of_mono_and_antiphase() -> None:
    tone = sine(-6, 2)
    assert measure(stereo(tone)).stereo.width == pytest.approx(0)
    antiphase = measure(np.stack([tone, -tone], axis=1)).stereo
    assert antiphase.width == pytest.approx(1)
    assert antiphase.mono_compatibility is None


def test_curves_follow_the_signal() -> None:
    series = series_of(raw_of(stereo(sequence([(-20, 5), (None, 5)]))))
    assert series.momentary.start == 0.4
    assert series.momentary.step == 0.1
    assert len(series.momentary.values) == 97
    assert series.momentary.values[20] == pytest.approx(-20, abs=0.05)
    assert series.momentary.values[-1] is None
    assert series.short_term.values[0] == pytest.approx(-20, abs=0.05)
    assert series.correlation.values[10] == 1
    assert max(value or 0 for value in series.waveform.values) == pytest.approx(0.1, abs=1e-3)
    loudest = max(
        (db, hz) for hz, db in zip(series.spectrum.hz, series.spectrum.db, strict=True) if db
    )
    assert loudest[1] == pytest.approx(1000, rel=0.06)


def test_curves_of_a_long_file_are_bounded_and_keep_their_peaks() -> None:
    rate = 8_000
    signal = 0.01 * np.random.default_rng(3).standard_normal((rate * 1300, 1))
    signal[rate * 700] = 0.9
    series = series_of(raw_of(signal, rate))
    assert len(series.momentary.values) <= MOST_POINTS
    assert series.momentary.step == pytest.approx(0.3)
    assert len(series.waveform.values) <= WAVEFORM_POINTS
    index = int((700 - series.waveform.start) / series.waveform.step) + 1
    assert 0.9 in series.waveform.values[index - 1 : index + 2]
    assert not series.correlation.values


def test_curves_are_in_the_report_on_request_alone(good: Path) -> None:
    assert "series" not in analyze(good / "ok.wav").to_wire()
    wire = analyze(good / "ok.wav", series=True).to_wire()
    assert isinstance(wire["series"], dict)
    assert set(wire["series"]) == {
        "momentary", "shortTerm", "correlation", "waveform", "spectrum"
    }  # fmt: skip
    json.dumps(wire, allow_nan=False)


def test_a_short_file_names_each_null_and_its_reason(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", stereo(sine(-20, 0.2)), 48_000)
    report = analyze(tmp_path / "short.wav")
    named = " ".join(warning.message for warning in report.warnings)
    for field in ("dynamics.range", "dynamics.peakRms", "dynamics.psr", "loudness.lra"):
        assert field in named
    assert {warning.code for warning in report.warnings} == {"too-short"}
