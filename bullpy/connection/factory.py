"""The one factory: every Redis connection of the process is made here, from one setting.

- `share` gives the pipelining client that all queues and workers of a process and event loop
  have in common, for commands that do not block.
- `BlockingConnection` is a connection of its own for one waiting command at a time; its read
  time-out is always longer than the wait.

`threadclient` makes the synchronous connection of the lock thread, of the same parts.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import weakref
from collections.abc import Callable
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ResponseError

from bullpy import errors
from bullpy.connection import attempts, resolve, sockets
from bullpy.connection import identity as identities
from bullpy.connection.client import PipeliningClient, pack
from bullpy.connection.clock import ServerClock
from bullpy.connection.explain import classify
from bullpy.connection.identity import ServerIdentity
from bullpy.connection.misplaced import displaced, misplaced
from bullpy.connection.pipelining import Pipeliner, Reply, retry_pause
from bullpy.connection.rerouting import ReroutingPipeliner
from bullpy.connection.resolve import Locator, Target
from bullpy.connection.watching import SwitchWatch
from bullpy.outage import Outage
from bullpy.settings import RedisSettings

log = logging.getLogger("bullpy.connection")

BLOCK_MARGIN = 3.0
"""Seconds that a blocking connection waits beyond the block before it takes the server for dead."""

SLOW_CONNECT = 0.9
"""Seconds after which a connection that is still being made is worth a log line."""

_INHERITED: weakref.WeakSet[SharedRedis] = weakref.WeakSet()
_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Target, SharedRedis]] = (
    weakref.WeakKeyDictionary()
)


class SharedRedis:
    """The connection that everything in one process and event loop shares.

    Made by `share`; give it back with `release`. The last one to do so closes it.

    Attributes:
        settings: Where it connects to.
        client: redis-py's interface over the shared socket.
        pipeliner: The socket itself, for callers that pack their own commands.
        identity: Which server answered last, None before the first connection.
        clock: The server's clock.
        losses: How many connections it has lost.
    """

    def __init__(self, target: Target) -> None:
        self.settings = settings = target.settings
        self.identity: ServerIdentity | None = None
        self.clock = ServerClock(lambda: self.ask("TIME"))
        self._target = target
        self._locator = Locator(target)
        self._attempt: float | None = None
        self._node: RedisSettings | None = None
        self._watch: SwitchWatch | None = None
        self._companions: weakref.WeakSet[BlockingConnection] = weakref.WeakSet()
        self.pipeliner = self._pipeliner()
        pool = ConnectionPool(
            connection_class=resolve.routed_class(self._locator),
            **sockets.connection_arguments(settings, client_name=client_name()),
            decode_responses=True,
            encoding_errors="surrogateescape",
        )
        self.client = PipeliningClient(self.pipeliner, pool, settings)
        self._users = 0
        self._listeners: list[Callable[[errors.RedisError], None]] = []
        self.losses = 0
        self._outage = Outage(
            log,
            "no connection to Redis",
            "connected again",
            "bullpy tries again until it is back, about once a second.",
            {"redis": str(settings.masked_url)},
        )
        self._warned: set[str] = set()

    def acquire(self) -> SharedRedis:
        """Count one more user."""
        self._users += 1
        return self

    async def release(self) -> None:
        """Count one user less; the last one closes the connection."""
        self._users -= 1
        if self._users <= 0:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, whoever uses it."""
        by_target = _shared.get(asyncio.get_running_loop(), {})
        if by_target.get(self._target) is self:
            del by_target[self._target]
        await self.pipeliner.aclose()
        if self._watch is not None:
            await self._watch.stop()
        await self.client.aclose()
        await self.client.connection_pool.disconnect()

    def shorten_waits(self, seconds: float) -> None:
        """Let no command wait longer for its reply, and no attempt to connect three times that.

        For workers: what waits longer than a part of the lock's duration costs the lock.
        """
        self.pipeliner.shorten_waits(seconds)
        self._attempt = min(self._attempt or math.inf, 3 * seconds)

    def on_error(self, listener: Callable[[errors.RedisError], None]) -> Callable[[], None]:
        """Hear of every failed attempt and lost connection.

        Returns:
            A function that ends the subscription.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def ask(self, *command: str | bytes | float) -> Any:
        """Send a command, and give its reply with strings as bytes.

        Raises:
            errors.RedisError: Redis could not be asked, or refused.
        """
        reply = await self.pipeliner.call(pack(command), raw=True)
        if isinstance(reply, Exception):
            raise classify(reply, self.settings) from reply
        return reply

    async def whoami(self) -> ServerIdentity:
        """Which server is this? Connects if need be.

        Raises:
            errors.RedisError: It cannot be reached, or refuses.
        """
        if self.identity is None or not self.pipeliner.is_connected:
            await self.client.ping()
        assert self.identity is not None
        return self.identity

    # -- what the pipeliner tells ----------------------------------------------------------

    def connected(self, connection: AbstractConnection) -> None:
        """Say which server it is and, after an outage, how long that lasted."""
        del connection
        seen = self.identity
        if not self._outage.worked(detail=f": {seen}"):
            log.info("connected: %s", seen, extra={"redis": str(self.settings.masked_url)})

    def disconnected(self, error: errors.RedisError) -> None:
        """Remember since when; a connection that is back at once is no outage."""
        self.losses += 1
        self._outage.ended(error)
        self._tell(error)

    def refused(self, error: errors.RedisError) -> None:
        """Say it once, however often it is tried."""
        self._outage.failed(error)
        self._tell(error)

    def _tell(self, error: errors.RedisError) -> None:
        for listener in list(self._listeners):
            listener(error)

    def _pipeliner(self) -> Pipeliner:
        limits = {
            "command_timeout": self.settings.command_timeout,
            "retry_min": min(self.settings.retry_min, self._locator.retry_max),
            "retry_max": self._locator.retry_max,
        }
        if not self._target.is_routed:
            return Pipeliner(self._open, self, **limits)
        if self.settings.sentinels:
            self._watch = SwitchWatch(self.settings, self._switched)
        return ReroutingPipeliner(
            self._open,
            self,
            has_moved=self._has_moved,
            explain=lambda refusal: displaced(refusal, self.settings),
            **limits,
        )

    def _switched(self, primary: RedisSettings) -> None:
        """A sentinel says that another server is the primary now."""
        pipeliner = self.pipeliner
        if self._node not in (None, primary) and isinstance(pipeliner, ReroutingPipeliner):
            pipeliner.leave(
                errors.RedisUnavailableError(
                    f"The sentinels made {primary.masked_url} the primary.",
                    cause="A failover.",
                    fix="Nothing: bullpy follows.",
                )
            )

    def accompany(self, connection: BlockingConnection) -> None:
        """Interrupt that connection's wait when the server changes."""
        self._companions.add(connection)

    async def _has_moved(self) -> bool:
        node = self._node
        return node is not None and await self._locator.find(suspect=node) != node

    async def _open(self) -> AbstractConnection:
        slow = asyncio.get_running_loop().call_later(SLOW_CONNECT, self._say_slow)
        try:
            connection, node, self.identity = await attempts.first_of(self._try, _close)
        finally:
            slow.cancel()
        self._arrived(node)
        for warning in identities.check_server(self.identity):
            self._warn_once(warning)
        return connection

    async def _try(self) -> tuple[AbstractConnection, RedisSettings, ServerIdentity]:
        limit = asyncio.timeout(self._attempt)
        try:
            async with limit:
                return await self._meet()
        except TimeoutError as late:
            if not limit.expired():
                raise
            raise errors.RedisUnavailableError(
                f"{self.settings.masked_url} did not answer within {self._attempt:g} s.",
                cause="The network drops packets, or the server hangs.",
                fix="Nothing, if it was an outage: the next attempt follows.",
            ) from late

    async def _meet(self) -> tuple[AbstractConnection, RedisSettings, ServerIdentity]:
        """Connect to the server, and ask who it is and what time it has."""
        connection, node = await self._locator.open(client_name=client_name())
        try:
            identity = await identify(connection, node)
            await self.clock.learn(lambda: sockets.ask(connection, "TIME"))
        except errors.RedisError:
            await connection.disconnect(nowait=True)
            raise
        except Exception as error:
            await connection.disconnect(nowait=True)
            raise classify(error, self.settings) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection, node, identity

    def _arrived(self, node: RedisSettings) -> None:
        """Take along who waits at another server."""
        self._node = node
        if self._watch is not None:
            self._watch.start()
        for companion in list(self._companions):
            companion.leave_unless_at(node)

    def _say_slow(self) -> None:
        self._outage.failed(
            errors.RedisUnavailableError(
                f"no answer yet from {self.settings.masked_url} after {SLOW_CONNECT:g} s; a fresh "
                f"attempt is made every {attempts.FRESH_EACH:g} s.",
                cause="A firewall looks like this, and TLS to a port that does not speak it.",
            )
        )

    def _warn_once(self, warning: errors.RedisError) -> None:
        if warning.code not in self._warned:
            self._warned.add(warning.code)
            log.warning("%s", warning, extra={"code": warning.code})


class BlockingConnection:
    """A connection for commands that wait, one at a time.

    Args:
        settings: Where to connect.
        name: The client name, which other tools read to count workers.
        key: A key of those that it is for: in a cluster they must lie on one node.
    """

    def __init__(
        self, settings: RedisSettings, name: str | None, *, key: str | None = None
    ) -> None:
        self._settings = settings
        self._locator = Locator(Target.of(settings, key))
        self._name = name
        self._connection: AbstractConnection | None = None
        self._client_id: int | None = None
        self._node: RedisSettings | None = None
        self._failures = 0

    @property
    def client_id(self) -> int | None:
        """The server's id of the connection; None before the first, and where it is forbidden."""
        return self._client_id

    async def unblock(self, client: PipeliningClient) -> None:
        """Ask the server to end the wait as if its time were up, so that it takes nothing along.

        Args:
            client: The shared connection. Where that is down, or the ACL forbids it, nothing
                happens.
        """
        if self._client_id is None or not client.pipeliner.is_connected:
            return
        try:
            await client.client_unblock(self._client_id)
        except (errors.RedisError, ResponseError) as error:
            log.debug("CLIENT UNBLOCK: %s", error)

    async def ready(self) -> bool:
        """Connect if need be, after a pause that grows with each failure.

        Returns:
            Whether a connection had to be opened.

        Raises:
            errors.RedisError: With what happened, the likely cause and the fix.
        """
        if self._connection is not None:
            return False
        await self._connect()
        return True

    async def call(self, *args: bytes | str | float, block: float) -> Reply:
        """Send a command that may wait, and give its reply with strings as bytes.

        Args:
            args: The command.
            block: Seconds that the server may take; the read time-out is 3 s longer.

        Raises:
            errors.RedisUnavailableError: No connection, or no reply in time. The next call
                connects anew, after a pause that grows with each failure.
            redis.exceptions.ResponseError: The server refused the command.
        """
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task else 0
        connection = self._connection or await self._connect()
        try:
            await connection.send_packed_command([pack(args)])
            if task and task.cancelling() > cancelled_before:
                # redis-py sends under asyncio.wait_for, which before Python 3.12 swallows a
                # cancellation that arrives as the sending ends.
                raise asyncio.CancelledError
            # Two time-outs: at its own, redis-py says None, as if the wait had brought nothing,
            # and a dead socket would stay in use.
            late = block + 2 * BLOCK_MARGIN
            async with asyncio.timeout(block + BLOCK_MARGIN):
                reply = cast(
                    "Reply", await connection.read_response(disable_decoding=True, timeout=late)
                )
        except ResponseError as refused:
            if self._locator.target.is_routed and misplaced(refused):
                await self.aclose()
                raise displaced(refused, self._settings) from refused
            raise
        except TimeoutError as error:
            await self.aclose()
            raise errors.CommandTimeoutError(
                f"{self._settings.masked_url} did not answer a waiting command in time.",
                cause="The server hangs, or the network drops packets.",
            ) from error
        except Exception as error:
            await self.aclose()
            raise classify(error, self._settings) from error
        except BaseException:
            # Cancelled in the middle: the reply may still come, so this socket is spent.
            await self.aclose()
            raise
        self._failures = 0
        return reply

    def leave_unless_at(self, node: RedisSettings) -> None:
        """End a wait at another server than this; its caller gets an error and waits anew."""
        connection = self._connection
        if connection is not None and self._node != node:
            # redis-py has no public way to end a read of another task.
            writer = connection._writer  # pyright: ignore[reportPrivateUsage]
            if writer is not None:
                writer.transport.abort()

    async def aclose(self) -> None:
        """Close the socket; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _connect(self) -> AbstractConnection:
        pause = retry_pause(self._failures, self._settings.retry_min, self._locator.retry_max)
        self._failures += 1
        if pause:
            await asyncio.sleep(pause)
        connection, self._node, client_id = await attempts.first_of(self._try, _close)
        self._client_id = client_id if isinstance(client_id, int) else None
        self._connection = connection
        by_target = _shared.get(asyncio.get_running_loop(), {})
        shared = by_target.get(self._locator.target)
        if shared is not None and self._locator.target.is_routed:
            shared.accompany(self)
        return connection

    async def _try(self) -> tuple[AbstractConnection, RedisSettings, Any]:
        connection, node = await self._locator.open(client_name=self._name)
        try:
            return connection, node, await sockets.ask(connection, "CLIENT", "ID")
        except Exception as error:
            await connection.disconnect(nowait=True)
            raise classify(error, self._settings) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise


def share(settings: RedisSettings, *, key: str | None = None) -> SharedRedis:
    """The shared connection to that Redis for this process and event loop.

    Must be called with an event loop running. Every call counts as one user; give it back
    with `release`.

    Args:
        settings: Where it connects to.
        key: A key of those that it is for: a cluster has a connection per hash slot.

    Raises:
        errors.ConfigurationError: In a cluster, a key without hash tag.
    """
    target = Target.of(settings, key)
    by_target = _shared.setdefault(asyncio.get_running_loop(), {})
    found = by_target.get(target)
    if found is None:
        found = by_target[target] = SharedRedis(target)
        _INHERITED.add(found)
    return found.acquire()


async def identify(connection: AbstractConnection, settings: RedisSettings) -> ServerIdentity:
    """Ask a fresh connection which server it reached.

    Raises:
        errors.RedisUnavailableError: The server is still loading its data.
    """
    client_id = await sockets.ask(connection, "CLIENT", "ID")
    answer = await sockets.ask(connection, "INFO")
    info = identities.parse_info(answer) if isinstance(answer, bytes) else {}
    if str(info.get("loading", "0")) == "1":
        raise errors.RedisUnavailableError(
            f"{settings.masked_url} is loading its data into memory.",
            fix="Wait; bullpy tries again by itself.",
        )
    return identities.identity_from(
        info,
        url=settings.masked_url,
        db=settings.db,
        client_id=client_id if isinstance(client_id, int) else None,
    )


async def _close(opened: tuple[AbstractConnection, RedisSettings, Any]) -> None:
    await opened[0].disconnect(nowait=True)


def client_name() -> str:
    """The name of the shared connection in CLIENT LIST; only blocking ones count as workers."""
    return f"bullpy:{socket.gethostname()}:{os.getpid()}".replace(" ", "_")


def _disown_in_child() -> None:
    for shared in list(_INHERITED):
        shared.pipeliner.mark_inherited()


os.register_at_fork(after_in_child=_disown_in_child)
