"""Settings of the connection and of workers: the only place that reads the environment.

```python
RedisSettings()  # REDIS_URL, BULLPY_REDIS_URL, BULLPY_REDIS_*
RedisSettings.from_url("rediss://u:p@host/1")
WorkerSettings(concurrency=4)  # the rest from BULLPY_CONCURRENCY and so on
```

An argument wins over `BULLPY_*`, that over the URL, that over the default, field by field. An
address that an argument gives (host, unix_socket or URL) is never mixed with the environment's
URL, so that no password travels to a host it was not meant for.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from typing_extensions import override

from bullpy import errors, limits, redis_url, types

_log = logging.getLogger("bullpy.settings")

URL_VARIABLES = ("BULLPY_REDIS_URL", "REDIS_URL")
"""The variables that may hold the URL; the first that is not empty wins."""


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is expected, not true or false")  # noqa: TRY004 - for pydantic
    return value


def _whole_text(value: object) -> object:
    return int(value) if isinstance(value, str) and value.strip().isdigit() else value


def _bytes_of(value: object) -> object:
    return limits.byte_count(value) if isinstance(value, str) else value


def _names(value: object) -> object:
    if isinstance(value, str):
        return tuple(name for part in value.split(",") if (name := part.strip()))
    return value


Seconds = Annotated[float, BeforeValidator(_not_bool), Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_not_bool)]
ByteCount = Annotated[int, BeforeValidator(_not_bool), BeforeValidator(_bytes_of)]
ModuleNames = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]
KeepSetting = Annotated[types.KeepJobs | None, NoDecode, BeforeValidator(types.KeepJobs.of)]
LimiterSetting = Annotated[types.RateLimit | None, NoDecode, BeforeValidator(types.RateLimit.of)]


class _Settings(BaseSettings):
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


class RedisSettings(_Settings):
    """Where Redis is, and how patient to be with it. Frozen, hashable, masks its password.

    Attributes:
        host: Name or address; empty when `unix_socket` is used.
        port: TCP port.
        db: Number of the logical database.
        username: ACL user; None is the server's default user.
        password: Password, shown as `***`.
        unix_socket: Path of a unix socket, in place of host and port.
        tls: Speak TLS.
        tls_ca_file: PEM file of the authorities to trust; None trusts the system's.
        tls_cert_file: PEM file of the client's certificate.
        tls_key_file: PEM file of the client's key.
        tls_verify: Check the server's certificate and name.
        family: 4 or 6 for IPv4 or IPv6 alone, 0 for any.
        connect_timeout: Seconds for a connection to be made.
        command_timeout: Seconds for a command's reply; blocking waits have their own.
        keepalive: Seconds of silence before TCP keepalive probes.
        retry_min: Seconds before the second attempt to reconnect; the first is at once.
        retry_max: Seconds that the doubling pause between attempts grows to.
    """

    model_config = SettingsConfigDict(
        env_prefix="BULLPY_REDIS_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    host: str = ""
    port: Annotated[Count, Field(ge=1, le=65535)] = redis_url.DEFAULT_PORT
    db: Annotated[Count, Field(ge=0)] = 0
    username: str | None = None
    password: SecretStr | None = None
    unix_socket: str | None = None
    tls: bool = False
    tls_ca_file: str | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_verify: bool = True
    family: Annotated[Literal[0, 4, 6], BeforeValidator(_whole_text)] = 0
    connect_timeout: Seconds = 45.0
    command_timeout: Seconds = 15.0
    keepalive: Seconds = 120.0
    retry_min: Seconds = 0.05
    retry_max: Seconds = 1.0

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The settings that a URL describes; see `bullpy.redis_url` for what is understood.

        The address is the URL's alone; what a URL seldom says (timeouts, TLS files) comes from
        BULLPY_REDIS_* where it is set.

        Raises:
            ConfigurationError: The URL is empty or wrong.
        """
        given: dict[str, Any] = _NO_ADDRESS | redis_url.parse(url).values()
        return cls(**given)

    @classmethod
    def of(cls, value: RedisSettings | str | Mapping[str, object] | None) -> RedisSettings:
        """Settings from whatever the caller has.

        Args:
            value: Settings (returned as they are), a URL, None (the environment), or a mapping in
                the spelling of bullpy, ioredis (`connectTimeout` in ms) or redis-py
                (`socket_timeout` in seconds). Keys that are unknown are logged and ignored.

        Raises:
            ConfigurationError: A value is wrong, or nothing says where Redis is.
        """
        if value is None:
            return cls()
        if isinstance(value, RedisSettings):
            return value
        if isinstance(value, str):
            return cls.from_url(value)
        given = redis_url.connection_from(value)
        has_url = given.pop(redis_url.HAS_URL, False)
        return cls(**(_NO_ADDRESS | given if has_url else given))

    @property
    def masked_url(self) -> str:
        """The address as a URL, with `***` for the password."""
        return redis_url.build(
            host=self.host,
            port=self.port,
            db=self.db,
            username=self.username,
            password=None if self.password is None else "***",
            unix_socket=self.unix_socket,
            tls=self.tls,
        )

    @property
    def is_local(self) -> bool:
        """True for a unix socket, `localhost` and loopback addresses."""
        if self.unix_socket is not None or self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if not self.host and self.unix_socket is None:
            raise _nothing_given()
        if self.host and self.unix_socket is not None:
            raise errors.ConfigurationError(
                "Both host and unix_socket are given.", fix="Give one of them."
            )
        if self.retry_max < self.retry_min:
            raise errors.ConfigurationError(
                f"retry_max ({self.retry_max} s) is below retry_min ({self.retry_min} s).",
                fix="Set BULLPY_REDIS_RETRY_MAX at least as high as BULLPY_REDIS_RETRY_MIN.",
            )
        return self

    @override
    def __repr__(self) -> str:
        return f"RedisSettings({self.masked_url!r})"

    @override
    def __str__(self) -> str:
        return repr(self)

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _AddressEnv(settings_cls), _UrlSource(settings_cls)


class WorkerSettings(_Settings):
    """How a worker behaves. Durations in seconds. Every field: `BULLPY_` and its name.

    Attributes:
        concurrency: Jobs that run at a time.
        prefix: Prefix of all keys of the queue.
        name: The worker's name in Redis; None makes one of host and process id.
        lock_duration: How long a job's lock lasts without renewal.
        lock_renew_time: Pause between renewals; None is half of `lock_duration`.
        stalled_interval: Pause between checks for jobs whose lock expired.
        max_stalled_count: How often a job may stall before it fails.
        drain_delay: Longest blocking wait for a job when the queue is empty.
        shutdown_timeout: How long running jobs may take to end when the worker stops.
        limiter: At most `max` jobs per `duration`; from the environment as `max/seconds`.
        maximum_rate_limit_delay: Longest wait at a time while the queue is rate limited.
        max_started_attempts: How often a job may start before it fails; None sets no limit.
        remove_on_complete: Which completed jobs stay; None leaves it to the job.
        remove_on_fail: Which failed jobs stay; None leaves it to the job.
        result_limit: Largest result in bytes of JSON; None sets no limit.
        error_limit: Characters of an error's text that are stored.
        stack_limit: Characters of a stack trace that are stored.
        isolation: Where processors run that do not say it themselves: `process`, `thread` or
            `loop`; None runs `def` in child processes and `async def` on the loop.
        preload: Modules that are imported once, in a process that children are forked from;
            from the environment separated by commas. Empty starts each child afresh.
        max_jobs_per_child: How many jobs a child process runs before it is exchanged; None
            sets no limit.
        max_rss_per_child: Bytes of memory above which a child is exchanged after its job, or
            text such as `512MB`; None sets no limit.
        max_crashes: How often a job may crash its child process before it fails without
            further retries.
        stop_grace: How long a processor may take to end after it was asked to, before its child
            process is killed.
        child_start_timeout: How long a child process may take to import its processors.
    """

    model_config = SettingsConfigDict(
        env_prefix="BULLPY_", env_ignore_empty=True, frozen=True, extra="forbid"
    )

    concurrency: Annotated[Count, Field(ge=1)] = 1
    prefix: Annotated[str, Field(min_length=1)] = "bull"
    name: str | None = None
    lock_duration: Seconds = 30.0
    lock_renew_time: Seconds | None = None
    stalled_interval: Seconds = 30.0
    max_stalled_count: Annotated[Count, Field(ge=0)] = 3
    drain_delay: Seconds = 5.0
    shutdown_timeout: Annotated[
        float, BeforeValidator(_not_bool), Field(ge=0, allow_inf_nan=False)
    ] = 25.0
    limiter: LimiterSetting = None
    maximum_rate_limit_delay: Seconds = 30.0
    max_started_attempts: Annotated[Count, Field(ge=0)] | None = None
    remove_on_complete: KeepSetting = None
    remove_on_fail: KeepSetting = None
    result_limit: Annotated[Count, Field(ge=1)] | None = None
    error_limit: Annotated[Count, Field(ge=256)] = 16384
    stack_limit: Annotated[Count, Field(ge=256)] = 32768
    isolation: types.Isolation | None = None
    preload: ModuleNames = ()
    max_jobs_per_child: Annotated[Count, Field(ge=1)] | None = None
    max_rss_per_child: Annotated[ByteCount, Field(ge=1)] | None = None
    max_crashes: Annotated[Count, Field(ge=1)] = 2
    stop_grace: Seconds = 5.0
    child_start_timeout: Seconds = 60.0

    @classmethod
    def from_wire(cls, opts: Mapping[str, object]) -> Self:
        """Settings from BullMQ's worker options (camelCase, mostly milliseconds).

        What an option does not say comes from the environment, then from bullpy's defaults.
        Options that are unknown, or that have no effect in BullMQ, are logged and ignored.

        Raises:
            ConfigurationError: A value that Node's Worker refuses too.
        """
        return cls(**_worker_from(opts))

    @property
    def renew_every(self) -> float:
        """Seconds between two renewals of the locks."""
        return self.lock_duration / 2 if self.lock_renew_time is None else self.lock_renew_time

    @model_validator(mode="after")
    def _renewal_in_time(self) -> Self:
        if self.renew_every >= self.lock_duration:
            raise errors.ConfigurationError(
                f"lock_renew_time ({self.renew_every} s) is not below lock_duration "
                f"({self.lock_duration} s).",
                cause="Every lock would expire before it is renewed.",
                fix="Leave lock_renew_time out: it is half of lock_duration then.",
            )
        return self

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings


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
        shown = "***" if name == "password" else redis_url.redact(repr(detail["input"]))[:80]
        parts.append(f"{name}={shown}: {what} (variable {prefix}{name.upper()})")
    return errors.ConfigurationError(
        f"{settings.__name__}: {'; '.join(dict.fromkeys(parts))}.",
        fix=f"The settings are {', '.join(sorted(settings.model_fields))}."
        if any("not a setting" in part for part in parts)
        else "Correct the value where it is set.",
    )


def _nothing_given() -> errors.ConfigurationError:
    for name in URL_VARIABLES:
        value = os.environ.get(name)
        if value is not None and not value.strip():
            return errors.ConfigurationError(
                f"{name} is set but empty.",
                cause="The variable or the secret it is filled from has no value.",
                fix="Give it a URL such as redis://user:password@host:6379/0.",
            )
    return errors.ConfigurationError(
        "Nothing says where Redis is.",
        cause="Neither REDIS_URL nor BULLPY_REDIS_URL nor BULLPY_REDIS_HOST is set.",
        fix="Set REDIS_URL, for example redis://user:password@host:6379/0, or pass redis=.",
    )


_NO_ADDRESS: dict[str, Any] = {
    "host": "",
    "port": redis_url.DEFAULT_PORT,
    "db": 0,
    "username": None,
    "password": None,
    "unix_socket": None,
    "tls": False,
}
"""An address that says nothing, as arguments: what a URL leaves out, the environment must not
fill."""


def _address_given(state: Mapping[str, object]) -> bool:
    return bool(state.get("host") or state.get("unix_socket"))


class _AddressEnv(EnvSettingsSource):
    """BULLPY_REDIS_*, without a second address when an argument gave one."""

    @override
    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        if _address_given(self.current_state):
            values.pop("host", None)
            values.pop("unix_socket", None)
        return values


class _UrlSource(PydanticBaseSettingsSource):
    """BULLPY_REDIS_URL or REDIS_URL."""

    @override
    def get_field_value(self, field: object, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    @override
    def __call__(self) -> dict[str, Any]:
        if _address_given(self.settings_sources_data.get("InitSettingsSource", {})):
            return {}
        for name in URL_VARIABLES:
            url = os.environ.get(name, "")
            if url.strip():
                return self._values(redis_url.parse(url, source=name))
        return {}

    def _values(self, url: redis_url.Url) -> dict[str, Any]:
        values = url.values()
        if _address_given(self.current_state):
            values.pop("unix_socket", None)
        if self.current_state.get("unix_socket"):
            for name in ("host", "port", "tls"):
                values.pop(name, None)
        return values


def _worker_from(opts: Mapping[str, object]) -> dict[str, Any]:
    """Arguments of WorkerSettings from BullMQ's worker options (camelCase, ms).

    The rules are those of the constructor of Node's Worker (bullmq 6.7, classes/worker.js).

    Raises:
        ConfigurationError: A value has the wrong type or is out of range.
    """
    result: dict[str, Any] = {}
    unknown: list[str] = []
    for key, value in opts.items():
        if value is None:
            continue
        reader = _WIRE.get(key)
        if reader is not None:
            result[reader[0]] = reader[1](key, value)
        elif key == "settings" and isinstance(value, Mapping):
            nested = cast("Mapping[object, object]", value)
            unknown += [f"settings.{name}" for name in nested if str(name) in _WIRE]
        elif key not in _NO_EFFECT_WORKER:
            unknown.append(key)
    if unknown:
        _log.warning("Unknown worker options ignored: %s", ", ".join(sorted(unknown)))
    return result


def _strict(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise errors.ConfigurationError(f"{key} is {value!r}.", fix="Give a number.")
    return value


def _above_zero(key: str, value: object) -> float:
    number = _strict(key, value)
    if number <= 0:
        raise errors.ConfigurationError(f"{key} must be greater than 0, it is {value!r}.")
    return number


def _at_least_zero(key: str, value: object) -> float:
    number = _strict(key, value)
    if number < 0:
        raise errors.ConfigurationError(
            f"{key} must be greater than or equal to 0, it is {value!r}."
        )
    return number


def _ms_above_zero(key: str, value: object) -> float:
    return _above_zero(key, value) / 1000


def _ms_or_default(key: str, value: object) -> float | None:
    """Node: `opts.lockRenewTime || opts.lockDuration / 2`."""
    return _strict(key, value) / 1000 or None


def _text(key: str, value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)


def _limiter(key: str, value: object) -> types.RateLimit | None:
    if isinstance(value, Mapping):
        wire = cast("Mapping[str, object]", value)
        if "max" in wire and "duration" in wire:
            return types.RateLimit.of(
                (wire["max"], _ms_above_zero("limiter.duration", wire["duration"]))
            )
    raise errors.ConfigurationError(
        f"limiter is {value!r}.", fix='Give {"max": jobs, "duration": milliseconds}.'
    )


def _keep(key: str, value: object) -> types.KeepJobs | None:
    return types.KeepJobs.of(value)


_WIRE: dict[str, tuple[str, Callable[[str, object], object]]] = {
    "concurrency": ("concurrency", _above_zero),
    "prefix": ("prefix", _text),
    "name": ("name", _text),
    "lockDuration": ("lock_duration", _ms_above_zero),
    "lockRenewTime": ("lock_renew_time", _ms_or_default),
    "stalledInterval": ("stalled_interval", _ms_above_zero),
    "maxStalledCount": ("max_stalled_count", _at_least_zero),
    "drainDelay": ("drain_delay", _above_zero),
    "limiter": ("limiter", _limiter),
    "maximumRateLimitDelay": ("maximum_rate_limit_delay", _ms_above_zero),
    "maxStartedAttempts": ("max_started_attempts", _at_least_zero),
    "removeOnComplete": ("remove_on_complete", _keep),
    "removeOnFail": ("remove_on_fail", _keep),
}

_NO_EFFECT_WORKER = frozenset(
    """
    autorun backend backendFactory blockingConnection connection metrics runRetryDelay settings
    skipLockRenewal skipMetasUpdate skipStalledCheck skipVersionCheck skipWaitingForReady
    telemetry useWorkerThreads workerForkOptions workerThreadsOptions
    """.split()  # noqa: SIM905 - a list of words reads better so
)
"""Options that the worker reads itself, or that only Node has a use for."""
