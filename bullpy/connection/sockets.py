"""One socket to one server: redis-py's connection classes, and what they take for our settings."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any, cast

from redis import Connection as ThreadConnection
from redis import SSLConnection as ThreadSSLConnection
from redis import UnixDomainSocketConnection as ThreadUnixConnection
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError

from bullpy.connection.explain import classify
from bullpy.settings import RedisSettings

CANCEL_AGAIN = 0.1
"""Seconds after which a task that still runs is cancelled again."""

ThreadSocket = ThreadConnection | ThreadUnixConnection
"""A synchronous connection."""


async def open_connection(
    settings: RedisSettings, *, client_name: str | None
) -> AbstractConnection:
    """Open one connection to one server: DNS, TCP, TLS, AUTH, SELECT, client name.

    Raises:
        errors.RedisError: With what happened, the likely cause and the fix.
    """
    connection = connection_class(settings)(
        **connection_arguments(settings, client_name=client_name)
    )
    try:
        async with asyncio.timeout(settings.connect_timeout):
            await connection.connect()
    except Exception as error:
        await connection.disconnect(nowait=True)
        raise classify(error, settings) from error
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


async def ask(connection: AbstractConnection, *command: str) -> Any:
    """The reply to one command on a fresh connection, undecoded; None where the ACL forbids it."""
    await connection.send_command(*command)
    try:
        return cast("Any", await connection.read_response(disable_decoding=True))
    except NoPermissionError:
        return None


def ask_in_thread(connection: ThreadSocket, *command: str) -> Any:
    """As `ask`, on a synchronous connection."""
    connection.send_command(*command)
    try:
        return cast("Any", connection.read_response(disable_decoding=True))
    except NoPermissionError:
        return None


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks that use connections, and wait for their end.

    redis-py sends under `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that
    arrives as the sending ends: once is not enough.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        ended, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN)
        for task in ended:
            if not task.cancelled():
                task.exception()  # seen: who ends a task does not care how


def connection_class(settings: RedisSettings) -> type[AbstractConnection]:
    """redis-py's connection class for that kind of address."""
    if settings.unix_socket is not None:
        return UnixDomainSocketConnection
    return _TlsConnection if settings.tls else _TcpConnection


def connection_arguments(settings: RedisSettings, *, client_name: str | None) -> dict[str, Any]:
    """What redis-py's connection classes take, for these settings."""
    arguments: dict[str, Any] = {
        "db": settings.db,
        "username": settings.username,
        "password": settings.password.get_secret_value() if settings.password else None,
        "client_name": client_name,
        "socket_connect_timeout": settings.connect_timeout,
        "socket_timeout": settings.command_timeout,
        "protocol": 2,
        # Trying again is the factory's business: redis-py would sleep in silence.
        "retry": Retry(NoBackoff(), 0),
    }
    if settings.unix_socket is not None:
        return arguments | {"path": str(settings.unix_socket)}
    arguments |= {
        "host": settings.host,
        "port": settings.port,
        "socket_keepalive": True,
        "socket_keepalive_options": _keepalive(settings.keepalive),
        "family": {4: socket.AF_INET, 6: socket.AF_INET6}.get(settings.family, 0),
    }
    if settings.tls:
        arguments |= {
            "ssl_ca_certs": str(settings.tls_ca_file) if settings.tls_ca_file else None,
            "ssl_certfile": str(settings.tls_cert_file) if settings.tls_cert_file else None,
            "ssl_keyfile": str(settings.tls_key_file) if settings.tls_key_file else None,
            "ssl_cert_reqs": "required" if settings.tls_verify else "none",
            "ssl_check_hostname": settings.tls_verify,
        }
    return arguments


def thread_connection(
    settings: RedisSettings, *, client_name: str | None, timeout: float
) -> ThreadSocket:
    """A synchronous connection, not open yet.

    Args:
        settings: One server.
        client_name: Its name on the server.
        timeout: Seconds for connecting and for each reply.
    """
    arguments = connection_arguments(settings, client_name=client_name)
    arguments |= {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    del arguments["retry"]
    family = arguments.pop("family", None)
    if family:
        arguments["socket_type"] = family
    if settings.unix_socket is not None:
        return ThreadUnixConnection(**arguments)
    return (ThreadSSLConnection if settings.tls else ThreadConnection)(**arguments)


def _keepalive(seconds: float) -> Mapping[int, int]:
    idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
    return {} if idle is None else {idle: max(1, int(seconds))}


class _WithFamily:
    """Adds the address family (4, 6 or any) to what asyncio is asked to open."""

    def __init__(self, *, family: int = 0, **arguments: Any) -> None:
        self._family = family
        super().__init__(**arguments)

    def _connection_arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = dict(cast("Any", super())._connection_arguments())
        return arguments | {"family": self._family} if self._family else arguments


class _TcpConnection(_WithFamily, Connection):
    pass


class _TlsConnection(_WithFamily, SSLConnection):
    pass
