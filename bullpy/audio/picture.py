"""A picture of one file: waveform, loudness, stereo image, spectrum and key figures.

Needs matplotlib (`bullpy[plot]`). Figures are made without pyplot, so nothing is shared with
a program that plots too. Colours are those of Okabe and Ito ("Color Universal Design", 2008),
which people with any colour vision can tell apart; nothing is said by colour alone.
"""

from __future__ import annotations

import os
import re
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bullpy import errors

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise errors.MissingExtraError("matplotlib", "plot") from error

from bullpy.audio.levels import Clipping
from bullpy.audio.loudness import ABSOLUTE_GATE
from bullpy.audio.raw import BANDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from bullpy.audio.presets import Goal, Target
    from bullpy.audio.report import AudioReport
    from bullpy.audio.series import Curve, Series
    from bullpy.audio.verdicts import Verdict

INK, GREY, FAINT = "#1b1f24", "#5b6470", "#d9dee4"
BLUE, SKY, ORANGE, RED, GREEN = "#0072b2", "#56b4e9", "#b87100", "#c24a00", "#00795b"
_MARKS = {"ok": ("✓", GREEN), "outside": ("✗", RED), "warning": ("!", RED), "note": ("•", GREY)}

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"

_INCHES, _DOTS = (16, 10), 100  # 1600 x 1000 pixels
_LEFT, _WIDE, _RIGHT, _NARROW = 0.055, 0.585, 0.705, 0.27
_TENTH = 0.1
_CLIP = 0.9999  # of the rounded waveform; only looked at when samples are clipped
_MOST_WORDS = 7


def draw(
    report: AudioReport,
    out: str | os.PathLike[str],
    *,
    verdicts: list[Verdict] | None = None,
    target: Target | None = None,
    reference: AudioReport | None = None,
) -> None:
    """Write the picture of a report.

    Args:
        report: A report with curves: `analyze(path, series=True)`.
        out: Where to; .png (1600 x 1000), .svg or .pdf. Replaced at once when it is complete.
        verdicts: What to say about the file; see `bullpy.audio.verdicts`.
        target: Shown as a band.
        reference: Another report, with curves, whose loudness and spectrum are drawn too.

    Raises:
        ValueError: The report has no curves.
        OSError: The file cannot be written.
        errors.MissingExtraError: matplotlib is not installed.
    """
    series = report.series
    if series is None:
        raise ValueError("The report has no curves: measure with series=True.")
    figure = Figure(figsize=_INCHES, dpi=_DOTS, facecolor="white")
    said = verdicts or []
    _title(figure, report, target, reference)
    _cards(figure, report, said)
    end = report.metadata.duration
    _waveform(_axes(figure, _LEFT, 0.585, _WIDE, 0.185), report, series.waveform, end)
    _loudness(_axes(figure, _LEFT, 0.245, _WIDE, 0.285), report, series, target, reference, end)
    below = _axes(figure, _LEFT, 0.07, _WIDE, 0.115)
    _stereo(below, report, series.correlation, end)
    _spectrum(_axes(figure, _RIGHT, 0.42, _NARROW, 0.35), report, series, reference)
    _words(figure, said)
    _save(figure, Path(out))


def _save(figure: Figure, out: Path) -> None:
    """Write beside the place, then move: a reader never sees half a picture."""
    kind = out.suffix.lower().removeprefix(".")
    # Without a date the same file gives the same picture.
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with warnings.catch_warnings():
            # A file name in a script that the font lacks: its letters become boxes.
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
            figure.savefig(part, format=kind, metadata=metadata)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    axes = figure.add_axes((left, bottom, width, height), facecolor="white")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#8a929c")
    axes.tick_params(colors=GREY, labelsize=10, length=3)
    axes.grid(visible=True, color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _unit(axes: Axes, text: str) -> None:
    axes.set_ylabel(text, fontsize=10, color=GREY)
    axes.yaxis.set_label_coords(-0.046, 0.5)


def _heading(axes: Axes, text: str, *, rest: str = "") -> None:
    axes.set_title(text, loc="left", fontsize=11.5, fontweight="bold", color=INK, pad=6)
    if rest:
        axes.set_title(rest, loc="right", fontsize=10, color=GREY, pad=6)


def _empty(axes: Axes, text: str) -> None:
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=12, color=GREY
    )


def _title(
    figure: Figure, report: AudioReport, target: Target | None, reference: AudioReport | None
) -> None:
    data = report.metadata
    channels = {1: "mono", 2: "stereo"}.get(data.channels, f"{data.channels} channels")
    parts = [
        f"{data.format} {data.bit_depth} bit" if data.bit_depth else data.format,
        f"{data.sample_rate / 1000:g} kHz",
        channels,
        _clock(data.duration, exact=True),
        f"{data.size_bytes / 1e6:.1f} MB",
    ]
    name = _printable(data.file_name, 70)
    # A name may hold $: no formulas.
    figure.text(_LEFT, 0.953, name, fontsize=22, fontweight="bold", color=INK, parse_math=False)
    figure.text(_LEFT, 0.925, "  ·  ".join(parts), fontsize=12, color=GREY)
    right = _RIGHT + _NARROW
    lines: list[str] = []
    if target is not None:
        goals = [_typeset(f"{goal.label} {goal} {goal.unit}".strip()) for goal in target.goals]
        more = ", …" if len(goals) > 3 else ""
        lines.append(f"{_printable(target.name, 24)}: {', '.join(goals[:3])}{more}")
    if reference is not None:
        lines.append(f"reference (dashed): {_printable(reference.metadata.file_name, 40)}")
    for row, line in enumerate(lines):
        figure.text(
            right, 0.957 - 0.03 * row, line, ha="right", fontsize=11, color=INK, parse_math=False
        )
    foot = f"{data.engine} {data.engine_version}  ·  ITU-R BS.1770-5, EBU Tech 3341 and 3342"
    figure.text(right, 0.018, foot, ha="right", fontsize=9, color=GREY)


def _cards(figure: Figure, report: AudioReport, said: list[Verdict]) -> None:
    loudness, dynamics, stereo = report.loudness, report.dynamics, report.stereo
    cards: list[tuple[str, str, str, float | None, str]] = [
        ("Integrated", "loudness.integrated", "LUFS", loudness.integrated, ".1f"),
        ("True peak", "truePeak.maxDbtp", "dBTP", report.true_peak.max_dbtp, "+.1f"),
        ("Loudest 3 s", "loudness.shortTerm", "LUFS", loudness.short_term, ".1f"),
        ("Loudness range", "loudness.lra", "LU", loudness.lra, ".1f"),
        ("Dynamic range", "dynamics.range", "dB (TT)", dynamics.range, ".1f"),
        ("Peak to loudness", "dynamics.plr", "LU", dynamics.plr, ".1f"),
        ("Correlation", "stereo.correlation", "", stereo.correlation, "+.2f"),
    ]
    step = (_RIGHT + _NARROW - _LEFT) / len(cards)
    levels = {item.metric: item.level for item in reversed(said)}
    for index, (label, metric, unit, value, form) in enumerate(cards):
        left = _LEFT + index * step
        mark, colour = _MARKS.get(levels.get(metric, "note"), _MARKS["note"])
        flagged = levels.get(metric) in ("ok", "outside", "warning")
        figure.text(left, 0.887, label, fontsize=10.5, color=GREY)
        shown = NONE if value is None else _typeset(format(value, form))
        text = figure.text(left, 0.839, shown, fontsize=25, color=colour if flagged else INK)
        figure.canvas.draw_idle()
        width = text.get_window_extent().width / (_INCHES[0] * _DOTS)
        tail = "  ".join(
            part for part in (unit if value is not None else "", mark if flagged else "") if part
        )
        colour = colour if flagged else GREY
        figure.text(left + width + 0.005, 0.841, tail, fontsize=11, color=colour)
    line = figure.add_axes((_LEFT, 0.822, _RIGHT + _NARROW - _LEFT, 0.001))
    line.axis("off")
    line.axhline(0, color=FAINT, linewidth=1)


def _waveform(axes: Axes, report: AudioReport, curve: Curve, end: float) -> None:
    times, values = _points(curve)
    clipping = report.true_peak.clipping
    top = float(np.nanmax(values, initial=0.0))
    scale = _scale(top)
    axes.fill_between(
        np.concatenate([[0.0], times]),
        -np.concatenate([values[:1], values]),
        np.concatenate([values[:1], values]),
        step="pre",
        color=BLUE,
        linewidth=0.3,
    )
    axes.axhline(0, color="white", linewidth=0.5)
    axes.set_ylim(-scale * 1.12, scale * 1.12)
    axes.set_yticks([-scale, -scale / 2, 0, scale / 2, scale])
    axes.set_yticklabels(
        [_level(scale), _level(scale / 2), f"{MINUS}∞", _level(scale / 2), _level(scale)]
    )
    _unit(axes, "peak, dBFS")
    _time(axes, end, labels=False)
    rest = "" if scale >= 1 else f"enlarged {1 / scale:.0f} times"
    rest = _clip_marks(axes, times, values, clipping, scale) or rest
    _heading(axes, "Waveform, all channels", rest=rest)
    if top == 0:
        _empty(axes, "silence")


def _clip_marks(
    axes: Axes,
    times: NDArray[np.float64],
    values: NDArray[np.float64],
    clipping: Clipping,
    scale: float,
) -> str:
    if not clipping.samples:
        return ""
    at = times[values >= _CLIP]
    axes.plot(at, np.full(len(at), scale * 1.07), "|", color=RED, markersize=5, clip_on=False)
    axes.plot(at, np.full(len(at), -scale * 1.07), "|", color=RED, markersize=5, clip_on=False)
    return f"red ticks: {clipping.samples:,} samples at full scale"


def _loudness(
    axes: Axes,
    report: AudioReport,
    series: Series,
    target: Target | None,
    reference: AudioReport | None,
    end: float,
) -> None:
    _heading(axes, "Loudness", rest="thin: 400 ms    thick: 3 s")
    _unit(axes, "LUFS")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    _time(axes, end, labels=False)
    times, momentary = _points(series.momentary)
    heard = momentary[np.isfinite(momentary)]
    if not len(heard):
        axes.set_ylim(-75, 0)
        reason = "shorter than 400 ms" if end < 0.4 else "silence"
        _empty(axes, f"{reason}: there is no loudness")
        return
    gate = _relative_gate(series.momentary)
    low, high = _range(heard, gate, report.loudness.integrated)
    goal = None if target is None else target.goal("loudness.integrated")
    if goal is not None:
        low, high = _goal_band(axes, goal, low, high)
    axes.set_ylim(low, high)
    # One label above its line, one below: in a quiet file the gates lie close together.
    gates = ((gate, "relative gate", 3), (ABSOLUTE_GATE, "absolute gate", -11))
    for level, name, above in gates:
        if level is not None and level > low:
            axes.axhline(level, color=GREY, linewidth=1.1, linestyle=(0, (2, 2)))
            text = _typeset(f"{name} {level:.1f}")
            axes.annotate(
                text, (0.006, level), (0, above), xycoords=("axes fraction", "data"),
                textcoords="offset points", fontsize=9, color=GREY,
            )  # fmt: skip
    axes.plot(times, np.maximum(momentary, low - 5), color=SKY, linewidth=0.9)
    axes.plot(*_points(series.short_term), color=BLUE, linewidth=2.2)
    if reference is not None and reference.series is not None:
        axes.plot(
            *_points(reference.series.short_term), color=ORANGE, linewidth=1.5, linestyle="--"
        )
    integrated = report.loudness.integrated
    if integrated is not None:
        axes.axhline(integrated, color=INK, linewidth=1.3)
        axes.annotate(
            _typeset(f"integrated {integrated:.1f}"), (0.994, integrated), (0, 4),
            xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
            fontsize=10, fontweight="bold", color=INK,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1},
        )  # fmt: skip


def _goal_band(axes: Axes, goal: Goal, low: float, high: float) -> tuple[float, float]:
    """The target as a band; the axis grows to show it."""
    least, most = goal.wanted.bounds()
    bottom = low if least is None else least
    top = high if most is None else most
    axes.axhspan(bottom, top, color=GREEN, alpha=0.16, linewidth=0)
    axes.text(
        0.006, (bottom + top) / 2, f"target {_typeset(str(goal))}", va="center",
        transform=axes.get_yaxis_transform(), fontsize=9, color=GREEN,
    )  # fmt: skip
    return min(low, bottom - 4), max(high, top + 2)


def _stereo(axes: Axes, report: AudioReport, curve: Curve, end: float) -> None:
    _time(axes, end, labels=True)
    axes.set_ylim(-1.05, 1.05)
    axes.set_yticks([-1, 0, 1], [f"{MINUS}1", "0", "+1"])
    times, values = _points(curve)
    _heading(
        axes, "Correlation of left and right", rest=f"+1 mono    0 wide    {MINUS}1 out of phase"
    )
    if report.metadata.channels != 2:
        count = (
            "one channel"
            if report.metadata.channels == 1
            else f"{report.metadata.channels} channels"
        )
        _empty(axes, f"{count}: defined for stereo only")
    elif not np.isfinite(values).any():
        _empty(axes, "silence" if end >= 0.4 else "shorter than 400 ms")
    else:
        axes.fill_between(times, 0, values, where=values >= 0, color=BLUE, alpha=0.55, linewidth=0)
        axes.fill_between(times, 0, values, where=values < 0, color=RED, alpha=0.8, linewidth=0)
        axes.plot(times, values, color=INK, linewidth=0.8)
        axes.axhline(0, color=GREY, linewidth=1)


def _spectrum(
    axes: Axes, report: AudioReport, series: Series, reference: AudioReport | None
) -> None:
    _heading(axes, "Mean spectrum and share of the bands")
    axes.set_xscale("log")
    axes.set_xlim(20, 20_000)
    edges = [20, 60, 150, 500, 2000, 5000, 10_000, 20_000]
    axes.set_xticks(edges, ["20", "60", "150", "500", "2k", "5k", "10k", "20k"])
    axes.minorticks_off()
    axes.set_xlabel("Hz", fontsize=10, color=GREY)
    axes.set_ylabel("dB, full-scale sine = 0", fontsize=10, color=GREY)
    for index, (name, low, high) in enumerate(BANDS):
        if index % 2 == 0:
            axes.axvspan(low, high, color="#eef2f6", linewidth=0, zorder=0)
        share = getattr(report.spectral_bands, name).percentage
        text = NONE if share is None else f"{share:.0f} %" if share >= 1 else "<1 %"
        middle = (low * high) ** 0.5
        short = {"presence": "pres.", "low_mid": "low mid", "high_mid": "hi mid"}.get(name, name)
        for height, words, colour in ((0.955, short, GREY), (0.91, text, INK)):
            axes.text(
                middle, height, words, transform=axes.get_xaxis_transform(), ha="center",
                va="baseline", fontsize=9, color=colour,
            )  # fmt: skip
    levels = _levels(series.spectrum.db)
    seen = levels[np.isfinite(levels)]
    if not len(seen):
        axes.set_ylim(-100, 0)
        _empty(axes, "no spectrum:\nsilence, or too short")
        return
    top = float(seen.max())
    axes.set_ylim(top - 85, top + 18)
    hz = np.array(series.spectrum.hz)
    axes.fill_between(hz, top - 85, levels, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(hz, levels, color=BLUE, linewidth=1.8)
    if reference is not None and reference.series is not None:
        other = reference.series.spectrum
        axes.plot(other.hz, _levels(other.db), color=ORANGE, linewidth=1.5, linestyle="--")


def _words(figure: Figure, said: list[Verdict]) -> None:
    """What matters first; what is fine last."""
    figure.text(_RIGHT - 0.03, 0.318, "In words", fontsize=11.5, fontweight="bold", color=INK)
    order = {"outside": 0, "warning": 1, "ok": 2, "note": 3}
    ranked = sorted(said, key=lambda item: order[item.level])
    top = 0.29
    if not ranked:
        figure.text(_RIGHT - 0.03, top, "nothing unusual", fontsize=11, color=GREY, va="top")
    for item in ranked[:_MOST_WORDS]:
        mark, colour = _MARKS[item.level]
        about = _NAMES.get(item.metric, "")
        words = _typeset(f"{about}: {item.text}" if about else item.text)
        lines = textwrap.wrap(words, 50)[:3]
        if top - 0.021 * len(lines) < 0.04:
            break
        figure.text(_RIGHT - 0.03, top, mark, fontsize=12, color=colour, va="top")
        figure.text(
            _RIGHT - 0.015, top, "\n".join(lines), fontsize=10.5, color=INK, va="top",
            linespacing=1.3, parse_math=False,
        )  # fmt: skip
        top -= 0.021 * len(lines) + 0.012


_NAMES = {
    "loudness.integrated": "loudness",
    "loudness.lra": "loudness range",
    "truePeak.maxDbtp": "true peak",
    "dynamics.range": "dynamic range",
    "stereo.correlation": "stereo",
    "stereo.balance": "balance",
}


def _time(axes: Axes, end: float, *, labels: bool) -> None:
    axes.set_xlim(0, end)
    steps = (
        0.01,
        0.02,
        0.05,
        0.1,
        0.2,
        0.5,
        1,
        2,
        5,
        10,
        15,
        30,
        60,
        120,
        300,
        600,
        1200,
        1800,
        3600,
    )
    step = next((item for item in steps if end / item <= 10), 7200)
    ticks = np.round(np.arange(0, end + step / 1000, step), 3)
    exact = step < 1
    names = [f"{tick:g}" if exact else _clock(tick) for tick in ticks]
    axes.set_xticks(ticks, names if labels else [""] * len(ticks))
    if labels:
        axes.set_xlabel("seconds" if exact else "minutes:seconds", fontsize=10, color=GREY)


def _relative_gate(curve: Curve) -> float | None:
    """BS.1770-5 Annex 1: 10 LU below the mean power of the blocks above the absolute gate.

    None for files whose curve has longer steps than the blocks.
    """
    levels = _levels(curve.values)
    loud = levels[np.isfinite(levels) & (levels > ABSOLUTE_GATE)]
    if curve.step > _TENTH or not len(loud):
        return None
    return float(10 * np.log10(np.mean(10 ** (loud / 10))) - 10)


def _range(
    heard: NDArray[np.float64], gate: float | None, integrated: float | None
) -> tuple[float, float]:
    """Limits of the loudness axis: the programme and its gates, not the silence between."""
    high = float(heard.max()) + 4
    low = min(high - 20, float(np.percentile(heard, 5)) - 3)
    if gate is not None:
        low = min(low, gate - 4)
    if integrated is None or low < ABSOLUTE_GATE + 8:
        low = ABSOLUTE_GATE - 5
    return max(low, ABSOLUTE_GATE - 5, high - 80) if high > ABSOLUTE_GATE else high - 40, high


def _scale(top: float) -> float:
    """Full scale of the waveform: 1, more for overs, a power of two below for quiet files."""
    if top >= 0.25 or top <= 0:
        return max(1.0, top)
    return float(2.0 ** np.ceil(np.log2(top)))


def _points(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = _levels(curve.values)
    return curve.start + curve.step * np.arange(len(values), dtype=np.float64), values


def _levels(values: tuple[float | None, ...]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _level(scale: float) -> str:
    return _typeset(f"{20 * np.log10(scale):.0f}")


def _typeset(text: str) -> str:
    """A minus before a number, and a plus-minus sign."""
    return re.sub(r"-(?=\d)", MINUS, text.replace("+/-", "±"))


def _clock(seconds: float, *, exact: bool = False) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}" if exact else f"{int(minutes)}:{int(rest):02d}"


def _printable(text: str, limit: int) -> str:
    readable = os.fsencode(text).decode("utf-8", "replace")
    plain = "".join(char if char.isprintable() else "□" for char in readable)
    return plain if len(plain) <= limit else f"{plain[: limit - 1]}…"
