"""A project as its checks see it: what was read, in terms of queues, commands and variables."""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from bullpy.doctor.project.files import Folder, TextFile, place
from bullpy.doctor.project.modules import Modules

_PLAIN_WORD = re.compile(
    r"&&?|\|\|?|;|node|npm|npx|yarn|pnpm|bun|run|start|worker|python3?|-m|-c|sh|bash|exec|bullpy|up"
    r"|[\w./-]{1,80}\.(?:[cm]?[jt]sx?|py|sh)"
)

Role = Literal["producer", "worker", "events"]


class QueueUse(NamedTuple):
    """A queue, worker or event reader that code makes.

    Attributes:
        role: What it is.
        library: `bullmq`, `bull`, or `python`.
        name: The queue's name; None if the files do not tell.
        prefix: The prefix; None if the files do not tell.
        at: `file:line`.
        path: The file.
    """

    role: Role
    library: str
    name: str | None
    prefix: str | None
    at: str
    path: str


class Command(NamedTuple):
    """A command that starts a process.

    Attributes:
        text: As written.
        source: What it stands in: `Procfile`, `railway`, `nixpacks`, `fly`, `render`, `compose`,
            `docker`, `app.json` or `package`.
        process: The name of the process or script: `web`, `worker`, ...; "" without one.
        at: `file:line`.
        folder: The folder that it runs in.
    """

    text: str
    source: str
    process: str
    at: str
    folder: str

    @property
    def shown(self) -> str:
        """The command without what may be secret: operators, known words and names of files."""
        words = self.text.split()
        shown = [word if _PLAIN_WORD.fullmatch(word) else "..." for word in words[:12]]
        return " ".join(re.sub(r"(?:\.\.\. )+(?=\.\.\.)", "", " ".join(shown)).split())


class Variable(NamedTuple):
    """A variable that a file gives to a service.

    Attributes:
        name: Its name.
        value: Its value, which may be secret.
        at: `file:line`.
        path: The file.
        service: The folder or the service it is for.
        environment: `production`, `development`, ...; "" where the file does not say.
    """

    name: str
    value: str
    at: str
    path: str
    service: str
    environment: str

    def __repr__(self) -> str:
        """Without the value."""
        return f"Variable({self.name!r}, at={self.at!r})"


class Program(NamedTuple):
    """A Python file.

    Attributes:
        file: The file.
        tree: What it says.
        imports: Names that it imports: the module, or `module.name`, by local name.
    """

    file: TextFile
    tree: ast.Module
    imports: dict[str, str]

    def at(self, node: ast.AST) -> str:
        """`file:line`."""
        return place(self.file.path, getattr(node, "lineno", 1))

    def packages(self) -> set[str]:
        """The first parts of all modules that it imports."""
        return {each.partition(".")[0] for each in self.imports.values()}


@dataclass(slots=True)
class Project:
    """All that was understood of a folder.

    Attributes:
        folder: Its files.
        modules: Its JavaScript and TypeScript.
        programs: Its Python.
        uses: The queues that code makes.
        commands: What starts its processes.
        variables: What env files and platforms give to services.
    """

    folder: Folder
    modules: Modules
    programs: list[Program] = field(default_factory=list[Program])
    uses: list[QueueUse] = field(default_factory=list[QueueUse])
    commands: list[Command] = field(default_factory=list[Command])
    variables: list[Variable] = field(default_factory=list[Variable])

    def files(self, *names: str) -> list[TextFile]:
        """The files with one of these names, in lower case."""
        return [file for file in self.folder.read.values() if file.name in names]

    @property
    def uses_redis_py(self) -> bool:
        """Whether redis-py or upstream's port is used by itself, rather than through bullpy."""
        return any(program.packages() & {"redis", "bullmq"} for program in self.programs)


_TELLING = ("bullmq", "bullpy", "redis", "REDIS")


def read_programs(folder: Folder) -> list[Program]:
    """The Python files that say something about queues; those that do not compile are skipped."""
    programs: list[Program] = []
    for file in folder.read.values():
        if file.suffix != ".py" or not file.is_code:
            continue
        if not any(word in file.text for word in _TELLING):
            continue
        if folder.late:
            folder.skip_further()
            break
        try:
            with warnings.catch_warnings():
                # What the interpreter has to say about the style of other people's code.
                warnings.simplefilter("ignore")
                tree = ast.parse(file.text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            folder.skip(file.path, "not valid Python of this version")
            continue
        programs.append(Program(file, tree, _imports(tree)))
    return programs


def _imports(tree: ast.Module) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.partition(".")[0]
                found[local] = alias.name if alias.asname else local
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found
