"""Which fileKeys are accepted, and how they are shown: the same rules for every store."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath

from bullpy.audio.errors import FileKeyError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")  # RFC 3986, section 3.1
_MAX_NAME_BYTES = 200  # file systems take 255; the folder of a download needs no more


def checked(file_key: str) -> PurePosixPath:
    """The key as a relative path, `/` between its parts.

    Raises:
        FileKeyError: It is empty, absolute (on any system), a URL, holds `..` or a control
            character, or names the root itself.
    """
    problem = _problem(file_key)
    if problem is not None:
        raise FileKeyError(
            f"fileKey {shown(file_key)} is refused.",
            cause=problem,
            fix="Send a path relative to the store's root, such as 'uploads/take-1.wav'.",
        )
    return PurePosixPath(file_key)


def shown(file_key: str) -> str:
    """The key for a message: quoted, and not longer than a line or two."""
    return repr(file_key if len(file_key) <= 200 else file_key[:200] + "...")


def file_name(file_key: str) -> str:
    """The key's last part, cut to what every file system takes as a name."""
    name = PurePosixPath(file_key).name
    # A lone surrogate cannot be written; what is cut in the middle of a character goes too.
    kept = name.encode("utf-8", "replace")[-_MAX_NAME_BYTES:]
    return kept.decode("utf-8", "ignore") or "file"


def _problem(file_key: str) -> str | None:
    if not file_key.strip():
        return "It is empty."
    if any(ord(char) < 0x20 for char in file_key):
        return "It holds a NUL or another control character."
    if _SCHEME.match(file_key):
        return "It is a URL."
    # Both rule sets, whatever the system: a key must mean the same on every worker.
    windows = PureWindowsPath(file_key)
    if file_key.startswith(("/", "\\")) or windows.drive:
        return "It is an absolute path."
    if ".." in windows.parts or ".." in PurePosixPath(file_key).parts:
        return "It holds '..'."
    if PurePosixPath(file_key) == PurePosixPath("."):
        return "It names the root itself."
    return None
