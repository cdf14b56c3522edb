"""A measurement beside targets, or beside another measurement.

Both work on the JSON form of a report, since a reference is mostly the stored result of an
earlier job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pydantic.alias_generators import to_camel

from bullpy.audio.targets import BAND_NAMES, GenreTargets, Target, finite

Wire = Mapping[str, object]

METRICS: dict[str, str] = {
    "lufs": "loudness.integrated",
    "shortTerm": "loudness.shortTerm",
    "momentary": "loudness.momentary",
    "lra": "loudness.lra",
    "truePeak": "truePeak.maxDbtp",
    "dr": "dynamics.range",
    "crest": "dynamics.crest",
    "peakRms": "dynamics.peakRms",
    "avgRms": "dynamics.avgRms",
    "plr": "dynamics.plr",
    "psr": "dynamics.psr",
    "rms": "rms.average",
    "stereo": "stereo.correlation",
    "width": "stereo.width",
    "balance": "stereo.balance",
    "monoCompatibility": "stereo.monoCompatibility",
    "centroidHz": "spectral.centroidHz",
    "rolloffHz": "spectral.rolloffHz",
    "flatness": "spectral.flatness",
    "flux": "spectral.flux",
}
"""Names in a comparison, and which field of the result each one compares."""

_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Compared:
    """A comparison, and what a reader of it should know.

    Attributes:
        values: By metric, and `bands` by band; None when there is nothing to compare.
        warnings: `{code, message}` each.
    """

    values: dict[str, object] | None
    warnings: list[dict[str, str]]


def with_targets(report: Wire, targets: GenreTargets) -> Compared:
    """A measurement beside what its genre asks for.

    Per metric that has a target: `{value, target, tolerance, min, max, delta, ok}`. `delta` is
    value minus target; with bounds alone, how far the value is outside (0 inside). `min` and
    `max` are the bounds that decide `ok`, inclusive. What was not sent is null.

    Args:
        report: The measurement.
        targets: What is asked for.
    """
    nulls: list[str] = []
    undecided: list[str] = []

    def entry(name: str, path: str, target: Target) -> dict[str, object]:
        value = number_at(report, path)
        if value is None:
            nulls.append(f"comparison.{name}.value")
        if not target.decides:
            undecided.append(f"comparison.{name}.ok")
        return beside_target(value, target)

    values: dict[str, object] = {
        to_camel(name): entry(to_camel(name), METRICS[to_camel(name)], target)
        for name, target in targets.metrics.items()
    }
    if targets.bands:
        values["bands"] = {
            to_camel(name): entry(f"bands.{to_camel(name)}", band_path(name), target)
            for name, target in targets.bands.items()
        }
    warnings: list[dict[str, str]] = []
    if targets.unknown:
        text = "These targets are not known and were left out: "
        names = ", ".join(f"genreTargets.{name}" for name in targets.unknown)
        warnings.append(_warning("unknown-target", f"{text}{names}."))
    if undecided:
        text = "There is a target without a tolerance, minimum or maximum."
        warnings.append(_warning("no-tolerance", f"{text} Null: {', '.join(undecided)}."))
    if nulls:
        text = "The file has no such value; another warning says why."
        warnings.append(_warning("nothing-to-compare", f"{text} Null: {', '.join(nulls)}."))
    return Compared(values or None, warnings)


def beside_target(value: float | None, target: Target) -> dict[str, object]:
    """One metric beside its target; see `with_targets`."""
    low, high = target.bounds()
    delta: float | None = None
    ok: bool | None = None
    if value is not None:
        excess = target.excess(value)
        delta = round(excess if target.target is None else value - target.target, _DECIMALS)
        ok = excess == 0 if target.decides else None
    return {
        "value": value,
        "target": target.target,
        "tolerance": target.tolerance,
        "min": low,
        "max": high,
        "delta": delta,
        "ok": ok,
    }


def with_reference(report: Wire, reference: Wire) -> Compared:
    """A measurement beside another one.

    Per metric: `{value, reference, delta}`, `delta` being value minus reference, in the unit of
    the metric. A null on either side makes the delta null.

    Args:
        report: The measurement.
        reference: The other one.
    """
    nulls: list[str] = []

    def entry(name: str, path: str) -> dict[str, object]:
        value, other = number_at(report, path), number_at(reference, path)
        if value is None or other is None:
            nulls.append(f"comparison.{name}.delta")
            return {"value": value, "reference": other, "delta": None}
        return {"value": value, "reference": other, "delta": round(value - other, _DECIMALS)}

    values: dict[str, object] = {name: entry(name, path) for name, path in METRICS.items()}
    values["bands"] = {
        to_camel(name): entry(f"bands.{to_camel(name)}", band_path(name)) for name in BAND_NAMES
    }
    warnings: list[dict[str, str]] = []
    if nulls:
        text = "The file or the reference has no such value."
        warnings.append(_warning("nothing-to-compare", f"{text} Null: {', '.join(nulls)}."))
    engines = [_engine(report), _engine(reference)]
    if engines[0] != engines[1]:
        text = f"The reference was measured by {engines[1]}, the file by {engines[0]}"
        warnings.append(_warning("reference-engine", f"{text}: definitions may differ."))
    return Compared(values, warnings)


def nothing(reason: str) -> Compared:
    """No comparison, and why."""
    return Compared(None, [_warning("nothing-to-compare", f"{reason} Null: comparison.")])


def band_path(band: str) -> str:
    """The dotted name of a band's level in the result."""
    return f"spectralBands.{to_camel(band)}.energyDb"


def number_at(report: Wire, path: str) -> float | None:
    """The number at a dotted path of a report; None where there is no finite number."""
    value: object = report
    for part in path.split("."):
        value = cast("object", value.get(part)) if isinstance(value, Mapping) else None
    return finite(value)


def _engine(report: Wire) -> str:
    metadata = report.get("metadata")
    if not isinstance(metadata, Mapping):
        return "an unknown engine"
    known = cast("Wire", metadata)
    return f"{known.get('engine', 'an unknown engine')} {known.get('engineVersion', '')}".strip()


def _warning(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}
