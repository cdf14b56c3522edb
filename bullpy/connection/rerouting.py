"""A shared socket that follows the primary or the slot: what was refused there is sent anew.

Only targets behind sentinels and in clusters have one; a single server's socket has no such layer.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection

from bullpy import errors
from bullpy.connection import sockets
from bullpy.connection.misplaced import ELSEWHERE, misplaced
from bullpy.connection.pipelining import Pipeliner, Reply, retry_pause

DOUBT_AFTER = 1.0
"""Seconds of silence after which somebody is asked whether the server is still the right one."""

LEAVE_WITHIN = 1.0
"""Seconds that a socket which is left has for the replies that are still due."""


class ReroutingPipeliner(Pipeliner):
    """A `Pipeliner` whose server may change.

    A command that was refused because another server is in charge was not carried out. It is sent
    again, to whoever is in charge then, for `command_timeout` seconds; after that its caller gets
    the refusal.

    Args:
        connect: As for `Pipeliner`.
        observer: As for `Pipeliner`.
        has_moved: Asks whether the connected server is no longer the right one.
        explain: The error that observers are told of, for a refusal.
        limits: The keyword arguments of `Pipeliner`.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        observer: Any,
        *,
        has_moved: Callable[[], Awaitable[bool]],
        explain: Callable[[Exception], errors.RedisError],
        **limits: float,
    ) -> None:
        super().__init__(connect, observer, **limits)
        self._look_every = min(self._look_every, DOUBT_AFTER / 2)
        self._has_moved = has_moved
        self._explain = explain
        self._doubting: asyncio.Task[None] | None = None
        self._leaving: dict[asyncio.Transport, tuple[AbstractConnection | None, deque[Any]]] = {}

    def call(self, packed: bytes, *, raw: bool = False, replies: int = 1) -> asyncio.Future[Reply]:
        """As `Pipeliner.call`, and again elsewhere where the server sends it away."""
        outer: asyncio.Future[Reply] = self._loop.create_future()
        self._send(outer, packed, raw, replies, 0, 0.0)
        return outer

    async def aclose(self) -> None:
        """Close all sockets. Closing twice is fine."""
        if self._doubting is not None:
            await sockets.end(self._doubting)
        await super().aclose()
        for transport in list(self._leaving):
            self._left(transport, errors.ReplyLostError("The Redis client was closed."))

    # -- sending again ---------------------------------------------------------------------

    def _send(
        self,
        outer: asyncio.Future[Reply],
        packed: bytes,
        raw: bool,
        replies: int,
        tries: int,
        deadline: float,
    ) -> None:
        inner = super().call(packed, raw=raw, replies=replies)
        inner.add_done_callback(
            functools.partial(self._answered, outer, packed, raw, replies, tries, deadline)
        )

    def _send_again(self, outer: asyncio.Future[Reply], *sent: Any) -> None:
        if outer.done():
            return
        try:
            self._send(outer, *sent)
        except errors.RedisError as closed:
            outer.set_exception(closed)

    def _answered(
        self,
        outer: asyncio.Future[Reply],
        packed: bytes,
        raw: bool,
        replies: int,
        tries: int,
        deadline: float,
        inner: asyncio.Future[Reply],
    ) -> None:
        error = inner.exception()
        if self._leaving:
            self._close_drained()
        if outer.done():
            return
        if error is not None:
            outer.set_exception(error)
            return
        reply = inner.result()
        refusal = reply if replies == 1 else _refusal(cast("list[Reply]", reply))
        code = misplaced(refusal)
        now = self._loop.time()
        if not code or self._closed or (deadline and now >= deadline):
            outer.set_result(reply)
            return
        if code in ELSEWHERE:
            self._leave(self._explain(cast("Exception", refusal)))
        else:
            self._doubt(self._explain(cast("Exception", refusal)), at_once=False)
        pause = retry_pause(tries, self._retry_min, self._retry_max)
        deadline = deadline or now + self._command_timeout
        self._loop.call_later(
            pause, self._send_again, outer, packed, raw, replies, tries + 1, deadline
        )

    def leave(self, error: errors.RedisError) -> None:
        """Go to another server, because this one is no longer the right one.

        Replies that are due are still waited for, for a second.

        Args:
            error: What observers are told.
        """
        if not self._closed:
            self._leave(error)

    # -- leaving a server ------------------------------------------------------------------

    def _leave(self, error: errors.RedisError) -> None:
        """Send nothing more on this socket; what was sent is still answered."""
        self._flush()
        transport, self._transport = self._transport, None
        if transport is None:
            return
        self._leaving[transport] = (self._connection, self._pending)
        self._connection = None
        self._pending = deque()
        self._ready.clear()
        self._loop.call_later(LEAVE_WITHIN, self._left, transport, error)
        self._observer.disconnected(error)
        self._close_drained()
        if self._unsent:
            self._start_connecting()

    def _close_drained(self) -> None:
        for transport, (_, pending) in list(self._leaving.items()):
            if not pending:
                self._left(transport, errors.ReplyLostError("The server was left."))

    def _left(self, transport: asyncio.Transport, error: BaseException) -> None:
        """Close a socket that was left, and fail what it still owes."""
        found = self._leaving.pop(transport, None)
        if found is None:
            return
        connection, pending = found
        transport.abort()
        if connection is not None:
            # Otherwise redis-py warns of an unclosed connection.
            connection._writer = None  # pyright: ignore[reportPrivateUsage]
            connection._reader = None  # pyright: ignore[reportPrivateUsage]
        for future, _, _ in pending:
            if not future.done():
                future.set_exception(
                    errors.ReplyLostError(
                        f"The server was left before it answered. {error}",
                        cause="The command was sent, so it may have been carried out.",
                    )
                )

    def _lost(self, transport: asyncio.Transport, reason: BaseException | None) -> None:
        if transport in self._leaving:
            self._left(transport, reason or EOFError("the connection ended"))
        else:
            super()._lost(transport, reason)

    # -- doubting a server -----------------------------------------------------------------

    def _look(self) -> None:
        super()._look()
        watched, since = self._watched
        silent = self._pending and watched is self._pending[0][0]
        if silent and self._loop.time() - since >= DOUBT_AFTER:
            self._doubt(
                errors.ReplyLostError("The server is silent, and another one is in charge now."),
                at_once=True,
            )

    def _doubt(self, error: errors.RedisError, *, at_once: bool) -> None:
        """Ask whether the server is still the right one, and leave it if it is not.

        Args:
            error: What observers are told then.
            at_once: Do not wait for replies that are due.
        """
        if self._closed or (self._doubting is not None and not self._doubting.done()):
            return
        self._doubting = self._loop.create_task(self._ask_and_leave(error, at_once))

    async def _ask_and_leave(self, error: errors.RedisError, at_once: bool) -> None:
        transport = self._transport
        try:
            moved = await self._has_moved()
        except errors.RedisError:
            return
        if moved and transport is not None and transport is self._transport:
            self._leave(error)
            if at_once:
                self._left(transport, error)


def _refusal(replies: list[Reply]) -> Reply:
    """The reply that tells why a transaction did not run, if it did not."""
    outcome = replies[-1]
    inside = cast("list[Reply]", outcome if isinstance(outcome, list) else [])
    return next((reply for reply in (*replies, *inside) if misplaced(reply)), None)
