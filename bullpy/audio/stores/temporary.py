"""Downloads on this machine's disk: private, removed always, and swept after a crash.

```
BULLPY_AUDIO_TMP or the system's folder
└── bullpy-audio-<uid>/     mode 0700, of this user
    ├── .lock               held for a moment: while a folder is made or old ones are removed
    └── get-xxxxxxxx/       one download; its folder is locked for as long as it is in use
        └── take 1.wav
```

The lock is the kernel's, so a process that is killed lets go of it, and the next download of
any process removes what it left.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from typing_extensions import Buffer

from bullpy.audio.errors import AudioLimitError, StoreError
from bullpy.audio.stores import keys

_log = logging.getLogger("bullpy.audio")

_PREFIX = "get-"


class Downloads:
    """The folder that downloads of this user go to.

    Args:
        parent: Where it is; the system's folder for temporary files by default.
    """

    def __init__(self, parent: Path | None = None) -> None:
        base = Path(tempfile.gettempdir()) if parent is None else parent
        self.folder = base / f"bullpy-audio-{os.getuid()}"

    @contextmanager
    def place(self, file_key: str) -> Generator[Path]:
        """Where the file of that key can be written; whatever is there goes at the end.

        Raises:
            StoreError: The folder cannot be made, or belongs to somebody else.
        """
        folder, lock = self._new()
        try:
            yield folder / keys.file_name(file_key)
        finally:
            _remove(folder)
            os.close(lock)

    def sweep(self) -> int:
        """Remove what processes that were killed have left.

        Returns:
            How many downloads were removed.

        Raises:
            StoreError: The folder cannot be made, or belongs to somebody else.
        """
        with self._alone():
            return self._swept()

    def _new(self) -> tuple[Path, int]:
        """A new, locked folder. Nobody can sweep it between its making and its locking."""
        with self._alone():
            self._swept()
            try:
                folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.folder))
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                raise _unusable(self.folder, error) from error
            fcntl.flock(lock, fcntl.LOCK_EX)
            return folder, lock

    @contextmanager
    def _alone(self) -> Generator[None]:
        self._check()
        try:
            lock = os.open(
                self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise _unusable(self.folder, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _check(self) -> None:
        """Its name can be guessed, so somebody else could have made it."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.folder.mkdir(mode=0o700)
            except FileExistsError:
                pass
            status = self.folder.lstat()
        except OSError as error:
            raise _unusable(self.folder, error) from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            problem = "It is no folder of this user."
        elif status.st_mode & 0o077:
            problem = "Others may read or write it."
        else:
            return
        raise StoreError(
            f"Nothing is downloaded to {str(self.folder)!r}.",
            cause=problem,
            fix="Remove it, or set BULLPY_AUDIO_TMP to a folder of your own.",
        )

    def _swept(self) -> int:
        removed = 0
        for folder in self.folder.glob(f"{_PREFIX}*"):
            try:
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except OSError:
                continue  # removed meanwhile by whoever made it
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # in use
            else:
                _remove(folder)
                removed += 1
            finally:
                os.close(lock)
        if removed:
            _log.info("removed %d downloads that a killed process had left", removed)
        return removed


class Sink:
    """The file that a download is written to, up to a size.

    Args:
        path: Where it is.
        max_bytes: Most bytes that it takes.
        name: What messages call it.

    Attributes:
        written: Bytes so far.
        expected: Bytes that will come, when known.
    """

    def __init__(self, path: Path, max_bytes: int, name: str) -> None:
        self._max_bytes = max_bytes
        self._name = name
        # A thread that was left behind must not write once the descriptor is another file's.
        self._lock = threading.Lock()
        self.written = 0
        self.expected: int | None = None
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise _unwritable(name, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._file.close()

    @property
    def share(self) -> float:
        """How much of it is there, 0 to 1; 0 where the size is not known."""
        return min(1.0, self.written / self.expected) if self.expected else 0.0

    def begin(self, expected: int | None) -> None:
        """Start from the first byte, again if need be.

        Args:
            expected: Bytes that will come, when known.

        Raises:
            AudioLimitError: They are too many.
        """
        if expected is not None and expected > self._max_bytes:
            raise self._too_large(f"{expected} bytes")
        self._file.seek(0)
        self._file.truncate()
        self.written = 0
        self.expected = expected

    def write(self, chunk: Buffer) -> None:
        """Take the next bytes.

        Raises:
            AudioLimitError: There are more than are accepted.
            StoreError: The disk is full or broken.
        """
        view = memoryview(chunk)
        if self.written + view.nbytes > self._max_bytes:
            raise self._too_large("more bytes")
        try:
            while view.nbytes:
                with self._lock:
                    done = self._file.write(view)
                self.written += done
                view = view[done:]
        except OSError as error:
            raise _unwritable(self._name, error) from error

    def _too_large(self, found: str) -> AudioLimitError:
        return AudioLimitError(
            f"{self._name} has {found}; at most {self._max_bytes} are accepted.",
            fix="Raise BULLPY_AUDIO_MAX_BYTES if such files are meant to pass.",
        )


def _unwritable(name: str, error: OSError) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"{name} cannot be downloaded: the disk is full.",
            cause="The folder for downloads holds one copy of each file that is being measured.",
            fix="Free space, lower the worker's concurrency, or set BULLPY_AUDIO_TMP to a folder "
            "on a larger disk.",
        )
    return StoreError(f"{name} cannot be written to disk ({error.strerror or error}).")


def _unusable(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"Nothing can be downloaded to {str(folder)!r} ({error.strerror or error}).",
        fix="Set BULLPY_AUDIO_TMP to a folder that this user may write to.",
    )


def _remove(folder: Path) -> None:
    def failed(_function: object, path: str, info: object) -> None:
        _log.warning("%s could not be removed: %s", path, info)

    shutil.rmtree(folder, onerror=failed)
