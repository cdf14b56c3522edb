"""Text for terminals: what comes out of Redis, made harmless, and moments for people."""

from __future__ import annotations

from datetime import UTC, datetime

LATEST = 253_402_300_799_000
"""The end of the year 9999 in ms since 1970: later moments are slips."""


def printable(value: str, limit: int) -> str:
    """Text on one line, without control characters, cut after that many characters."""
    cut = value if len(value) <= limit else value[: limit - 3] + "..."
    escaped = (
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in cut
    )
    return "".join(escaped)


def moment(milliseconds: float) -> str:
    """A moment, in ms since 1970, for people: `2026-11-25 03:04:05.678Z`."""
    seconds, rest = divmod(max(0, min(int(milliseconds), LATEST)), 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:03}Z"
