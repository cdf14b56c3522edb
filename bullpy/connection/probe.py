"""Connecting to Redis step by step, and what each way to fail means.

`probe` tells at which step a connection fails: DNS, TCP, TLS, PING, AUTH, ACL, INFO, SELECT.
`classify` turns any exception of a connection or command into one of ours.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from redis import exceptions as redis_errors

from bullpy import errors, redis_url
from bullpy.connection import identity as identities
from bullpy.settings import RedisSettings

_REPLY_LIMIT = 4 << 20
_LOOK_AGAIN = 2.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of connecting.

    Attributes:
        name: dns, tcp, socket, tls, ping, auth, acl, info or select.
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


async def probe(settings: RedisSettings, *, deadline: float = 10.0) -> ProbeReport:
    """Connect step by step, and stop at the first that fails. Changes nothing on the server.

    Args:
        settings: Where to connect.
        deadline: Seconds for all steps together.
    """
    run = _Run(settings, deadline)
    try:
        for name, step in run.plan():
            if not await run.take(name, step):
                break
    finally:
        run.close()
    return ProbeReport(settings.masked_url, tuple(run.steps), run.identity, tuple(run.warnings))


def classify(error: BaseException, settings: RedisSettings) -> errors.RedisError:
    """Our error for whatever connecting or a command raised. Never raises.

    Args:
        error: From redis-py, asyncio, ssl or the system; ours are returned as they are.
        settings: Where the connection goes, for the text.
    """
    if isinstance(error, errors.RedisError):
        return error
    where = settings.masked_url
    try:
        return _classified(error, settings, where)
    except Exception as broken:  # noqa: BLE001 - a strange error must not hide the outage
        return errors.RedisError(
            f"Redis at {where} failed: {errors.describe(error)}.", cause=errors.describe(broken)
        )


def _classified(error: BaseException, settings: RedisSettings, where: str) -> errors.RedisError:
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, errors.RedisError):
            return link
    for link in chain:
        found = _of_system(link, settings, where)
        if found is not None:
            return found
    for link in chain:
        found = _of_reply(link, settings, where)
        if found is not None:
            return found
    return _of_connection(error, where)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the nearest first; redis-py keeps the cause there."""
    link: BaseException | None = error
    for _ in range(8):
        if link is None:
            return
        yield link
        yield from (item for item in link.args[:2] if isinstance(item, BaseException))
        link = link.__cause__ or link.__context__


def _of_system(
    error: BaseException, settings: RedisSettings, where: str
) -> errors.RedisError | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = getattr(error, "verify_message", None) or error
        return errors.RedisTlsError(
            f"The certificate of {where} is refused: {reason}.",
            cause="It is self-signed, expired, or made for another host name.",
            fix="Set BULLPY_REDIS_TLS_CA_FILE to the authority's PEM file.",
        )
    if isinstance(error, ssl.SSLError):
        return errors.RedisTlsError(
            f"TLS with {where} failed: {getattr(error, 'reason', None) or error}.",
            cause="The port speaks no TLS, or wants a client certificate.",
            fix="Use redis:// for a plain port, or set BULLPY_REDIS_TLS_CERT_FILE and _KEY_FILE.",
        )
    if isinstance(error, socket.gaierror):
        return errors.RedisUnavailableError(
            f"The host {settings.host} of {where} is not known: {error.strerror}.",
            cause="The name is misspelt, or belongs to a network that this process is not in.",
            fix="Check the host in REDIS_URL.",
        )
    if isinstance(error, ConnectionRefusedError):
        return errors.RedisUnavailableError(
            f"Nothing listens at {where}: connection refused.",
            cause="Redis is not running there, or listens on another port or address.",
            fix="Start Redis, or correct REDIS_URL.",
        )
    if isinstance(error, FileNotFoundError | PermissionError):
        return _of_file(error, settings, where)
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return errors.RedisUnavailableError(
            f"{where} cannot be reached: {error.strerror}.",
            cause="There is no route, or the address family does not fit.",
            fix="Check network and firewall; try ?family=4 or ?family=6.",
        )
    return None


def _of_file(error: OSError, settings: RedisSettings, where: str) -> errors.RedisError:
    refused = isinstance(error, PermissionError)
    # ssl does not say which file it missed.
    files = (settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file)
    unreadable = [name for name in files if name is not None and not os.access(name, os.R_OK)]
    if settings.tls and unreadable:
        return errors.RedisTlsError(
            f"The TLS file {unreadable[0]} for {where} cannot be read.",
            fix="Check BULLPY_REDIS_TLS_CA_FILE, _CERT_FILE and _KEY_FILE.",
        )
    if refused:
        return errors.RedisUnavailableError(
            f"Connecting to {where} is not permitted: {error.strerror}.",
            fix="Check the permissions of the socket, or the firewall.",
        )
    return errors.RedisUnavailableError(
        f"There is no socket at {where}.",
        cause="Redis is not running, or its unixsocket setting names another path.",
        fix="Start Redis, or correct the path.",
    )


def _of_reply(
    error: BaseException, settings: RedisSettings, where: str
) -> errors.RedisError | None:
    text = redis_url.redact(str(error))
    code = _code(error, text)
    if code in ("WRONGPASS", "NOAUTH", "DENIED") or isinstance(
        error,
        redis_errors.AuthenticationError | redis_errors.AuthenticationWrongNumberOfArgsError,
    ):
        return _auth_error(code, text, settings, where)
    if "called without any password" in text or "invalid password" in text:
        return _auth_error("WRONGPASS", text, settings, where)
    if "max number of clients" in text:
        return errors.RedisUnavailableError(
            f"{where} accepts no more clients.",
            cause="maxclients is reached: something opens connections without closing them.",
            fix="Look at CLIENT LIST, or raise maxclients.",
        )
    if "DB index is out of range" in text or "Invalid Database" in text:
        return errors.RedisError(
            f"{where} has no database {settings.db}.",
            cause="The server has 16 databases by default, some hosted ones and clusters just 0.",
            fix="Use a lower number at the end of REDIS_URL.",
        )
    if "unknown command" in text.lower():
        return errors.UnsupportedServerError(
            f"{where} lacks a command: {text}.",
            cause="The server is too old, not Redis itself, or has the command renamed.",
            fix="Use Redis 6.2 or later, or Valkey.",
        )
    known = _REPLIES.get(code)
    if known is not None:
        kind, what, cause, fix = known
        return kind(f"{where} {what}: {text}", cause=cause, fix=fix)
    if "rotocol error" in text or isinstance(error, redis_errors.InvalidResponse):
        return _odd_reply(text.encode(), where)
    if isinstance(error, redis_errors.ResponseError):
        return errors.RedisError(f"{where} refused a command: {text}.")
    return None


def _of_connection(error: BaseException, where: str) -> errors.RedisError:
    text = redis_url.redact(errors.describe(error))
    timed_out = isinstance(error, TimeoutError | redis_errors.TimeoutError)
    if timed_out and "connecting" not in text and isinstance(error, redis_errors.TimeoutError):
        return errors.CommandTimeoutError(
            f"{where} did not reply in time.",
            cause="The server hangs, runs a slow command, or the network drops packets.",
            fix="Look at SLOWLOG and at the network between the two.",
        )
    if timed_out:
        return errors.RedisUnavailableError(
            f"{where} did not answer in time.",
            cause="A firewall drops the packets, the host is down, or Redis hangs.",
            fix="Check host and port in REDIS_URL, and the firewall.",
        )
    network = (OSError, EOFError, redis_errors.ConnectionError)
    if isinstance(error, network):
        return errors.RedisUnavailableError(
            f"The connection to {where} ended: {text}.",
            cause="The server or a proxy closed it: a restart, an idle timeout, or a TLS port.",
            fix="Nothing if it comes back by itself; otherwise look at the server's log.",
        )
    return errors.RedisError(f"Redis at {where} failed: {text}.")


def _code(error: BaseException, text: str) -> str:
    """The reply's first word: redis-py takes it off the text and keeps it as status_code."""
    status = getattr(error, "status_code", None)
    if isinstance(status, str):
        return status
    word = text.partition(" ")[0]
    if word.isupper() and isinstance(error, redis_errors.RedisError):
        return word
    known = word in _REPLIES or word in ("NOAUTH", "WRONGPASS", "DENIED")
    return _CODES_BY_TYPE.get(type(error), word if known else "")


def _auth_error(code: str, text: str, settings: RedisSettings, where: str) -> errors.RedisAuthError:
    if code == "DENIED":
        return errors.RedisAuthError(
            f"{where} runs in protected mode and refuses other hosts.",
            cause="It has no password and is not meant to be reached from outside.",
            fix="Set a password on the server (requirepass) and put it into REDIS_URL.",
        )
    if settings.password is None or "without any password" in text:
        wants = "has no password, but one is given" if settings.password else "wants a password"
        return errors.RedisAuthError(
            f"{where} {wants}: {text}",
            cause="REDIS_URL and the server's configuration differ.",
            fix="Correct the password in REDIS_URL: redis://user:password@host:6379/0.",
        )
    return errors.RedisAuthError(
        f"{where} refuses the user or the password: {text}",
        cause="The password is wrong, was rotated, or has characters that are not percent-encoded.",
        fix="Compare it with the server's; @ is %40, / is %2F, # is %23 in a URL.",
    )


def _odd_reply(reply: bytes, where: str) -> errors.RedisError:
    """The error for an answer that is not RESP."""
    if reply[:2] == b"\x15\x03" or b"\\x15" in reply or b'"\x15"' in reply:
        return errors.RedisTlsError(
            f"The port of {where} speaks TLS, and the URL does not.",
            fix="Use rediss:// in REDIS_URL.",
        )
    shown = reply[:60].decode(errors="replace").splitlines()[0] if reply.strip() else ""
    kinds = ((b"HTTP/", "an HTTP server"), (b"<", "an HTTP server"), (b"SSH-", "an SSH server"))
    what = next((kind for start, kind in kinds if reply.startswith(start)), "another service")
    return errors.NotRedisError(
        f"{where} answers, but is not Redis: {shown!r}.",
        cause=f"The port belongs to {what}.",
        fix="Correct host and port in REDIS_URL; Redis listens on 6379 by default.",
    )


_UNREACHABLE = frozenset(
    {
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.ENETDOWN,
        errno.EHOSTDOWN,
    }
)

_BUSY = errors.RedisUnavailableError
_REPLIES: dict[str, tuple[type[errors.RedisError], str, str, str]] = {
    "NOPERM": (
        errors.RedisAuthError,
        "forbids a command or key",
        "The ACL of the user does not allow what BullMQ needs.",
        "Give the user ~bull:* (your prefix) and +@all -@dangerous +info +client.",
    ),
    "LOADING": (_BUSY, "is loading its data", "It was just started.", "Wait; it is tried again."),
    "BUSY": (_BUSY, "is busy with a script", "A script runs too long.", "Wait, or SCRIPT KILL."),
    "MASTERDOWN": (
        _BUSY,
        "is a replica that lost its primary",
        "A failover is under way, or the primary is down.",
        "Use the URL of the primary.",
    ),
    "UNBLOCKED": (_BUSY, "changed its role", "A failover.", "Wait; it is tried again."),
    "READONLY": (
        errors.ReadOnlyServerError,
        "is a read-only replica",
        "The URL names a replica, or a failover made this server one.",
        "Use the URL of the primary.",
    ),
    "OOM": (
        errors.RedisError,
        "is out of memory",
        "maxmemory is reached, and noeviction refuses writes.",
        "Remove finished jobs (remove_on_complete), or raise maxmemory.",
    ),
    "MISCONF": (
        errors.RedisError,
        "refuses writes because saving to disk fails",
        "Its disk is full or read-only.",
        "Look at the server's log and disk.",
    ),
    "NOREPLICAS": (
        errors.RedisError,
        "refuses writes without replicas",
        "Fewer replicas are connected than min-replicas-to-write.",
        "Bring the replicas back.",
    ),
    "CROSSSLOT": (
        errors.RedisError,
        "is a cluster, and the queue's keys are on several nodes",
        "The prefix has no hash tag.",
        "Use a prefix in braces, such as {bull}, on both sides.",
    ),
    "MOVED": (
        errors.RedisError,
        "is a cluster node that does not hold the key",
        "A cluster is reached through the URL of one node.",
        "Use a server without cluster mode.",
    ),
    "CLUSTERDOWN": (_BUSY, "is a cluster that is down", "A node is missing.", "Repair it."),
}

_CODES_BY_TYPE: dict[type[BaseException], str] = {
    redis_errors.NoPermissionError: "NOPERM",
    redis_errors.BusyLoadingError: "LOADING",
    redis_errors.MasterDownError: "MASTERDOWN",
    redis_errors.ReadOnlyError: "READONLY",
    redis_errors.OutOfMemoryError: "OOM",
    redis_errors.ClusterCrossSlotError: "CROSSSLOT",
    redis_errors.ClusterDownError: "CLUSTERDOWN",
    redis_errors.MovedError: "MOVED",
}


class _NotRespError(Exception):
    """The peer's answer is no RESP."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply = reply


class _Run:
    """One probe: the connection and what was found so far."""

    def __init__(self, settings: RedisSettings, deadline: float) -> None:
        self.settings = settings
        self.ends = time.monotonic() + deadline
        self.steps: list[Step] = []
        self.identity: identities.ServerIdentity | None = None
        self.warnings: list[errors.RedisError] = []
        self.wants_auth = False
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter | None = None

    def plan(self) -> Iterator[tuple[str, Callable[[], Awaitable[str]]]]:
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
            return _odd_reply(error.reply, self.settings.masked_url)
        found = classify(error, self.settings)
        if name == "tls" and not isinstance(error, ssl.SSLCertVerificationError):
            if await self.speaks_plain():
                return errors.RedisTlsError(
                    f"The port of {self.settings.masked_url} speaks no TLS, and the URL wants it.",
                    fix="Use redis:// in REDIS_URL, or the server's TLS port.",
                )
        elif name == "ping" and not self.settings.tls and await self.speaks_tls():
            return _odd_reply(b"\x15\x03", self.settings.masked_url)
        return found

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
            if not str(error).startswith(("NOAUTH", "NOPERM")):
                raise
            self.wants_auth = str(error).startswith("NOAUTH")
            return "Redis answers" + (", and wants a password" if self.wants_auth else "")
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
