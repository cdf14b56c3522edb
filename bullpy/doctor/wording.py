"""Numbers and lists as people say them, for messages of verdicts."""

from __future__ import annotations

from collections.abc import Iterable

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def span(seconds: float) -> str:
    """A duration in its two largest units: `0.4 s`, `42 s`, `3 min`, `2 h 5 min`, `9 d`."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    for index, (unit, size) in enumerate(_UNITS):
        if whole >= size:
            first, rest = divmod(whole, size)
            smaller, small_size = _UNITS[index + 1] if index + 1 < len(_UNITS) else ("s", 1)
            second = rest // small_size
            # The smaller unit matters while the larger one is a small number.
            return f"{first} {unit}" + (f" {second} {smaller}" if second and first < 5 else "")
    return f"{whole} s"


def many(number: int, noun: str) -> str:
    """`1 job`, `30 jobs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def some(things: Iterable[object], most: int = 3) -> str:
    """The first few of them: `a, b, c and 4 more`."""
    texts = list(dict.fromkeys(map(str, things)))
    shown = ", ".join(texts[:most])
    return shown if len(texts) <= most else f"{shown} and {len(texts) - most} more"
