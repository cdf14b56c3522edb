"""Connection options as a mapping, in the spelling of bullpy, of ioredis or of redis-py."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

from bullpy import errors, redis_url

_log = logging.getLogger("bullpy.settings")

HAS_URL = "_has_url"
"""Key that `connection_from` adds when the mapping held a URL, so that the address is complete."""


def connection_from(options: Mapping[str, object]) -> dict[str, Any]:
    """Arguments of RedisSettings from connection options in any of the three spellings.

    None counts as not given. A URL in `url` wins over its neighbours, as in ioredis.

    Raises:
        ConfigurationError: A value is wrong.
    """
    result: dict[str, Any] = {}
    unknown: list[str] = []
    for key, value in options.items():
        if value is None:
            continue
        if key == "url":
            continue
        if key == "redisOptions" and isinstance(value, Mapping):
            # ioredis' Cluster keeps what holds for each node there.
            result = connection_from(cast("Mapping[str, object]", value)) | result
            continue
        if key == "name" and options.get("sentinels"):
            result["sentinel_name"] = _text(key, value)
            continue
        reader = _SPELLINGS.get(key)
        if reader is not None:
            result[reader[0]] = reader[1](key, value)
        elif key in ("tls", "ssl"):
            result |= _tls(value)
        elif key not in redis_url.NO_EFFECT and key not in _NO_EFFECT_MAPPING:
            unknown.append(key)
    url = options.get("url")
    if url is not None:
        if not isinstance(url, str):
            raise errors.ConfigurationError(f"url is a {type(url).__name__}.", fix="Give text.")
        said = redis_url.parse(url).values()
        if said.keys() & _ADDRESSES:
            result = {key: value for key, value in result.items() if key not in _ADDRESSES}
        result |= said
        result[HAS_URL] = True
    _ignored("connection", unknown)
    return result


def _number(key: str, value: object) -> float:
    """The number, also from text, which redis-py and ioredis take too."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise errors.ConfigurationError(f"{key} is {value!r}.", fix="Give a number.")
    return value


def _seconds(key: str, value: object) -> float:
    return _number(key, value)


def _from_ms(key: str, value: object) -> float:
    return _number(key, value) / 1000


def _same(key: str, value: object) -> object:
    return value


def _text(key: str, value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)


def _tls(value: object) -> dict[str, Any]:
    """`ssl: bool` of redis-py, or ioredis' `tls: {...}`, where an empty object means yes."""
    if not isinstance(value, Mapping):
        return {"tls": bool(value)}
    options = cast("Mapping[str, object]", value)
    result: dict[str, Any] = {"tls": True}
    if options.get("rejectUnauthorized") is False:
        result["tls_verify"] = False
    _ignored("connection", [f"tls.{key}" for key in options if key != "rejectUnauthorized"])
    return result


def _verify(key: str, value: object) -> bool:
    return str(value).lower() not in ("none", "false", "0") and value != 0


def _ignored(kind: str, names: list[str]) -> None:
    if names:
        _log.warning("Unknown %s options ignored: %s", kind, ", ".join(sorted(names)))


_ADDRESSES = frozenset(["host", "unix_socket", "sentinels", "cluster"])
"""What says where Redis is; one of them at a time."""

_Reader = Callable[[str, object], object]

_SPELLINGS: dict[str, tuple[str, _Reader]] = {
    "host": ("host", _text),
    "hostname": ("host", _text),
    "port": ("port", _same),
    "db": ("db", _same),
    "database": ("db", _same),
    "username": ("username", _text),
    "password": ("password", _text),
    "path": ("unix_socket", _text),
    "unix_socket": ("unix_socket", _text),
    "unix_socket_path": ("unix_socket", _text),
    "family": ("family", _same),
    "connectTimeout": ("connect_timeout", _from_ms),
    "commandTimeout": ("command_timeout", _from_ms),
    "keepAlive": ("keepalive", _from_ms),
    "socket_connect_timeout": ("connect_timeout", _seconds),
    "socket_timeout": ("command_timeout", _seconds),
    "connect_timeout": ("connect_timeout", _seconds),
    "command_timeout": ("command_timeout", _seconds),
    "keepalive": ("keepalive", _seconds),
    "sentinels": ("sentinels", _same),
    "sentinel_name": ("sentinel_name", _text),
    "service_name": ("sentinel_name", _text),
    "sentinelUsername": ("sentinel_username", _text),
    "sentinel_username": ("sentinel_username", _text),
    "sentinelPassword": ("sentinel_password", _text),
    "sentinel_password": ("sentinel_password", _text),
    "cluster": ("cluster", _same),
    "nodes": ("cluster", _same),
    "startup_nodes": ("cluster", _same),
    "retry_min": ("retry_min", _seconds),
    "retry_max": ("retry_max", _seconds),
    "ssl_cert_reqs": ("tls_verify", _verify),
    "ssl_ca_certs": ("tls_ca_file", _text),
    "ssl_certfile": ("tls_cert_file", _text),
    "ssl_keyfile": ("tls_key_file", _text),
    "tls_verify": ("tls_verify", _same),
    "tls_ca_file": ("tls_ca_file", _text),
    "tls_cert_file": ("tls_cert_file", _text),
    "tls_key_file": ("tls_key_file", _text),
}

_NO_EFFECT_MAPPING = frozenset(
    """
    retry retry_on_error retryStrategy reconnectOnError skipVersionCheck socket_keepalive_options
    client_name encoding_errors single_connection_client maxReconnectAttempts
    clusterRetryStrategy enableTLSForSentinelMode failoverDetector sentinelCommandTimeout
    sentinelReconnectStrategy sentinelRetryStrategy slotsRefreshTimeout updateSentinels
    """.split()  # noqa: SIM905 - a list of words reads better so
)
"""bullpy has its own answer to these; silence is right."""
