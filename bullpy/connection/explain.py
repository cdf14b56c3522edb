"""What each way in which Redis fails means: one of our errors for whatever was raised."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator

from redis import exceptions as redis_errors

from bullpy import errors, redis_url
from bullpy.settings import RedisSettings


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
        return odd_reply(text.encode(), where)
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


def code_of(error: BaseException) -> str:
    """The first word of an error reply, such as `MOVED`; empty where there is none."""
    return _code(error, str(error))


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


def odd_reply(reply: bytes, where: str) -> errors.RedisError:
    """The error for an answer that is not RESP, seen at that address."""
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
_MOVING = (
    "is moving the queue's keys to another node of the cluster",
    "A slot is being migrated.",
    "Wait; it is tried again.",
)
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
        "Set BULLPY_REDIS_CLUSTER=true, and a prefix in braces, such as {bull}, on both sides.",
    ),
    "ASK": (_BUSY, *_MOVING),
    "TRYAGAIN": (_BUSY, *_MOVING),
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
    redis_errors.AskError: "ASK",
    redis_errors.TryAgainError: "TRYAGAIN",
}
