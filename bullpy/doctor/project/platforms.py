"""Files of platforms: which commands they start, which variables they give, when they give up."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

from bullpy.doctor.project.files import Folder, TextFile, line_of, place
from bullpy.doctor.project.project import Command, Variable
from bullpy.doctor.project.yamlfiles import (
    Text,
    line_of_key,
    read_json,
    read_toml,
    read_yaml,
    table,
    tables,
)


class Policy(NamedTuple):
    """What a platform does with a process that ended, or that does not answer.

    Attributes:
        source: The platform.
        kind: `never`, `retries`, or `health` for a path that is asked at deployments.
        retries: After how many restarts it gives up.
        at: `file:line`.
    """

    source: str
    kind: str
    retries: int
    at: str


Found = Command | Variable | Policy

_PROCFILE = re.compile(r"^(?P<name>[A-Za-z0-9_-]+):[ \t]*(?P<command>\S[^\n]*)$", re.MULTILINE)
_DOCKER = re.compile(r"^[ \t]*(?:CMD|ENTRYPOINT)[ \t]+(?P<rest>(?:\\\n|[^\n])+)", re.M | re.I)


def read_platforms(folder: Folder) -> Iterator[Found]:
    """What every file of a platform says."""
    for file in list(folder.read.values()):
        for pattern, reader in _READERS:
            if re.fullmatch(pattern, file.name):
                yield from reader(folder, file)
                break


def _procfile(_: Folder, file: TextFile) -> Iterator[Found]:
    for found in _PROCFILE.finditer(file.text):
        at = place(file.path, line_of(file.text, found.start()))
        yield Command(found["command"].strip(), "Procfile", found["name"], at, file.folder)


def _railway(folder: Folder, file: TextFile) -> Iterator[Found]:
    deploy = table(_config(folder, file), "deploy")

    def at(key: str) -> str:
        return place(file.path, line_of_key(file, key))

    start = deploy.get("startCommand")
    if isinstance(start, str) and start.strip():
        yield Command(start, "Railway", "", at("startCommand"), file.folder)
    kind = str(deploy.get("restartPolicyType", "ON_FAILURE")).upper()
    retries = deploy.get("restartPolicyMaxRetries")
    if kind == "NEVER":
        yield Policy("Railway", "never", 0, at("restartPolicyType"))
    elif kind == "ON_FAILURE" and type(retries) is int:
        yield Policy("Railway", "retries", retries, at("restartPolicyMaxRetries"))
    if deploy.get("healthcheckPath"):
        yield Policy("Railway", "health", 0, at("healthcheckPath"))


def _nixpacks(folder: Folder, file: TextFile) -> Iterator[Found]:
    start = table(_config(folder, file), "start").get("cmd")
    if isinstance(start, str) and start.strip():
        at = place(file.path, line_of_key(file, "cmd"))
        yield Command(start, "Nixpacks", "", at, file.folder)


def _railpack(folder: Folder, file: TextFile) -> Iterator[Found]:
    start = table(_config(folder, file), "deploy").get("startCommand")
    if isinstance(start, str) and start.strip():
        at = place(file.path, line_of_key(file, "startCommand"))
        yield Command(start, "Railpack", "", at, file.folder)


def _fly(folder: Folder, file: TextFile) -> Iterator[Found]:
    config = read_toml(folder, file)
    for name, command in table(config, "processes").items():
        if isinstance(command, str):
            at = place(file.path, line_of_key(file, name))
            yield Command(command, "Fly", name, at, file.folder)
    for name, value in table(config, "env").items():
        at = place(file.path, line_of_key(file, name))
        yield Variable(name, str(value), at, file.path, file.folder, "production")
    for restart in tables(config, "restart"):
        policy, retries = str(restart.get("policy", "")), restart.get("retries")
        at = place(file.path, line_of_key(file, "policy"))
        if policy == "never":
            yield Policy("Fly", "never", 0, at)
        elif policy == "on-failure" and type(retries) is int:
            yield Policy("Fly", "retries", retries, at)


def _render(folder: Folder, file: TextFile) -> Iterator[Found]:
    for service in tables(read_yaml(folder, file), "services"):
        name = _text(service.get("name"))
        root = _text(service.get("rootDir")).strip("./")
        inner = "/".join(part for part in (file.folder, root) if part)
        for key in ("startCommand", "dockerCommand"):
            command = service.get(key)
            if isinstance(command, Text) and command.strip():
                yield Command(command, "Render", name, place(file.path, command.line), inner)
        for each in tables(service, "envVars"):
            key, value = each.get("key"), each.get("value")
            if isinstance(key, Text) and isinstance(value, Text):
                at = place(file.path, key.line)
                yield Variable(str(key), str(value), at, file.path, name, "production")


def _compose(folder: Folder, file: TextFile) -> Iterator[Found]:
    environment = re.sub(r"^(?:docker-)?compose|\.ya?ml$", "", file.name).strip("._-")
    for name, service in table(read_yaml(folder, file), "services").items():
        if not isinstance(service, dict):
            continue
        config = cast("dict[str, Any]", service)
        yield from _compose_command(file, name, config)
        for key, value, line in _environment(config.get("environment")):
            at = place(file.path, line)
            yield Variable(key, value, at, file.path, str(name), f"compose {environment}".strip())
        policy = config.get("restart")
        found = re.fullmatch(r"on-failure:(\d{1,6})", _text(policy))
        if found and isinstance(policy, Text):
            yield Policy("Compose", "retries", int(found[1]), place(file.path, policy.line))


def _compose_command(file: TextFile, name: str, service: dict[str, Any]) -> Iterator[Found]:
    """What a service that is built here is started with; "" where its image tells."""
    if "build" not in service:
        return
    build = service["build"]
    where = build if isinstance(build, Text) else table(build).get("context")
    inner = "/".join(part for part in (file.folder, _text(where).strip("./")) if part)
    command = service.get("command")
    line = getattr(name, "line", 1)
    if isinstance(command, list):
        parts = [each for each in cast("list[Any]", command) if isinstance(each, Text)]
        line = parts[0].line if parts else line
        command = Text(shlex.join(parts), line)
    text = command if isinstance(command, Text) else Text("", line)
    yield Command(str(text), "Compose", name, place(file.path, text.line), inner)


def _environment(value: object) -> Iterator[tuple[str, str, int]]:
    if isinstance(value, dict):
        for key, each in cast("dict[Any, Any]", value).items():
            if isinstance(each, Text):
                yield str(key), str(each), getattr(key, "line", each.line)
    for each in cast("list[Any]", value) if isinstance(value, list) else []:
        name, equals, text = _text(each).partition("=")
        if equals and isinstance(each, Text):
            yield name.strip(), text, each.line


def _app_json(folder: Folder, file: TextFile) -> Iterator[Found]:
    for name, value in table(read_json(folder, file), "env").items():
        text = value if isinstance(value, str) else table(value).get("value")
        if isinstance(text, str):
            at = place(file.path, line_of_key(file, name))
            yield Variable(name, text, at, file.path, file.folder, "production")


def _dockerfile(_: Folder, file: TextFile) -> Iterator[Found]:
    found = list(_DOCKER.finditer(file.text))
    if not found:
        return
    last = found[-1]
    text = last["rest"].replace("\\\n", " ").strip()
    if text.startswith("["):
        try:
            text = shlex.join(str(part) for part in json.loads(text))
        except (ValueError, TypeError, RecursionError):
            return
    at = place(file.path, line_of(file.text, last.start()))
    yield Command(text, "Docker", "", at, file.folder)


def _package(folder: Folder, file: TextFile) -> Iterator[Found]:
    for name, command in table(read_json(folder, file), "scripts").items():
        if isinstance(command, str):
            at = place(file.path, line_of_key(file, name))
            yield Command(command, "package", name, at, file.folder)


def _config(folder: Folder, file: TextFile) -> dict[str, Any]:
    return read_toml(folder, file) if file.suffix == ".toml" else read_json(folder, file)


def _text(value: object) -> str:
    return str(value) if isinstance(value, str) else ""


_READERS: list[tuple[str, Callable[[Folder, TextFile], Iterator[Found]]]] = [
    (r"procfile", _procfile),
    (r"railway(?:[.-].*)?\.(?:json|toml)", _railway),
    (r"nixpacks\.(?:json|toml)", _nixpacks),
    (r"railpack\.json", _railpack),
    (r"fly(?:[.-].*)?\.toml", _fly),
    (r"render\.ya?ml", _render),
    (r"(?:docker-)?compose(?:[._-].*)?\.ya?ml", _compose),
    (r"app\.json", _app_json),
    (r"dockerfile", _dockerfile),
    (r"package\.json", _package),
]
