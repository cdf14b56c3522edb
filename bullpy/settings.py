"""Settings of the connection and of workers; they alone read the environment.

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

import logging
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self, cast

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from typing_extensions import override

from bullpy import errors, types
from bullpy.redis_settings import RedisSettings
from bullpy.setting_types import ByteCount, Count, ModuleNames, Pause, Seconds, Settings, not_bool

__all__ = ["RedisSettings", "WorkerSettings"]

_log = logging.getLogger("bullpy.settings")


KeepSetting = Annotated[types.KeepJobs | None, NoDecode, BeforeValidator(types.KeepJobs.of)]
LimiterSetting = Annotated[types.RateLimit | None, NoDecode, BeforeValidator(types.RateLimit.of)]


class WorkerSettings(Settings):
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
        result_limit: Largest result, in bytes of JSON or text such as `16MB`: a job with a larger
            one fails without further attempts; 0 sets no limit.
        result_warning: Size of a result from which the log advises to store it elsewhere; 0 never
            does.
        events_limit: What the queue's event stream may hold, in bytes or text such as `64MB`,
            before its oldest events are dropped; 0 sets no limit.
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
        loop_warning: How long the event loop may be blocked until the log says by what; 0 never
            says it.
        heartbeat: Pause between two records of itself that a worker leaves in Redis, for
            `bullpy ps` and `bullpy doctor`; 0 leaves none.
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
        float, BeforeValidator(not_bool), Field(ge=0, allow_inf_nan=False)
    ] = 25.0
    limiter: LimiterSetting = None
    maximum_rate_limit_delay: Seconds = 30.0
    max_started_attempts: Annotated[Count, Field(ge=0)] | None = None
    remove_on_complete: KeepSetting = None
    remove_on_fail: KeepSetting = None
    result_limit: Annotated[ByteCount, Field(ge=0)] = 16_000_000
    result_warning: Annotated[ByteCount, Field(ge=0)] = 1_000_000
    events_limit: Annotated[ByteCount, Field(ge=0)] = 64_000_000
    error_limit: Annotated[Count, Field(ge=256)] = 16384
    stack_limit: Annotated[Count, Field(ge=256)] = 32768
    isolation: types.Isolation | None = None
    preload: ModuleNames = ()
    max_jobs_per_child: Annotated[Count, Field(ge=1)] | None = None
    max_rss_per_child: Annotated[ByteCount, Field(ge=1)] | None = None
    max_crashes: Annotated[Count, Field(ge=1)] = 2
    stop_grace: Seconds = 5.0
    child_start_timeout: Seconds = 60.0
    loop_warning: Annotated[float, BeforeValidator(not_bool), Field(ge=0, allow_inf_nan=False)] = (
        1.0
    )
    heartbeat: Pause = 15.0

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
