"""Redis's clock, as seen from here: due times must not depend on the clock of this machine."""

from __future__ import annotations

import time
from typing import cast

from bullpy import errors
from bullpy.backend import Backend


class ServerClock:
    """How far Redis's clock is ahead of this machine's.

    Measured before the first fetch, with each stalled check, and after an outage.

    Args:
        backend: Whose Redis.

    Attributes:
        ahead: Seconds to add to this machine's time; 0 until Redis has been asked.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.ahead = 0.0

    async def measure(self) -> None:
        """Ask Redis for its time; without an answer what is known stays."""
        began = time.time()
        started = time.monotonic()
        try:
            seconds, microseconds = cast("list[bytes]", await self._backend.ask("TIME"))
        except errors.RedisError:
            # Whatever comes next meets the same error, and says it.
            return
        half = (time.monotonic() - started) / 2
        ahead = int(seconds) + int(microseconds) / 1e6 - (began + half)
        # It is known to half the round trip only, which takes long while the loop is blocked.
        if abs(ahead - self.ahead) > half:
            self.ahead = ahead

    def to_local(self, moment: float) -> float:
        """A moment by Redis's clock, seconds since 1970, by this machine's."""
        return moment - self.ahead
