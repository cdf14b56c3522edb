"""Limits: what one run of a processor may use, and how a number of bytes is written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from bullpy import errors

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}

_LEAST_MEMORY = 2**20
"""Less is a mistake of the unit: an interpreter alone takes ten times as much."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run of a processor may use; None sets no limit.

    Attributes:
        timeout: Seconds from start to end.
        memory: Bytes of memory (resident set) of its child process.
        cpu: Seconds of CPU time, over all threads of its child process.
    """

    timeout: float | None = None
    memory: int | None = None
    cpu: float | None = None

    @classmethod
    def of(
        cls,
        timeout: float | None = None,
        memory: int | str | None = None,
        cpu: float | None = None,
    ) -> Self:
        """Check the limits of a processor.

        Args:
            timeout: Seconds.
            memory: Bytes, or text with a unit, such as `"512MB"` or `"2 GiB"`.
            cpu: Seconds.

        Raises:
            errors.ConfigurationError: One of them is no sensible limit.
        """
        for name, value in (("timeout", timeout), ("cpu", cpu)):
            if value is not None and not _is_seconds(value):
                raise errors.ConfigurationError(
                    f"The limit {name} is {value!r}.", fix="Give seconds, above 0."
                )
        size = None if memory is None else byte_count(memory)
        if size is not None and size < _LEAST_MEMORY:
            raise errors.ConfigurationError(
                f"The limit memory is {memory!r}, less than a Python process needs.",
                cause="The number counts bytes.",
                fix='Give bytes, or text with a unit, such as "512MB".',
            )
        return cls(timeout, size, cpu)

    @property
    def need_process(self) -> bool:
        """Whether they can be watched only in a process of its own."""
        return self.memory is not None or self.cpu is not None


NO_LIMITS = Limits()


def byte_count(value: int | str) -> int:
    """Bytes from a number, or from text such as `512MB`, `1.5 GiB`.

    Raises:
        errors.ConfigurationError: It is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = str(value).strip().upper()
    digits = text.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = _UNITS.get(text[len(digits) :])
    try:
        number = float(digits)
    except ValueError:
        number = math.nan
    if unit is None or not math.isfinite(number) or number < 0 or isinstance(value, bool):
        raise errors.ConfigurationError(
            f"{value!r} is no number of bytes.",
            fix="Give bytes, or text with a unit: KB, MB, GB (thousands), KiB, MiB, GiB (1,024).",
        )
    return int(number * unit)


def shown_bytes(count: float) -> str:
    """A number of bytes for people, such as `512.0 MB`."""
    for unit in ("GB", "MB", "KB"):
        if count >= _UNITS[unit]:
            return f"{count / _UNITS[unit]:.1f} {unit}"
    return f"{count:.0f} B"


def _is_seconds(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > 0
    )
