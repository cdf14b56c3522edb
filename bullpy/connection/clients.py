"""Where a redis-py client that somebody made goes to: its address is taken, not its sockets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

_KNOWN = (
    "host",
    "port",
    "db",
    "username",
    "password",
    "unix_socket_path",
    "ssl",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
)


def options_of(client: object) -> dict[str, Any] | None:
    """Connection options of a redis-py client: of a server, of Sentinel, or of a cluster.

    Returns:
        What `RedisSettings.of` takes; None for anything else.
    """
    nodes = getattr(client, "nodes_manager", None)
    if nodes is not None:
        seeds = [(node.host, node.port) for node in nodes.startup_nodes.values()]
        kept = _kept(cast("Any", client).connection_kwargs)
        return {key: kept[key] for key in kept if key not in ("host", "port")} | {"cluster": seeds}
    pool = getattr(client, "connection_pool", None)
    if pool is None:
        return None
    options = dict(cast("Mapping[str, Any]", pool.connection_kwargs))
    path = options.pop("path", None)
    if path:
        options["unix_socket_path"] = path
    if "SSL" in pool.connection_class.__name__:
        options["ssl"] = True
    manager = getattr(pool, "sentinel_manager", None)
    if manager is None:
        return _kept(options)
    sentinels = [each.connection_pool.connection_kwargs for each in manager.sentinels]
    own = {
        "sentinels": [(each["host"], each["port"]) for each in sentinels],
        "sentinel_name": pool.service_name,
        "sentinel_username": sentinels[0].get("username"),
        "sentinel_password": sentinels[0].get("password"),
    }
    kept = _kept(options)
    return {key: kept[key] for key in kept if key not in ("host", "port")} | own


def _kept(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in _KNOWN if options.get(key)}
