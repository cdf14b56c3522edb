"""Reads the files of a project folder, within limits; nothing outside of it, nothing is run."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

MOST_FILES = 5000
"""Files that are looked at."""

MOST_BYTES = 1_000_000
"""Size above which a file is not read."""

SECONDS = 10.0
"""Time that one inspection may take."""

_LEFT_OUT = frozenset(
    """
    node_modules bower_components vendor site-packages __pycache__ venv env virtualenv
    dist build out target coverage htmlcov public static
    """.split()  # noqa: SIM905 - a list of words reads better so
)
"""Folders of packages and of what a build made; those that begin with a dot are left out too."""

_CODE = frozenset([".js", ".mjs", ".cjs", ".ts", ".mts", ".cts", ".jsx", ".tsx", ".py"])
_NAMED = re.compile(
    r"(?:procfile(?:\..*)?|railway(?:[.-].*)?\.(?:json|toml)|nixpacks\.(?:json|toml)|railpack\.json|fly(?:[.-].*)?\.toml"
    r"|render\.ya?ml|(?:docker-)?compose(?:[._-].*)?\.ya?ml|app\.json|package(?:-lock)?\.json"
    r"|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|bun\.lockb?|requirements.*\.(?:txt|in)|pyproject\.toml"
    r"|uv\.lock|poetry\.lock|pdm\.lock|pipfile(?:\.lock)?|dockerfile(?:\..*)?|\.env(?:\..*)?|.*\.env|(?:start|run|(?:docker-)?entrypoint)[\w.-]*\.sh)",
    re.IGNORECASE,
)
_GENERATED = re.compile(r"\.(?:min|bundle|chunk)\.[cm]?js$|\.d\.[cm]?ts$", re.IGNORECASE)
_TESTS = re.compile(
    r"(?:^|/)(?:tests?|__[a-z0-9]+__|specs?|e2e|cypress|fixtures|examples?|benchmarks?|docs?)/"
    r"|(?:\.|_|-)[a-z]*(?:test|spec)s?\.[cm]?[jt]sx?$|(?:^|/)(?:test_[^/]*|[^/]*_test|conftest)\.py$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not read.

    Attributes:
        path: Its path in the folder; a word such as "further files" where there are many.
        reason: Why not.
    """

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file that was read.

    Attributes:
        path: Its path in the folder, with `/`.
        text: What it holds.
    """

    path: str
    text: str = field(repr=False)

    @property
    def name(self) -> str:
        """The last part of the path, in lower case."""
        return self.path.rpartition("/")[2].lower()

    @property
    def folder(self) -> str:
        """The folder that it lies in; "" for the project's own."""
        return self.path.rpartition("/")[0]

    @property
    def suffix(self) -> str:
        """`.js`, `.py`, ...; lower case."""
        head, dot, end = self.name.rpartition(".")
        return dot + end if head else ""

    @property
    def is_aside(self) -> bool:
        """Whether it belongs to tests, examples or documentation."""
        return _TESTS.search(self.path) is not None

    @property
    def is_code(self) -> bool:
        """Whether it is JavaScript, TypeScript or Python that runs in production."""
        return self.suffix in _CODE and not self.is_aside

    @property
    def is_script(self) -> bool:
        """Whether it is JavaScript or TypeScript that runs in production."""
        return self.is_code and self.suffix != ".py"


@dataclass(slots=True)
class Folder:
    """A project folder.

    Attributes:
        root: Where it is.
        read: The files that were read, by path.
        skipped: Those that were not, with the reason.
        deadline: When to stop, by the monotonic clock.
    """

    root: Path
    read: dict[str, TextFile] = field(default_factory=dict[str, TextFile])
    skipped: list[Skipped] = field(default_factory=list[Skipped])
    deadline: float = field(default_factory=lambda: time.monotonic() + SECONDS)

    @property
    def late(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() > self.deadline

    def skip(self, path: str, reason: str) -> None:
        """Say that a file was not read, or not understood."""
        self.skipped.append(Skipped(path, reason))

    def skip_further(self) -> None:
        """Say, once, that the time did not suffice."""
        further = Skipped("further files", f"reading took longer than {SECONDS:.0f} s")
        if further not in self.skipped:
            self.skipped.append(further)

    def load(self) -> None:
        """Read the files that say something about queues, within the limits."""
        for index, path in enumerate(self._walk()):
            if index >= MOST_FILES:
                self.skip("further files", f"there are more than {MOST_FILES}")
                return
            if self.late:
                self.skip_further()
                return
            self._load(path)

    def _walk(self) -> Iterator[Path]:
        def unreadable(error: OSError) -> None:
            self.skip(self._relative(Path(str(error.filename))), "the folder cannot be read")

        for folder, folders, names in os.walk(self.root, onerror=unreadable, followlinks=False):
            folders[:] = sorted(name for name in folders if not _is_left_out(name))
            here = Path(folder)
            # What lies beside the platform's files comes first, should there be too many.
            yield from (here / name for name in sorted(names) if _is_wanted(name))

    def _load(self, path: Path) -> None:
        shown = self._relative(path)
        try:
            if not path.resolve().is_relative_to(self.root.resolve()):
                return self.skip(shown, "a link that leads out of the folder")
            if not path.is_file():
                return self.skip(shown, "not a file")
            if path.stat().st_size > MOST_BYTES:
                return self.skip(shown, f"larger than {MOST_BYTES // 1000} kB")
            data = path.read_bytes()
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "a link that leads in a circle"
            return self.skip(shown, f"cannot be read: {reason}")
        if len(data) > MOST_BYTES:
            return self.skip(shown, f"larger than {MOST_BYTES // 1000} kB")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return self.skip(shown, "not UTF-8 text")
        if "\0" in text:
            return self.skip(shown, "not text")
        self.read[shown] = TextFile(shown, text.replace("\r\n", "\n").replace("\r", "\n"))
        return None

    def _relative(self, path: Path) -> str:
        try:
            name = path.relative_to(self.root).as_posix()
        except ValueError:
            name = path.name
        # Names of files may hold anything; reports are read on terminals.
        printable = (char if char.isprintable() else "?" for char in name)
        return "".join(printable).encode("utf-8", "replace").decode()


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFT_OUT


def _is_wanted(name: str) -> bool:
    if _NAMED.fullmatch(name):
        return True
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in _CODE and not _GENERATED.search(name)


def place(path: str, line: int) -> str:
    """`file:line`, as a proof names it."""
    return f"{path}:{line}"


def line_of(text: str, offset: int) -> int:
    """The line, from 1, of an offset."""
    return text.count("\n", 0, offset) + 1
