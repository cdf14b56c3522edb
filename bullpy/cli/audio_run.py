"""Measuring many files at once, with progress for people, and results in the order given."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

    from bullpy.audio.errors import AudioError
    from bullpy.audio.report import AudioReport
    from bullpy.audio.settings import AudioSettings

SUFFIXES = frozenset(
    [
        ".wav",
        ".wave",
        ".bwf",
        ".flac",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
        ".ogg",
        ".oga",
        ".opus",
        ".m4a",
        ".mp4",
        ".aac",
        ".w64",
        ".rf64",
        ".caf",
        ".wma",
        ".wv",
    ]
)
"""What --recursive takes for audio."""

_AHEAD = 2  # results kept per thread while an earlier one is still being measured


@dataclass(frozen=True, slots=True)
class Outcome:
    """One file: its report, or why there is none."""

    path: Path
    report: AudioReport | None = None
    error: AudioError | None = None


class Bars:
    """Progress bars on standard error; nothing when that is no terminal."""

    def __init__(self, stream: TextIO, files: int) -> None:
        self._bars: Progress | None = None
        self._files = files
        if stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                console=Console(file=stream),
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._all = self._bars.add_task(f"{files} files", total=files) if files > 1 else None

    @contextmanager
    def shown(self) -> Generator[None]:
        """Show the bars while the block runs."""
        if self._bars is None:
            yield
            return
        with self._bars:
            yield

    @contextmanager
    def aside(self) -> Generator[None]:
        """Take the bars away while something else is written to the terminal."""
        if self._bars is None:
            yield
            return
        self._bars.stop()
        try:
            yield
        finally:
            self._bars.start()

    @contextmanager
    def following(self, name: str) -> Generator[Callable[[float], None]]:
        """A bar for one file; gives what to call with the share that is done."""
        bars = self._bars
        if bars is None:
            yield lambda _: None
            return
        task = bars.add_task(name, total=1.0)
        try:
            yield lambda share: bars.update(task, completed=share)
        finally:
            bars.remove_task(task)
            if self._all is not None:
                bars.advance(self._all)


def measure_all(
    files: list[Path], settings: AudioSettings, bars: Bars, *, jobs: int, series: bool
) -> Generator[Outcome]:
    """Measure files in threads, giving the results in the order of the files.

    Threads, because the decoder and most of the arithmetic release the interpreter's lock.
    Closing the generator stops what is running within a block of audio.

    Args:
        files: The files.
        settings: Limits.
        bars: Progress.
        jobs: Files measured at a time.
        series: Whether the reports hold curves.
    """
    from bullpy.audio.analysis import analyze
    from bullpy.audio.errors import AudioError

    stop = threading.Event()

    def measure(path: Path) -> Outcome:
        with bars.following(shown(path.name)) as on_progress:
            try:
                report = analyze(
                    path,
                    settings=settings,
                    on_progress=on_progress,
                    should_stop=stop.is_set,
                    series=series,
                )
            except AudioError as error:
                return Outcome(path, error=error)
        return Outcome(path, report)

    waiting: deque[Future[Outcome]] = deque()
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="bullpy-audio")
    try:
        for path in files:
            waiting.append(pool.submit(measure, path))
            if len(waiting) >= _AHEAD * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def expand(paths: list[Path]) -> list[Path]:
    """The paths, with each folder replaced by the audio files below it, by name."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        for folder, folders, names in os.walk(path):
            folders.sort()
            inside = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
            found += [item for item in inside if item.suffix.lower() in SUFFIXES]
    return found


def shown(name: str) -> str:
    """A file name that can be printed: undecodable bytes and control characters replaced."""
    readable = os.fsencode(name).decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "�" for char in readable)


@contextmanager
def quiet_decoder() -> Generator[TextIO]:
    """Keep the MP3 decoder's own remarks off the terminal; gives the real standard error.

    libsndfile's mpg123 writes to file descriptor 2. Closing that off is fit for a command,
    where nobody else writes there meanwhile; a worker, where others log, must not do it.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with open(kept, "w", encoding="utf-8", errors="replace", buffering=1) as stream:  # noqa: PTH123
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        os.close(nothing)
        try:
            yield stream
        finally:
            stream.flush()
            os.dup2(kept, 2)
