"""Turns for callers whom Redis refuses, so that many of them send no more commands than one."""

from __future__ import annotations

import asyncio

from bullpy.connection.pipelining import retry_pause


class Patience:
    """Lets those who were refused try again one after another, with pauses that grow.

    With a pause for each alone, a hundred held results would be a hundred commands a second.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._refusals = 0
        self._successes = 0

    async def wait(self, failures: int) -> None:
        """Wait for the next try.

        Args:
            failures: How often the caller was refused before. One who is refused again and again,
                while others are not, waits for longer all the same.
        """
        seen = self._successes
        async with self._turn:
            if self._successes != seen:
                # Another one's try came through in the meantime.
                return
            await asyncio.sleep(retry_pause(max(failures, self._refusals) + 1, 0.05, 1.0))
            self._refusals += 1

    def worked(self) -> None:
        """A try came through: those who wait go on at once."""
        self._refusals = 0
        self._successes += 1
