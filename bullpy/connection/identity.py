"""Which Redis is this: version, role, policy, and a fingerprint of what the server answers.

Two processes whose fingerprints agree talk to the same database of the same server, whatever
their URLs say; different fingerprints mean that they do not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from bullpy import errors

OLDEST = (6, 2)
"""BullMQ's scripts need commands of Redis 6.2."""

_OTHER_VERSIONS = {
    "valkey": "valkey_version",
    "dragonfly": "dragonfly_version",
    "keydb": "keydb_version",
    "kvrocks": "kvrocks_version",
    "garnet": "garnet_version",
}


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What a server says about itself.

    Attributes:
        url: Where we connected, password masked.
        kind: `redis`, `valkey`, `dragonfly`, `keydb`, ... or `unknown`.
        version: The server's own version, as numbers.
        version_text: The same, as the server writes it.
        redis_version: The Redis version that it is compatible with, as numbers.
        run_id: Changes at each start of the server; empty if it does not say.
        replid: `master_replid`, the same on a primary and its replicas.
        role: `master`, `slave`, or empty if it does not say.
        db: Number of the logical database.
        client_id: Id of the connection that asked; None if forbidden.
        maxmemory_policy: Empty if the server does not say.
        read_only: True for a replica that refuses writes.
        fingerprint: 12 hex digits of what the server answered; empty if it told neither run_id
            nor replid.
    """

    url: str
    kind: str
    version: tuple[int, ...]
    version_text: str
    redis_version: tuple[int, ...]
    run_id: str
    replid: str
    role: str
    db: int
    client_id: int | None
    maxmemory_policy: str
    read_only: bool
    fingerprint: str

    def __str__(self) -> str:
        version = self.version_text or "of unknown version"
        mark = f", fingerprint {self.fingerprint}" if self.fingerprint else ""
        return f"{self.kind} {version} at {self.url}{mark}"


@dataclass(frozen=True, slots=True)
class QueueFingerprint:
    """Which queue this is, as the server tells it: two that agree are of one and the same queue.

    Attributes:
        value: 12 hex digits; empty if the server told neither run_id nor replid.
        run_id: The server's; changes at each start of it.
        replid: `master_replid`, the same on a primary and its replicas.
        db: Number of the logical database.
        prefix: First part of the queue's keys.
        queue: Its name.
        url: Where we connected, password masked.
    """

    value: str
    run_id: str
    replid: str
    db: int
    prefix: str
    queue: str
    url: str

    @classmethod
    def of(cls, identity: ServerIdentity, prefix: str, queue: str) -> Self:
        """That of a queue on this server."""
        server = identity.run_id or identity.replid
        return cls(
            value=fingerprint(server, identity.db, prefix, queue),
            run_id=identity.run_id,
            replid=identity.replid,
            db=identity.db,
            prefix=prefix,
            queue=queue,
            url=identity.url,
        )

    def __str__(self) -> str:
        server = self.run_id or self.replid
        return (
            f"queue fp={self.value or 'unknown'} run_id={server[:8] or 'unknown'} db={self.db} "
            f"prefix={self.prefix} queue={self.queue} via {self.url}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON, as it is served under /health/queue."""
        return {
            "fingerprint": self.value or None,
            "run_id": self.run_id or None,
            "replid": self.replid or None,
            "db": self.db,
            "prefix": self.prefix,
            "queue": self.queue,
        }


def parse_info(answer: str | bytes | Mapping[str, object]) -> dict[str, str]:
    """The fields of an INFO reply; a mapping that a client parsed already is taken as well."""
    if isinstance(answer, Mapping):
        return {str(key): str(value) for key, value in answer.items()}
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            fields[name.strip()] = value.strip()
    return fields


def identity_from(
    info: Mapping[str, object],
    *,
    url: str,
    db: int,
    client_id: int | None = None,
    prefix: str | None = None,
    queue: str | None = None,
) -> ServerIdentity:
    """The identity that an INFO reply tells.

    Args:
        info: Fields of INFO; empty where an ACL forbids it.
        url: Where we connected, password masked.
        db: Number of the logical database.
        client_id: Reply of CLIENT ID.
        prefix: Makes the fingerprint that of a queue, together with `queue`.
        queue: Name of the queue.
    """
    fields = parse_info(info)
    kind, text = _kind_and_version(fields)
    replid = fields.get("master_replid", "")
    run_id = fields.get("run_id", "")
    role = fields.get("role", "")
    return ServerIdentity(
        url=url,
        kind=kind,
        version=_version(text),
        version_text=text,
        redis_version=_version(fields.get("redis_version", "")),
        run_id=run_id,
        replid=replid,
        role=role,
        db=db,
        client_id=client_id,
        maxmemory_policy=fields.get("maxmemory_policy", ""),
        read_only=role == "slave" and fields.get("slave_read_only", "1") != "0",
        fingerprint=fingerprint(run_id or replid, db, prefix, queue),
    )


def fingerprint(server: str, db: int, prefix: str | None = None, queue: str | None = None) -> str:
    """12 hex digits of SHA-256 over run_id (or replid), db and, where given, prefix and queue.

    Empty when `server` is: an unknown server must not look like another unknown one.
    """
    if not server:
        return ""
    parts = [server, str(db), *(part for part in (prefix, queue) if part is not None)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def check_server(identity: ServerIdentity, *, producer: bool = False) -> list[errors.RedisError]:
    """Whether BullMQ can work on this server.

    Managed servers do not always let their policy be changed, so a policy that evicts is a
    warning, which the caller should log loudly.

    Args:
        identity: The server.
        producer: True for a client that only adds jobs: a replica is a warning then, since the
            same connection may serve reading.

    Returns:
        The warnings, as errors that were not raised.

    Raises:
        UnsupportedServerError: Redis is older than 6.2.
        ReadOnlyServerError: A worker reached a replica that refuses writes.
    """
    warnings: list[errors.RedisError] = []
    if identity.redis_version and identity.redis_version < OLDEST:
        version = ".".join(map(str, identity.redis_version))
        raise errors.UnsupportedServerError(
            f"{identity.url} is Redis {version}; BullMQ needs 6.2 or later.",
            fix="Upgrade the server, or use Valkey.",
        )
    if identity.read_only:
        replica = errors.ReadOnlyServerError(
            f"{identity.url} is a read-only replica.",
            cause="The URL names a replica, or a failover made this server one.",
            fix="Use the URL of the primary.",
        )
        if not producer:
            raise replica
        warnings.append(replica)
    policy = identity.maxmemory_policy
    if policy and policy != "noeviction":
        warnings.append(
            errors.EvictionPolicyError(
                f"maxmemory-policy of {identity.url} is {policy}.",
                cause="When its memory is full, Redis deletes keys of the queue: jobs are lost.",
                fix="Run CONFIG SET maxmemory-policy noeviction, or set it at your provider.",
            )
        )
    return warnings


def _kind_and_version(fields: Mapping[str, str]) -> tuple[str, str]:
    named = fields.get("server_name", "").lower()
    for kind, key in _OTHER_VERSIONS.items():
        if key in fields:
            # Dragonfly writes df-v1.2.3.
            return kind, re.sub(r"^\D+", "", fields[key])
    version = fields.get("redis_version", "")
    if named and named != "redis":
        return named, version
    if "executable" in fields and "keydb" in fields["executable"].lower():
        return "keydb", version
    return ("redis" if version else "unknown"), version


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
