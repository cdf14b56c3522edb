"""How one file differs from another, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bullpy.audio.comparison import band_path, number_at
from bullpy.audio.targets import BAND_NAMES

if TYPE_CHECKING:
    from bullpy.audio.report import AudioReport

_MORE, _HIGHER = ("more", "less"), ("higher", "lower")
_WORDS: tuple[tuple[str, str, str, tuple[str, str]], ...] = (
    ("loudness.integrated", "integrated loudness", "LU", ("louder", "quieter")),
    ("loudness.shortTerm", "loudest 3 s", "LU", ("louder", "quieter")),
    ("loudness.momentary", "loudest 400 ms", "LU", ("louder", "quieter")),
    ("loudness.lra", "loudness range", "LU", _MORE),
    ("truePeak.maxDbtp", "true peak", "dB", _HIGHER),
    ("dynamics.range", "dynamic range", "dB", _MORE),
    ("dynamics.plr", "peak to loudness", "LU", _MORE),
    ("stereo.correlation", "correlation", "", _HIGHER),
    ("stereo.width", "width", "", _MORE),
    *(
        (band_path(name), f"band {name.replace('_', ' ')}", "dB", ("stronger", "weaker"))
        for name in BAND_NAMES
    ),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two files.

    Attributes:
        metric: Its dotted name in the result.
        label: Its name for people.
        value: Of the file.
        reference: Of the reference.
        text: The difference in words.
    """

    metric: str
    label: str
    value: float
    reference: float
    text: str


def differences(report: AudioReport, reference: AudioReport) -> list[Difference]:
    """The metrics that both files have a value for and that people have words for.

    Bands are compared by their share of the whole, so that loudness does not count twice.
    """
    wires: tuple[Mapping[str, object], ...] = (report.to_wire(), reference.to_wire())
    found: list[Difference] = []
    for metric, label, unit, words in _WORDS:
        value, other = (number_at(wire, metric) for wire in wires)
        if value is not None and other is not None:
            text = _in_words(value - other, unit, words)
            found.append(Difference(metric, label, value, other, text))
    return found


def _in_words(delta: float, unit: str, words: tuple[str, str]) -> str:
    digits = 1 if unit else 2
    if round(abs(delta), digits) == 0:
        return "same"
    return f"{abs(delta):.{digits}f} {unit}".strip() + f" {words[0] if delta > 0 else words[1]}"
