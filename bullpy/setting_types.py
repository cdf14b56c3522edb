"""What the settings classes have in common: kinds of values, and errors that name the variable."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsError

from bullpy import errors, limits, redis_nodes, redis_url


class Settings(BaseSettings):
    """Turns pydantic's errors into ours."""

    # Any: pydantic reads and checks the values; the fields of the subclasses carry the types.
    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            # Not chained: pydantic's text shows the input, and with it the password.
            raise explain(error, type(self)) from None
        except SettingsError as error:
            raise errors.ConfigurationError(
                f"An environment variable cannot be read: {redis_url.redact(str(error))}.",
                fix="Correct it or remove it.",
            ) from None


def explain(error: ValidationError, settings: type[BaseSettings]) -> errors.ConfigurationError:
    """Our error for pydantic's: each field, its value, what is allowed, its variable."""
    prefix = settings.model_config.get("env_prefix", "")
    parts: list[str] = []
    for detail in error.errors(include_url=False):
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, errors.ConfigurationError) and not detail["loc"]:
            return cause
        name = str(detail["loc"][0]) if detail["loc"] else "settings"
        if detail["type"] == "extra_forbidden":
            parts.append(f"{name} is not a setting")
            continue
        what = cause.message if isinstance(cause, errors.BullpyError) else detail["msg"]
        what = what.removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
        shown = "***" if name in _HIDDEN else redis_url.redact(repr(detail["input"]))[:80]
        parts.append(f"{name}={shown}: {what} (variable {prefix}{name.upper()})")
    return errors.ConfigurationError(
        f"{settings.__name__}: {'; '.join(dict.fromkeys(parts))}.",
        fix=f"The settings are {', '.join(sorted(settings.model_fields))}."
        if any("not a setting" in part for part in parts)
        else "Correct the value where it is set.",
    )


_HIDDEN = ("password", "sentinel_password", "sentinels", "cluster")
"""Settings whose value may hold a password; a list of nodes does where a URL was put into it."""


def not_bool(value: object) -> object:
    """Refuse true and false where pydantic would read them as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number is expected, not true or false")  # noqa: TRY004 - for pydantic
    return value


def whole_text(value: object) -> object:
    """A number that a variable holds as text."""
    return int(value) if isinstance(value, str) and value.strip().isdigit() else value


def _bytes_of(value: object) -> object:
    return limits.byte_count(value) if isinstance(value, str) else value


def _names(value: object) -> object:
    if isinstance(value, str):
        return tuple(name for part in value.split(",") if (name := part.strip()))
    return value


Seconds = Annotated[float, BeforeValidator(not_bool), Field(gt=0, allow_inf_nan=False)]
Pause = Annotated[float, BeforeValidator(not_bool), Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(not_bool)]
ByteCount = Annotated[int, BeforeValidator(not_bool), BeforeValidator(_bytes_of)]
ModuleNames = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]


def _sentinels(value: object) -> object:
    return redis_nodes.nodes(value, redis_nodes.SENTINEL_PORT)


def _seeds(value: object) -> object:
    return redis_nodes.nodes(value, redis_nodes.CLUSTER_PORT)


SentinelNodes = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_sentinels)]
SeedNodes = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_seeds)]
