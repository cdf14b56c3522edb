"""JavaScript that connects to its own machine when nothing says where Redis is."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bullpy.doctor.checks.urls import LOCALHOST, host_of, is_local
from bullpy.doctor.project.connections import has_options, options_of
from bullpy.doctor.project.files import place
from bullpy.doctor.project.modules import Construct, Module
from bullpy.doctor.project.project import Project, Variable
from bullpy.doctor.verdicts import Proof, Verdict

_URL_NAME = re.compile(r"REDIS\w*UR[LI]")
_CONTAINERS = re.compile(r"(?:^|/)(?:render\.ya?ml|fly[^/]*\.toml|app\.json)$", re.IGNORECASE)


def check(project: Project) -> Iterator[Verdict]:
    """All of them."""
    for module in project.modules.values():
        yield from _check_fallbacks(module)
        for made in module.constructs():
            yield from _check_nothing_given(made)
    for variable in project.variables:
        yield from _check_container(variable)


def _check_fallbacks(module: Module) -> Iterator[Verdict]:
    """`process.env.REDIS_URL || 'redis://localhost:6379'`."""
    script = module.script
    refused = {
        script.text(index + 4) for index in script.where("process") if script.text(index - 1) == "!"
    }
    urls = [name for name in script.names if _URL_NAME.fullmatch(name)]
    for index in script.where(*urls):
        name = script.text(index)
        if script.text(index - 2) != "env" or name in refused:
            continue
        if script.text(index + 1) not in ("||", "??"):
            continue
        url = script.literal((index + 2, index + 3)) or ""
        if "://" in url and is_local(host_of(url)):
            yield LOCALHOST.verdict(
                f"Without {name} this code connects to its own machine.",
                Proof(place(module.file.path, script.line(index)), f"{name}, else localhost"),
            )


def _check_nothing_given(made: Construct) -> Iterator[Verdict]:
    if made.library == "ioredis" and made.kind == "Redis" and not made.arguments:
        yield LOCALHOST.verdict(
            "A client is made without an address: it connects to its own machine.",
            Proof(made.at, "new Redis()"),
        )
    if made.library == "bullmq" and made.kind in ("Queue", "Worker", "QueueEvents"):
        options = options_of(made)
        known = options is not None and options.literal.complete
        if not has_options(made) or (
            known and options is not None and "connection" not in options.literal.entries
        ):
            yield LOCALHOST.verdict(
                f"This {made.kind} is given no connection: it connects to its own machine.",
                Proof(made.at, f"new {made.kind} without connection"),
            )


def _check_container(variable: Variable) -> Iterator[Verdict]:
    """An address that leads into the container itself."""
    inside = variable.environment.startswith("compose") or _CONTAINERS.search(variable.path)
    if not inside:
        return
    url = _URL_NAME.fullmatch(variable.name) and "://" in variable.value
    host = host_of(variable.value) if url else ""
    if variable.name == "REDIS_HOST":
        host = variable.value.strip()
    if host and is_local(host):
        yield LOCALHOST.verdict(
            f"{variable.name} of {variable.service or 'this service'} leads to localhost, which is "
            "its own container.",
            Proof(variable.at, "the host is the machine itself"),
        )
