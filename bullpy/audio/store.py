"""Where a job's file comes from: a fileKey in, a readable local path out."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from bullpy.audio.errors import FileKeyError, FileMissingError, StoreError


class Store(Protocol):
    """Anything that can make the file of a fileKey readable on this machine."""

    def fetch(self, file_key: str) -> _PathContext:
        """A context manager that gives a local path, valid until it is left."""
        ...


class _PathContext(Protocol):
    def __enter__(self) -> Path: ...
    def __exit__(self, *exc_info: object) -> bool | None: ...


class LocalStore:
    """Files below one folder.

    Args:
        root: The folder. It need not exist yet.

    Example:
        >>> with LocalStore("/srv/audio").fetch("2024/take 1.wav") as path:  # doctest: +SKIP
        ...     analyze(path)
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(root)

    def __repr__(self) -> str:
        return f"LocalStore({str(self._root)!r})"

    @contextmanager
    def fetch(self, file_key: str) -> Generator[Path]:
        """The file's path, for as long as the context lasts.

        Raises:
            FileKeyError: See `resolve`.
            FileMissingError: See `resolve`.
            StoreError: See `resolve`.
        """
        yield self.resolve(file_key)

    def resolve(self, file_key: str) -> Path:
        """The real path of a fileKey, symbolic links followed, always below the root.

        Raises:
            FileKeyError: The key is empty, absolute, holds `..` or a NUL, or leads out of
                the root through a symbolic link.
            FileMissingError: There is no such file (now).
            StoreError: The root is missing, or the file system refused.
        """
        relative = _checked(file_key)
        try:
            root = self._root.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise StoreError(
                f"The audio folder {str(self._root)!r} cannot be read ({_reason(error)}).",
                cause="It does not exist, or its disk is not mounted.",
                fix="Create it, or point BULLPY_AUDIO_ROOT at the right folder.",
            ) from error
        try:
            path = (root / relative).resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise _resolve_error(file_key, error) from error
        if not path.is_relative_to(root) or path == root:
            raise FileKeyError(
                f"fileKey {_shown(file_key)} is refused.",
                cause="It leads out of the audio folder through a symbolic link.",
                fix="Send a path below the audio folder.",
            )
        return path


def _checked(file_key: str) -> PurePosixPath:
    problem = _problem(file_key)
    if problem is not None:
        raise FileKeyError(
            f"fileKey {_shown(file_key)} is refused.",
            cause=problem,
            fix="Send a path relative to the audio folder, such as 'uploads/take-1.wav'.",
        )
    return PurePosixPath(file_key)


def _problem(file_key: str) -> str | None:
    if not file_key.strip():
        return "It is empty."
    if any(ord(char) < 0x20 for char in file_key):
        return "It holds a NUL or another control character."
    # Both rule sets, whatever the system: a key must mean the same on every worker.
    windows = PureWindowsPath(file_key)
    if file_key.startswith(("/", "\\")) or windows.drive:
        return "It is an absolute path."
    if ".." in windows.parts or ".." in PurePosixPath(file_key).parts:
        return "It holds '..'."
    if PurePosixPath(file_key) == PurePosixPath("."):
        return "It names the audio folder itself."
    return None


def _resolve_error(file_key: str, error: OSError | RuntimeError) -> StoreError:
    code = error.errno if isinstance(error, OSError) else errno.ELOOP
    if code in (errno.ENOENT, errno.ENOTDIR):
        return FileMissingError(
            f"There is no file {_shown(file_key)} in the audio folder.",
            cause="It is not written yet, or it was removed.",
        )
    if code in (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL):
        return FileKeyError(f"fileKey {_shown(file_key)} is refused ({_reason(error)}).")
    return StoreError(f"The file {_shown(file_key)} cannot be read ({_reason(error)}).")


def _reason(error: OSError | RuntimeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _shown(file_key: str) -> str:
    return repr(file_key if len(file_key) <= 200 else file_key[:200] + "...")
