"""Lists of nodes: the sentinels, or the first nodes of a cluster to ask.

A node is text, `host:port` or `[::1]:port`: settings that hold it are hashable and easy to show.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import cast

from bullpy import errors

SENTINEL_PORT = 26379
CLUSTER_PORT = 6379

_HOST = re.compile(r"[^\s\x00-\x20/?#@:\[\]<>\\^|%,;]+")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")


def nodes(value: object, default_port: int) -> tuple[str, ...]:
    """The nodes that a value lists, each once, in its order.

    Args:
        value: Text with commas between nodes, or a list of `host:port`, `(host, port)` or
            `{"host": ..., "port": ...}`.
        default_port: The port of a node that names none.

    Raises:
        ConfigurationError: It is no such list; the text never shows what may be a password.
    """
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    kind = type(value).__name__
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise _wrong(f"a {kind} is no list of nodes")
    return tuple(
        dict.fromkeys(_node(item, default_port) for item in cast("Iterable[object]", value))
    )


def split(node: str) -> tuple[str, int]:
    """Host and port of a node that `nodes` gave."""
    host, _, port = node.rpartition(":")
    return host.strip("[]"), int(port)


def join(host: str, port: int) -> str:
    """The node with that host and port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _node(item: object, default_port: int) -> str:
    kind = type(item).__name__
    if isinstance(item, str):
        return _from_text(item.strip(), default_port)
    if isinstance(item, Mapping):
        said = cast("Mapping[object, object]", item)
        return _from_pair(said.get("host"), said.get("port"), default_port)
    if isinstance(item, list | tuple):
        pair = list(cast("Iterable[object]", item))
        if len(pair) == 2:
            return _from_pair(pair[0], pair[1], default_port)
    raise _wrong(f"a {kind} is no node")


def _from_text(text: str, default_port: int) -> str:
    if "@" in text or "/" in text:
        raise _wrong(
            "a node has a user, a scheme or a path", "Give user, password and TLS as settings."
        )
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _wrong("an IPv6 node is malformed")
        return _from_pair(host, rest[1:] or None, default_port)
    host, _, port = text.partition(":")
    return _from_pair(host, port or None, default_port)


def _from_pair(host: object, port: object, default_port: int) -> str:
    if not isinstance(host, str) or not (_HOST.fullmatch(host) or _IPV6.fullmatch(host)):
        raise _wrong("the host of a node is missing or malformed")
    number = str(default_port if port is None else port).strip()
    if isinstance(port, bool) or not (number.isascii() and number.isdigit() and len(number) <= 5):
        raise _wrong(f"the port of {host} is not a number")
    if not 1 <= int(number) <= 65535:
        raise _wrong(f"the port of {host} is not from 1 to 65535")
    return join(host, int(number))


def _wrong(
    what: str, fix: str = "Give a list such as host1:26379,host2:26379."
) -> errors.ConfigurationError:
    return errors.ConfigurationError(f"{what}.", fix=fix)
