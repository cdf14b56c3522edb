"""The files of a job: fetched from the store, measured, and remembered where that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bullpy import Job, errors
from bullpy.audio.errors import StoreError
from bullpy.audio.progress import Progress
from bullpy.audio.settings import AudioSettings
from bullpy.audio.stores import store_of
from bullpy.audio.stores.base import Store, Watch
from bullpy.audio.stores.local import LocalStore

if TYPE_CHECKING:
    from bullpy.audio.cache import Cache

_log = logging.getLogger("bullpy.audio")

_FETCHED = 50  # percent of a job's progress that its downloads are


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to measure.

    Attributes:
        file_key: Where it is in the store.
        series: Whether the report holds curves for plots.
    """

    file_key: str
    series: bool = False


def measured(
    job: Job[Any], wanted: Sequence[Wanted], settings: AudioSettings
) -> list[dict[str, object]]:
    """The reports of the files, in their JSON form and their order.

    All files are fetched before the first is measured: one that is missing fails the job
    before any time is spent on the others.

    Raises:
        AudioError: A file cannot be had or measured.
        errors.ConfigurationError: The settings name no store, or a wrong one.
        errors.JobCancelledError: The job was asked to stop.
    """
    store = store_of(settings)
    known = _Known(store, settings, job)
    with ExitStack() as stack:
        files, first = _fetched(job, store, known, wanted, stack)
        progress = Progress(
            lambda percent: _tell(job, percent), [file.size for file in files], first=first
        )
        reports = [
            file.report or known.kept(file, _measured(job, file, settings, progress.of_file(index)))
            for index, file in enumerate(files)
        ]
        progress.finish()
    return reports


@dataclass(slots=True)
class _File:
    """A file on its way to its report.

    Attributes:
        wanted: What was asked for.
        path: Where it can be read; None when the report is known without.
        report: An earlier report of the same bytes.
        version: The store's version before it was fetched.
        content: Stands for its bytes where the store has no versions.
    """

    wanted: Wanted
    path: Path | None = None
    report: dict[str, object] | None = None
    version: str | None = None
    content: str | None = None

    @property
    def size(self) -> int:
        """Bytes to be measured."""
        if self.path is None or self.report is not None:
            return 0
        try:
            return self.path.stat().st_size
        except OSError:
            return 0  # reading it says what is wrong


class _Known:
    """Earlier measurements, if they are kept at all.

    A version is asked for before the file is fetched and after it was measured, and so is the hash
    of a file that others may write to: what has changed in between is not kept.
    """

    def __init__(self, store: Store, settings: AudioSettings, job: Job[Any]) -> None:
        self._store = store
        self._job = job
        self._cache: Cache | None = None
        if settings.cache is not None:
            from bullpy.audio.cache import Cache  # loads numpy's report types, when asked for

            self._cache = Cache(settings.cache, settings.cache_bytes, settings)

    def look_before(self, file: _File) -> None:
        """Find the report by the store's version of the file."""
        if self._cache is not None:
            file.version = self._version(file.wanted)
            if file.version is not None:
                file.report = self._found(file, self._of_version(file.wanted, file.version))

    def look_after(self, file: _File) -> None:
        """Find the report by the bytes of the fetched file, where the store has no versions."""
        if self._cache is not None and file.version is None and file.path is not None:
            from bullpy.audio.cache import hash_of

            try:
                file.content = hash_of(file.path)
            except OSError:
                return  # measuring it says what is wrong
            file.report = self._found(file, file.content)

    def kept(self, file: _File, report: dict[str, object]) -> dict[str, object]:
        """The report, which is also kept for later where that can be relied on."""
        if self._cache is not None and (content := self._steady(file)) is not None:
            self._cache.put(content, report, series=file.wanted.series)
        return report

    def _steady(self, file: _File) -> str | None:
        """What stands for the measured bytes, unless they may have changed meanwhile."""
        from bullpy.audio.cache import hash_of

        try:
            if file.version is not None:
                if self._version(file.wanted) == file.version:
                    return self._of_version(file.wanted, file.version)
            elif not isinstance(self._store, LocalStore):
                return file.content  # of a copy that is this job's alone
            elif file.path is not None and hash_of(file.path) == file.content:
                return file.content
        except OSError as error:
            _log.info("%r is not cached: %s", file.wanted.file_key, error)
        return None

    def _version(self, wanted: Wanted) -> str | None:
        try:
            return self._store.version(wanted.file_key, Watch(self._job.should_stop))
        except StoreError as error:
            # A server may tell no versions, and the fetch says better what is wrong.
            _log.info("no version of %r: %s", wanted.file_key, error)
            return None

    def _of_version(self, wanted: Wanted, version: str) -> str:
        from bullpy.audio.cache import version_of

        return version_of(self._store, wanted.file_key, version)

    def _found(self, file: _File, content: str) -> dict[str, object] | None:
        assert self._cache is not None
        wanted = file.wanted
        report = self._cache.get(content, wanted.file_key, series=wanted.series)
        if report is not None:
            self._job.log(f"Measured before: {wanted.file_key!r} comes from the cache.")
        return report


def _fetched(
    job: Job[Any], store: Store, known: _Known, wanted: Sequence[Wanted], stack: ExitStack
) -> tuple[list[_File], int]:
    """The files at hand, and the percent that has been told so far at most."""
    # Nothing is copied from a folder: measuring is all that takes time.
    last = 0 if isinstance(store, LocalStore) else _FETCHED
    progress = Progress(lambda percent: _tell(job, percent), [1] * len(wanted), last=last)
    files: list[_File] = []
    for index, one in enumerate(wanted):
        file = _File(one)
        known.look_before(file)
        if file.report is None:
            watch = Watch(job.should_stop, progress.of_file(index))
            file.path = stack.enter_context(store.fetch(one.file_key, watch))
            known.look_after(file)
        files.append(file)
    return files, last


def _measured(
    job: Job[Any], file: _File, settings: AudioSettings, on_progress: Callable[[float], None]
) -> dict[str, object]:
    from bullpy.audio.analysis import analyze  # numpy and libsndfile load with the first job

    assert file.path is not None
    report = analyze(
        file.path,
        settings=settings,
        on_progress=on_progress,
        should_stop=job.should_stop,
        series=file.wanted.series,
    )
    metadata = report.metadata
    job.log(
        f"Measured {metadata.duration:.1f} s of {metadata.format}, "
        f"{metadata.sample_rate} Hz, {metadata.channels} channels."
    )
    return report.to_wire()


def _tell(job: Job[Any], percent: int) -> None:
    try:
        job.update_progress(percent)
    except errors.RedisError as error:
        # The measurement needs no Redis; its result waits for it.
        _log.debug("progress of job %s was not stored: %s", job.id, error)
