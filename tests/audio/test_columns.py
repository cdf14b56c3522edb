"""Values that grow chunk by chunk."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from bullpy.audio.passes import columns
from bullpy.audio.passes.columns import Columns


@pytest.mark.parametrize("shared", [0, 1])
def test_columns_are_those_of_all_chunks(monkeypatch: pytest.MonkeyPatch, shared: int) -> None:
    monkeypatch.setattr(columns, "_LEAST_BYTES", 100)
    random = np.random.default_rng(shared)
    grown: Columns[np.float64] = Columns(np.add)
    expected = np.zeros((3, 5000))
    stop = 0
    while stop < 4900:
        first = max(0, stop - shared)
        values = random.uniform(-1, 1, (3, int(random.integers(1, 99))))
        stop = first + values.shape[1]
        expected[:, first:stop] += values
        grown.add(first, values)
    np.testing.assert_array_equal(grown.joined(), expected[:, :stop])


def test_columns_without_memory_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", full)
    with pytest.raises(MemoryError, match="bytes of results"):
        Columns[np.float32](np.maximum).add(0, np.zeros((2, 1), np.float32))
