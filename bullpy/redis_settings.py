"""Settings of the connection: where Redis is, and how patient to be with it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from typing_extensions import override

from bullpy import errors, redis_nodes, redis_options, redis_url
from bullpy.setting_types import (
    Count,
    Seconds,
    SeedNodes,
    SentinelNodes,
    Settings,
    whole_text,
)

URL_VARIABLES = ("BULLPY_REDIS_URL", "REDIS_URL")
"""The variables that may hold the URL; the first that is not empty wins."""


class RedisSettings(Settings):
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
        sentinels: `host:port` of each sentinel, in place of host and port: they are asked for the
            primary at each connect. Given as a list, or as text with commas.
        sentinel_name: What the sentinels call the primary, such as `mymaster`.
        sentinel_username: ACL user for the sentinels themselves.
        sentinel_password: Password for the sentinels themselves, shown as `***`.
        cluster: `host:port` of some nodes of a cluster, of which one that answers is enough. True
            makes `host` and `port` such a node, and other nodes may stand beside them.
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
    family: Annotated[Literal[0, 4, 6], BeforeValidator(whole_text)] = 0
    connect_timeout: Seconds = 45.0
    command_timeout: Seconds = 15.0
    keepalive: Seconds = 120.0
    retry_min: Seconds = 0.05
    retry_max: Seconds = 1.0
    sentinels: SentinelNodes = ()
    sentinel_name: str | None = None
    sentinel_username: str | None = None
    sentinel_password: SecretStr | None = None
    cluster: SeedNodes = ()

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
        given = redis_options.connection_from(value)
        has_url = given.pop(redis_options.HAS_URL, False)
        return cls(**(_NO_ADDRESS | given if has_url else given))

    @property
    def masked_url(self) -> str:
        """The address as a URL, with `***` for the password.

        A user without password is most likely one: `redis://secret@host` lacks a colon.
        """
        return redis_url.build(
            host=self.host,
            port=self.port,
            db=self.db,
            username="***" if self.username and self.password is None else self.username,
            password=None if self.password is None else "***",
            unix_socket=self.unix_socket,
            tls=self.tls,
            sentinels=self.sentinels,
            sentinel_name=self.sentinel_name,
            cluster=self.cluster,
        )

    @property
    def is_local(self) -> bool:
        """True for a unix socket, `localhost` and loopback addresses."""
        if self.unix_socket is not None:
            return True
        several = [redis_nodes.split(node)[0] for node in (*self.sentinels, *self.cluster)]
        return all(_is_loopback(host) for host in several or [self.host])

    @model_validator(mode="before")
    @classmethod
    def _host_is_a_seed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Make `host` and `port` one of the cluster's nodes, so that equal settings are equal."""
        cluster = given.get("cluster")
        if not _is_flag(cluster):
            more: object = cluster or ()
        elif str(cluster).lower() in _NO:
            return given | {"cluster": ()}
        elif given.get("host"):
            more = ()
        else:
            raise errors.ConfigurationError(
                "cluster is true, but nothing says where one of its nodes is.",
                fix="Give host and port, or a list: cluster=['host1:6379', 'host2:6379'].",
            )
        if not given.get("host") or not (more or _is_flag(cluster)):
            return given
        try:
            first = (given["host"], given.get("port", redis_url.DEFAULT_PORT))
            seeds = (
                *redis_nodes.nodes([first], redis_nodes.CLUSTER_PORT),
                *redis_nodes.nodes(more, redis_nodes.CLUSTER_PORT),
            )
        except errors.ConfigurationError:
            return given  # the field's own check says it better
        return given | {"cluster": seeds, "host": "", "port": redis_url.DEFAULT_PORT}

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        given = {
            "host": bool(self.host),
            "unix_socket": self.unix_socket is not None,
            "sentinels": bool(self.sentinels),
            "cluster": bool(self.cluster),
        }
        names = [name for name, is_given in given.items() if is_given]
        if not names:
            raise _nothing_given()
        if len(names) > 1:
            raise errors.ConfigurationError(
                f"Both {names[0]} and {names[1]} are given.", fix="Give one of them."
            )
        self._check_sentinels()
        if self.cluster and self.db:
            raise errors.ConfigurationError(
                f"The database is {self.db}, and a cluster has database 0 alone.",
                fix="Leave db out; keep queues apart by name or prefix.",
            )
        if self.retry_max < self.retry_min:
            raise errors.ConfigurationError(
                f"retry_max ({self.retry_max} s) is below retry_min ({self.retry_min} s).",
                fix="Set BULLPY_REDIS_RETRY_MAX at least as high as BULLPY_REDIS_RETRY_MIN.",
            )
        return self

    def _check_sentinels(self) -> None:
        if self.sentinels and not self.sentinel_name:
            raise errors.ConfigurationError(
                "sentinels are given without sentinel_name.",
                cause="Sentinels watch several primaries, each under a name.",
                fix="Set sentinel_name (BULLPY_REDIS_SENTINEL_NAME), often mymaster.",
            )
        about = (self.sentinel_name, self.sentinel_username, self.sentinel_password)
        if not self.sentinels and any(value is not None for value in about):
            raise errors.ConfigurationError(
                "A sentinel_... setting is given without sentinels.",
                fix="Set sentinels (BULLPY_REDIS_SENTINELS=host1:26379,host2:26379), or remove it.",
            )

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
    "sentinels": (),
    "sentinel_name": None,
    "sentinel_username": None,
    "sentinel_password": None,
    "cluster": (),
}
"""An address that says nothing, as arguments: what a URL leaves out, the environment must not
fill."""


_SENTINEL = ("sentinels", "sentinel_name", "sentinel_username", "sentinel_password")

_NO = ("", "0", "false", "no", "off")
_YES = ("1", "true", "yes", "on")


def _is_flag(cluster: object) -> bool:
    """Whether `cluster` says yes or no, and names no nodes."""
    return isinstance(cluster, bool) or (
        isinstance(cluster, str) and cluster.strip().lower() in (*_NO, *_YES)
    )


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address_given(state: Mapping[str, object]) -> bool:
    cluster = state.get("cluster")
    nodes = cluster if not _is_flag(cluster) else None
    return bool(state.get("host") or state.get("unix_socket") or state.get("sentinels") or nodes)


class _AddressEnv(EnvSettingsSource):
    """BULLPY_REDIS_*, without a second address when an argument gave one."""

    @override
    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        if _address_given(self.current_state):
            for name in ("host", "unix_socket", "cluster", *_SENTINEL):
                values.pop(name, None)
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
        state = self.current_state
        drop: set[str] = set()
        if _address_given(state):
            drop |= {"unix_socket", "cluster", *_SENTINEL}
        if state.get("unix_socket"):
            drop |= {"host", "port", "tls"}
        if state.get("sentinels"):
            drop |= {"host", "port"}
        return {name: value for name, value in values.items() if name not in drop}
