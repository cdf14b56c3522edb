"""Redis's clock, as seen from here: due times must not depend on the clock of this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from bullpy import errors

KEEPS = 60.0
"""Seconds for which a measurement is trusted; the clocks of two machines do not part fast."""

STEP = 0.05
"""Seconds by which this machine's clock must be set for a measurement to be worth nothing."""


class ServerClock:
    """How far Redis's clock is ahead of this machine's.

    Measured with each new connection, since the server may be another one, and by workers with
    each stalled check. Producers ask again only before something that is due later, and only if
    the last time was long ago: most adds cost no round trip more.

    Args:
        ask: Gives Redis's reply to `TIME`.

    Attributes:
        ahead: Seconds to add to this machine's time; 0 until Redis has been asked.
    """

    def __init__(self, ask: Callable[[], Awaitable[Any]]) -> None:
        self._ask = ask
        self.ahead = 0.0
        self._known_until = 0.0
        self._started_at = 0.0

    def time(self) -> float:
        """Seconds since 1970 by Redis's clock."""
        return time.time() + self.ahead

    def milliseconds(self) -> int:
        """Milliseconds since 1970 by Redis's clock."""
        return int(self.time() * 1000)

    def to_local(self, moment: float) -> float:
        """A moment by Redis's clock, seconds since 1970, by this machine's."""
        return moment - self.ahead

    async def measure(self) -> None:
        """Ask Redis for its time; without an answer what is known stays."""
        # Whatever comes next meets the same error, and says it.
        with contextlib.suppress(errors.RedisError):
            await self.learn(self._ask)

    async def refresh(self) -> None:
        """Ask Redis for its time, unless it is known well enough.

        Raises:
            errors.RedisUnavailableError: Redis cannot be reached; nothing was sent.
        """
        if time.monotonic() < self._known_until and abs(_started_at() - self._started_at) < STEP:
            return
        try:
            await self.learn(self._ask)
        except errors.ReplyLostError:
            # Nothing but a question was sent, and what follows may well be answered.
            pass
        except errors.RedisUnavailableError:
            raise
        except errors.RedisError:
            # An ACL may forbid the question.
            pass

    async def learn(self, ask: Callable[[], Awaitable[Any]]) -> None:
        """Take what Redis answers to `TIME`.

        Args:
            ask: Gives the reply; None where an ACL forbids the question.

        Raises:
            errors.RedisError: There was no answer.
        """
        began = time.time()
        started = time.monotonic()
        reply = cast("list[bytes] | None", await ask())
        half = (time.monotonic() - started) / 2
        self._known_until = started + KEEPS
        self._started_at = _started_at()
        if reply is None:
            return
        ahead = int(reply[0]) + int(reply[1]) / 1e6 - (began + half)
        # It is known to half the round trip only, which takes long while the loop is blocked.
        if abs(ahead - self.ahead) > half:
            self.ahead = ahead


def _started_at() -> float:
    """When the monotonic clock began, by this machine's clock: changes when that one is set."""
    return time.time() - time.monotonic()
