"""What a JavaScript file imports, names and constructs, followed across the project's files."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bullpy.doctor.project.files import Folder, TextFile, place
from bullpy.doctor.project.javascript import ObjectLiteral, Script, Span

LIBRARIES = frozenset(["bullmq", "bull", "ioredis"])
"""Packages whose classes are recognised."""

_DEFAULTS = {"bull": "Queue", "ioredis": "Redis", "bullmq": ""}
"""What the default export of each is."""

_ENDINGS = ("", ".js", ".ts", ".mjs", ".cjs", ".mts", ".cts", ".tsx", ".jsx")
_DEEPEST = 6
"""How many names are followed to their values."""


class Imported(NamedTuple):
    """Where a name comes from: a module, and what it is called there ("" for all of it)."""

    module: str
    name: str


class Value(NamedTuple):
    """Tokens of some file."""

    module: Module
    span: Span


class Construct(NamedTuple):
    """A `new Worker(...)`, or a call of Bull's and ioredis' factory.

    Attributes:
        module: The file.
        library: `bullmq`, `bull` or `ioredis`.
        kind: The class: `Worker`, `Queue`, `QueueEvents`, `Redis`, `Cluster`, ...
        arguments: What it is given.
        line: Where it stands.
        target: What it is assigned to, such as `worker` or `this.worker`; "" if nothing.
    """

    module: Module
    library: str
    kind: str
    arguments: list[Span]
    line: int
    target: str

    @property
    def at(self) -> str:
        """`file:line`."""
        return place(self.module.file.path, self.line)

    def argument(self, index: int) -> Value | None:
        """An argument, followed to where its value stands; None if it was not given."""
        if index >= len(self.arguments):
            return None
        return self.module.resolve(Value(self.module, self.arguments[index]))


@dataclass(slots=True)
class Module:
    """One JavaScript or TypeScript file.

    Attributes:
        file: The file.
        script: Its tokens.
        others: All modules of the project, by path; filled as they are read.
        imports: Names that come from elsewhere.
        constants: The values of names that are given one once.
        sources: The modules that it imports, as it names them.
    """

    file: TextFile
    script: Script
    others: Mapping[str, Module] = field(repr=False)
    imports: dict[str, Imported] = field(default_factory=dict[str, Imported])
    constants: dict[str, Span] = field(default_factory=dict[str, Span])
    sources: list[str] = field(default_factory=list[str])

    @classmethod
    def read(cls, file: TextFile, others: Mapping[str, Module]) -> Module:
        """Read a file."""
        module = cls(file, Script.read(file.text), others)
        module._read_imports()
        module._read_constants()
        return module

    def uses(self, library: str) -> bool:
        """Whether it imports that package itself."""
        return any(each.module == library for each in self.imports.values())

    def neighbours(self) -> Iterator[Module]:
        """The project's files that it imports, by name or for their effect."""
        for name in self.sources:
            found = self._find(name)
            if found is not None:
                yield found

    def resolve(self, value: Value, depth: int = 0) -> Value:
        """The value that a name stands for, where the files tell; else the value itself."""
        path = value.module.script.path(value.span)
        if path is None or depth > _DEEPEST or path in _WORDS:
            return value
        name, _, members = path.partition(".")
        found = value.module._named(name, depth)
        for member in members.split(".") if members and found else ():
            assert found is not None
            literal = found.module.script.object(found.span)
            entry = literal.entries.get(member) if literal else None
            if entry is None:
                return value
            found = self.resolve(Value(found.module, entry.value), depth + 1)
        return value if found is None else found

    def _named(self, name: str, depth: int) -> Value | None:
        span = self.constants.get(name)
        if span is not None:
            return self.resolve(Value(self, span), depth + 1)
        imported = self.imports.get(name)
        other = self._find(imported.module) if imported else None
        if imported is None or other is None or other is self or depth > _DEEPEST:
            return None
        if imported.name in ("", "default"):
            exported = other._default()
            return None if exported is None else self.resolve(Value(other, exported), depth + 1)
        return other._named(imported.name, depth + 1)

    def _default(self) -> Span | None:
        """What `export default` or `module.exports =` gives."""
        script = self.script
        for index in script.where("default", "exports"):
            if script.text(index) == "default" and script.text(index - 1) == "export":
                return script.expression(index + 1)
            if script.text(index + 1) == "=" and script.text(index - 2) == "module":
                return script.expression(index + 2)
        return None

    def _find(self, name: str) -> Module | None:
        if not name.startswith("."):
            return None
        path = posixpath.normpath(posixpath.join(self.file.folder, name))
        bare = re.sub(r"\.[cm]?jsx?$", "", path)
        for start in (path, bare, f"{path}/index"):
            for ending in _ENDINGS:
                other = self.others.get(start + ending)
                if other is not None:
                    return other
        return None

    def string(self, value: Value | None) -> str | None:
        """The text that a value is known to be."""
        return None if value is None else value.module.script.literal(value.span)

    def object(self, value: Value | None) -> Options | None:
        """The options that an object literal gives."""
        if value is None:
            return None
        literal = value.module.script.object(value.span)
        return None if literal is None else Options(value.module, literal)

    def constructs(self) -> Iterator[Construct]:
        """What it makes of the classes of BullMQ, Bull and ioredis."""
        for index in self.script.where("new"):
            found = self.construct_at(index)
            if found is not None:
                yield found

    def construct_at(self, index: int) -> Construct | None:
        """The construct whose `new` stands at the index."""
        script = self.script
        found = self._class(index + 1) if script.text(index) == "new" else None
        if found is None:
            return None
        library, kind, behind = found
        if script.text(behind) == "<":
            behind = self._behind_types(behind)
        arguments = script.arguments(behind) or []
        return Construct(self, library, kind, arguments, script.line(index), self.target(index))

    def _class(self, index: int) -> tuple[str, str, int] | None:
        imported = self.imports.get(self.script.text(index))
        if imported is None or imported.module not in LIBRARIES:
            return None
        kind = imported.name
        if kind in ("", "default"):
            if self.script.text(index + 1) == ".":
                return imported.module, self.script.text(index + 2), index + 3
            kind = _DEFAULTS[imported.module]
        return imported.module, kind, index + 1

    def _behind_types(self, index: int) -> int:
        """Behind `<Data, Result>`; the index itself if that is not what stands there."""
        depth, start = 0, index
        while index < min(start + 200, len(self.script.tokens)):
            text = self.script.text(index)
            depth += (text == "<") - (text == ">")
            if depth == 0:
                return index + 1
            index = self.script.after(index)
        return start

    def target(self, index: int) -> str:
        """What the expression at the index is assigned to: `worker`, `this.worker`, or ""."""
        script = self.script
        if script.text(index - 1) == "await":
            index -= 1
        if script.text(index - 1) != "=":
            return ""
        end = index - 1
        start = end - 1
        # Back over `name: Type =` of TypeScript.
        for back in range(start, max(start - 12, -1), -1):
            if script.text(back) == ":":
                end, start = back, back - 1
                break
            if script.text(back) in (";", "{", "}", ",", "(", "const", "let", "var"):
                break
        while start > 1 and script.text(start - 1) in (".", "?."):
            start -= 2
        return script.path((start, end)) or ""

    def _read_imports(self) -> None:
        script = self.script
        for index in script.where("from", "import", "require"):
            opened = script.text(index + 1) == "("
            given = index + 1 + opened
            if given >= len(script.tokens) or script.tokens[given].kind not in _STRINGS:
                continue
            module = script.tokens[given].text
            self.sources.append(module)
            if script.text(index) == "from" and not opened:
                self._import_names(index, module)
            elif opened:
                self._require_names(given, module)

    def _import_names(self, end: int, module: str) -> None:
        """`import Default, { a, b as c }, * as all from` and `export { a } from`."""
        script = self.script
        start = end - 1
        while start >= 0 and end - start < 400 and script.text(start) not in ("import", "export"):
            if script.text(start) == ";":
                return
            # Over what a closing bracket closes; never ahead to what an opening one opens.
            start = min(script.pairs.get(start, start), start) - 1
        for first, last in script.parts((start + 1, end)):
            if script.text(first) == "type":
                first += 1
            if script.text(first) == "{":
                for each in script.parts((first + 1, script.pairs.get(first, first + 1))):
                    self._name(module, *each)
            elif script.text(first) == "*":
                self.imports[script.text(last - 1)] = Imported(module, "")
            elif last - first == 1:
                self.imports[script.text(first)] = Imported(module, "default")

    def _name(self, module: str, first: int, last: int) -> None:
        """`a`, `a as b`, or `a: b` of a destructuring."""
        name, local = self.script.text(first), self.script.text(last - 1)
        if name and local:
            self.imports[local] = Imported(module, name)

    def _require_names(self, index: int, module: str) -> None:
        """`const { a, b: c } = require('x')`, `const x = require('x')`, `.default`, `.Worker`."""
        script = self.script
        member = script.text(index + 3) if script.text(index + 2) == "." else ""
        before = index - 3 - (script.text(index - 3) == "await")
        if script.text(before) != "=":
            return
        if script.text(before - 1) == "}":
            opening = script.pairs.get(before - 1, before - 1)
            for each in script.parts((opening + 1, before - 1)):
                self._name(module, *each)
        elif script.text(before - 1):
            self.imports[script.text(before - 1)] = Imported(module, member)

    def _read_constants(self) -> None:
        """Names with one value: those that are assigned twice tell nothing."""
        script = self.script
        again: set[str] = set()
        for index in range(len(script.tokens) - 2):
            kind, name, _ = script.tokens[index]
            if kind != "name" or script.text(index - 1) in (".", "?."):
                continue
            declared = script.text(index - 1) in ("const", "let", "var")
            equals = index + 1
            if declared and script.text(equals) == ":":
                while equals < min(index + 40, len(script.tokens)) and script.text(equals) != "=":
                    equals = script.after(equals)
            if script.text(equals) != "=":
                continue
            if name in self.constants or not declared:
                again.add(name)
            else:
                self.constants[name] = script.expression(equals + 1)
        for name in again:
            self.constants.pop(name, None)


class Options(NamedTuple):
    """An object literal and the file in which it stands."""

    module: Module
    literal: ObjectLiteral

    def value(self, *names: str) -> Value | None:
        """A value, followed through inner objects and to where it stands; None without it."""
        options: Options | None = self
        found: Value | None = None
        for name in names:
            entry = options.literal.entries.get(name) if options else None
            if options is None or entry is None:
                return None
            found = options.module.resolve(Value(options.module, entry.value))
            options = options.module.object(found)
        return found

    def at(self, name: str) -> str:
        """`file:line` of an entry."""
        return place(self.module.file.path, self.literal.entries[name].line)


_STRINGS = ("string", "template")
_WORDS = frozenset(["true", "false", "null", "undefined", "this", "NaN", "Infinity"])


_LONG_LINE = re.compile(r"[^\n]{5001}")
_TELLING = re.compile(r"bull|redis|queue|worker|spawn|fork", re.IGNORECASE)


class Modules(Mapping[str, Module]):
    """The JavaScript and TypeScript files of a project, by path; each is read when first asked for.

    Iterating gives only those that can say something about queues.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._files = {path: file for path, file in folder.read.items() if file.is_script}
        self._telling: list[str] = []
        for path, file in self._files.items():
            if _TELLING.search(file.text):
                if _LONG_LINE.search(file.text):
                    folder.skip(path, "a line is longer than 5000 characters: it looks generated")
                else:
                    self._telling.append(path)
        self._read: dict[str, Module] = {}

    def __getitem__(self, path: str) -> Module:
        module = self._read.get(path)
        if module is None:
            file = self._files[path]
            if _LONG_LINE.search(file.text):
                file = TextFile(path, "")
            module = self._read[path] = Module.read(file, self)
        return module

    def __contains__(self, path: object) -> bool:
        return path in self._files

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[str]:
        for path in self._telling:
            if self._folder.late:
                self._folder.skip_further()
                return
            yield path
