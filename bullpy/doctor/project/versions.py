"""Versions of the queue libraries that a project's files allow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from bullpy.doctor.project import causes
from bullpy.doctor.project.files import TextFile, line_of, place
from bullpy.doctor.project.project import Project
from bullpy.doctor.project.yamlfiles import line_of_key, read_json, read_toml, table
from bullpy.doctor.verdicts import Proof, Verdict

_NODE_LOCKS = (
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "bun.lock",
    "bun.lockb",
)
_PYTHON_LOCKS = ("uv.lock", "poetry.lock", "pdm.lock", "pipfile.lock")
_PYTHON = ("bullmq", "bullpy", "redis")
_REQUIREMENT = re.compile(
    r"^[ \t]*(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)[ \t]*(?:\[[^\]]*\])?[ \t]*(?P<range>[^;#\n]*)",
    re.M,
)
_LOCKED = re.compile(
    r"^[ \t]*[\"']?/?bullmq@"
    r"(?:(?P<pnpm>\d+\.\d+\.\d+)|[^\n]*:\n\s+version:? \"?(?P<yarn>\d[\w.-]*))",
    re.MULTILINE,
)
_BOUND = re.compile(r"==|~=|<|\^|~|@")
_MAJOR = re.compile(r"^[v=~^\s]*(\d+)(?:\.|$|-|\+)")


class Wanted(NamedTuple):
    """A version that a file wants or has.

    Attributes:
        at: `file:line`.
        text: As written.
        majors: The majors that it allows; None if it is open upwards or not known.
    """

    at: str
    text: str
    majors: frozenset[int] | None

    @property
    def shown(self) -> str:
        """As written, if it is a version: an address may carry a secret."""
        return _shown(self.text)


def _shown(text: str) -> str:
    text = text.strip()
    plain = re.fullmatch(r"[\d.,^~<>=!|*xX\s-]{0,40}|latest|next", text)
    return (text or "any version") if plain else "another range"


def check(project: Project) -> Iterator[Verdict]:
    """All of them."""
    wanted = list(_of_packages(project))
    for each in wanted:
        yield from _check_open(project, each)
    yield from _check_majors([each[1] for each in wanted] + list(_of_locks(project)))
    yield from _check_python(project)


def _of_packages(project: Project) -> Iterator[tuple[TextFile, Wanted]]:
    for file in project.files("package.json"):
        text = table(read_json(project.folder, file), "dependencies").get("bullmq")
        if isinstance(text, str) and not file.is_aside:
            at = place(file.path, line_of_key(file, "bullmq"))
            yield file, Wanted(at, text, majors_of(text))


def majors_of(text: str) -> frozenset[int] | None:
    """The majors that a range of npm allows; None for one that is open upwards, or no range."""
    found: set[int] = set()
    for part in text.split("||"):
        upper = re.search(r"<\s*(=?)\s*(\d+)(\.[\d.]*)?", part)
        lower = re.search(r">=?\s*(\d+)", part)
        hyphen = re.fullmatch(r"\s*(\d+)[\w.]*\s+-\s+(\d+)[\w.]*\s*", part)
        if hyphen:
            found |= set(range(int(hyphen[1]), min(int(hyphen[2]), 100) + 1))
        elif upper and lower:
            zeros = not (upper[3] or "").replace("0", "").strip(".")
            last = int(upper[2]) - (zeros and not upper[1])
            found |= set(range(int(lower[1]), min(last, 100) + 1))
        else:
            exact = _MAJOR.match(part.strip())
            if exact is None:
                return None
            found.add(int(exact[1]))
    return frozenset(found) or None


def _is_open(text: str) -> bool:
    """Whether a range takes whatever is newest; `workspace:*`, paths and git are not judged."""
    return (
        text.strip() in ("", "*", "x", "X", "latest", "next") or re.match(r"\s*>", text) is not None
    )


def _check_open(project: Project, wanted: tuple[TextFile, Wanted]) -> Iterator[Verdict]:
    file, version = wanted
    several = version.majors is not None and len(version.majors) > 1
    if not (several or (version.majors is None and _is_open(version.text))):
        return
    if not _has_lock(project, file, _NODE_LOCKS):
        yield causes.MAJOR_OPEN.verdict(
            f"bullmq may be of several majors, {version.shown}, and no lock file stands beside it.",
            Proof(version.at, f"bullmq {version.shown}"),
        )


def _has_lock(project: Project, file: TextFile, names: tuple[str, ...]) -> bool:
    """Whether a lock file, be it too large to be read, stands beside a file or above it."""
    known = [*project.folder.read, *(each.path for each in project.folder.skipped)]
    for path in known:
        folder, _, name = path.rpartition("/")
        above = not folder or file.folder == folder or file.folder.startswith(f"{folder}/")
        if name.lower() in names and above:
            return True
    return False


def _of_locks(project: Project) -> Iterator[Wanted]:
    for file in project.files(*_NODE_LOCKS):
        if file.is_aside:
            continue
        if file.name in ("package-lock.json", "npm-shrinkwrap.json"):
            packages = table(read_json(project.folder, file), "packages")
            for path, package in packages.items():
                if path.endswith("node_modules/bullmq") and isinstance(package, dict):
                    version = str(cast("dict[str, Any]", package).get("version", ""))
                    line = line_of_key(file, path)
                    yield Wanted(place(file.path, line), version, majors_of(version))
            continue
        for found in _LOCKED.finditer(file.text):
            version = found["pnpm"] or found["yarn"]
            at = place(file.path, line_of(file.text, found.start()))
            yield Wanted(at, version, majors_of(version))


def _check_majors(wanted: list[Wanted]) -> Iterator[Verdict]:
    single = [each for each in wanted if each.majors is not None and len(each.majors) == 1]
    by_major: dict[int, Wanted] = {}
    for each in single:
        (major,) = each.majors or (0,)
        by_major.setdefault(major, each)
    if len(by_major) > 1:
        listed = " and ".join(str(major) for major in sorted(by_major))
        yield causes.MAJORS.verdict(
            f"Parts of the project use BullMQ {listed}.",
            *(Proof(each.at, f"bullmq {each.shown}") for _, each in sorted(by_major.items())),
        )


def _check_python(project: Project) -> Iterator[Verdict]:
    for file in project.folder.read.values():
        if file.is_aside:
            continue
        if re.fullmatch(r"requirements.*\.(?:txt|in)", file.name):
            found = [
                (each["name"], each["range"], line_of(file.text, each.start("name")))
                for each in _REQUIREMENT.finditer(file.text)
            ]
        elif file.name == "pyproject.toml":
            found = list(_of_pyproject(project, file))
        else:
            continue
        named = {name.lower(): (text.strip(), line) for name, text, line in found}
        if not named.keys() & {"bullmq", "bullpy"} or _has_lock(project, file, _PYTHON_LOCKS):
            continue
        if file.name.endswith(".in") and file.path[:-3] + ".txt" in project.folder.read:
            continue
        for name in _PYTHON:
            text, line = named.get(name, ("==", 0))
            if not _BOUND.search(text):
                yield causes.MAJOR_OPEN.verdict(
                    f"{name} has no upper bound, and no lock file stands beside it.",
                    Proof(place(file.path, line), f"{name} {_shown(text)}"),
                    fix=f"Give {name} an upper bound, or commit a lock file.",
                )


def _of_pyproject(project: Project, file: TextFile) -> Iterator[tuple[str, str, int]]:
    config = read_toml(project.folder, file)
    listed = table(config, "project").get("dependencies")
    for each in cast("list[Any]", listed) if isinstance(listed, list) else []:
        found = _REQUIREMENT.match(each) if isinstance(each, str) else None
        if found is not None:
            offset = file.text.find(json.dumps(each)[:-1])
            yield found["name"], found["range"], line_of(file.text, max(offset, 0))
    for name, value in table(config, "tool", "poetry", "dependencies").items():
        text = value if isinstance(value, str) else str(table(value).get("version", "@"))
        # In Poetry a bare version is exact.
        exact = text if not text[:1].isdigit() else f"=={text}"
        yield name, "" if text == "*" else exact, line_of_key(file, name)
