"""What the values of a report mean, in plain words.

A verdict rests either on a target that was asked for (`against`), or on one of few rules that
hold for every file (`remarks`), each with its reason beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bullpy.audio.presets import Check, Target

if TYPE_CHECKING:
    from bullpy.audio.report import AudioReport

_LOSSY_PEAK = -1.0  # dBTP: EBU R 128 and AES TD1008 leave this much for lossy codecs
_BALANCE = 2.0  # dB between left and right that most people hear as off-centre
_DC = 0.001  # -60 dBFS, where a cut starts to click
_HIDDEN = {"clipping", "mono", "silence", "too-short", "below-gate", "not-stereo", "no-energy"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One plain statement.

    Attributes:
        metric: Dotted name of the value that it is about; empty for the file as a whole.
        level: `ok` and `outside` compare with a target; `warning` is a fault of the file,
            `note` is worth knowing.
        text: The statement.
    """

    metric: str
    level: Literal["ok", "outside", "warning", "note"]
    text: str


def against(checks: list[Check]) -> list[Verdict]:
    """A verdict for each goal of a target."""
    return [_against(check) for check in checks]


def remarks(report: AudioReport, target: Target | None = None) -> list[Verdict]:
    """What can be said of a file without knowing what it is for.

    Args:
        report: The report.
        target: The target that is checked besides; what it covers is not said twice.
    """
    found = [*_silence(report), *_peaks(report, target), *_image(report), *_offset(report)]
    found += [
        Verdict("", "warning" if item.code == "truncated" else "note", item.message)
        for item in report.warnings
        if item.code not in _HIDDEN
    ]
    return found


def _against(check: Check) -> Verdict:
    goal, excess = check.goal, check.excess
    if check.value is None:
        # A file without loudness misses its target; one without, say, a stereo image does not.
        missed = goal.metric == "loudness.integrated"
        text = f"not defined, so not compared with {goal}"
        return Verdict(goal.metric, "outside" if missed else "note", text)
    if excess == 0:
        return Verdict(goal.metric, "ok", f"ok ({goal})")
    if goal.metric == "loudness.integrated":
        more = "louder" if excess > 0 else "quieter"
        aim = goal.wanted.target
        if aim is not None:
            return Verdict(
                goal.metric,
                "outside",
                f"{abs(check.value - aim):.1f} LU {more} than the target {goal}",
            )
        return Verdict(goal.metric, "outside", f"{abs(excess):.1f} LU {more} than {goal}")
    if goal.metric == "truePeak.maxDbtp" and excess > 0:
        limit = check.value - excess
        text = f"{excess:.1f} dB over {limit:g} dBTP: may clip after lossy encoding"
        return Verdict(goal.metric, "outside", text)
    where = "above" if excess > 0 else "below"
    number = f"{abs(excess):.2f}" if not goal.unit else f"{abs(excess):.1f} {goal.unit}"
    return Verdict(goal.metric, "outside", f"{number} {where} the range, wanted {goal}")


def _silence(report: AudioReport) -> list[Verdict]:
    if report.true_peak.max_dbtp is None:
        return [Verdict("", "warning", "The file is silent.")]
    if report.loudness.integrated is None:
        short = report.metadata.duration < 0.4
        text = "it is shorter than 400 ms" if short else "all of it is below -70 LUFS"
        return [Verdict("", "note", f"There is no loudness: {text}.")]
    return []


def _peaks(report: AudioReport, target: Target | None) -> list[Verdict]:
    found: list[Verdict] = []
    peak, clipping = report.true_peak.max_dbtp, report.true_peak.clipping
    judged = target is not None and target.goal("truePeak.maxDbtp") is not None
    if peak is not None and not judged and peak > _LOSSY_PEAK:
        over = "over 0 dBTP: clips when converted or encoded"
        near = "over -1 dBTP: may clip after lossy encoding"
        level = "warning" if peak > 0 else "note"
        found.append(Verdict("truePeak.maxDbtp", level, over if peak > 0 else near))
    if clipping.runs:
        many = "stretches" if clipping.runs > 1 else "stretch"
        text = f"clipped: {clipping.runs} {many} of 3 and more samples at full scale"
        found.append(Verdict("truePeak.clipping", "warning", text))
    elif clipping.samples:
        found.append(
            Verdict("truePeak.clipping", "note", f"{clipping.samples} samples at full scale")
        )
    return found


def _image(report: AudioReport) -> list[Verdict]:
    found: list[Verdict] = []
    stereo, rms = report.stereo, report.rms
    if report.metadata.channels == 1 and report.loudness.integrated is not None:
        text = "one channel: 3 LU louder when played on two speakers"
        found.append(Verdict("stereo.correlation", "note", text))
    if stereo.has_phase_issues:
        text = "out of phase, at least in part: played in mono it loses sound"
        found.append(Verdict("stereo.correlation", "warning", text))
    if report.metadata.channels == 2 and rms.left is not None and rms.right is not None:
        difference = rms.left - rms.right
        if abs(difference) >= _BALANCE:
            side = "left" if difference > 0 else "right"
            text = f"{side} is {abs(difference):.1f} dB stronger"
            found.append(Verdict("stereo.balance", "note", text))
    elif report.metadata.channels == 2 and (rms.left is None) != (rms.right is None):
        side = "left" if rms.left is None else "right"
        found.append(Verdict("stereo.balance", "warning", f"the {side} channel is silent"))
    return found


def _offset(report: AudioReport) -> list[Verdict]:
    offset = max(abs(report.dc_offset.left), abs(report.dc_offset.right or 0.0))
    if offset < _DC:
        return []
    return [Verdict("dcOffset", "note", f"DC offset of {100 * offset:.2g} % of full scale")]
