"""Where each value of the connection's settings comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pydantic import SecretStr

from bullpy import redis_url
from bullpy.redis_settings import URL_VARIABLES, RedisSettings

_HEAD = "BULLPY_REDIS_"
_ARGUMENT = "argument"
_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Given:
    """What says where Redis is.

    Attributes:
        settings: The settings that follow from it.
        source: `--redis`, `argument`, the name of a variable, or `default`.
        url: The URL's text, secrets and all; None without one.
    """

    settings: RedisSettings
    source: str
    url: str | None


@dataclass(frozen=True, slots=True)
class Origin:
    """A setting, its value as it may be shown, and what it comes from."""

    name: str
    value: str
    source: str


def given(redis: RedisSettings | str | Mapping[str, object] | None, *, source: str) -> Given:
    """What says where Redis is.

    Args:
        redis: What the caller gave; None reads the environment.
        source: What to call it.

    Raises:
        errors.ConfigurationError: Nothing says it, or it is wrong.
    """
    if isinstance(redis, str):
        redis_url.parse(redis, source=source)
        return Given(RedisSettings.from_url(redis), source, redis)
    if redis is not None:
        return Given(RedisSettings.of(redis), source, None)
    settings = RedisSettings()
    for name in URL_VARIABLES:
        url = os.environ.get(name, "")
        if url.strip():
            return Given(settings, name, url)
    return Given(settings, f"{_HEAD}*", None)


def origins(found: Given) -> list[Origin]:
    """Each setting that was given, and those that matter most, with what it comes from."""
    from_url = {} if found.url is None else redis_url.parse(found.url).values()
    is_environment = found.source in URL_VARIABLES or found.source.startswith(_HEAD)
    told: list[Origin] = []
    for name in RedisSettings.model_fields:
        value = getattr(found.settings, name)
        variable = _HEAD + name.upper()
        is_set = bool(os.environ.get(variable, "").strip())
        if not is_environment and found.url is None:
            source = _ARGUMENT if name in found.settings.model_fields_set else _DEFAULT
        elif name in from_url and not (is_set and is_environment):
            source = found.source
        else:
            source = variable if is_set else _DEFAULT
        if source != _DEFAULT or (name in _ALWAYS and value not in (None, "", ())):
            is_secret = name == "username" and found.settings.password is None
            told.append(Origin(name, "***" if is_secret else _shown(value), source))
    return told


_ALWAYS = ("host", "port", "db", "tls", "command_timeout")


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, tuple):
        return ", ".join(cast("tuple[str, ...]", value))
    return str(value)
