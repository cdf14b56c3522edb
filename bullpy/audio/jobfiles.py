"""The files of a job: fetched from the store, measured, and remembered where that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bullpy import Job, errors
from bullpy.audio.progress import Progress
from bullpy.audio.settings import AudioSettings
from bullpy.audio.stores import store_of
from bullpy.audio.stores.base import Store, Watch
from bullpy.audio.stores.local import LocalStore

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
    with ExitStack() as stack:
        paths, first = _fetched(job, store, wanted, stack)
        sizes = [_size(path) for path in paths]
        progress = Progress(lambda percent: _tell(job, percent), sizes, first=first)
        reports = [
            _report(job, one, path, settings, progress, index)
            for index, (one, path) in enumerate(zip(wanted, paths, strict=True))
        ]
        progress.finish()
    return reports


def _fetched(
    job: Job[Any], store: Store, wanted: Sequence[Wanted], stack: ExitStack
) -> tuple[list[Path], int]:
    """Local paths of the files, and the percent that has been told so far at most."""
    # Nothing is copied from a folder: measuring is all that takes time.
    last = 0 if isinstance(store, LocalStore) else _FETCHED
    progress = Progress(lambda percent: _tell(job, percent), [1] * len(wanted), last=last)
    paths: list[Path] = []
    for index, one in enumerate(wanted):
        watch = Watch(job.should_stop, progress.of_file(index))
        paths.append(stack.enter_context(store.fetch(one.file_key, watch)))
    return paths, last


def _report(
    job: Job[Any],
    wanted: Wanted,
    path: Path,
    settings: AudioSettings,
    progress: Progress,
    index: int,
) -> dict[str, object]:
    from bullpy.audio.analysis import analyze  # numpy and libsndfile load with the first job

    report = analyze(
        path,
        settings=settings,
        on_progress=progress.of_file(index),
        should_stop=job.should_stop,
        series=wanted.series,
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


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # reading it says what is wrong
