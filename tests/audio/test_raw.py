"""Where cells, blocks and frames lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpy.audio import raw


@pytest.mark.parametrize("rate", [8_000, 32_000, 44_100, 48_000, 192_000])
def test_cells_of_common_rates_have_equal_frames(rate: int) -> None:
    assert set(np.diff(raw.cell_ends(rate, 0, 1000))) == {rate // 100}


@pytest.mark.parametrize("rate", [11_025, 22_050, 12_345])
def test_cells_of_other_rates_stay_on_their_time(rate: int) -> None:
    ends = raw.cell_ends(rate, 0, 100_000)
    assert np.abs(ends - np.arange(100_001) * rate / 100).max() <= 0.5
    windows = ends[40:] - ends[:-40]
    assert np.abs(windows - 0.4 * rate).max() <= 1


@given(st.integers(8_000, 384_000), st.integers(0, 10_000_000))
def test_full_cells_end_within_the_file(rate: int, frames: int) -> None:
    count = raw.full_cells(rate, frames)
    last, following = raw.cell_ends(rate, count, count + 1)
    assert last <= frames < following


def test_blocks_of_the_dynamic_range_meter_are_its_own() -> None:
    assert raw.block_frames(44_100) == 132_480
    assert raw.block_frames(48_000) == 144_000


def test_frames_grow_with_the_rate() -> None:
    sizes = [raw.frame_size(rate) for rate in (8_000, 44_100, 48_000, 88_200, 96_000, 192_000)]
    assert sizes == [4096, 4096, 4096, 8192, 8192, 16_384]
