"""Redis URLs, read so that one string serves API and worker.

Rules are those of ioredis 5 `parseURL` (built/utils/index.js): the database of the path wins
over `?db=`, user and password are percent-decoded, a path starting with `/` is a unix socket,
query options fill what the URL left open. Where ioredis would quietly connect to something
else (no host, a database after a URL without scheme), this raises instead.

Sentinel and Cluster, for which ioredis has no URL, have these forms; `rediss+` speaks TLS:
`redis+sentinel://user:password@host1:26379,host2:26379/mymaster/0` and
`redis+cluster://user:password@host1:7000,host2:7001`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from bullpy import errors, redis_nodes

_log = logging.getLogger("bullpy.settings")

DEFAULT_PORT = 6379

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST = re.compile(r"[^\s\x00-\x20/?#@:\[\]<>\\^|%]+")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SECRET_IN_TEXT = re.compile(r"(://[^\s:/@]{0,256}:)\S{1,1024}@")
_SECRET_OPTION = re.compile(r"([?&](?:(?:sentinel_?)?password|auth)=)[^&#\s]+", re.IGNORECASE)
_PLAIN_NODES = re.compile(r"[^:,]+(:\d*)?(,[^:,]+(:\d*)?)*")

NO_EFFECT = frozenset(
    """
    autoResendUnfulfilledCommands autoResubscribe autoPipeliningIgnoredCommands autoUnsubscribe
    autoSelectFamily connectionName decode_responses disableClientInfo enableAutoPipelining
    enableOfflineQueue enableReadyCheck encoding health_check_interval lazyConnect max_connections
    maxLoadingRetryTime maxRetriesPerRequest name noDelay protocol readOnly retry_on_timeout
    showFriendlyErrorStack socket_keepalive stringNumbers
    """.split()  # noqa: SIM905 - a list of words reads better so
)
"""Options of ioredis and redis-py that a shared URL may carry and that change nothing here."""


class Url(NamedTuple):
    """What a URL says. None: it does not say."""

    host: str | None = None
    port: int | None = None
    db: int | None = None
    username: str | None = None
    password: str | None = None
    unix_socket: str | None = None
    tls: bool | None = None
    family: int | None = None
    connect_timeout: float | None = None
    command_timeout: float | None = None
    keepalive: float | None = None
    tls_verify: bool | None = None
    tls_ca_file: str | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    sentinels: tuple[str, ...] | None = None
    sentinel_name: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    cluster: tuple[str, ...] | bool | None = None

    def values(self) -> dict[str, object]:
        """What the URL does say, by field name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def parse(url: str, *, source: str = "The Redis URL") -> Url:
    """Read a Redis URL.

    Accepts `redis://`, `rediss://`, `unix://`, `redis+unix://`, `redis+sentinel://`,
    `redis+cluster://`, `//host`, `host:port`, a port alone, and the path of a unix socket.

    Args:
        url: The URL.
        source: Where it came from, for the error text.

    Raises:
        ConfigurationError: The URL is empty or wrong; its text names the part and never shows
            the password.
    """
    text = url.strip()
    if not text:
        raise errors.ConfigurationError(
            f"{source} is set but empty.",
            cause="The variable or the secret it is filled from has no value.",
            fix="Give a URL such as redis://user:password@host:6379/0.",
        )
    parser = _Parser(text, source)
    result = parser.parse()
    _warn(parser.notes, source)
    return result


def mask(url: str) -> str:
    """The URL with its password as `***`; also for text that is no valid URL.

    What stands alone before the `@` is masked too: it is a password whose colon was forgotten.
    """
    text = url.strip()
    found = _SCHEME.match(text)
    start = found.end() if found else 0
    head, rest = text[:start], text[start:]
    before, at, after = rest.rpartition("@")
    if at:
        user, colon, _ = before.partition(":")
        rest = f"{f'{user}:' if colon else ''}***@{after}" if before else f"@{after}"
    else:
        rest = _mask_odd_port(rest)
    return _SECRET_OPTION.sub(r"\1***", head + rest)


def redact(text: str) -> str:
    """Free text with the passwords of all URLs in it as `***`."""
    if "://" in text:
        text = _SECRET_IN_TEXT.sub(r"\1***@", text)
    if "=" in text:
        text = _SECRET_OPTION.sub(r"\1***", text)
    return text


def build(
    *,
    host: str,
    port: int,
    db: int,
    username: str | None,
    password: str | None,
    unix_socket: str | None,
    tls: bool,
    sentinels: tuple[str, ...] = (),
    sentinel_name: str | None = None,
    cluster: tuple[str, ...] = (),
) -> str:
    """The URL for an address; `parse` reads it back to the same."""
    user = ""
    if username or password is not None:
        secret = "" if password is None else f":{_unless_masked(password)}"
        user = f"{_unless_masked(username or '')}{secret}@"
    if unix_socket is not None:
        return f"unix://{user}{quote(unix_socket)}" + (f"?db={db}" if db else "")
    scheme = "rediss" if tls else "redis"
    if sentinels:
        name = _enc(sentinel_name or "")
        return f"{scheme}+sentinel://{user}{','.join(sentinels)}/{name}/{db}"
    if cluster:
        return f"{scheme}+cluster://{user}{','.join(cluster)}"
    return f"{scheme}://{user}{redis_nodes.join(host, port)}/{db}"


def _unless_masked(text: str) -> str:
    return text if text == "***" else _enc(text)


class _Parser:
    """One reading of one URL; `notes` collects what was ignored."""

    def __init__(self, text: str, source: str) -> None:
        self.text = text
        self.source = source
        self.notes: list[str] = []

    def parse(self) -> Url:
        text = self.text
        if any(ord(char) < 0x20 or ord(char) == 0x7F for char in text):
            raise self.wrong("it contains a control character", "Write it on one line.")
        if text[0] in "\"'":
            raise self.wrong(
                "it starts with a quote", "Remove the quotes: they became part of the value."
            )
        if text.isascii() and text.isdigit():
            return Url(host="localhost", port=self.port(text))
        if text.startswith("/") and not text.startswith("//"):
            return self.unix_path(text)
        found = _SCHEME.match(text)
        if found is None:
            return self.network(text.removeprefix("//"), "redis", bare=not text.startswith("//"))
        scheme, rest = found[1].lower(), text[found.end() :]
        if scheme in ("unix", "redis+unix"):
            return self.unix_url(rest)
        if scheme in ("redis", "rediss"):
            return self.network(rest, scheme, bare=False)
        start, plus, kind = scheme.partition("+")
        if plus and start in ("redis", "rediss") and kind in ("sentinel", "cluster"):
            return self.several(rest, kind, tls=start == "rediss")
        raise self.wrong(
            f"the scheme {scheme}:// is not one of Redis",
            "Use redis:// (plain), rediss:// (TLS), unix:// (socket), redis+sentinel:// or "
            "redis+cluster://.",
        )

    def several(self, rest: str, kind: str, *, tls: bool) -> Url:
        """A URL with several nodes: sentinels, or nodes of a cluster."""
        rest, _, _ = rest.partition("#")
        rest, _, query = rest.partition("?")
        authority, _, path = rest.partition("/")
        if "@" in path:
            raise self.wrong("there is a / before the @", _ENCODE)
        userinfo, _, addresses = authority.rpartition("@")
        username, password = self.userinfo(userinfo)
        said = Url(username=username, password=password, tls=tls or None)
        if kind == "sentinel":
            name, _, path = path.partition("/")
            if not name:
                raise self.wrong(
                    "it does not name the primary",
                    "Put its name behind the sentinels: redis+sentinel://host:26379/mymaster/0.",
                )
            said = said._replace(
                sentinels=self.nodes(addresses, redis_nodes.SENTINEL_PORT),
                sentinel_name=self.decode(name, "name of the primary"),
            )
        else:
            said = said._replace(cluster=self.nodes(addresses, redis_nodes.CLUSTER_PORT))
        if path.strip("/"):
            said = said._replace(db=self.db(path.strip("/")))
        options = self.options(query)
        return self.fill(
            said, options._replace(host=None, port=None, unix_socket=None, cluster=None)
        )

    def nodes(self, text: str, default_port: int) -> tuple[str, ...]:
        try:
            found = redis_nodes.nodes(text, default_port)
        except errors.ConfigurationError as error:
            raise self.wrong(error.message.rstrip("."), _ENCODE) from None
        if not found:
            raise self.wrong("it names no host", "Check the variable the hosts are filled from.")
        return found

    def network(self, rest: str, scheme: str, *, bare: bool) -> Url:
        rest, _, _ = rest.partition("#")
        rest, _, query = rest.partition("?")
        authority, slash, path = rest.partition("/")
        if "@" in path:
            raise self.wrong("there is a / before the @", _ENCODE)
        if bare and slash and path:
            raise self.wrong(
                "a database or path follows a host without a scheme",
                "Put redis:// in front; ioredis would take the path for a unix socket.",
            )
        options = self.options(query)
        userinfo, _, address = authority.rpartition("@")
        username, password = self.userinfo(userinfo)
        host, port = self.address(address)
        if bare and re.match(r"\d+\.0*\.", authority):
            self.notes.append("without redis:// in front, ioredis reads this as a port")
        if host is None and options.host is None and options.unix_socket is None:
            raise self.wrong("it names no host", "Check the variable that the host is filled from.")
        path_db = path.strip("/")
        said = Url(
            host=host,
            port=port,
            db=self.db(path_db) if path_db else None,
            username=username,
            password=password,
            tls=True if scheme == "rediss" else None,
        )
        return self.fill(said, options)

    def unix_url(self, rest: str) -> Url:
        rest, _, query = rest.partition("?")
        userinfo, _, path = rest.rpartition("@")
        username, password = self.userinfo(userinfo)
        path = self.decode(path, "path")
        if not path.startswith("/"):
            raise self.wrong(
                "the path of the socket is not absolute", "Write unix:///run/redis.sock."
            )
        said = Url(unix_socket=path, username=username, password=password)
        return self.fill(said, self.options(query)._replace(host=None, port=None, tls=None))

    def unix_path(self, text: str) -> Url:
        path, _, query = text.partition("?")
        options = self.options(query)._replace(host=None, port=None, tls=None)
        return self.fill(Url(unix_socket=path), options)

    def fill(self, said: Url, options: Url) -> Url:
        """What the URL says, then what its query says (ioredis: `defaults(result, options)`)."""
        merged: dict[str, Any] = options._asdict() | said.values()
        if merged["unix_socket"] is not None:
            merged |= {"host": None, "port": None, "tls": None}
        return Url(**merged)

    def userinfo(self, text: str) -> tuple[str | None, str | None]:
        username, colon, password = text.partition(":")
        return (
            self.decode(username, "user") or None,
            (self.decode(password, "password") or None) if colon else None,
        )

    def address(self, text: str) -> tuple[str | None, int | None]:
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or not _IPV6.fullmatch(host) or (rest and rest[0] != ":"):
                raise self.wrong("its IPv6 host is malformed", "Write redis://[::1]:6379.")
            port = rest[1:]
        else:
            host, _, port = text.partition(":")
            if ":" in port:
                raise self.wrong(
                    "there is more than one : after the @",
                    "Put IPv6 hosts in brackets. " + _ENCODE,
                )
            if host and not _HOST.fullmatch(host):
                raise self.wrong("the host contains characters no host has", _ENCODE)
        if port and not host:
            raise self.wrong(
                "it names no host", "Check the variable the host is filled from. " + _ENCODE
            )
        return host or None, self.port(port) if port else None

    def options(self, query: str) -> Url:
        try:
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=100)
        except ValueError:
            raise self.wrong("its query has too many options", "Remove some.") from None
        values: dict[str, Any] = {}
        unknown: list[str] = []
        for key, value in pairs:
            if key in NO_EFFECT or value == "":
                continue
            option = _OPTIONS.get(key)
            if option is None:
                unknown.append(key)
                continue
            field, read = option
            values[field] = read(self, value)
        if unknown:
            names = ", ".join(sorted(set(unknown)))
            self.notes.append(f"unknown option ignored: {names}")
        return Url(**values)

    def port(self, text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535:
            return int(text)
        raise self.wrong("its port is not a number from 1 to 65535", _ENCODE)

    def db(self, text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= 9:
            return int(text)
        raise self.wrong(
            f"its database {text[:40]!r} is not a number", "The path is a number: redis://host/0."
        )

    def family(self, text: str) -> int:
        if text in ("0", "4", "6"):
            return int(text)
        raise self.wrong("its family is not 0, 4 or 6", "Use ?family=0 for any.")

    def seconds(self, text: str) -> float:
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) and float(text) > 0:
            return float(text)
        raise self.wrong("one of its timeouts is not a number above 0", "Correct or remove it.")

    def milliseconds(self, text: str) -> float:
        return self.seconds(text) / 1000

    def flag(self, text: str) -> bool:
        if text.lower() in ("0", "false", "no", "off"):
            self.notes.append("ioredis takes ?tls=false for true: leave the option out")
            return False
        return True

    def yes(self, text: str) -> bool:
        return text.lower() in ("1", "true", "yes", "on")

    def verify(self, text: str) -> bool:
        return text.lower() not in ("none", "false", "0", "no")

    def text_value(self, text: str) -> str:
        return text

    def decode(self, text: str, part: str) -> str:
        if _BAD_PERCENT.search(text):
            raise self.wrong(
                f"its {part} has a % that is not followed by two hex digits", "Write % as %25."
            )
        try:
            return unquote_to_bytes(text).decode()
        except UnicodeError:
            raise self.wrong(
                f"its {part} is not UTF-8 when percent-decoded", "Encode it as UTF-8."
            ) from None

    def wrong(self, what: str, fix: str) -> errors.ConfigurationError:
        return errors.ConfigurationError(
            f"{self.source} is wrong: {what} ({mask(self.text)[:200]}).", fix=fix
        )


_ENCODE = "Percent-encode : / ? # @ % in user and password (@ is %40)."

_OPTIONS: dict[str, tuple[str, Callable[[_Parser, str], object]]] = {
    "host": ("host", _Parser.text_value),
    "port": ("port", _Parser.port),
    "path": ("unix_socket", _Parser.text_value),
    "db": ("db", _Parser.db),
    "username": ("username", _Parser.text_value),
    "password": ("password", _Parser.text_value),
    "family": ("family", _Parser.family),
    "tls": ("tls", _Parser.flag),
    "ssl": ("tls", _Parser.flag),
    "connectTimeout": ("connect_timeout", _Parser.milliseconds),
    "commandTimeout": ("command_timeout", _Parser.milliseconds),
    "keepAlive": ("keepalive", _Parser.milliseconds),
    "socket_timeout": ("command_timeout", _Parser.seconds),
    "socket_connect_timeout": ("connect_timeout", _Parser.seconds),
    "ssl_cert_reqs": ("tls_verify", _Parser.verify),
    "ssl_ca_certs": ("tls_ca_file", _Parser.text_value),
    "ssl_certfile": ("tls_cert_file", _Parser.text_value),
    "ssl_keyfile": ("tls_key_file", _Parser.text_value),
    "sentinel_username": ("sentinel_username", _Parser.text_value),
    "sentinelUsername": ("sentinel_username", _Parser.text_value),
    "sentinel_password": ("sentinel_password", _Parser.text_value),
    "sentinelPassword": ("sentinel_password", _Parser.text_value),
    "cluster": ("cluster", _Parser.yes),
}


def _enc(text: str) -> str:
    return quote(text, safe="")


def _mask_odd_port(rest: str) -> str:
    """A URL without `@` may be one cut short in its password: show no port that is not one."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    host, colon, port = authority.partition(":")
    if not colon or authority.startswith("[") or not port or _PLAIN_NODES.fullmatch(authority):
        return rest
    return f"{host}:***{rest[len(authority) :]}"


def _warn(notes: Iterable[str], source: str) -> None:
    for note in notes:
        _log.warning("%s: %s", source, note)
