"""`bullpy audio`: measure files from the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bullpy.audio.report import AudioReport

app = typer.Typer(no_args_is_help=True, help="Measure audio files.", rich_markup_mode=None)


@app.callback()
def audio() -> None:
    """Measure audio files."""


@app.command()
def analyze(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="WAV, AIFF, FLAC or MP3 files.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per file and line, errors included.")
    ] = False,
) -> None:
    """Loudness, true peak, levels and stereo image of each file.

    Exit code 0 when every file was measured, 1 when one was not, 2 for a wrong call.
    """
    from bullpy import errors

    # The matrices are small: BLAS threads would only spin, and double the time on the CPU.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        measured = _measure_all(files, as_json=as_json)
    except errors.BullpyError as error:  # a missing extra, a wrong setting
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    if not as_json:
        _print_table(measured)
    if len(measured) < len(files):
        raise typer.Exit(1)


def _measure_all(files: list[Path], *, as_json: bool) -> list[tuple[Path, AudioReport]]:
    """Measure each file, telling of those that cannot be measured on standard error."""
    from bullpy import errors
    from bullpy.audio.analysis import analyze as measure
    from bullpy.audio.errors import AudioError
    from bullpy.audio.settings import AudioSettings

    settings = AudioSettings.from_env()
    measured: list[tuple[Path, AudioReport]] = []
    for path in files:
        try:
            with _quiet_decoder():
                report = measure(path, settings=settings)
        except AudioError as error:
            typer.echo(f"error: {path}: {error}", err=True)
            if as_json:
                _print_json({"file": str(path), "error": errors.as_dict(error)})
            continue
        measured.append((path, report))
        if as_json:
            _print_json({"file": str(path), **report.to_wire()})
    return measured


def _print_json(value: dict[str, object]) -> None:
    from bullpy import codec

    typer.echo(codec.dumps(value).decode())


def _print_table(measured: list[tuple[Path, AudioReport]]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not measured:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("file", overflow="fold", min_width=12)
    for name in ("duration", "LUFS", "LRA", "dBTP", "peak", "RMS", "corr."):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("notes", overflow="fold")
    for path, report in measured:
        table.add_row(
            path.name,
            _clock(report.metadata.duration),
            _number(report.loudness.integrated),
            _number(report.loudness.lra),
            _number(report.true_peak.max_dbtp, sign=True),
            _number(_larger(report.true_peak.sample_peak_left, report.true_peak.sample_peak_right)),
            _number(report.rms.average),
            _number(report.stereo.correlation, digits=2),
            ", ".join(_notes(report)) or "ok",
        )
    Console().print(table)


def _notes(report: AudioReport) -> list[str]:
    codes = dict.fromkeys(warning.code for warning in report.warnings)
    top = report.true_peak.max_dbtp
    if top is not None and top > 0:
        return ["true-peak-over", *codes]
    return list(codes)


def _larger(left: float | None, right: float | None) -> float | None:
    return max((value for value in (left, right) if value is not None), default=None)


def _number(value: float | None, *, digits: int = 1, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:04.1f}"


@contextmanager
def _quiet_decoder() -> Generator[None]:
    """Keep the MP3 decoder's own remarks off the terminal.

    libsndfile's mpg123 writes to file descriptor 2. Closing that off is fit for a command
    that does one thing at a time; a worker, where other threads log, must not do it.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        os.close(nothing)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
