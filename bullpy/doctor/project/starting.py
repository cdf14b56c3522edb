"""What starts the processes of a project, and whether the worker is among them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bullpy.doctor.project import causes
from bullpy.doctor.project.platforms import Policy
from bullpy.doctor.project.project import Command, Project
from bullpy.doctor.project.reaching import reach
from bullpy.doctor.verdicts import Proof, Verdict

_SINGLE = ("Railway", "Nixpacks", "Railpack")
"""Platforms that start one command per service."""

FEWEST_RETRIES = 10
"""Below what Railway does by itself, a number of retries is one that gives up early."""

_NOT_WORKERS = re.compile(r"web|release|api|server|app|clock|cron|scheduler|migrate", re.IGNORECASE)
_BACKGROUND = re.compile(r"(?<![&>|\\])&(?![&>\d])")
_QUOTED = re.compile(r"(?<!-c )(?<!-lc )(?:'[^']*'|\"[^\"]*\")")


def check(project: Project, policies: list[Policy]) -> Iterator[Verdict]:
    """All of them."""
    single = list(_check_single(project))
    yield from single
    if not single:
        yield from _check_never_started(project)
    yield from _check_background(project)
    yield from _check_policies(project, policies)


def _platform_commands(project: Project) -> list[Command]:
    return [command for command in project.commands if command.source not in ("package", "Docker")]


def _starts_worker(project: Project, command: Command) -> bool | None:
    """Whether a command leads to a worker; None if that is not understood."""
    found = reach(project, command)
    workers = {use.path for use in project.uses if use.role == "worker"}
    if found.worker or found.files & workers:
        return True
    return False if found.complete else None


def _check_single(project: Project) -> Iterator[Verdict]:
    """A Procfile with a worker, on a platform that starts one command."""
    for line in project.commands:
        if line.source != "Procfile" or _NOT_WORKERS.search(line.process):
            continue
        beside = [each for each in project.commands if each.folder == line.folder]
        names = [each.process for each in beside if each.source == "Procfile"]
        single = next((each for kind in _SINGLE for each in beside if each.source == kind), None)
        platform = single.source if single else _platform_of(project, line.folder)
        if platform is None or len(names) < 2:
            continue
        started = single or next((each for each in beside if each.process == "web"), None)
        if started is None or started.text == line.text or _starts_worker(project, started):
            continue
        yield causes.ONE_PROCESS.verdict(
            f"The Procfile has a line {line.process}, and {platform} starts one command only: "
            "another one.",
            Proof(line.at, f"{line.process}: {line.shown}"),
            Proof(started.at, started.shown),
        )


def _platform_of(project: Project, folder: str) -> str | None:
    """The platform whose file lies beside a Procfile, although it names no command."""
    for file in project.folder.read.values():
        if file.folder == folder:
            for name in _SINGLE:
                if re.match(rf"{name.lower()}[.-]", file.name):
                    return name
    return None


def _check_never_started(project: Project) -> Iterator[Verdict]:
    workers = [use for use in project.uses if use.role == "worker"]
    platform = _platform_commands(project)
    if not workers or not platform:
        return
    # A script of package.json may be what a service is told to start in the platform's own pages.
    if any(_starts_worker(project, command) is not False for command in project.commands):
        return
    yield causes.NO_START.verdict(
        "None of the commands in the platform's files, nor any package script, starts the worker.",
        Proof(workers[0].at, "a worker is made here"),
        *(Proof(command.at, command.shown) for command in platform[:3]),
    )


def _check_background(project: Project) -> Iterator[Verdict]:
    told: set[str] = set()
    started = [command for command in project.commands if command.source != "package"]
    for first in started:
        for command in reach(project, first).commands:
            text = _QUOTED.sub("", command.text)
            if command.at in told or "wait -n" in text or not _BACKGROUND.search(text):
                continue
            if command.source == "script" and _waits(project, command):
                continue
            told.add(command.at)
            yield causes.BACKGROUND.verdict(
                "A process is started with & and nobody watches it.",
                Proof(command.at, command.shown),
            )


def _waits(project: Project, command: Command) -> bool:
    """Whether a shell script looks after what it has put into the background."""
    file = project.folder.read.get(command.at.rpartition(":")[0])
    return file is not None and re.search(r"wait -n|\btrap\b", file.text) is not None


def _check_policies(project: Project, policies: list[Policy]) -> Iterator[Verdict]:
    if not any(use.role == "worker" for use in project.uses):
        return
    for policy in policies:
        if policy.kind == "never":
            yield causes.GIVES_UP.verdict(
                f"{policy.source} never restarts a process that has ended.",
                Proof(policy.at, "never"),
            )
        elif policy.kind == "retries" and policy.retries < FEWEST_RETRIES:
            yield causes.GIVES_UP.verdict(
                f"{policy.source} leaves the service down after {policy.retries} failures.",
                Proof(policy.at, f"retries: {policy.retries}"),
            )
        elif policy.kind == "health":
            yield causes.HEALTH_ONCE.verdict(
                f"{policy.source} asks for health while it deploys, and not after that.",
                Proof(policy.at, "a health check at deployments"),
            )
