"""YAML as plain values that know their lines; read by PyYAML, where it is installed.

Nothing is constructed: tags and anchors of other kinds stay text.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, cast

from bullpy.doctor.project.files import Folder, TextFile, line_of

MOST = 200_000
"""Characters of a YAML file above which it is not read: PyYAML is slow."""

MOST_NODES = 20_000
"""Values of a YAML file, those of anchors counted wherever they are put in."""

_DEEPEST = 40


class Text(str):
    """A scalar, and the line on which it stands."""

    __slots__ = ("line",)
    line: int

    def __new__(cls, text: str, line: int) -> Text:
        """A text with its line."""
        made = super().__new__(cls, text)
        made.line = line
        return made


def read_yaml(folder: Folder, file: TextFile) -> dict[str, Any]:
    """A mapping of texts, lists and mappings; empty, and the file named, if it cannot be read."""
    try:
        import yaml
    except ImportError:
        folder.skip(file.path, 'needs PyYAML: pip install "bullpy[doctor]"')
        return {}
    if len(file.text) > MOST:
        folder.skip(file.path, f"YAML of more than {MOST // 1000} kB")
        return {}
    try:
        node = cast("Any", yaml.compose(file.text, yaml.SafeLoader))
        found = _plain(node, 0, [MOST_NODES])
    except (yaml.YAMLError, ValueError, RecursionError):
        folder.skip(file.path, "not valid YAML")
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _plain(node: Any, depth: int, left: list[int]) -> Any:
    """Values of a node; `<<` puts in what an anchor holds."""
    left[0] -= 1
    if node is None or depth > _DEEPEST or left[0] < 0:
        # Anchors that hold anchors grow without end.
        return Text("", 1)
    line = node.start_mark.line + 1
    if node.id == "sequence":
        return [_plain(each, depth + 1, left) for each in node.value]
    if node.id != "mapping":
        return Text(node.value, line)
    found: dict[str, Any] = {}
    for key, value in node.value:
        name = str(key.value) if key.id == "scalar" else ""
        plain = _plain(value, depth + 1, left)
        if name == "<<":
            for merged in cast("list[Any]", plain) if isinstance(plain, list) else [plain]:
                found = table(merged) | found
        else:
            found[Text(name, key.start_mark.line + 1)] = plain
    return found


def read_toml(folder: Folder, file: TextFile) -> dict[str, Any]:
    """A TOML file; empty, and the file named, if it cannot be read."""
    try:
        return tomllib.loads(file.text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        folder.skip(file.path, "not valid TOML")
        return {}


def read_json(folder: Folder, file: TextFile) -> dict[str, Any]:
    """A JSON object; empty, and the file named, if it cannot be read."""
    try:
        found = json.loads(file.text)
    except (ValueError, RecursionError):
        folder.skip(file.path, "not valid JSON")
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def table(value: object, *names: str) -> dict[str, Any]:
    """An inner table; empty if there is none."""
    for name in names:
        value = cast("Mapping[str, Any]", value).get(name) if isinstance(value, Mapping) else None
    return dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else {}


def tables(value: object, name: str) -> Iterator[dict[str, Any]]:
    """The tables of an inner list."""
    inner = cast("Mapping[str, Any]", value).get(name) if isinstance(value, Mapping) else None
    for each in cast("list[Any]", inner) if isinstance(inner, list) else []:
        if isinstance(each, Mapping):
            yield dict(cast("Mapping[str, Any]", each))


def line_of_key(file: TextFile, key: str) -> int:
    """The first line on which a key of JSON or TOML stands."""
    name = re.escape(key)
    found = re.search(rf"\"{name}\"\s*[:=]|^[ \t]*{name}[ \t]*=", file.text, re.MULTILINE)
    return line_of(file.text, found.start()) if found else 1
