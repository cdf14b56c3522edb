"""Checks of a project folder: what its files tell about why a queue is not consumed.

Files are read, never run; nothing is connected to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bullpy import errors
from bullpy.doctor.project import (
    addresses,
    combos,
    envfiles,
    fallbacks,
    handlers,
    names,
    options,
    platforms,
    pythoncode,
    starting,
    versions,
)
from bullpy.doctor.project.files import Folder, Skipped
from bullpy.doctor.project.modules import Modules
from bullpy.doctor.project.project import Command, Project, Variable, read_programs
from bullpy.doctor.verdicts import Level, Verdict, level_of, ordered


@dataclass(frozen=True, slots=True)
class ProjectReport:
    """What was found in a project folder.

    Attributes:
        folder: The folder.
        verdicts: What is wrong, the worst first.
        read: The files that were read.
        skipped: Those that were not, or not understood, each with the reason.
    """

    folder: Path
    verdicts: tuple[Verdict, ...]
    read: tuple[str, ...]
    skipped: tuple[Skipped, ...]

    @property
    def level(self) -> Level:
        """The worst of them; OK without any."""
        return level_of(self.verdicts)

    def files_as_dict(self) -> dict[str, Any]:
        """Which files the verdicts rest on, for JSON."""
        return {
            "folder": str(self.folder),
            "read": list(self.read),
            "skipped": [{"path": each.path, "reason": each.reason} for each in self.skipped],
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.files_as_dict() | {
            "level": self.level.word,
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
        }


def inspect(folder: Path) -> ProjectReport:
    """Check the files of a project.

    At most 5,000 files of at most 1 MB are read, in at most 10 s; packages, build outputs and
    hidden folders are left out, and links are not followed out of the folder.

    Raises:
        errors.ConfigurationError: It is no folder.
    """
    if not folder.is_dir():
        raise errors.ConfigurationError(
            f"{folder} is no folder.", fix="Give the folder that holds package.json or Procfile."
        )
    found = Folder(folder)
    found.load()
    project, policies = _understand(found)
    verdicts: list[Verdict] = []
    for check in (
        options.check,
        handlers.check,
        combos.check,
        names.check,
        pythoncode.check,
        addresses.check,
        fallbacks.check,
        versions.check,
    ):
        verdicts += check(project)
    verdicts += starting.check(project, policies)
    skipped = sorted(set(found.skipped), key=lambda each: (each.path, each.reason))
    return ProjectReport(
        folder, tuple(ordered(_distinct(verdicts))), tuple(found.read), tuple(skipped)
    )


def _understand(folder: Folder) -> tuple[Project, list[platforms.Policy]]:
    project = Project(folder, Modules(folder), read_programs(folder))
    policies: list[platforms.Policy] = []
    for each in platforms.read_platforms(folder):
        match each:
            case Command():
                project.commands.append(each)
            case Variable():
                project.variables.append(each)
            case platforms.Policy():
                policies.append(each)
    project.variables += envfiles.read_env_files(folder)
    for module in project.modules.values():
        project.uses += names.uses(module)
    for program in project.programs:
        project.uses += pythoncode.uses(program)
    return project, policies


def _distinct(verdicts: list[Verdict]) -> list[Verdict]:
    """Each once: two rules may come upon the same place."""
    seen: dict[tuple[str, tuple[str, ...]], Verdict] = {}
    for verdict in verdicts:
        key = (verdict.code, tuple(proof.command for proof in verdict.proofs))
        seen.setdefault(key, verdict)
    return list(seen.values())
