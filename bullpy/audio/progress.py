"""The progress of a job that reads one file or several, as one scale that only rises."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

STEP = 1
"""Percent that a told value is above the last one, at least."""
INTERVAL = 0.25
"""Seconds between two told values, at least: each one is a round trip to Redis."""


class Progress:
    """Turns the shares of files into percent, and tells it not too often.

    Args:
        tell: Takes whole percent, each larger than the one before.
        sizes: Bytes of each file, in the order in which they are read.
        first: Percent at which this part of the work begins.
        last: Percent at which it ends; 100 is told by `finish` alone.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        tell: Callable[[int], object],
        sizes: Sequence[int],
        clock: Callable[[], float] = time.monotonic,
        *,
        first: int = 0,
        last: int = 100,
    ) -> None:
        self._tell = tell
        self._sizes = sizes
        self._total = max(1, sum(sizes))
        self._clock = clock
        self._first = first
        self._last = last
        self._told = first
        self._next = clock()

    def of_file(self, index: int) -> Callable[[float], None]:
        """What takes the share of that file that is done, 0 to 1."""
        before = sum(self._sizes[:index])

        def on_share(share: float) -> None:
            done = before + share * self._sizes[index]
            # 100 is for when everything is done, the arithmetic at the end included.
            percent = self._first + (self._last - self._first) * done / self._total
            self._offer(min(99, int(percent)))

        return on_share

    def finish(self) -> None:
        """Tell 100."""
        if self._told < 100:
            self._told = 100
            self._tell(100)

    def _offer(self, percent: int) -> None:
        now = self._clock()
        if percent >= self._told + STEP and now >= self._next:
            self._told = percent
            self._next = now + INTERVAL
            self._tell(percent)
