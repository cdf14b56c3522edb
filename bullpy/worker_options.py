"""A worker's options: from whoever gives them to settings, and to what upstream's code reads."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from bullpy import errors
from bullpy.settings import WorkerSettings


def merged(
    settings: WorkerSettings | None, opts: Mapping[str, Any], keywords: Mapping[str, Any]
) -> WorkerSettings:
    """Keywords over upstream's options over the environment over the defaults."""
    given = {name: value for name, value in keywords.items() if value is not None}
    if settings is not None:
        if given or set(opts) - {"connection", "autorun", "settings", "metrics"}:
            raise errors.ConfigurationError(
                "settings= was given together with single options.", fix="Give one of them."
            )
        return settings
    if not given:
        return WorkerSettings.from_wire(opts)
    base = WorkerSettings.from_wire(opts)
    explicit = {name: getattr(base, name) for name in base.model_fields_set}
    return WorkerSettings(**{**explicit, **given})


def to_wire(settings: WorkerSettings, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options as upstream's code reads them from `worker.opts`, but for the worker's name."""
    return {
        **given,
        "concurrency": settings.concurrency,
        "drainDelay": settings.drain_delay,
        "limiter": settings.limiter.to_wire() if settings.limiter else None,
        "lockDuration": round(settings.lock_duration * 1000),
        "lockRenewTime": round(settings.renew_every * 1000),
        "maxStalledCount": settings.max_stalled_count,
        "prefix": settings.prefix,
        "stalledInterval": round(settings.stalled_interval * 1000),
    }


def printable(name: str) -> str:
    """A name as CLIENT SETNAME takes it: characters from `!` to `~`."""
    if name.isascii() and name.isprintable() and " " not in name:
        return name
    return base64.urlsafe_b64encode(name.encode()).decode()
