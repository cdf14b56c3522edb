"""Text for terminals: what comes out of Redis, made harmless, and moments for people."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime

USUAL_PREFIX = "bull"

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


def repair_command(name: str, queue: str, prefix: str, *more: str, apply: bool = True) -> str:
    """What to type to repair a queue: `bullpy repair active --queue orders --apply`.

    Args:
        name: The repair.
        queue: The queue.
        prefix: First part of its keys; another one than the usual has to be said.
        more: Further options.
        apply: Do it, rather than tell what would be done.
    """
    words = ["bullpy", "repair", name, "--queue", queue]
    if prefix != USUAL_PREFIX:
        words += ["--prefix", prefix]
    return shlex.join([*words, *more, *(["--apply"] if apply else [])])
