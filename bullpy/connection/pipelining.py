"""One socket, many callers: the auto-pipelining client.

Commands issued in the same turn of the event loop leave together, a few in one write; replies
are matched in order. redis-py opens the connection (TLS, AUTH, SELECT, client name); after that the
transport's protocol is exchanged for `_Replies`, which hands every chunk to hiredis without
a task or a timer per command.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import InvalidResponse

from bullpy import errors
from bullpy.connection import sockets

Reply = Any
"""What Redis answered: bytes or str, int, list, None, or an exception instance."""

_Sent = tuple["asyncio.Future[Reply]", bool, int]
"""Who waits, whether undecoded, and for how many replies."""

_NOTHING = object()
_PING = b"*1\r\n$4\r\nPING\r\n"


WRITE_EACH = 6
"""Commands after which the buffer is written at once. With all of a loop turn in one write, the
server would wait until the last is ready, and the loop until the server has answered them all:
both would take turns in being idle."""


class Observer(Protocol):
    """Hears when the socket comes and goes."""

    def connected(self, connection: AbstractConnection) -> None:
        """The connection is up; commands flow from now on."""
        ...

    def disconnected(self, error: errors.RedisError) -> None:
        """The connection ended; whoever waits for it makes that it is tried again."""
        ...

    def refused(self, error: errors.RedisError) -> None:
        """The connection could not be made; another try follows."""
        ...


class Pipeliner:
    """A socket that many coroutines share.

    It connects on first use and reconnects at once, then after 50 ms doubling to
    `retry_max` with jitter, for as long as somebody waits for it.

    Args:
        connect: Opens a new connection, or raises a `errors.RedisError`.
        observer: Hears of connections made and lost.
        command_timeout: Seconds a command may wait for its reply, and seconds it may wait
            for a connection before it fails without having been sent.
        retry_min: First pause between two attempts to connect, in seconds.
        retry_max: Longest pause, in seconds.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        observer: Observer,
        *,
        command_timeout: float,
        retry_min: float,
        retry_max: float,
    ) -> None:
        self._open = connect
        self._observer = observer
        self._command_timeout = command_timeout
        self._retry_min = retry_min
        self._retry_max = retry_max
        self._look_every = command_timeout / 8
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._transport: asyncio.Transport | None = None
        self._connection: AbstractConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._pending: deque[_Sent] = deque()
        self._unsent: deque[tuple[_Sent, bytes, float]] = deque()
        self._buffer: list[bytes] = []
        self._flushing = False
        self._ready = asyncio.Event()
        self._watchdog: asyncio.TimerHandle | None = None
        self._inherited: tuple[object, object] | None = None
        self._watched: tuple[object, float] = (_NOTHING, 0.0)
        self._closed = False
        self.last_error: errors.RedisError | None = None

    @property
    def is_connected(self) -> bool:
        """Whether commands are flowing now."""
        return self._transport is not None

    async def ready(self) -> None:
        """Wait, however long it takes, until the connection is up."""
        self._start_connecting()
        await self._ready.wait()
        self._guard()

    def call(self, packed: bytes, *, raw: bool = False, replies: int = 1) -> asyncio.Future[Reply]:
        """Send one packed command, or several that must stay together.

        Args:
            packed: What `hiredis.pack_command` gives, or several of those joined. Nothing of
                another caller comes between joined commands, so a transaction is safe.
            raw: Give strings as bytes, undecoded.
            replies: How many commands `packed` holds.

        Returns:
            A future of the reply, of a list of replies when there are several. An error reply
            is a result, not an exception: the caller decides. The future fails with
            `errors.RedisUnavailableError` when the command was not sent, and with
            `errors.ReplyLostError` when it was sent and may have run.
        """
        future = self._loop.create_future()
        if self._transport is None:
            self._guard()
            deadline = self._loop.time() + self._command_timeout
            self._unsent.append(((future, raw, replies), packed, deadline))
            self._start_connecting()
            self._watch()
            return future
        idle = not self._pending
        self._pending.append((future, raw, replies))
        self._buffer.append(packed)
        if idle or len(self._buffer) >= WRITE_EACH:
            self._write_out()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return future

    def suspect(self, patience: float) -> None:
        """Take the socket for dead unless the server answers on it within so many seconds.

        For who knows that another connection to that server has gone silent.
        """
        transport = self._transport
        if transport is None:
            return
        answer = self.call(_PING)
        answer.add_done_callback(_look_at)

        def judge() -> None:
            if not answer.done() and transport is self._transport:
                self._drop(
                    errors.CommandTimeoutError(
                        f"Redis did not answer a PING within {patience:g} s.",
                        cause="The server hangs, or the network drops packets.",
                    )
                )

        self._loop.call_later(patience, judge)

    def shorten_waits(self, command_timeout: float) -> None:
        """Lower the time that a command may wait; it is never raised."""
        self._command_timeout = min(self._command_timeout, command_timeout)
        self._look_every = self._command_timeout / 8

    async def aclose(self) -> None:
        """Close the socket. Commands still in flight fail. Closing twice is fine."""
        self._closed = True
        if self._connecting is not None:
            await sockets.end(self._connecting)
        self._flush()
        self._drop(errors.RedisUnavailableError("The Redis client was closed."))
        self._fail_unsent(errors.RedisUnavailableError("The Redis client was closed."))
        self._ready.set()
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def check_process(self) -> None:
        """Raise in a forked child.

        Raises:
            errors.ForkedClientError: The socket belongs to the parent process.
        """
        if os.getpid() != self._pid:
            raise errors.ForkedClientError(
                "This Redis client belongs to the parent process.",
                cause="The process forked after the client had been created.",
                fix="Create queues and workers in the child, after the fork.",
            )

    def mark_inherited(self) -> None:
        """Called in a forked child: the socket belongs to the parent."""
        # Kept, not closed: the child shares the parent's epoll instance, and closing the
        # transport here would make the parent deaf.
        self._inherited = (self._transport, self._connection)
        self._transport = None
        self._connection = None

    # -- sending ---------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flushing = False
        self._write_out()

    def _write_out(self) -> None:
        transport = self._transport
        if self._buffer and transport is not None:
            try:
                transport.write(b"".join(self._buffer))
            except RuntimeError as closed:
                # uvloop: the socket ended a moment ago, and the protocol is yet to hear of it.
                self._lost(transport, closed)
                return
            self._buffer.clear()
            if self._watchdog is None:
                self._watch()

    def _guard(self) -> None:
        self.check_process()
        if self._closed:
            raise errors.RedisUnavailableError(
                "The Redis client is closed.", fix="Create a new queue or worker."
            )

    # -- connecting ------------------------------------------------------------------------

    def _start_connecting(self) -> None:
        self._guard()
        if self._transport is None and (self._connecting is None or self._connecting.done()):
            self._connecting = self._loop.create_task(self._connect_until_it_works())

    async def _connect_until_it_works(self) -> None:
        attempt = 0
        while self._transport is None:
            try:
                connection = await self._open()
            except errors.RedisError as error:
                self._note_failure(error)
                await asyncio.sleep(retry_pause(attempt, self._retry_min, self._retry_max))
                attempt += 1
                continue
            self._adopt(connection)

    def _note_failure(self, error: errors.RedisError) -> None:
        self.last_error = error
        self._observer.refused(error)
        if not isinstance(error, errors.RedisUnavailableError):
            # Wrong password, not Redis, TLS: waiting does not help those who asked.
            self._fail_unsent(error)

    def _adopt(self, connection: AbstractConnection) -> None:
        # redis-py has no public way to the transport; its writer is the one private name used.
        writer = cast("asyncio.StreamWriter", connection._writer)  # pyright: ignore[reportPrivateUsage]
        transport = cast("asyncio.Transport", writer.transport)
        self._connection = connection
        self._transport = transport
        transport.set_protocol(
            _Replies(self._pending, lambda reason: self._lost(transport, reason))
        )
        self.last_error = None
        self._ready.set()
        unsent, self._unsent = self._unsent, deque()
        for sent, packed, _ in unsent:
            if not sent[0].done():
                self._pending.append(sent)
                self._buffer.append(packed)
        self._observer.connected(connection)
        self._flush()

    def _lost(self, transport: asyncio.Transport, reason: BaseException | None) -> None:
        if transport is not self._transport:
            return
        detail = f" ({reason})" if reason else ""
        self._drop(errors.ReplyLostError(f"The connection to Redis ended{detail}."))

    def _drop(self, error: errors.RedisUnavailableError) -> None:
        """Forget the socket; what was sent without a reply fails as ambiguous."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        # Before the writer is dropped: asyncio warns of a writer whose transport is still open.
        if self._closed:
            transport.close()
        else:
            transport.abort()
        if self._connection is not None:
            # Otherwise redis-py warns of an unclosed connection.
            self._connection._writer = None  # pyright: ignore[reportPrivateUsage]
            self._connection._reader = None  # pyright: ignore[reportPrivateUsage]
            self._connection = None
        self._ready.clear()
        self._buffer.clear()
        # The protocol of the dead transport holds the old deque and may not touch the new one.
        pending, self._pending = self._pending, deque()
        for future, _, _ in pending:
            if not future.done():
                future.set_exception(_ambiguous(error))
        if self._closed:
            return
        self._observer.disconnected(error)
        if pending or self._unsent:
            self._start_connecting()

    def _fail_unsent(self, error: errors.RedisError, *, before: float | None = None) -> None:
        """Fail commands that wait for a connection: all, or those whose deadline has passed."""
        kept: deque[tuple[_Sent, bytes, float]] = deque()
        for entry in self._unsent:
            (future, _, _), _, deadline = entry
            if before is not None and deadline > before:
                kept.append(entry)
            elif not future.done():
                future.set_exception(error)
        self._unsent = kept

    # -- time-outs -------------------------------------------------------------------------

    def _watch(self) -> None:
        """Look at the oldest command every eighth of the time-out: no timer per command."""
        if self._watchdog is None and not self._closed:
            self._watchdog = self._loop.call_later(self._look_every, self._look)

    def _look(self) -> None:
        self._watchdog = None
        now = self._loop.time()
        if self._unsent:
            self._fail_unsent(self._never_sent(), before=now)
        if self._pending:
            oldest = self._pending[0][0]
            watched, since = self._watched
            if watched is not oldest:
                self._watched = (oldest, now)
            elif now - since >= self._command_timeout:
                self._drop(
                    errors.CommandTimeoutError(
                        f"Redis did not answer a command within {self._command_timeout:g} s.",
                        cause="The server hangs, or the network drops packets.",
                    )
                )
        if self._pending or self._unsent:
            self._watch()

    def _never_sent(self) -> errors.RedisUnavailableError:
        last = self.last_error
        return errors.RedisUnavailableError(
            f"No connection to Redis within {self._command_timeout:g} s; nothing was sent.",
            cause=last.message if last else None,
            fix=last.fix if last else None,
        )


class _Replies(asyncio.Protocol):
    """Hands each chunk from the socket to hiredis and each reply to who waits for it."""

    def __init__(self, pending: deque[_Sent], lost: Callable[[BaseException | None], None]) -> None:
        self._pending = pending
        self._lost = lost
        self._ended = False
        self._batch: list[Reply] = []
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=parse_error,
            encoding="utf-8",
            # Bytes that are not UTF-8 must not end the connection for everybody.
            errors="surrogateescape",
            notEnoughData=_NOTHING,
        )

    def data_received(self, data: bytes) -> None:
        reader, pending = self._reader, self._pending
        reader.feed(data)
        try:
            while pending:
                future, raw, replies = pending[0]
                reply = reader.gets(not raw)
                if reply is _NOTHING:
                    return
                if replies > 1:
                    self._batch.append(reply)
                    if len(self._batch) < replies:
                        continue
                    reply, self._batch = self._batch, []
                pending.popleft()
                if not future.done():
                    future.set_result(reply)
            if reader.gets() is not _NOTHING:
                self._end(InvalidResponse("a reply that nobody asked for"))
        except InvalidResponse as broken:
            self._end(broken)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def _end(self, reason: BaseException | None) -> None:
        if not self._ended:
            self._ended = True
            self._lost(reason)


def retry_pause(failures: int, shortest: float, longest: float) -> float:
    """Seconds before the next attempt: none, then doubling with jitter.

    Args:
        failures: Attempts that failed so far, not counting the first.
        shortest: The first pause, in seconds.
        longest: No pause is longer.
    """
    if failures == 0:
        return 0.0
    pause = min(longest, shortest * 2 ** min(failures - 1, 16))
    return pause * random.uniform(0.5, 1.0)


def _look_at(answer: asyncio.Future[Reply]) -> None:
    """Nobody waits for this one; unread, its error would be logged."""
    if not answer.cancelled():
        answer.exception()


def parse_error(text: str) -> Exception:
    """The redis-py exception for an error reply, with its first word as `kind`.

    redis-py drops that word (`READONLY`, `OOM`) from the texts of the errors it knows.
    """
    error = cast("Exception", BaseParser.parse_error(text))
    error.kind = text.split(" ", 1)[0]  # pyright: ignore[reportAttributeAccessIssue]
    return error


def _ambiguous(error: errors.RedisUnavailableError) -> errors.RedisUnavailableError:
    """The error for one command that was sent without a reply; each future gets its own."""
    kind = type(error) if isinstance(error, errors.ReplyLostError) else errors.ReplyLostError
    return kind(
        error.message,
        cause="The command was sent, so it may have been carried out.",
        fix="Repeat it only if that is harmless; a job with its own job_id may be added again.",
    )
