"""Which files a start command leads to: through package scripts, imports and started children."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from bullpy.doctor.project.files import TextFile, place
from bullpy.doctor.project.project import Command, Project

_DEEPEST = 6
_MOST_FILES = 400
_SPLIT = re.compile(r"&&|\|\||[;|]|(?<![&>])&(?![&>])")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_HARMLESS = frozenset(
    """
    cd echo sleep wait true exit export set exec env cross-env npx bunx dotenv dotenvx tini
    dumb-init mkdir cp rm chmod chown test [ prisma sequelize knex typeorm drizzle-kit alembic
    next nuxt vite serve nginx flask release
    """.split()  # noqa: SIM905 - a list of words reads better so
)
"""Commands that start no worker of the project, whatever files they name."""

_ENDINGS = (
    "",
    ".js",
    ".mjs",
    ".cjs",
    ".ts",
    ".mts",
    ".cts",
    ".tsx",
    ".py",
    "/index.js",
    "/index.ts",
)
_SHELL = re.compile(r"(?:/bin/)?(?:ba)?sh\s+-l?c\s+(?P<quote>['\"])(?P<inner>.*)(?P=quote)", re.S)
_BUILT = re.compile(r"^(?:\./)?(?:dist|build|out|lib)/")


@dataclass(slots=True)
class Reach:
    """Where a command leads.

    Attributes:
        files: Files of the project that it starts, and those that they import.
        complete: Whether all of it was understood.
        worker: Whether it runs `bullpy worker` or `bullpy up`.
        commands: The command itself, and what it leads to.
    """

    files: set[str] = field(default_factory=set[str])
    complete: bool = True
    worker: bool = False
    commands: list[Command] = field(default_factory=list[Command])


def reach(project: Project, command: Command) -> Reach:
    """Follow a command."""
    found = Reach()
    _follow(project, command, found, 0)
    return found


def _follow(project: Project, command: Command, found: Reach, depth: int) -> None:
    found.commands.append(command)
    if depth > _DEEPEST or not command.text.strip():
        found.complete = False
        return
    for part in _SPLIT.split(_without_shell(command.text)):
        if part.strip():
            _follow_one(project, command._replace(text=part.strip()), found, depth)


def _without_shell(text: str) -> str:
    """`node a` of `sh -c "node a"`."""
    quoted = re.fullmatch(
        r"(?:/bin/)?(?:ba)?sh\s+-l?c\s+(?P<quote>['\"])(?P<inner>.*)(?P=quote)", text, re.S
    )
    return quoted["inner"] if quoted else text


def _follow_one(project: Project, command: Command, found: Reach, depth: int) -> None:
    try:
        words = shlex.split(command.text, comments=True)
    except ValueError:
        found.complete = False
        return
    while words and _ASSIGNMENT.match(words[0]):
        words.pop(0)
    if not words:
        return
    tool = posixpath.basename(words[0])
    if tool in ("npm", "yarn", "pnpm", "bun"):
        if _follow_script(project, command, words[1:], found, depth):
            return
    elif tool in ("concurrently", "npm-run-all", "run-p", "run-s"):
        for word in words[1:]:
            if not word.startswith("-"):
                text = word.removeprefix("npm:") if word.startswith("npm:") else word
                short = " " not in text
                inner = f"npm run {text}" if short else text
                _follow(project, command._replace(text=inner), found, depth + 1)
        return
    elif tool == "bullpy":
        found.worker = found.worker or words[1:2] in (["worker"], ["up"])
        return
    files = [file for word in words for file in _files(project, command.folder, word)]
    for file in files:
        _enter(project, file, command, found, depth)
    if not files and tool not in _HARMLESS:
        found.complete = False


def _follow_script(
    project: Project, command: Command, words: list[str], found: Reach, depth: int
) -> bool:
    """`npm start`, `npm run worker`: the script of the package.json that is nearest."""
    names = [word for word in words if not word.startswith("-")]
    if names[:1] in (["run"], ["run-script"]):
        names.pop(0)
    if not names or names[0] in ("install", "ci", "exec", "dlx", "x"):
        return names[:1] in (["install"], ["ci"])
    for folder in (command.folder, ""):
        for other in project.commands:
            if (other.source, other.process, other.folder) == ("package", names[0], folder):
                _follow(project, other, found, depth + 1)
                return True
    return False


def _files(project: Project, folder: str, word: str) -> Iterator[TextFile]:
    """The file that a word of a command names: a path, `module:app`, or a module of Python."""
    module = word.partition(":")[0]
    built = _BUILT.sub("", word)
    names = [word]
    if re.fullmatch(r"[A-Za-z_][\w.]*", module):
        names.append(module.replace(".", "/") + ".py")
        names.append(module.replace(".", "/") + "/__main__.py")
    if built != word:
        bare = re.sub(r"\.[cm]?js$", "", built)
        names += [f"src/{bare}", bare]
    for name in names:
        path = posixpath.normpath(posixpath.join(folder, name)).lstrip("/")
        for ending in _ENDINGS:
            file = project.folder.read.get(path + ending)
            if file is not None and (file.is_code or file.suffix == ".sh"):
                yield file
                return


def _enter(project: Project, file: TextFile, command: Command, found: Reach, depth: int) -> None:
    """A file, what it imports, and the files that it starts as children."""
    if file.path in found.files or len(found.files) > _MOST_FILES:
        return
    found.files.add(file.path)
    if file.suffix == ".sh":
        for number, line in enumerate(file.text.splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                at = place(file.path, number)
                inner = Command(line.strip(), "script", "", at, command.folder)
                _follow(project, inner, found, depth + 1)
        return
    if file.suffix == ".py":
        if not any(use.role == "worker" and use.path == file.path for use in project.uses):
            # What Python imports is not followed.
            found.complete = False
        return
    module = project.modules[file.path]
    for other in module.neighbours():
        _enter(project, other.file, command, found, depth)
    if any(
        each.module in ("child_process", "node:child_process") for each in module.imports.values()
    ):
        for token in module.script.tokens:
            if token.kind not in ("string", "template"):
                continue
            for folder in (file.folder, command.folder):
                for other in _files(project, folder, token.text):
                    if other.suffix not in ("", ".sh"):
                        _enter(project, other, command, found, depth)
