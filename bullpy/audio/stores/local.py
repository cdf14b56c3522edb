"""Files in a folder: read where they are, and never outside it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from bullpy.audio.errors import FileKeyError, FileMissingError, StoreError
from bullpy.audio.stores import keys
from bullpy.audio.stores.base import UNWATCHED, Watch

_SETTLED = 2.0  # seconds after which a further write is sure to change the file's times


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
    def fetch(self, file_key: str, watch: Watch = UNWATCHED) -> Generator[Path]:
        """The file's path. Nothing is copied, so there is nothing to watch.

        Raises:
            FileKeyError: See `resolve`.
            FileMissingError: See `resolve`.
            StoreError: See `resolve`.
        """
        yield self.resolve(file_key)

    def version(self, file_key: str, watch: Watch = UNWATCHED) -> str | None:
        """Inode, size and times of the file; None while it is so young that it may go on growing.

        The clock of a file system moves in steps: a write soon after another may leave the
        times as they are, so times that are younger than two seconds prove nothing.

        Raises:
            FileKeyError: See `resolve`.
            FileMissingError: See `resolve`.
            StoreError: See `resolve`.
        """
        path = self.resolve(file_key)
        try:
            status = path.stat()
        except OSError as error:
            raise _resolve_error(file_key, error) from error
        if time.time() - max(status.st_mtime, status.st_ctime) < _SETTLED:
            return None
        numbers = (
            *(status.st_dev, status.st_ino, status.st_size),
            *(status.st_mtime_ns, status.st_ctime_ns),
        )
        return "-".join(map(str, numbers))

    def resolve(self, file_key: str) -> Path:
        """The real path of a fileKey, symbolic links followed, always below the root.

        Raises:
            FileKeyError: The key is empty, absolute, holds `..` or a NUL, or leads out of
                the root through a symbolic link.
            FileMissingError: There is no such file (now).
            StoreError: The root is missing, or the file system refused.
        """
        relative = keys.checked(file_key)
        try:
            root = self._root.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise StoreError(
                f"The audio folder {str(self._root)!r} cannot be read ({_reason(error)}).",
                cause="It does not exist, or its disk is not mounted.",
                fix="Create it, or correct BULLPY_AUDIO_ROOT or BULLPY_AUDIO_STORE.",
            ) from error
        try:
            path = (root / relative).resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise _resolve_error(file_key, error) from error
        if not path.is_relative_to(root) or path == root:
            raise FileKeyError(
                f"fileKey {keys.shown(file_key)} is refused.",
                cause="It leads out of the audio folder through a symbolic link.",
                fix="Send a path below the audio folder.",
            )
        return path


def _resolve_error(file_key: str, error: OSError | RuntimeError) -> StoreError:
    code = error.errno if isinstance(error, OSError) else errno.ELOOP
    if code in (errno.ENOENT, errno.ENOTDIR):
        return FileMissingError(
            f"There is no file {keys.shown(file_key)} in the audio folder.",
            cause="It is not written yet, or it was removed.",
        )
    if code in (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL):
        return FileKeyError(f"fileKey {keys.shown(file_key)} is refused ({_reason(error)}).")
    return StoreError(f"The file {keys.shown(file_key)} cannot be read ({_reason(error)}).")


def _reason(error: OSError | RuntimeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
