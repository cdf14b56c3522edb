"""Reports as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bullpy.audio.comparison import band_path, number_at
from bullpy.audio.targets import BAND_NAMES
from bullpy.cli.audio_run import Outcome, shown

if TYPE_CHECKING:
    from bullpy.audio.differences import Difference
    from bullpy.audio.presets import Target
    from bullpy.audio.report import AudioReport
    from bullpy.audio.verdicts import Verdict

_STYLES = {"ok": "green", "outside": "bold red", "warning": "bold yellow", "note": ""}

_ROWS: tuple[tuple[str, str], ...] = (
    ("loudness.integrated", "integrated loudness"),
    ("loudness.shortTerm", "loudest 3 s"),
    ("loudness.momentary", "loudest 400 ms"),
    ("loudness.lra", "loudness range"),
    ("truePeak.maxDbtp", "true peak"),
    ("truePeak.clipping", "clipping"),
    ("dynamics.range", "dynamic range (TT)"),
    ("dynamics.plr", "peak to loudness"),
    ("dynamics.crest", "crest factor"),
    ("rms.average", "RMS"),
    ("stereo.correlation", "stereo correlation"),
    ("stereo.width", "stereo width"),
    ("stereo.balance", "balance"),
    ("dcOffset", "DC offset"),
)


def print_report(
    console: Console,
    report: AudioReport,
    verdicts: list[Verdict],
    target: Target | None,
    differences: list[Difference],
) -> None:
    """One file: every metric with its verdict, then what concerns the file as a whole."""
    console.print(Text.assemble((shown(report.metadata.file_name), "bold"), f"  {about(report)}"))
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("measured", justify="right", no_wrap=True)
    if differences:
        table.add_column("reference", justify="right", no_wrap=True)
        table.add_column("against it", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    references = {item.metric: item for item in differences}
    values = dict(_values(report))
    # A target may judge what has no row of its own, such as a band.
    extra = [
        (goal.metric, goal.label)
        for goal in (target.goals if target is not None else ())
        if goal.metric not in dict(_ROWS)
    ]
    extra += [
        (item.metric, item.label)
        for item in differences
        if item.metric not in dict(_ROWS) and item.metric not in dict(extra)
    ]
    for metric, label in (*_ROWS, *extra):
        words = _joined(item for item in verdicts if item.metric == metric)
        difference = references.get(metric)
        cells: list[str | Text] = [label, values.get(metric, "-")]
        if differences:
            cells += ["", ""] if difference is None else _beside(difference)
        table.add_row(*cells, words)
    console.print(table)
    for item in verdicts:
        if not item.metric:
            console.print(Text(f"{item.level}: {item.text}", style=_STYLES[item.level]))
    if target is not None:
        console.print(_summary(verdicts, target))
    console.print()


def print_overview(console: Console, outcomes: list[tuple[Outcome, list[Verdict]]]) -> None:
    """One row per file."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("file", overflow="fold", min_width=12)
    for name in ("duration", "LUFS", "LRA", "dBTP", "DR", "corr."):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for outcome, verdicts in outcomes:
        name = Text(shown(outcome.path.name))
        report = outcome.report
        if report is None:
            table.add_row(name, *["-"] * 6, Text("not measured", style="bold red"))
            continue
        wanted = [item for item in verdicts if item.level in ("outside", "warning")]
        table.add_row(
            name,
            clock(report.metadata.duration),
            number(report.loudness.integrated),
            number(report.loudness.lra),
            number(report.true_peak.max_dbtp, sign=True),
            number(report.dynamics.range),
            number(report.stereo.correlation, digits=2),
            _joined(wanted) if wanted else Text("ok", style="green"),
        )
    console.print(table)


def about(report: AudioReport) -> str:
    """Format, rate, channels and length in one line."""
    data = report.metadata
    names = {1: "mono", 2: "stereo"}
    parts = [
        f"{data.format} {data.bit_depth} bit" if data.bit_depth else data.format,
        f"{data.sample_rate / 1000:g} kHz",
        names.get(data.channels, f"{data.channels} channels"),
        clock(data.duration),
    ]
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Minutes and seconds: 3:05.2."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}"


def number(value: float | None, *, digits: int = 1, sign: bool = False) -> str:
    """A value, or - where there is none."""
    if value is None:
        return "-"
    value = round(value, digits) + 0.0  # no -0.0
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def _beside(difference: Difference) -> list[str | Text]:
    digits = 2 if difference.metric.startswith("stereo.") else 1
    return [number(difference.reference, digits=digits), difference.text]


def _values(report: AudioReport) -> Iterator[tuple[str, str]]:
    loudness, dynamics, stereo = report.loudness, report.dynamics, report.stereo
    peak, wire = report.true_peak, report.to_wire()
    units: tuple[tuple[str, float | None, str, bool], ...] = (
        ("loudness.integrated", loudness.integrated, "LUFS", False),
        ("loudness.shortTerm", loudness.short_term, "LUFS", False),
        ("loudness.momentary", loudness.momentary, "LUFS", False),
        ("loudness.lra", loudness.lra, "LU", False),
        ("truePeak.maxDbtp", peak.max_dbtp, "dBTP", True),
        ("dynamics.range", dynamics.range, "dB", False),
        ("dynamics.plr", dynamics.plr, "LU", False),
        ("dynamics.crest", dynamics.crest, "dB", False),
        ("rms.average", report.rms.average, "dBFS", False),
    )
    for metric, value, unit, sign in units:
        yield metric, "-" if value is None else f"{number(value, sign=sign)} {unit}"
    yield "truePeak.clipping", f"{peak.clipping.samples} samples"
    yield "stereo.correlation", number(stereo.correlation, digits=2, sign=True)
    yield "stereo.width", number(stereo.width, digits=2)
    yield "stereo.balance", number(stereo.balance, digits=2, sign=True)
    offset = max(report.dc_offset.left, report.dc_offset.right or 0, key=abs)
    yield "dcOffset", number(offset, digits=4)
    for band in BAND_NAMES:
        level = number_at(wire, band_path(band))
        yield band_path(band), "-" if level is None else f"{level:.1f} dB"


def _joined(verdicts: Iterable[Verdict]) -> Text:
    parts = [Text(item.text, style=_STYLES[item.level]) for item in verdicts]
    return Text("; ").join(parts)


def _summary(verdicts: list[Verdict], target: Target) -> Text:
    outside = sum(item.level == "outside" for item in verdicts)
    if not outside:
        return Text(f"within the target {target.name}", style=_STYLES["ok"])
    text = f"outside the target {target.name} in {outside} of {len(target.goals)}"
    return Text(text, style=_STYLES["outside"])
