"""Replies that say that the server is the wrong one, and that the command did not run there."""

from __future__ import annotations

from bullpy import errors
from bullpy.connection.explain import code_of
from bullpy.settings import RedisSettings

ELSEWHERE = frozenset(["MOVED", "READONLY", "MASTERDOWN", "UNBLOCKED"])
"""Another server is the right one by now."""

NOT_NOW = frozenset(["ASK", "TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS"])
"""Nothing was done; a slot is on its way, or the cluster is between two states."""


def misplaced(reply: object) -> str:
    """The code of an error reply that says that the command did not run on this server, or ""."""
    if not isinstance(reply, Exception):
        return ""
    code = code_of(reply)
    if code in ELSEWHERE or code in NOT_NOW:
        return code
    # Redis 6 wraps what happened inside a script.
    return "READONLY" if " -READONLY " in str(reply) else ""


def displaced(reply: Exception, settings: RedisSettings) -> errors.RedisUnavailableError:
    """The error for a server that is not, or no longer, the right one."""
    code, text = code_of(reply), str(reply)
    shown = text if text.startswith(code) else f"{code} {text}"
    return errors.RedisUnavailableError(
        f"Another server is in charge of {settings.masked_url}: {shown}.",
        cause="A failover, or a slot that moved to another node.",
        fix="Nothing: it is looked for and followed.",
    )
