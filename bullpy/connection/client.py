"""redis-py's client over the shared socket: every command of the process in one pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ExecAbortError, NoScriptError

from bullpy.connection.pipelining import Pipeliner, Reply
from bullpy.connection.probe import classify
from bullpy.settings import RedisSettings

# These occupy a connection for as long as they wait; on the shared socket they would make
# every other command of the process wait with them.
_BLOCKING = frozenset(
    [
        "BLPOP",
        "BRPOP",
        "BRPOPLPUSH",
        "BLMOVE",
        "BLMPOP",
        "BZPOPMIN",
        "BZPOPMAX",
        "BZMPOP",
        "WAIT",
        "WAITAOF",
        "MONITOR",
        "SUBSCRIBE",
        "PSUBSCRIBE",
        "SSUBSCRIBE",
        "MULTI",
        "WATCH",
    ]
)


class PipeliningClient(Redis):
    """A redis-py client whose ordinary commands share one socket.

    Everything redis-py's `Redis` offers works; an error reply is raised as bullpy's error, with
    redis-py's as its `__cause__`. Blocking commands, `WATCH` and publish and
    subscribe take a connection of their own from the pool.
    """

    def __init__(self, pipeliner: Pipeliner, pool: ConnectionPool, settings: RedisSettings) -> None:
        super().__init__(connection_pool=pool)
        self.pipeliner = pipeliner
        self._settings = settings

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command on the shared socket and give its parsed reply."""
        name = str(args[0])
        if name in _BLOCKING or (name in ("XREAD", "XREADGROUP") and b"BLOCK" in args):
            return cast("Any", await super().execute_command(*args, **options))
        reply = await self.pipeliner.call(pack(args))
        return self._parse(name, reply, options)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """A redis-py pipeline that leaves in one write on the shared socket."""
        return PipeliningPipeline(self, transaction, shard_hint)

    async def transact(self, packed: Sequence[bytes]) -> list[Reply]:
        """Run packed commands in one transaction that leaves in one write; gives their replies.

        Raises:
            errors.RedisError: The server refused it, or could not be reached, and nothing
                happened; or it refused one of the commands.
            errors.ReplyLostError: All of it may have happened, or nothing.
        """
        sent = b"".join((_MULTI, *packed, _EXEC))
        replies = cast("list[Reply]", await self.pipeliner.call(sent, replies=len(packed) + 2))
        refused = _refused(replies)
        if refused is None:
            refused = next((r for r in replies[-1] if isinstance(r, Exception)), None)
        if refused is not None:
            raise classify(refused, self._settings) from refused
        return cast("list[Reply]", replies[-1])

    def _parse(self, name: str, reply: Reply, options: dict[str, Any]) -> Any:
        if isinstance(reply, NoScriptError):
            raise reply  # redis-py's Script loads itself when it sees this one
        if isinstance(reply, Exception):
            raise classify(reply, self._settings) from reply
        options.pop("keys", None)
        parse = cast("Callable[..., Any] | None", self.response_callbacks.get(name))
        return parse(reply, **options) if parse else reply


class PipeliningPipeline(Pipeline):
    """A pipeline or transaction that goes out as one write, between other callers' commands."""

    def __init__(self, client: PipeliningClient, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run what was queued.

        Returns:
            One reply per command, error replies included when `raise_on_error` is off.
        """
        stack = self.command_stack
        if not stack or self.watching or self.connection is not None:
            return await super().execute(raise_on_error)
        commands = [(args, options) for args, options in stack]
        transaction = self.is_transaction
        try:
            packed = [pack(args) for args in self._with_sources(args for args, _ in commands)]
            if transaction:
                packed = [_MULTI, *packed, _EXEC]
            sent = self._client.pipeliner.call(b"".join(packed), replies=len(packed))
            replies = await sent
        finally:
            await self.reset()
        if len(packed) == 1:
            replies = [replies]
        if transaction:
            refused = _refused(replies)
            if refused is not None:
                raise classify(refused, self._client._settings) from refused  # pyright: ignore[reportPrivateUsage]
            replies = cast("list[Reply]", replies[-1])
        return [
            self._parsed(str(args[0]), reply, options, raise_on_error)
            for (args, options), reply in zip(commands, replies, strict=True)
        ]

    def _with_sources(self, commands: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Each script's first call with its text: no SCRIPT FLUSH can come between.

        Loading them beforehand would leave a moment in which a transaction fails for lack of
        its scripts, and some of several scripts could be there and others not.
        """
        sources = {str(script.sha): script.script for script in self.scripts}
        for args in commands:
            source = sources.pop(str(args[1]), None) if args[0] == "EVALSHA" else None
            yield args if source is None else ("EVAL", source, *args[2:])

    def _parsed(
        self, name: str, reply: Reply, options: Mapping[str, Any], raise_on_error: bool
    ) -> Any:
        try:
            return self._client._parse(name, reply, dict(options))  # pyright: ignore[reportPrivateUsage]
        except Exception:
            if raise_on_error or reply is None:
                raise
            return reply


def pack(args: tuple[Any, ...]) -> bytes:
    """Pack one command for the wire; `SCRIPT LOAD` and the like become two words."""
    name = args[0]
    if isinstance(name, str) and " " in name:
        args = (*name.split(), *args[1:])
    return cast("Any", hiredis).pack_command(args)


class ScriptHead:
    """The beginning of a script's call, which is the same each time, packed once.

    Args:
        sha: The script's SHA-1 in hex.
        source: The script.
        args: Number of keys, keys, and arguments that do not change.
        more: How many packed arguments follow.

    Attributes:
        by_hash: For a server that has the script.
    """

    def __init__(self, sha: bytes, source: bytes, args: tuple[Any, ...], more: int) -> None:
        self._source = source
        self._args = args
        self._more = more
        self.by_hash = self._pack(b"EVALSHA", sha)

    def with_source(self) -> bytes:
        """For one that may not have it."""
        return self._pack(b"EVAL", self._source)

    def _pack(self, command: bytes, script: bytes) -> bytes:
        args = (command, script, *self._args)
        _, _, packed = pack(args).partition(b"\r\n")
        return b"*%d\r\n%b" % (len(args) + self._more, packed)


_MULTI = pack(("MULTI",))
_EXEC = pack(("EXEC",))


async def run_script(
    pipeliner: Pipeliner, sha: bytes, source: bytes, args: tuple[Any, ...], *, raw: bool = True
) -> Reply:
    """Run a Lua script by its hash; load it first where the server does not have it.

    Args:
        pipeliner: The shared socket.
        sha: The script's SHA-1 in hex.
        source: The script.
        args: Number of keys, keys, arguments.
        raw: Give strings as bytes, undecoded.

    Returns:
        The reply; an error reply is returned as an exception instance, not raised.
    """
    return await run_packed(
        pipeliner,
        pack((b"EVALSHA", sha, *args)),
        lambda: pack((b"EVAL", source, *args)),
        raw=raw,
    )


async def run_packed(
    pipeliner: Pipeliner, by_hash: bytes, with_source: Callable[[], bytes], *, raw: bool
) -> Reply:
    """As `run_script`, with packed commands: EVALSHA, and what gives the EVAL instead of it."""
    reply = await pipeliner.call(by_hash, raw=raw)
    if isinstance(reply, NoScriptError):
        reply = await pipeliner.call(with_source(), raw=raw)
    return reply


def _refused(replies: list[Reply]) -> Exception | None:
    """What made a transaction fail as a whole, if it did."""
    outcome = replies[-1]
    if not isinstance(outcome, Exception):
        return None
    queued = next((reply for reply in replies[1:-1] if isinstance(reply, Exception)), None)
    return queued if isinstance(outcome, ExecAbortError) and queued else outcome
