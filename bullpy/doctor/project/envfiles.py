"""Env files: the variables that they give, to which part of the project, in which environment."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bullpy.doctor.project.files import Folder, place
from bullpy.doctor.project.project import Variable

_FILE = re.compile(r"(?:(?P<head>.*)\.env|\.env)(?:\.(?P<tail>.+))?", re.IGNORECASE)
_TEMPLATE = re.compile(
    r"example|sample|template|dist|defaults?|schema|vault|keys|bak|old|enc", re.I
)
_LINE = re.compile(
    r"""
    ^[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*
    (?: "(?P<double>(?:[^"\\]|\\.){0,5000})"
      | '(?P<single>[^']{0,5000})' | `(?P<back>[^`]{0,5000})` | (?P<bare>[^\n]*) )
    """,
    re.VERBOSE | re.MULTILINE,
)
_SYNONYMS = {"prod": "production", "dev": "development", "stage": "staging", "testing": "test"}


def read_env_files(folder: Folder) -> Iterator[Variable]:
    """All variables of all env files that are no templates."""
    for file in folder.read.values():
        found = _FILE.fullmatch(file.name)
        if found is None or file.suffix in (".py", ".js", ".ts"):
            continue
        words = f"{found['head'] or ''}.{found['tail'] or ''}"
        if not _TEMPLATE.search(words):
            environment = environment_of(words)
            for name, value, line in variables(file.text):
                at = place(file.path, line)
                yield Variable(name, value, at, file.path, file.folder, environment)


def environment_of(words: str) -> str:
    """`production` of `.env.prod.local` and the like; a word of its own is one too."""
    parts = [part for part in words.lower().split(".") if part and part != "local"]
    if not parts:
        return "local" if "local" in words.lower() else ""
    return ".".join(_SYNONYMS.get(part, part) for part in parts)


def variables(text: str) -> Iterator[tuple[str, str, int]]:
    """Names, values and lines of an env file."""
    line, position = 1, 0
    for found in _LINE.finditer(text):
        line += text.count("\n", position, found.start())
        position = found.start()
        quoted = next(
            (found[kind] for kind in ("double", "single", "back") if found[kind] is not None), None
        )
        bare = found["bare"] or ""
        value = quoted if quoted is not None else re.sub(r"(?:^|\s)#.*", "", bare).strip()
        yield found["name"], value, line
