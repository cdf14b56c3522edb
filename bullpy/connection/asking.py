"""One connection for a few questions, outside the process's shared one: for diagnosis."""

from __future__ import annotations

import asyncio
from typing import Any, Self, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from bullpy import errors
from bullpy.connection.client import pack
from bullpy.connection.explain import classify
from bullpy.connection.resolve import Locator, Target
from bullpy.settings import RedisSettings

Answer = Any
"""A reply with strings as bytes, or the `errors.RedisError` that the server answered with."""


class Asker:
    """Asks Redis on a connection of its own, and counts what it costs.

    Args:
        connection: An open connection.
        node: The settings of the server that it goes to.

    Attributes:
        node: The settings of the server that it goes to.
        commands: How many commands it has sent.
    """

    def __init__(self, connection: AbstractConnection, node: RedisSettings) -> None:
        self._connection = connection
        self.node = node
        self.commands = 0

    @classmethod
    async def open(cls, settings: RedisSettings, name: str, *, key: str | None = None) -> Self:
        """Connect.

        Args:
            settings: Where to.
            name: The client's name on the server, where the user may give one.
            key: In a cluster, the node that owns this key; None takes any.

        Raises:
            errors.RedisError: With what happened, the likely cause and the fix.
        """
        locator = Locator(Target.of(settings, key))
        try:
            connection, node = await locator.open(client_name=name)
        except errors.RedisAuthError as error:
            if "client|setname" not in str(error):
                raise
            # A user without CLIENT can ask all else.
            connection, node = await locator.open(client_name=None)
        return cls(connection, node)

    async def ask(self, *commands: tuple[Any, ...]) -> list[Answer]:
        """Send commands in one write; what each was answered.

        Raises:
            errors.RedisError: The connection broke, or the server did not answer in time.
        """
        self.commands += len(commands)
        try:
            await self._connection.send_packed_command([b"".join(map(pack, commands))])
            async with asyncio.timeout(self.node.command_timeout):
                return [await self._read() for _ in commands]
        except Exception as error:
            await self.close()
            raise classify(error, self.node) from error

    async def one(self, *command: Any) -> Answer:
        """What one command was answered.

        Raises:
            errors.RedisError: As `ask`.
        """
        return (await self.ask(command))[0]

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)

    async def _read(self) -> Answer:
        try:
            return cast("Any", await self._connection.read_response(disable_decoding=True))
        except ResponseError as refused:
            return classify(refused, self.node)


def refused(answer: Answer) -> bool:
    """Whether the server answered with an error."""
    return isinstance(answer, errors.RedisError)
