"""What a file is meant for: ranges of loudness, true peak and the like that it should be in.

Three are built in; others are read from JSON, in the two shapes of a job's `genreTargets`.
Where a range comes from stands in `Target.source`, because not all of them are standards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic.alias_generators import to_camel

from bullpy import errors
from bullpy.audio import targets
from bullpy.audio.comparison import METRICS, band_path, beside_target, number_at

if TYPE_CHECKING:
    from bullpy.audio.report import AudioReport

PRESETS: dict[str, dict[str, object]] = {
    "streaming": {
        "source": "Spotify's loudness normalization: -14 LUFS and at most -1 dBTP (it asks for "
        "-2 dBTP when louder). YouTube plays at about the same level. AES TD1008 (2021) has "
        "-16 LUFS for single tracks, -14 for the loudest one of an album, at most -1 dBTP.",
        "lufs": {"target": -14.0, "tolerance": 1.0},
        "true_peak": {"max": -1.0},
    },
    "podcast": {
        "source": "Apple's audio requirements for podcasts: -16 LUFS +/- 1, at most -1 dBTP.",
        "lufs": {"target": -16.0, "tolerance": 1.0},
        "true_peak": {"max": -1.0},
    },
    "club": {
        "source": "Convention, there is no standard: masters for DJs lie around -9 LUFS, "
        "and negative correlation loses sound on mono systems.",
        "lufs": {"target": -9.0, "tolerance": 1.0},
        "true_peak": {"max": -1.0},
        "stereo": {"min": 0.0},
    },
}
_MONO_PODCAST: dict[str, object] = {
    "source": "Convention: Apple's -16 LUFS less 3, since one channel plays on two speakers.",
    "lufs": {"target": -19.0, "tolerance": 1.0},
    "true_peak": {"max": -1.0},
}

_LABELS: dict[str, tuple[str, str]] = {
    "lufs": ("loudness", "LUFS"),
    "true_peak": ("true peak", "dBTP"),
    "lra": ("loudness range", "LU"),
    "dr": ("dynamic range", "dB"),
    "stereo": ("correlation", ""),
}


@dataclass(frozen=True, slots=True)
class Goal:
    """The range of one metric.

    Attributes:
        metric: Its dotted name in the result, such as `loudness.integrated`.
        label: Its name for people.
        unit: Its unit.
        wanted: What the metric should be.
    """

    metric: str
    label: str
    unit: str
    wanted: targets.Target

    def __str__(self) -> str:
        wanted = self.wanted
        if wanted.target is not None and wanted.tolerance is not None:
            return f"{wanted.target:g} +/- {wanted.tolerance:g}"
        low, high = wanted.bounds()
        if low is not None and high is not None:
            return f"{low:g} to {high:g}"
        return f"at least {low:g}" if low is not None else f"at most {high:g}"


@dataclass(frozen=True, slots=True)
class Check:
    """A goal beside what was measured.

    Attributes:
        goal: The goal.
        value: What was measured; None where it is not defined.
    """

    goal: Goal
    value: float | None

    @property
    def excess(self) -> float:
        """How far it is above (positive) or below (negative) the range; 0 within."""
        return 0.0 if self.value is None else self.goal.wanted.excess(self.value)

    @property
    def ok(self) -> bool | None:
        """Whether the value is in the range; None when there is no value."""
        return None if self.value is None else self.excess == 0

    def to_wire(self) -> dict[str, object]:
        """Plain JSON types."""
        return beside_target(self.value, self.goal.wanted)


@dataclass(frozen=True, slots=True)
class Target:
    """Goals that belong together.

    Attributes:
        name: `streaming`, or the name of a file.
        source: Who says so.
        goals: The goals.
        unknown: Keys of the file that mean nothing here.
    """

    name: str
    source: str
    goals: tuple[Goal, ...]
    unknown: tuple[str, ...] = ()

    def check(self, report: AudioReport) -> list[Check]:
        """Each goal beside what was measured."""
        wire = report.to_wire()
        return [Check(goal, number_at(wire, goal.metric)) for goal in self.goals]

    def goal(self, metric: str) -> Goal | None:
        """The goal of a metric, if there is one."""
        return next((goal for goal in self.goals if goal.metric == metric), None)


@dataclass(frozen=True, slots=True)
class TargetChoice:
    """A target as it was named: which goals hold may depend on the file."""

    stereo: Target
    mono: Target

    def for_channels(self, channels: int) -> Target:
        """The target for a file with so many channels."""
        return self.mono if channels == 1 else self.stereo


def load_target(name: str) -> TargetChoice:
    """A preset by name, or a JSON file.

    The file holds one object: `lufs`, `true_peak`, `lra`, `dr` and `stereo` (correlation),
    each `{target, tolerance, min, max}`, or flat as `lufs_target`, `tol_lufs`, `lufs_min`,
    `lufs_max`; `bands` by name; optionally `name` and `source`. `min` and `max` win over
    target and tolerance.

    Raises:
        errors.ConfigurationError: There is no such preset or file, or the file is no target.
    """
    if name in PRESETS:
        stereo = _target(name, PRESETS[name])
        return TargetChoice(stereo, _target(name, _MONO_PODCAST) if name == "podcast" else stereo)
    presets = ", ".join(sorted(PRESETS))
    if not name.lower().endswith(".json"):
        raise errors.ConfigurationError(
            f"There is no target {name!r}.",
            fix=f"Use one of {presets}, or the name of a .json file.",
        )
    try:
        content: object = json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.ConfigurationError(
            f"The target file {name!r} cannot be read: {error.strerror}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise errors.ConfigurationError(f"{name!r} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise _wrong(name, "it is no object")
    target = _target(name, cast("dict[str, object]", content))
    return TargetChoice(target, target)


def _target(name: str, content: Mapping[str, object]) -> Target:
    left = dict(content)
    label, source = left.pop("name", None), left.pop("source", None)
    try:
        sent = targets.parse_targets(left)
    except errors.PayloadError as error:
        # Its words are those for a producer of jobs; what is wrong follows the field's name.
        problem = error.message.rpartition("genreTargets.")[2]
        raise _wrong(name, problem) from error
    asked = [
        (key, *_LABELS[key], METRICS[to_camel(key)], item) for key, item in sent.metrics.items()
    ]
    asked += [
        (band, f"band {band.replace('_', ' ')}", "dB", band_path(band), item)
        for band, item in sent.bands.items()
    ]
    goals: list[Goal] = []
    for key, words, unit, path, item in asked:
        if not item.decides:
            raise _wrong(name, f"{key} needs a tolerance, a min or a max")
        goals.append(Goal(path, words, unit, item))
    if not goals:
        raise _wrong(name, "it asks for nothing, such as lufs or true_peak")
    return Target(
        name=label if isinstance(label, str) else Path(name).stem,
        source=source if isinstance(source, str) else f"the file {Path(name).name}",
        goals=tuple(goals),
        unknown=tuple(sent.unknown),
    )


def _wrong(where: str, what: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(
        f"{where!r} is no target: {what.rstrip('.')}.",
        fix='A target looks like {"lufs": {"target": -14, "tolerance": 1}}.',
    )
