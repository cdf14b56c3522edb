"""Values per cell, collected chunk by chunk although chunks end in the middle of cells."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Float = TypeVar("_Float", np.float32, np.float64)

_LEAST_BYTES = 1 << 16  # results of some seconds


class Columns(Generic[_Float]):
    """Grows by the columns of each chunk; a cell that two chunks share becomes one column.

    Args:
        combine: How the two parts of a shared cell combine: `np.add` or `np.maximum`.
    """

    def __init__(self, combine: np.ufunc) -> None:
        self._combine = combine
        # One row per cell: the array then grows at its end.
        self._cells: NDArray[_Float] | None = None
        self._count = 0

    def add(self, first: int, values: NDArray[_Float]) -> None:
        """Add the columns `first`, `first` + 1, ... of shape (channels, columns)."""
        cells = self._cells
        if cells is None:
            cells = _roomy(len(values), values.dtype, 1)
        elif first < self._count:
            cells[first] = self._combine(cells[first], values[:, 0])
            values = values[:, 1:]
        needed = self._count + values.shape[1]
        if needed > len(cells):
            larger = _roomy(cells.shape[1], cells.dtype, max(needed, 2 * len(cells)))
            larger[: self._count] = cells[: self._count]
            cells = larger
        cells[self._count : needed] = values.T
        self._cells = cells
        self._count = needed

    def joined(self) -> NDArray[_Float]:
        """All columns, shape (channels, columns)."""
        assert self._cells is not None
        return self._cells[: self._count].T


def _roomy(width: int, dtype: np.dtype[_Float], rows: int) -> NDArray[_Float]:
    """An array of at least so many rows, in memory of its own.

    Rows that are not written take no memory, and an array that is dropped gives all of its own
    back at once. The allocator promises neither for what grows in several threads: it keeps
    what one of them has freed where another cannot use it.
    """
    row_bytes = width * dtype.itemsize
    rows = max(rows, _LEAST_BYTES // row_bytes)
    try:
        memory = mmap.mmap(-1, rows * row_bytes, access=mmap.ACCESS_COPY)  # of no other process
    except OSError as error:
        raise MemoryError(f"No memory for {rows * row_bytes} bytes of results.") from error
    return np.frombuffer(memory, dtype).reshape(rows, width)
