"""Earlier measurements on disk: the same bytes, engine and settings give the same report.

One JSON file per measurement, named by the SHA-256 of what it depends on, written beside its
place and moved there: who reads sees a whole file or none. Any number of processes may share the
folder. Whatever is wrong with an entry or with the folder makes a miss, never a failed job.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any, cast

from bullpy.audio import engines
from bullpy.audio.report import ENGINE, ENGINE_VERSION
from bullpy.audio.settings import AudioSettings

_log = logging.getLogger("bullpy.audio")

_FORMAT = 1
_PART = "bullpy-audio-"
_OURS = re.compile(rf"[0-9a-f]{{64}}\.json|{_PART}.*")
_DECODERS = ("soundfile", "av", "numpy")  # another version may decode or round otherwise

Report = dict[str, object]


class Cache:
    """A folder of measurements, the oldest of which go when it is full.

    Args:
        folder: Where it is; made with mode 0700 if need be.
        max_bytes: Most bytes that its entries take together.
        settings: Those that a measurement is made with.
    """

    def __init__(self, folder: Path, max_bytes: int, settings: AudioSettings) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._how = _how(settings)

    def get(self, content: str, file_key: str, *, series: bool) -> Report | None:
        """An earlier report in its JSON form, under the name of that key; None for a miss.

        Args:
            content: What stands for the bytes: `version_of` or `hash_of`.
            file_key: Whose name the report shall carry.
            series: Whether it holds curves.
        """
        path = self._path(content, series)
        try:
            entry = json.loads(path.read_bytes())
            report = cast("Report", entry["report"])
            if entry["digest"] != _digest(report):
                raise ValueError("its digest is another")
            metadata = cast("dict[str, object]", report["metadata"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            _log.warning("the cached measurement %s is left aside: %r", path.name, error)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now: among the last to go
        metadata["fileName"] = PurePosixPath(file_key).name
        return report

    def put(self, content: str, report: Report, *, series: bool) -> None:
        """Keep a report in its JSON form."""
        entry = {"digest": _digest(report), "report": report}
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(self._path(content, series), json.dumps(entry, allow_nan=False).encode())
            self._trim()
        except OSError as error:
            _log.warning("a measurement could not be cached: %s", error)

    def _path(self, content: str, series: bool) -> Path:
        name = hashlib.sha256(_canonical([_FORMAT, self._how, content, series])).hexdigest()
        return self._folder / f"{name}.json"

    def _trim(self) -> None:
        """Remove what was used longest ago until the rest fits."""
        found: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            # Files that a killed writer left count and go like entries.
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if _OURS.fullmatch(path.name):
                    found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _used, size, _path in found)
        for _used, size, path in sorted(found):
            if total <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def version_of(store: object, file_key: str, version: str) -> str:
    """Stands for the bytes that a store has at that version of the key."""
    return f"version:{store!r}:{file_key}:{version}"


def hash_of(path: Path) -> str:
    """Stands for the bytes of a file: their SHA-256."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _how(settings: AudioSettings) -> dict[str, Any]:
    """What a result depends on beside the bytes: who measures, and what is accepted."""
    versions: dict[str, str | None] = {}
    for name in _DECODERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "engine": [ENGINE, ENGINE_VERSION, *engines.chosen()],
        "versions": versions,
        "max_bytes": settings.max_bytes,
        "max_duration": settings.max_duration,
        "max_channels": settings.max_channels,
        "rates": [settings.min_rate, settings.max_rate],
        "max_level": settings.max_level,
    }


def _canonical(value: object) -> bytes:
    # Surrogates are escaped: a key may hold what UTF-8 does not take.
    return json.dumps(value, sort_keys=True, ensure_ascii=True).encode()


def _digest(report: Report) -> str:
    return hashlib.sha256(_canonical(report)).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix=_PART, dir=path.parent)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
