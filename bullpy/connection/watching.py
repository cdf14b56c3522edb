"""News of the sentinels: a failover that was asked for leaves the old primary running for seconds.

What is written there after the switch is lost when it becomes a replica, so it has to be left as
soon as a sentinel tells of the switch, and not when it ends its connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from bullpy.connection import sockets
from bullpy.connection.explain import classify
from bullpy.connection.pipelining import retry_pause
from bullpy.connection.resolve import sentinel_at, server_at
from bullpy.settings import RedisSettings

log = logging.getLogger("bullpy.connection")

SILENCE = 20.0
"""Seconds of silence after which a sentinel is asked for a sign of life."""

RETRY_MIN = 0.5
RETRY_MAX = 10.0
"""Seconds between attempts to reach a sentinel that is away: others tell the same news."""


class SwitchWatch:
    """Listens to each sentinel. Starting and stopping twice is fine.

    Args:
        settings: With sentinels.
        on_switch: Called with the settings of the new primary; several sentinels tell the same.
    """

    def __init__(self, settings: RedisSettings, on_switch: Callable[[RedisSettings], None]) -> None:
        self._settings = settings
        self._on_switch = on_switch
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to listen."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._follow(text), name=f"bullpy sentinel {text}")
                for text in self._settings.sentinels
            ]

    async def stop(self) -> None:
        """Listen no more."""
        tasks, self._tasks = self._tasks, []
        await sockets.end(*tasks)

    async def _follow(self, text: str) -> None:
        failures = 0
        while True:
            try:
                await self._listen(sentinel_at(self._settings, text))
                failures = 0
            except Exception as error:  # noqa: BLE001 - a sentinel less is no outage
                failures += 1
                log.debug("sentinel %s: %s", text, classify(error, self._settings))
            await asyncio.sleep(retry_pause(failures + 1, RETRY_MIN, RETRY_MAX))

    async def _listen(self, sentinel: RedisSettings) -> None:
        """Hear of switches until the sentinel is silent for too long."""
        connection = await sockets.open_connection(sentinel, client_name=None)
        try:
            await connection.send_command("SUBSCRIBE", "+switch-master")
            asked = False
            while True:
                try:
                    async with asyncio.timeout(SILENCE):
                        message = cast(
                            "Any",
                            await connection.read_response(
                                disable_decoding=True, timeout=2 * SILENCE
                            ),
                        )
                except TimeoutError:
                    if asked:
                        return
                    await connection.send_command("PING", check_health=False)
                    asked = True
                    continue
                asked = False
                self._hear(message)
        finally:
            await connection.disconnect(nowait=True)

    def _hear(self, message: Any) -> None:
        if not isinstance(message, list) or message[0] != b"message":
            return
        name, _, _, host, port = cast("list[bytes]", message)[2].decode().split(" ")
        if name == self._settings.sentinel_name:
            self._on_switch(server_at(self._settings, host, int(port)))
