"""`bullpy audio`: measure files from the command line."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer

from bullpy import errors

if TYPE_CHECKING:
    from rich.console import Console

    from bullpy.audio.presets import Target, TargetChoice
    from bullpy.audio.report import AudioReport
    from bullpy.audio.verdicts import Verdict
    from bullpy.cli.audio_run import Outcome

app = typer.Typer(no_args_is_help=True, help="Measure audio files.", rich_markup_mode=None)

UNMEASURED = 1
"""Exit code: a file could not be measured."""
OUTSIDE = 3
"""Exit code: all were measured, one is outside the target."""
INTERRUPTED = 130
"""Exit code: Ctrl-C."""

_PICTURES = (".png", ".svg", ".pdf")


@app.callback()
def audio() -> None:
    """Measure audio files."""


@app.command()
def analyze(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="WAV, FLAC, MP3, M4A or other files.")
    ],
    target: Annotated[
        str | None,
        typer.Option(help="Judge against streaming, podcast, club, or the ranges in a .json file."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="REF", help="Say how each file differs from this one.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT", help="Draw a picture: .png, .svg or .pdf; or a folder for many files."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per file and line, errors included.")
    ] = False,
    brief: Annotated[bool, typer.Option("--brief", help="One row per file.")] = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Measure all audio files below folders.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Files measured at a time; as many as CPUs.")
    ] = None,
) -> None:
    """Loudness, true peak, levels and stereo image of each file, in plain words.

    Exit code 0 when every file was measured and is within the target, 1 when one could not be
    measured, 3 when one is outside the target, 2 for a wrong call, 130 when interrupted.
    """
    from bullpy.cli import audio_run

    # The matrices are small: BLAS threads would only spin, and double the time on the CPU.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    found = audio_run.expand(files) if recursive else files
    with audio_run.quiet_decoder() as stream:
        try:
            if not found:
                raise errors.ConfigurationError("There is no audio file in these folders.")
            run = _Run.prepared(target, plot, found, stream, as_json=as_json, brief=brief)
            code = run.all_of(found, compare, jobs)
        except errors.MissingExtraError as error:
            _end(stream, str(error), 1)
        except errors.ConfigurationError as error:
            _end(stream, str(error), 2)
        except KeyboardInterrupt:
            _end(stream, "interrupted", INTERRUPTED)
    if code:
        raise typer.Exit(code)


def _end(stream: TextIO, message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=stream)
    raise typer.Exit(code) from None


@dataclass
class _Run:
    """One call of the command."""

    choice: TargetChoice | None
    pictures: dict[Path, Path]
    stream: TextIO
    console: Console
    as_json: bool
    brief: bool
    several: bool
    reference: AudioReport | None = None
    results: list[tuple[Outcome, list[Verdict]]] = field(default_factory=list)

    @classmethod
    def prepared(
        cls,
        target: str | None,
        plot: Path | None,
        files: list[Path],
        stream: TextIO,
        *,
        as_json: bool,
        brief: bool,
    ) -> _Run:
        """Check everything that can be wrong before a file is measured."""
        from rich.console import Console

        from bullpy.audio.presets import load_target

        choice = None if target is None else load_target(target)
        if choice is not None and choice.stereo.unknown:
            keys = ", ".join(choice.stereo.unknown)
            print(f"warning: {target}: means nothing here and is left out: {keys}", file=stream)
        pictures = {} if plot is None else picture_names(plot, files)
        if plot is not None:
            importlib.import_module("bullpy.audio.picture")  # a missing extra is said now
        # Tables are for people: a pipe gets the width that they need.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 110
        console = Console(width=width, highlight=False, emoji=False)
        return cls(choice, pictures, stream, console, as_json, brief, several=len(files) > 1)

    def all_of(self, files: list[Path], compare: Path | None, jobs: int | None) -> int:
        """Measure, tell, and give the exit code."""
        from bullpy import cpus
        from bullpy.audio.settings import AudioSettings
        from bullpy.cli import audio_run

        settings = AudioSettings.from_env()
        series = bool(self.pictures)
        bars = audio_run.Bars(self.stream, len(files))
        if compare is not None and not self._measured_reference(compare, settings, series=series):
            return UNMEASURED
        threads = min(len(files), jobs if jobs is not None else cpus.available())
        with bars.shown():
            measured = audio_run.measure_all(files, settings, bars, jobs=threads, series=series)
            try:
                for outcome in measured:
                    with bars.aside():
                        self._tell(outcome)
            finally:
                measured.close()
        if not self.as_json and (self.brief or self.several):
            from bullpy.cli import audio_table

            audio_table.print_overview(self.console, self.results)
        return self._code()

    def _measured_reference(self, compare: Path, settings: object, *, series: bool) -> bool:
        from bullpy.audio.settings import AudioSettings
        from bullpy.cli import audio_run

        assert isinstance(settings, AudioSettings)
        bars = audio_run.Bars(self.stream, 1)
        with bars.shown():
            (outcome,) = audio_run.measure_all([compare], settings, bars, jobs=1, series=series)
        if outcome.error is not None:
            self._complain(compare, outcome.error)
        self.reference = outcome.report
        return outcome.report is not None

    def _tell(self, outcome: Outcome) -> None:
        """Print, and draw, one file's result."""
        from bullpy.audio import comparison, differences, verdicts

        report, path = outcome.report, outcome.path
        if report is None:
            assert outcome.error is not None
            self._complain(path, outcome.error)
            self.results.append((outcome, []))
            if self.as_json:
                _print_json({"file": str(path), "error": errors.as_dict(outcome.error)})
            return
        target = None
        if self.choice is not None:
            target = self.choice.for_channels(report.metadata.channels)
        checks = [] if target is None else target.check(report)
        said = [*verdicts.against(checks), *verdicts.remarks(report, target)]
        self.results.append((_light(outcome), said))
        apart = [] if self.reference is None else differences.differences(report, self.reference)
        if self.as_json:
            wire = report.to_wire()
            wire.pop("series", None)
            line: dict[str, object] = {"file": str(path), **wire}
            if target is not None:
                line["target"] = {
                    "name": target.name,
                    "source": target.source,
                    "ok": not any(item.level == "outside" for item in said),
                    "metrics": {check.goal.metric: check.to_wire() for check in checks},
                }
            if self.reference is not None:
                compared = comparison.with_reference(wire, self.reference.to_wire())
                line["comparison"] = compared.values
            line["verdicts"] = [
                {"metric": item.metric, "level": item.level, "text": item.text} for item in said
            ]
            _print_json(line)
        elif not self.brief:
            from bullpy.cli import audio_table

            audio_table.print_report(self.console, report, said, target, apart)
        self._draw(path, report, said, target)

    def _draw(
        self, path: Path, report: AudioReport, said: list[Verdict], target: Target | None
    ) -> None:
        out = self.pictures.get(path)
        if out is None:
            return
        from bullpy.audio import picture

        try:
            picture.draw(report, out, verdicts=said, target=target, reference=self.reference)
        except OSError as error:
            raise errors.ConfigurationError(
                f"The picture {str(out)!r} cannot be written: {error.strerror}."
            ) from error

    def _complain(self, path: Path, error: errors.BullpyError) -> None:
        from bullpy.cli import audio_run

        hint = " Use --recursive for the files in it." if path.is_dir() else ""
        text = audio_run.shown(f"error: {path}: {error}{hint}")
        print(text, file=self.stream)

    def _code(self) -> int:
        if any(outcome.report is None for outcome, _ in self.results):
            return UNMEASURED
        if any(item.level == "outside" for _, said in self.results for item in said):
            return OUTSIDE
        return 0


def picture_names(plot: Path, files: list[Path]) -> dict[Path, Path]:
    """Where the picture of each file goes.

    For one file that is `plot`; for several `plot` with each file's name in it (`out.png` becomes
    `out-song.png`). In a folder the names are the files' own. Equal names are numbered.

    Raises:
        errors.ConfigurationError: No kind of picture, or the folder is missing.
    """
    inside = plot.is_dir()
    folder = plot if inside else plot.parent
    suffix = ".png" if inside else plot.suffix.lower()
    if suffix not in _PICTURES:
        raise errors.ConfigurationError(
            f"{plot.name!r} is no name of a picture.", fix="End it in .png, .svg or .pdf."
        )
    if not folder.is_dir():
        raise errors.ConfigurationError(f"There is no folder {str(folder)!r} for the picture.")
    if not inside and len(files) == 1:
        return {files[0]: plot}
    names: dict[Path, Path] = {}
    taken: set[str] = set()
    for path in dict.fromkeys(files):
        plain = path.stem if inside else f"{plot.stem}-{path.stem}"
        name, count = plain, 1
        while name.lower() in taken:  # some file systems take a and A for the same
            count += 1
            name = f"{plain}-{count}"
        taken.add(name.lower())
        names[path] = folder / f"{name}{suffix}"
    return names


def _light(outcome: Outcome) -> Outcome:
    """The outcome without its curves, for the overview at the end."""
    import dataclasses

    assert outcome.report is not None
    return dataclasses.replace(outcome, report=dataclasses.replace(outcome.report, series=None))


def _print_json(value: dict[str, object]) -> None:
    from bullpy import codec

    typer.echo(codec.dumps(value).decode())
