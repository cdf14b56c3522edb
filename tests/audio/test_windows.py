"""Sums over windows of cells."""

from __future__ import annotations

import numpy as np
import pytest
from audio.signals import raw_of

from bullpy.audio import windows
from bullpy.audio.windows import window_means

RATE = 11_025  # whose cells have 110 or 111 frames


@pytest.mark.parametrize("length", [30, 40, 300])
@pytest.mark.parametrize("hop", [1, 10])
@pytest.mark.parametrize("seconds", [0.1, 0.4, 3.0, 3.005, 3.1, 20.7])
@pytest.mark.parametrize("part", [60, 20_000])
def test_a_mean_is_that_of_its_window(
    monkeypatch: pytest.MonkeyPatch, length: int, hop: int, seconds: float, part: int
) -> None:
    monkeypatch.setattr(windows, "_PART_CELLS", part)
    signal = np.random.default_rng(1).uniform(-1, 1, (round(seconds * RATE), 1))
    raw = raw_of(signal, RATE)
    ends = raw.cell_ends()
    squares = signal.astype(np.float32)[:, 0].astype(np.float64) ** 2
    expected = [
        squares[ends[start] : ends[start + length]].mean()
        for start in range(0, raw.full_cells - length + 1, hop)
    ]
    found = window_means(raw.cells.squares[0], raw, length, hop)
    np.testing.assert_allclose(found, np.array(expected, np.float64), rtol=1e-12)


@pytest.mark.parametrize("hop", [1, 10])
def test_means_do_not_depend_on_how_many_are_summed_at_a_time(
    monkeypatch: pytest.MonkeyPatch, hop: int
) -> None:
    signal = np.random.default_rng(2).uniform(-1, 1, (30 * RATE, 1))
    signal[10 * RATE : 20 * RATE] = 0  # what rounding leaves there counts as silence
    raw = raw_of(signal, RATE)
    whole = window_means(raw.cells.squares[0], raw, 40, hop)
    assert (whole == 0).any()
    monkeypatch.setattr(windows, "_PART_CELLS", 70)
    np.testing.assert_array_equal(window_means(raw.cells.squares[0], raw, 40, hop), whole)
