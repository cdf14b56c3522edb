"""Which server to connect to, when that is for sentinels or for a cluster to say.

All keys of a queue lie on one node: there is one primary behind sentinels, and in a cluster the
hash tag of the prefix puts a queue's keys into one slot. So a connection is to one server as ever;
which one is asked anew at each connect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Self, cast

from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import ResponseError

from bullpy import errors, redis_nodes
from bullpy.connection import sockets
from bullpy.connection.explain import classify
from bullpy.settings import RedisSettings

ASK_TIMEOUT = 1.0
"""Seconds that a sentinel or a cluster's node has to answer before the next one is asked."""

ASK_AGAIN = 1.0
"""Seconds after which a server that still does not take the connection is asked about again."""

FAILED_LATELY = 5.0
"""Seconds for which a node that did not answer is left out, where another one did."""

RETRY_MAX = 0.5
"""Seconds that pauses grow to while the primary or the slot's owner is looked for."""

MOST_NODES = 64
"""How many nodes of a cluster are remembered."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a connection is for: a server, the primary of some sentinels, or a cluster's slot.

    Attributes:
        settings: What the user gave.
        slot: The hash slot of the keys; None outside clusters, and where any node will do.
    """

    settings: RedisSettings
    slot: int | None = None

    @classmethod
    def of(cls, settings: RedisSettings, key: str | None = None) -> Self:
        """The target for keys like this one.

        Raises:
            errors.ConfigurationError: In a cluster, a key without hash tag.
        """
        if not settings.cluster or key is None:
            return cls(settings)
        _check_tag(settings, key)
        return cls(settings, key_slot(key.encode()))

    @property
    def is_routed(self) -> bool:
        """Whether somebody has to be asked which server it is."""
        return bool(self.settings.sentinels or self.settings.cluster)


@dataclass(frozen=True, slots=True)
class Ask:
    """Commands for one node; what comes back is its replies, or the error that it met with."""

    node: RedisSettings
    commands: tuple[tuple[str, ...], ...]


Search = Generator[Ask, "list[Any] | errors.RedisError", RedisSettings]
"""Asks one node after another, and returns the settings of the server that was looked for."""


class Locator:
    """Finds the server of a target, and opens connections to it.

    It remembers which nodes answered, so that the next search begins with them.

    Attributes:
        settings: What the user gave.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.settings = target.settings
        self._nodes = [*self.settings.sentinels, *self.settings.cluster]
        self._failed_at: dict[str, float] = {}
        self._suspect: RedisSettings | None = None

    @property
    def retry_max(self) -> float:
        """Seconds that pauses between attempts to connect grow to."""
        longest = self.settings.retry_max
        return min(longest, RETRY_MAX) if self.target.is_routed else longest

    async def open(self, *, client_name: str | None) -> tuple[AbstractConnection, RedisSettings]:
        """Open a connection.

        Returns:
            It, and the settings of the server that it goes to.

        Raises:
            errors.RedisError: With what happened, the likely cause and the fix.
        """
        if not self.target.is_routed:
            opened = await sockets.open_connection(self.settings, client_name=client_name)
            return opened, self.settings
        node: RedisSettings | None = await self.find()
        while True:
            assert node is not None
            opening = asyncio.create_task(_open_primary(node, client_name))
            opened = None
            try:
                moved_to = await self._moved_while(opening, node)
                if moved_to is None:
                    opened = await opening
                    self._suspect = None
                    return opened, node
            except errors.RedisUnavailableError as error:
                self._suspect = node
                raise self._explained(error) from error
            finally:
                if opened is None:
                    await _give_up(opening)
            node = moved_to

    def open_in_thread(self, *, client_name: str, timeout: float) -> sockets.ThreadSocket:
        """As `open`, without an event loop.

        Args:
            client_name: Its name on the server.
            timeout: Seconds for connecting and for each reply.
        """
        node = self._find_in_thread(timeout)
        connection = sockets.thread_connection(node, client_name=client_name, timeout=timeout)
        if not self.target.is_routed:
            return connection
        try:
            connection.connect()
            _check_role(sockets.ask_in_thread(connection, "ROLE"), node)
        except Exception as error:
            connection.disconnect()
            self._suspect = node
            raise classify(error, node) from error
        self._suspect = None
        return connection

    async def find(self, *, suspect: RedisSettings | None = None) -> RedisSettings:
        """The settings of the server, as far as the nodes that answer know it.

        Args:
            suspect: A server that does not answer or refuses: more nodes are asked before it is
                named again.

        Raises:
            errors.RedisError: Nobody knows it.
        """
        if not self.target.is_routed:
            return self.settings
        search = self._search(suspect or self._suspect)
        try:
            ask = next(search)
            while True:
                ask = search.send(await _answer(ask))
        except StopIteration as found:
            return cast("RedisSettings", found.value)

    def _find_in_thread(self, timeout: float) -> RedisSettings:
        if not self.target.is_routed:
            return self.settings
        search = self._search(self._suspect)
        try:
            ask = next(search)
            while True:
                ask = search.send(_answer_in_thread(ask, min(timeout, ASK_TIMEOUT)))
        except StopIteration as found:
            return cast("RedisSettings", found.value)

    async def _moved_while(
        self, opening: asyncio.Task[AbstractConnection], node: RedisSettings
    ) -> RedisSettings | None:
        """Another server that took over while this one did not take the connection, if one did."""
        while True:
            done, _ = await asyncio.wait({opening}, timeout=ASK_AGAIN)
            if done:
                return None
            try:
                found = await self.find(suspect=node)
            except errors.RedisError:
                continue
            if found != node:
                return found

    # -- asking, one node after another ----------------------------------------------------

    def _search(self, suspect: RedisSettings | None) -> Search:
        return self._primary(suspect) if self.settings.sentinels else self._owner(suspect)

    def _primary(self, suspect: RedisSettings | None) -> Search:
        """Ask the sentinels (https://redis.io/docs/latest/develop/reference/sentinel-clients)."""
        name = self.settings.sentinel_name or ""
        named: RedisSettings | None = None
        ignorant: RedisSettings | None = None
        failures: list[errors.RedisError] = []
        for text in list(self._nodes):
            if (named or ignorant) and self._failed_lately(text):
                continue
            sentinel = sentinel_at(self.settings, text)
            answer = yield Ask(sentinel, (("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name),))
            failure = (
                answer if isinstance(answer, errors.RedisError) else _refused(answer, sentinel)
            )
            self._note(text, failure)
            if failure is not None:
                failures.append(failure)
                continue
            address = cast("list[Any]", answer)[0]
            if not isinstance(address, list) or len(cast("list[Any]", address)) != 2:
                ignorant = sentinel
                continue
            host, port = cast("list[bytes]", address)
            found = server_at(self.settings, host.decode(), int(port))
            if found != suspect:
                return found
            named = found
        if named is not None:
            return named
        if ignorant is not None:
            answer = yield Ask(ignorant, (("SENTINEL", "MASTERS"),))
            raise _unknown_name(name, answer, ignorant)
        raise _nobody_answers("sentinels", self.settings.sentinels, failures)

    def _owner(self, suspect: RedisSettings | None) -> Search:
        """Ask the nodes of a cluster which of them owns the slot."""
        second: RedisSettings | None = None
        failures: list[errors.RedisError] = []
        for text in list(self._nodes):
            if second and self._failed_lately(text):
                continue
            node = server_at(self.settings, *redis_nodes.split(text))
            answer = yield Ask(node, (("CLUSTER", "SLOTS"), ("CLUSTER", "INFO")))
            failure = answer if isinstance(answer, errors.RedisError) else _refused(answer, node)
            self._note(text, failure)
            if failure is not None:
                if not isinstance(failure, errors.RedisUnavailableError):
                    raise failure
                failures.append(failure)
                continue
            slots, info = cast("list[Any]", answer)
            owner = self._owner_in(slots, node)
            if owner is None:
                continue
            is_sound = not isinstance(info, bytes) or b"cluster_state:ok" in info
            if is_sound and owner != suspect:
                return owner
            # A node in a minority knows no better; where no other does, its word counts.
            second = second or owner
        if second is not None:
            return second
        if len(failures) == len(self._nodes):
            raise _nobody_answers("nodes of the cluster", tuple(self._nodes), failures)
        raise errors.RedisUnavailableError(
            f"No node of {self.settings.masked_url} owns the hash slot {self.target.slot}.",
            cause="The cluster is not set up completely, or its nodes do not know each other yet.",
            fix="Look at CLUSTER INFO and CLUSTER SLOTS; it is tried again.",
        )

    def _owner_in(self, slots: Any, asked: RedisSettings) -> RedisSettings | None:
        """The owner of our slot by a reply of CLUSTER SLOTS; notes the other nodes in it."""
        owner: RedisSettings | None = None
        for first, last, primary, *replicas in cast("list[list[Any]]", slots):
            for index, (host, port, *_) in enumerate((primary, *replicas)):
                # An empty or unknown address means: the one that you asked at.
                name = host.decode() if host and host != b"?" else asked.host
                text = redis_nodes.join(name, int(port))
                if text not in self._nodes and len(self._nodes) < MOST_NODES:
                    self._nodes.append(text)
                slot = self.target.slot
                if index == 0 and (slot is None or first <= slot <= last):
                    owner = owner or server_at(self.settings, name, int(port))
        return owner

    def _failed_lately(self, text: str) -> bool:
        return time.monotonic() - self._failed_at.get(text, -FAILED_LATELY) < FAILED_LATELY

    def _note(self, text: str, failure: errors.RedisError | None) -> None:
        """Ask those first that answer."""
        if failure is None:
            self._failed_at.pop(text, None)
            return
        self._failed_at[text] = time.monotonic()
        if text in self._nodes:
            self._nodes.remove(text)
            self._nodes.append(text)

    def _explained(self, error: errors.RedisUnavailableError) -> errors.RedisUnavailableError:
        """The error of a server that was named, with who named it."""
        who = (
            f"The sentinels name it as the primary of {self.settings.sentinel_name!r}"
            if self.settings.sentinels
            else "The cluster names it as the owner of the queue's slot"
        )
        return errors.RedisUnavailableError(
            error.message,
            cause=f"{who}; it is down, and no other was promoted yet.",
            fix="Nothing if a failover is under way; otherwise start it.",
        )


def routed_class(locator: Locator) -> type[AbstractConnection]:
    """A connection class for redis-py's pools that looks for the server at each connect."""
    base = cast("Any", sockets.connection_class(locator.settings))
    if not locator.target.is_routed:
        return cast("type[AbstractConnection]", base)

    class RoutedConnection(base):
        async def _connect(self) -> None:
            node = await locator.find()
            self.host, self.port = node.host, node.port
            await super()._connect()

    return cast("type[AbstractConnection]", RoutedConnection)


def server_at(settings: RedisSettings, host: str, port: int) -> RedisSettings:
    """The settings of one server among those that the user's settings stand for."""
    return settings.model_copy(
        update={
            "host": host,
            "port": port,
            "sentinels": (),
            "sentinel_name": None,
            "sentinel_username": None,
            "sentinel_password": None,
            "cluster": (),
        }
    )


def sentinel_at(settings: RedisSettings, text: str) -> RedisSettings:
    """The settings of one sentinel, which has a user and a password of its own."""
    own = {
        "username": settings.sentinel_username,
        "password": settings.sentinel_password,
        "db": 0,
    }
    return server_at(settings, *redis_nodes.split(text)).model_copy(update=own)


async def _open_primary(node: RedisSettings, client_name: str | None) -> AbstractConnection:
    connection = await sockets.open_connection(node, client_name=client_name)
    try:
        _check_role(await sockets.ask(connection, "ROLE"), node)
    except BaseException as error:
        await connection.disconnect(nowait=True)
        if isinstance(error, Exception):
            raise classify(error, node) from error
        raise
    return connection


async def _give_up(opening: asyncio.Task[AbstractConnection]) -> None:
    """End an attempt, and close what it may have opened."""
    await sockets.end(opening)
    if not opening.cancelled() and opening.exception() is None:
        await opening.result().disconnect(nowait=True)


def _check_role(reply: Any, node: RedisSettings) -> None:
    """A sentinel or node that is behind may name a server that is a replica by now."""
    role = cast("list[Any]", reply)[0] if isinstance(reply, list) and reply else b"master"
    if role != b"master":
        raise errors.RedisUnavailableError(
            f"{node.masked_url} is a replica, although it was named as a primary.",
            cause="A failover is under way.",
            fix="Wait; the primary is looked for again.",
        )


async def _answer(ask: Ask) -> list[Any] | errors.RedisError:
    connection: AbstractConnection | None = None
    try:
        async with asyncio.timeout(ASK_TIMEOUT):
            connection = await sockets.open_connection(ask.node, client_name=None)
            return [await _reply(connection, command) for command in ask.commands]
    except Exception as error:  # noqa: BLE001 - classified: the search asks the next node
        return classify(error, ask.node)
    finally:
        if connection is not None:
            await connection.disconnect(nowait=True)


async def _reply(connection: AbstractConnection, command: tuple[str, ...]) -> Any:
    try:
        return await sockets.ask(connection, *command)
    except ResponseError as refused:
        return refused


def _answer_in_thread(ask: Ask, timeout: float) -> list[Any] | errors.RedisError:
    connection = sockets.thread_connection(ask.node, client_name=None, timeout=timeout)
    try:
        connection.connect()
        return [_reply_in_thread(connection, command) for command in ask.commands]
    except Exception as error:  # noqa: BLE001 - classified: the search asks the next node
        return classify(error, ask.node)
    finally:
        connection.disconnect()


def _reply_in_thread(connection: sockets.ThreadSocket, command: tuple[str, ...]) -> Any:
    try:
        return sockets.ask_in_thread(connection, *command)
    except ResponseError as refused:
        return refused


# -- errors --------------------------------------------------------------------------------


def _refused(answer: list[Any], node: RedisSettings) -> errors.RedisError | None:
    """Our error, where the first command was answered with one, or may not be used."""
    reply = answer[0]
    where = node.masked_url
    text = str(reply)
    if isinstance(reply, ResponseError) and "cluster support disabled" in text:
        return errors.UnsupportedServerError(
            f"{where} is no node of a cluster.",
            cause="Its cluster mode is off.",
            fix="Leave the cluster setting out, or correct the address.",
        )
    if isinstance(reply, ResponseError) and "unknown command" in text.lower():
        return errors.UnsupportedServerError(
            f"{where} is no sentinel: {text}.",
            cause="The port is that of a Redis server; sentinels listen on 26379 by default.",
            fix="Correct the list of sentinels.",
        )
    return classify(reply, node) if isinstance(reply, Exception) else None


def _unknown_name(
    name: str, answer: list[Any] | errors.RedisError, sentinel: RedisSettings
) -> errors.RedisUnavailableError:
    known: list[str] = []
    if isinstance(answer, list) and isinstance(answer[0], list):
        for fields in cast("list[list[bytes]]", answer[0]):
            pairs = dict(zip(fields[::2], fields[1::2], strict=False))
            known.append(pairs.get(b"name", b"?").decode(errors="replace"))
    return errors.RedisUnavailableError(
        f"The sentinels know no primary named {name!r}.",
        cause=f"The one at {sentinel.host}:{sentinel.port} watches: "
        f"{', '.join(sorted(known)) or 'nothing'}.",
        fix="Correct sentinel_name (BULLPY_REDIS_SENTINEL_NAME), or the sentinels' configuration.",
    )


def _nobody_answers(
    what: str, nodes: tuple[str, ...], failures: list[errors.RedisError]
) -> errors.RedisError:
    """None of the sentinels or nodes could be used: the first reason that waiting cannot mend."""
    for failure in failures:
        if isinstance(failure, errors.RedisAuthError) and what == "sentinels":
            return errors.RedisAuthError(
                f"A sentinel refuses us. {failure.message}",
                cause="Sentinels have users and passwords of their own.",
                fix="Set sentinel_username and sentinel_password.",
            )
        if not isinstance(failure, errors.RedisUnavailableError):
            return failure
    return errors.RedisUnavailableError(
        f"None of the {what} can be reached: {', '.join(nodes)}.",
        cause=failures[0].message if failures else None,
        fix="Start them, or correct the list; check network and firewall.",
    )


def _check_tag(settings: RedisSettings, key: str) -> None:
    start = key.find("{")
    if start >= 0 and key.find("}", start) > start + 1:
        return
    prefix = key.partition(":")[0]
    raise errors.ConfigurationError(
        f"The prefix {prefix!r} has no hash tag, and {settings.masked_url} is a cluster.",
        cause="A cluster spreads keys over its nodes, and BullMQ's scripts need all keys of a "
        "queue on one node.",
        fix=f'Give prefix="{{{prefix}}}", in braces, to Queue, Worker, QueueEvents and '
        f'FlowProducer, and the same to Node: new Queue(name, {{ prefix: "{{{prefix}}}" }}).',
    )
