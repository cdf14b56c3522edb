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
        self._parts: list[NDArray[_Float]] = []
        self._count = 0

    def add(self, first: int, values: NDArray[_Float]) -> None:
        """Add the columns `first`, `first` + 1, ... of shape (channels, columns)."""
        if first < self._count:
            last = self._parts[-1]
            last[:, -1] = self._combine(last[:, -1], values[:, 0])
            values = values[:, 1:]
        if values.shape[1]:
            self._parts.append(values)
            self._count += values.shape[1]

    def joined(self) -> NDArray[_Float]:
        """All columns, shape (channels, columns). Call it once, at the end."""
        parts, self._parts = self._parts, []
        return np.concatenate(parts, axis=1)
