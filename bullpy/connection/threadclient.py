"""A connection for a thread that must need nothing of the event loop."""

from __future__ import annotations

from typing import Any, cast

from redis.exceptions import NoScriptError, ResponseError

from bullpy.connection import sockets
from bullpy.connection.client import pack
from bullpy.connection.explain import classify
from bullpy.connection.misplaced import misplaced
from bullpy.connection.pipelining import Reply
from bullpy.connection.resolve import Locator, Target
from bullpy.settings import RedisSettings

ROUTED_TIMEOUT = 3.0
"""Seconds that the thread waits at most for a server that may be replaced by another."""


class ThreadClient:
    """A synchronous connection for one thread; it reconnects at the next call after an error.

    Args:
        settings: Where to connect.
        name: Its name on the server.
        timeout: Seconds for connecting and for each reply.
        key: A key of those that it is for: in a cluster they must lie on one node.
    """

    def __init__(
        self, settings: RedisSettings, name: str, timeout: float, *, key: str | None = None
    ) -> None:
        self._settings = settings
        self._name = name
        self._locator = Locator(Target.of(settings, key))
        # A server that hangs may have been replaced, which only a new connection finds out.
        self.timeout = min(timeout, ROUTED_TIMEOUT) if self._locator.target.is_routed else timeout
        self._connection: sockets.ThreadSocket | None = None

    def run_script(self, sha: bytes, source: bytes, *args: Any) -> Reply:
        """Run a Lua script; load it first where the server does not have it.

        Raises:
            errors.RedisError: Not reached, no reply in time, or refused.
        """
        try:
            try:
                return self._call("EVALSHA", sha, *args)
            except NoScriptError:
                return self._call("EVAL", source, *args)
        except Exception as error:
            if not isinstance(error, ResponseError) or misplaced(error):
                self.close()
            raise classify(error, self._settings) from error

    def close(self) -> None:
        """Close the socket."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _call(self, *args: Any) -> Reply:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._locator.open_in_thread(
                client_name=self._name, timeout=self.timeout
            )
        connection.send_packed_command([pack(args)])
        return cast("Reply", connection.read_response(disable_decoding=True))
