"""The wait for a queue's marker, on a connection of its own."""

from __future__ import annotations

import asyncio
import logging

from bullpy import errors
from bullpy.backend import Backend
from bullpy.connection.factory import BlockingConnection
from bullpy.connection.pipelining import Reply, retry_pause
from bullpy.connection.probe import classify
from bullpy.engine.reports import Reports
from bullpy.logs import RateLimited
from bullpy.outage import SHORT_EVERY

log = logging.getLogger("bullpy.worker")

REFUSED_WITHIN = 0.2
"""Seconds after which a wait that was not refused is accepted."""

SUSPECT_FOR = 1.0
"""Seconds that the shared connection has to answer when the one that waits went silent."""


class MarkerWait:
    """Waits for the marker, and never fails: who waited fetches, whatever came of it.

    Args:
        blocking: The connection.
        backend: The queue, and the connection that everything else uses.
        reports: Hear of errors.
        block: Seconds that a wait lasts at most.
    """

    def __init__(
        self, blocking: BlockingConnection, backend: Backend, reports: Reports, block: float
    ) -> None:
        self._blocking = blocking
        self._backend = backend
        self._reports = reports
        self._block = block
        self._failures = 0
        self._ended: errors.RedisError | None = None
        self._opened_after = 0
        self._said = RateLimited(SHORT_EVERY)

    async def once(self, keys: tuple[str, ...]) -> Reply:
        """The reply of BZPOPMIN; None when nothing came, or after an error."""
        try:
            reply = await self._wait(keys)
        except errors.RedisError as error:
            # The fetch that follows tells whether Redis is away. If not, it is this wait alone.
            self._failures += 1
            if self._failures > 1:
                self._reports.failing("wait", error)
            else:
                self._reports.report(error, told=True)
            return None
        self._accepted()
        return reply

    async def _wait(self, keys: tuple[str, ...]) -> Reply:
        shared = self._backend.shared
        if await self._blocking.ready():
            self._tell_of_end()
            self._opened_after = shared.losses
        # What Redis refuses it refuses at once.
        accepted = asyncio.get_running_loop().call_later(REFUSED_WITHIN, self._accepted)
        try:
            return await self._blocking.call(
                "BZPOPMIN", *keys, f"{self._block:.3f}", block=self._block
            )
        except errors.RedisError as error:
            self._ended = error
            if isinstance(error, errors.CommandTimeoutError):
                # What silenced this connection may have silenced the other one.
                shared.pipeliner.suspect(SUSPECT_FOR)
            raise
        except Exception as error:  # an error reply, such as NOPERM
            accepted.cancel()
            await asyncio.sleep(retry_pause(self._failures + 1, 0.05, 1.0))
            raise classify(error, shared.settings) from error
        finally:
            accepted.cancel()

    def _accepted(self) -> None:
        if self._failures:
            self._failures = 0
            self._reports.works("wait")

    def _tell_of_end(self) -> None:
        """Say that the last wait lost its connection, if no other one ended with it."""
        ended, self._ended = self._ended, None
        shared = self._backend.shared
        if ended is None or self._opened_after != shared.losses:
            return
        self._said.log(
            log,
            logging.WARNING,
            "",
            "the connection that waits for jobs was lost, and is open again: %s",
            ended,
            extra={"queue": self._backend.name, "redis": str(shared.settings.masked_url)},
        )
