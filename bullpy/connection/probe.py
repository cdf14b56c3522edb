"""Connecting to Redis step by step.

`probe` tells at which step a connection fails: the sentinels or the cluster, DNS,
TCP, TLS, PING, AUTH, ACL, INFO, SELECT.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from redis import exceptions as redis_errors

from bullpy import errors
from bullpy.connection import identity as identities
from bullpy.connection.explain import classify, odd_reply
from bullpy.connection.resolve import Locator, Target
from bullpy.settings import RedisSettings

_REPLY_LIMIT = 4 << 20
_LOOK_AGAIN = 2.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of connecting.

    Attributes:
        name: sentinel, cluster, dns, tcp, socket, tls, ping, auth, acl, info or select.
        ok: Whether it went well.
        detail: What was found, in words.
        seconds: How long it took.
        error: What went wrong, with cause and fix.
    """

    name: str
    ok: bool
    detail: str
    seconds: float
    error: errors.RedisError | None = None


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What a probe found; the last step is the one that failed, if one did."""

    url: str
    steps: tuple[Step, ...]
    identity: identities.ServerIdentity | None
    warnings: tuple[errors.RedisError, ...]

    @property
    def ok(self) -> bool:
        """True if every step went well."""
        return self.error is None

    @property
    def error(self) -> errors.RedisError | None:
        """What the failed step says."""
        return self.steps[-1].error if self.steps else None


async def probe(
    settings: RedisSettings, *, deadline: float = 10.0, key: str | None = None
) -> ProbeReport:
    """Connect step by step, and stop at the first that fails. Changes nothing on the server.

    Args:
        settings: Where to connect. Sentinels or a cluster are asked first, and the other steps
            are those of the server that they name.
        deadline: Seconds for all steps together.
        key: In a cluster, look at the node that owns this key; None takes any.

    Raises:
        errors.ConfigurationError: In a cluster, a key without hash tag.
    """
    run = _Run(settings, deadline, Locator(Target.of(settings, key)))
    try:
        for name, step in run.plan():
            if not await run.take(name, step):
                break
    finally:
        run.close()
    return ProbeReport(settings.masked_url, tuple(run.steps), run.identity, tuple(run.warnings))


class _NotRespError(Exception):
    """The peer's answer is no RESP."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply = reply


class _Run:
    """One probe: the connection and what was found so far."""

    def __init__(self, settings: RedisSettings, deadline: float, locator: Locator) -> None:
        self.settings = settings
        self.locator = locator
        self.ends = time.monotonic() + deadline
        self.steps: list[Step] = []
        self.identity: identities.ServerIdentity | None = None
        self.warnings: list[errors.RedisError] = []
        self.wants_auth = False
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter | None = None

    def plan(self) -> Iterator[tuple[str, Callable[[], Awaitable[str]]]]:
        if self.locator.target.is_routed:
            yield "sentinel" if self.settings.sentinels else "cluster", self.find
        if self.settings.unix_socket is not None:
            yield "socket", self.connect
        else:
            yield "dns", self.resolve
            yield "tcp", self.connect
        if self.settings.tls and self.settings.unix_socket is None:
            yield "tls", self.encrypt
        yield "ping", self.ping
        if self.settings.password is not None or self.settings.username or self.wants_auth:
            yield "auth", self.auth
        yield "acl", self.acl
        yield "info", self.info
        yield "select", self.select

    async def take(self, name: str, step: Callable[[], Awaitable[str]]) -> bool:
        started = time.monotonic()
        try:
            async with asyncio.timeout(max(self.ends - started, 0.001)):
                detail = await step()
        except Exception as error:  # noqa: BLE001 - classified and reported, whatever it is
            found = await self.explain(name, error)
            took = time.monotonic() - started
            self.steps.append(Step(name, False, found.message, took, found))
            return False
        self.steps.append(Step(name, True, detail, time.monotonic() - started))
        return True

    async def explain(self, name: str, error: Exception) -> errors.RedisError:
        """The error, after a second look where TLS on one side only is likely."""
        if isinstance(error, _NotRespError):
            return odd_reply(error.reply, self.settings.masked_url)
        found = classify(error, self.settings)
        if name == "tls" and not isinstance(error, ssl.SSLCertVerificationError):
            if await self.speaks_plain():
                return errors.RedisTlsError(
                    f"The port of {self.settings.masked_url} speaks no TLS, and the URL wants it.",
                    fix="Use redis:// in REDIS_URL, or the server's TLS port.",
                )
        elif name == "ping" and not self.settings.tls and await self.speaks_tls():
            return odd_reply(b"\x15\x03", self.settings.masked_url)
        return found

    async def find(self) -> str:
        self.settings = await self.locator.find()
        return f"the server is {self.settings.masked_url}"

    async def resolve(self) -> str:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            self.settings.host,
            self.settings.port,
            family=_FAMILIES[self.settings.family],
            type=socket.SOCK_STREAM,
        )
        return ", ".join(dict.fromkeys(str(address[4][0]) for address in found))

    async def connect(self) -> str:
        self.reader, self.writer = await self.open()
        return "connected"

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.settings.unix_socket is not None:
            return await asyncio.open_unix_connection(self.settings.unix_socket)
        return await asyncio.open_connection(
            self.settings.host, self.settings.port, family=_FAMILIES[self.settings.family]
        )

    async def encrypt(self) -> str:
        assert self.writer is not None
        # A plain Redis waits for more after a ClientHello: leave time to find that out.
        async with asyncio.timeout(max((self.ends - time.monotonic()) / 2, 0.001)):
            await self.writer.start_tls(
                tls_context(self.settings), server_hostname=self.settings.host
            )
        tls = self.writer.get_extra_info("ssl_object")
        return str(tls.version()) if isinstance(tls, ssl.SSLObject) else "encrypted"

    async def ping(self) -> str:
        try:
            reply = await self.call("PING")
        except redis_errors.ResponseError as error:
            said = next((each for each in _ANSWERS if str(error).startswith(each)), None)
            if said is None:
                raise
            self.wants_auth = said == "NOAUTH"
            return f"Redis answers{_ANSWERS[said]}"
        if reply != b"PONG":
            raise _NotRespError(reply)
        return "PONG"

    async def auth(self) -> str:
        password, username = self.settings.password, self.settings.username
        if password is None and username is None:
            raise redis_errors.ResponseError("NOAUTH Authentication required.")
        secret = "" if password is None else password.get_secret_value()
        try:
            await self.call("AUTH", *([username] if username else []), secret)
        except redis_errors.ResponseError as error:
            # ioredis warns and goes on; redis-py names the default user, which takes any.
            if username or "without any password" not in str(error):
                raise
            return "the server wants no password; the one in the URL is ignored"
        return f"as {username or 'the default user'}"

    async def acl(self) -> str:
        await self.call("EVAL", "return 1", "0")
        return "scripts are allowed"

    async def info(self) -> str:
        try:
            reply = await self.call("INFO")
        except redis_errors.ResponseError as error:
            if not str(error).startswith("NOPERM"):
                raise
            return "INFO is forbidden by the ACL: version and policy are unknown"
        fields = identities.parse_info(reply)
        if fields.get("loading", "0") == "1":
            raise redis_errors.ResponseError("LOADING Redis is loading the dataset in memory")
        client_id = await self.client_id()
        self.identity = identities.identity_from(
            fields, url=self.settings.masked_url, db=self.settings.db, client_id=client_id
        )
        self.warnings += identities.check_server(self.identity)
        return str(self.identity)

    async def client_id(self) -> int | None:
        try:
            return int(await self.call("CLIENT", "ID"))
        except (redis_errors.ResponseError, ValueError):
            return None

    async def select(self) -> str:
        if self.settings.db:
            # A connection begins in database 0, and an ACL may forbid the command.
            await self.call("SELECT", str(self.settings.db))
        return f"database {self.settings.db}"

    async def call(self, *command: str) -> bytes:
        assert self.writer is not None
        return await _call(self.reader, self.writer, *command)

    async def speaks_plain(self) -> bool:
        return await self.second_look(lambda reader, writer: _call(reader, writer, "PING"))

    async def speaks_tls(self) -> bool:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return await self.second_look(lambda _, writer: writer.start_tls(context))

    async def second_look(
        self, look: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]
    ) -> bool:
        """Whether something works on a connection of its own; an error reply counts as well."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(_LOOK_AGAIN):
                reader, writer = await self.open()
                await look(reader, writer)
        except redis_errors.ResponseError:
            return True
        except (OSError, EOFError, TimeoutError, _NotRespError):
            return False
        finally:
            if writer is not None:
                writer.transport.abort()
        return True

    def close(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()


_ANSWERS = {
    "NOAUTH": ", and wants a password",
    "NOPERM": "",
    # PING counts as a write to that check. All that is asked later is answered.
    "MISCONF": ", and refuses writes: it cannot save to its disk",
}
"""Refusals of PING that say that all is well with the connection, and what is told of them."""

_FAMILIES = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}


def tls_context(settings: RedisSettings) -> ssl.SSLContext:
    """The TLS settings as Python's ssl wants them.

    Raises:
        OSError: A file is missing.
        ssl.SSLError: A file is not PEM.
    """
    context = ssl.create_default_context(cafile=settings.tls_ca_file)
    if not settings.tls_verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if settings.tls_cert_file is not None:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    return context


async def _call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *command: str) -> bytes:
    """One command in RESP2; gives status, number or bulk string."""
    parts = [part.encode() for part in command]
    packed = b"*%d\r\n" % len(parts)
    writer.write(packed + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
    await writer.drain()
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise _NotRespError(await reader.read(64)) from None
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise _NotRespError(error.partial) from None
        raise EOFError("the server closed the connection") from None
    head, text = line[:1], line[1:].rstrip(b"\r\n")
    if head in (b"+", b":"):
        return text
    if head == b"-":
        raise redis_errors.ResponseError(text.decode(errors="replace"))
    if head == b"$" and re.fullmatch(rb"\d{1,8}", text) and int(text) <= _REPLY_LIMIT:
        return (await reader.readexactly(int(text) + 2))[:-2]
    raise _NotRespError(line)
