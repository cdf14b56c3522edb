"""Values per cell, collected chunk by chunk although chunks end in the middle of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Float = TypeVar("_Float", np.float32, np.float64)


class Columns(Generic[_Float]):
    """Grows by the columns of each chunk; a cell that two chunks share becomes one column.

    Args:
        combine: How the two parts of a shared cell combine: `np.add` or `np.maximum`.
    """

    def __init__(self, combine: np.ufunc) -> None:
        self._combine = combine
        # One row per cell: the array then grows at its end, without a second copy.
        self._cells: NDArray[_Float] | None = None
        self._count = 0

    def add(self, first: int, values: NDArray[_Float]) -> None:
        """Add the columns `first`, `first` + 1, ... of shape (channels, columns)."""
        if self._cells is None:
            self._cells = np.zeros((0, len(values)), values.dtype)
        cells = self._cells
        if first < self._count:
            cells[first] = self._combine(cells[first], values[:, 0])
            values = values[:, 1:]
        needed = self._count + values.shape[1]
        if needed > len(cells):
            room = len(cells) + len(cells) // 8 + 256
            cells.resize((max(needed, room), cells.shape[1]), refcheck=False)
        cells[self._count : needed] = values.T
        self._count = needed

    def joined(self) -> NDArray[_Float]:
        """All columns, shape (channels, columns). Call it once, at the end."""
        cells = self._cells
        assert cells is not None
        cells.resize((self._count, cells.shape[1]), refcheck=False)
        return cells.T
