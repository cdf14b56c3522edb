"""Where the files of a project say Redis is, and whether they agree; values are never shown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from bullpy import errors, redis_url
from bullpy.doctor.checks.urls import LOCALHOST, is_local, judge_url
from bullpy.doctor.project import causes
from bullpy.doctor.project.project import Project, Variable
from bullpy.doctor.verdicts import Proof, Verdict

URL_NAMES = ("BULLPY_REDIS_URL", "REDIS_URL", "REDIS_URI")
"""Variables that hold the URL of the Redis of the queues."""

_SINGLE = {
    "HOST": "host",
    "PORT": "port",
    "DB": "db",
    "USERNAME": "user",
    "USER": "user",
    "PASSWORD": "password",
    "TLS": "tls",
}
_PREFIX_NAMES = ("BULLPY_PREFIX", "QUEUE_PREFIX", "BULLMQ_PREFIX", "BULL_PREFIX")
_READS = re.compile(r"process\.env\.REDIS_URL\b|environ.{1,12}[\"']REDIS_URL[\"']")
_DEVELOPMENT = ("development", "test", "local")
_PARTS = ("host", "port", "db", "user", "password", "tls")
_MOST_PROOFS = 6


class Address(NamedTuple):
    """An address of Redis, and the variable that gives it.

    Attributes:
        variable: What gives it; for several variables the host's.
        host: Host, socket, sentinels or nodes; the machine itself is always `localhost`.
        port: Port.
        db: Database.
        user: Empty for `default`.
        password: The password. Never shown, nor part of the number.
        tls: `yes` or empty.
    """

    variable: Variable
    host: str
    port: str
    db: str
    user: str
    password: str
    tls: str

    @property
    def number(self) -> str:
        """8 hex digits that are equal for equal addresses, in other folders too."""
        # Without the password: a digest of it would let somebody try passwords.
        text = "|".join((self.host, self.port, self.db, self.user, self.tls))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def parts(self) -> tuple[str, ...]:
        """All that makes two addresses different."""
        return (self.host, self.port, self.db, self.user, self.password, self.tls)

    def __repr__(self) -> str:
        """Without values."""
        return f"Address({self.number}, {self.variable.at})"


def check(project: Project) -> Iterator[Verdict]:
    """All that the variables tell."""
    given = [each for each in project.variables if each.name in URL_NAMES]
    for variable in given:
        yield from _check_text(project, variable)
    addresses = list(_addresses(project))
    groups: dict[str, list[Address]] = {}
    for address in addresses:
        groups.setdefault(_group(address.variable), []).append(address)
    for environment, group in groups.items():
        yield from _check_agreement(environment, group)
    yield from _check_missing(project, addresses)
    yield from _check_shared(project, addresses)


def _group(variable: Variable) -> str:
    """Variables of one group are meant to agree; each compose file is one of its own."""
    inside = variable.environment.startswith("compose")
    return f"{variable.path}" if inside else variable.environment


def _check_text(project: Project, variable: Variable) -> Iterator[Verdict]:
    if not variable.value.strip():
        yield LOCALHOST.verdict(
            f"{variable.name} is set, and empty: a client that is given it connects to its own "
            "machine.",
            Proof(variable.at, f"{variable.name} is empty"),
        )
    elif not _is_open(variable.value):
        yield from judge_url(
            variable.value, f"{variable.at} {variable.name}", redis_py=project.uses_redis_py
        )


def _is_open(value: str) -> bool:
    """Whether a value is put together elsewhere, or stands for one."""
    return "$" in value or "{{" in value or "<" in value


def _addresses(project: Project) -> Iterator[Address]:
    """One address for each variable with a URL, or for a host where a service has no URL."""
    services: dict[tuple[str, str, str], dict[str, Variable]] = {}
    for variable in project.variables:
        key = (variable.path, variable.service, variable.environment)
        services.setdefault(key, {})[variable.name] = variable
    for given in services.values():
        urls = [given[name] for name in URL_NAMES if name in given]
        for variable in urls:
            found = _of_url(project, variable)
            if found is not None:
                yield found
        if not urls:
            for head in ("BULLPY_REDIS_", "REDIS_"):
                found = _of_host(given, head)
                if found is not None:
                    yield found
                    break


def _of_url(project: Project, variable: Variable) -> Address | None:
    value = variable.value.strip()
    if not value or _is_open(value):
        return None
    bare, _, query = value.partition("?")
    try:
        # The options are read below: `parse` logs those that it does not know.
        said = redis_url.parse(bare, source=variable.name)
    except errors.ConfigurationError:
        line = variable.at.rpartition(":")[2]
        project.folder.skip(variable.path, f"{variable.name} on line {line} is no valid URL")
        return None
    options = dict(re.findall(r"(db|tls|ssl)=([^&#]*)", query))
    cluster = said.cluster if isinstance(said.cluster, tuple) else ()
    several = [*(said.sentinels or ()), *cluster, said.sentinel_name or ""]
    host = said.host or said.unix_socket or ",".join(several)
    db = str(said.db) if said.db is not None else options.get("db") or "0"
    tls = said.tls or "tls" in options or "ssl" in options
    return _address(
        variable,
        host,
        str(said.port or ""),
        db,
        said.username or "",
        said.password or "",
        "yes" if tls else "",
    )


def _of_host(given: Mapping[str, Variable], head: str) -> Address | None:
    """`REDIS_HOST`, `REDIS_PORT` and so on of one service."""
    host = given.get(f"{head}HOST")
    if host is None:
        return None
    values = {
        field: given[head + name].value.strip()
        for name, field in _SINGLE.items()
        if head + name in given
    }
    if not values["host"] or any(_is_open(value) for value in values.values()):
        return None
    tls = values.get("tls", "").lower() in ("1", "true", "yes", "on")
    return _address(
        host,
        values["host"],
        values.get("port", ""),
        values.get("db") or "0",
        values.get("user", ""),
        values.get("password", ""),
        "yes" if tls else "",
    )


def _address(
    variable: Variable, host: str, port: str, db: str, user: str, password: str, tls: str
) -> Address:
    host = "localhost" if is_local(host) else host.lower().rstrip(".")
    user = "" if user == "default" else user
    return Address(variable, host, port or "6379", db.lstrip("0") or "0", user, password, tls)


def _check_agreement(environment: str, group: list[Address]) -> Iterator[Verdict]:
    first: dict[tuple[str, ...], Address] = {}
    for address in group:
        first.setdefault(address.parts, address)
    if len(first) < 2:
        return
    one, *others = first.values()
    parts = [
        name
        for index, name in enumerate(_PARTS)
        if any(other.parts[index] != one.parts[index] for other in others)
    ]
    where = f" for {environment}" if environment else ""
    yield causes.URLS_DIFFER.verdict(
        f"{len(first)} different addresses of Redis are given{where}; they differ in "
        f"{', '.join(parts)}.",
        *_numbered(first.values()),
    )


def _numbered(addresses: Iterable[Address]) -> list[Proof]:
    """A number for each address; where only passwords differ they are counted."""
    passwords: dict[str, list[str]] = {}
    proofs: list[Proof] = []
    for address in addresses:
        known = passwords.setdefault(address.number, [])
        if address.password not in known:
            known.append(address.password)
        which = known.index(address.password)
        again = f", with another secret ({which + 1})" if which else ""
        name = address.variable.name
        proofs.append(Proof(address.variable.at, f"{name} {address.number}{again}"))
    return proofs[:_MOST_PROOFS]


def _check_missing(project: Project, addresses: list[Address]) -> Iterator[Verdict]:
    """A part whose env file lacks what its code reads, and what those of its neighbours have."""
    having = {(each.variable.service, each.variable.environment) for each in addresses}
    having |= {(each.service, each.environment) for each in project.variables if _is_address(each)}
    files = {(each.service, each.environment): each for each in project.variables}
    for (folder, environment), variable in files.items():
        beside = [each for each, kind in having if kind == environment]
        if not folder or variable.environment.startswith("compose") or not beside:
            continue
        # A file in a folder above may be read by those below.
        above = any(folder == each or folder.startswith(f"{each}/") or not each for each in beside)
        if above or (folder, environment) in having or variable.path not in project.folder.read:
            continue
        reader = _reader(project, folder)
        if reader is not None and variable.path.startswith(f"{folder}/"):
            yield causes.URL_MISSING.verdict(
                f"{variable.path} does not say where Redis is, and the code beside it asks for it.",
                Proof(variable.path, "no REDIS_URL"),
                Proof(*reader),
            )


def _is_address(variable: Variable) -> bool:
    return variable.name in URL_NAMES or variable.name in ("REDIS_HOST", "BULLPY_REDIS_HOST")


def _reader(project: Project, folder: str) -> tuple[str, str] | None:
    for path, file in project.folder.read.items():
        if file.is_code and path.startswith(f"{folder}/"):
            found = re.search(
                r"process\.env\.(REDIS_URL)\b|environ.{1,12}[\"'](REDIS_URL)[\"']", file.text
            )
            if found is not None:
                line = file.text.count("\n", 0, found.start()) + 1
                return f"{path}:{line}", "REDIS_URL is read"
    return None


def _check_shared(project: Project, addresses: list[Address]) -> Iterator[Verdict]:
    if any(each.name in _PREFIX_NAMES for each in project.variables):
        return
    production = {
        each.parts: each
        for each in addresses
        if each.variable.environment == "production" and each.host != "localhost"
    }
    for each in addresses:
        other = production.get(each.parts)
        if other is not None and each.variable.environment in _DEVELOPMENT:
            yield causes.SHARED.verdict(
                f"{each.variable.environment} and production have the same Redis and database.",
                *(Proof(one.variable.at, one.number) for one in (each, other)),
            )
