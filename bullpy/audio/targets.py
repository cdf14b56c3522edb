"""The `genreTargets` of a job: which values a genre asks for, in both shapes that producers send.

```
flat     {"lufs_target": -9, "tol_lufs": 1, "lra_min": 4, "bands": {"sub": {"target_db": -12,
          "tol_db": 3, "target_range": {"min": -15, "max": -9}}}}
nested   {"lufs": {"target": -9, "tolerance": 1}, "lra": {"min": 4}, "bands": {...}}
```

Names may be in snake_case or camelCase. A minimum or a maximum wins over target and tolerance.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from bullpy import errors

METRICS = ("lufs", "true_peak", "dr", "lra", "stereo")
"""What a genre may ask for, beside the seven bands."""

BAND_NAMES = ("sub", "bass", "low_mid", "mid", "high_mid", "presence", "air")
"""The names in `bullpy.audio.raw.BANDS`, without loading numpy: workers read payloads too."""

_EDGE = 5e-7  # half of the last decimal in the JSON: a value at the very limit is within it
_LARGEST = 1e9  # sums and differences of such numbers stay finite
_PARTS = ("target", "tolerance", "min", "max")
_BAND_KEYS = {"target_db": "target", "tol_db": "tolerance", "min_db": "min", "max_db": "max"}


@dataclass(frozen=True, slots=True)
class Target:
    """What one metric should be; None where it was not said.

    Attributes:
        target: The value aimed at.
        tolerance: How far from it is fine, on either side.
        min: The least that is fine; wins over target and tolerance.
        max: The most that is fine; wins over target and tolerance.
    """

    target: float | None = None
    tolerance: float | None = None
    min: float | None = None
    max: float | None = None

    def bounds(self) -> tuple[float | None, float | None]:
        """The least and the most that is fine; None for no limit."""
        low, high = self.min, self.max
        if self.target is not None and self.tolerance is not None:
            low = self.target - self.tolerance if low is None else low
            high = self.target + self.tolerance if high is None else high
        return low, high

    def excess(self, value: float) -> float:
        """How far a value is above (positive) or below (negative) what is fine; 0 within."""
        low, high = self.bounds()
        if high is not None and value > high + _EDGE:
            return value - high
        if low is not None and value < low - _EDGE:
            return value - low
        return 0.0

    @property
    def decides(self) -> bool:
        """Whether it says what is fine, and not only what is aimed at."""
        return self.bounds() != (None, None)


@dataclass(slots=True)
class GenreTargets:
    """All that a genre asks for.

    Attributes:
        metrics: By the names of `METRICS`.
        bands: By the names of `BAND_NAMES`; in dB, as `energyDb` of the result.
        unknown: Dotted names, as sent, of what is no known target.
    """

    metrics: dict[str, Target]
    bands: dict[str, Target]
    unknown: list[str]


def parse_targets(sent: Mapping[str, object]) -> GenreTargets:
    """Read `genreTargets`.

    A null counts as not sent. Names that are not known are listed, and never guessed at.

    Raises:
        errors.PayloadError: A known target is no finite number, a tolerance is below 0, a
            minimum is above its maximum, or a value was sent twice; names the field.
    """
    reader = _Reader()
    for name, value in sent.items():
        plain = _snake(name)
        if value is None:
            continue
        if plain == "bands":
            for band, wanted in reader.object(name, value).items():
                reader.band(f"{name}.{band}", _snake(band), wanted)
        elif plain in METRICS:
            reader.parts(name, plain, reader.object(name, value))
        else:
            reader.flat(name, plain, value)
    return GenreTargets(
        metrics={name: reader.target(name) for name in METRICS if name in reader.found},
        bands={
            name: reader.target(f"bands.{name}")
            for name in BAND_NAMES
            if f"bands.{name}" in reader.found
        },
        unknown=reader.unknown,
    )


@dataclass(slots=True)
class _Reader:
    """Collects the parts of targets by the metric they belong to."""

    found: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    unknown: list[str] = field(default_factory=list[str])

    def flat(self, name: str, plain: str, value: object) -> None:
        """`lufs_target`, `tol_lufs`, `lufs_min`, `lufs_max`."""
        for metric in METRICS:
            parts = {f"tol_{metric}": "tolerance", f"{metric}_tolerance": "tolerance"}
            parts |= {f"{metric}_{part}": part for part in ("target", "min", "max")}
            if plain in parts:
                self._keep(name, metric, parts[plain], value)
                return
        self.unknown.append(name)

    def parts(self, name: str, metric: str, sent: Mapping[str, object]) -> None:
        """`{target, tolerance, min, max}`."""
        for part, value in sent.items():
            if _snake(part) in _PARTS:
                self._keep(f"{name}.{part}", metric, _snake(part), value)
            elif value is not None:
                self.unknown.append(f"{name}.{part}")

    def band(self, name: str, band: str, wanted: object) -> None:
        """`{target_db, tol_db, target_range: {min, max}}`, or the nested shape's names."""
        if band not in BAND_NAMES:
            self.unknown.append(name)
            return
        if wanted is None:
            return
        rest: dict[str, object] = {}
        for part, value in self.object(name, wanted).items():
            plain = _snake(part)
            if plain == "target_range" and value is not None:
                self.parts(f"{name}.{part}", f"bands.{band}", self.object(f"{name}.{part}", value))
            elif plain in _BAND_KEYS:
                self._keep(f"{name}.{part}", f"bands.{band}", _BAND_KEYS[plain], value)
            else:
                rest[part] = value
        self.parts(name, f"bands.{band}", rest)

    def target(self, metric: str) -> Target:
        """What was collected for one metric."""
        found = Target(**self.found[metric])
        if found.min is not None and found.max is not None and found.min > found.max:
            raise _refused(metric, f"has a minimum of {found.min:g} above its maximum")
        if found.tolerance is not None and found.tolerance < 0:
            raise _refused(metric, f"has a tolerance of {found.tolerance:g}")
        return found

    def object(self, name: str, value: object) -> Mapping[str, object]:
        """The value, which has to be an object."""
        if not isinstance(value, Mapping):
            raise _refused(name, f"is {value!r:.60}, not an object")
        return cast("Mapping[str, object]", value)

    def _keep(self, name: str, metric: str, part: str, value: object) -> None:
        if value is None:
            return
        number = finite(value)
        if number is None:
            raise _refused(name, f"is {value!r:.60}, not a number")
        parts = self.found.setdefault(metric, {})
        if parts.get(part, number) != number:
            raise _refused(name, f"is {number:g}, but {parts[part]:g} was sent for the same too")
        parts[part] = number


def finite(value: object) -> float | None:
    """The value as a float; None for what is no number, or larger than any level or frequency."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -_LARGEST <= value <= _LARGEST else None


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()


def _refused(name: str, problem: str) -> errors.PayloadError:
    return errors.PayloadError(
        f"The job's data breaks AudioJob: genreTargets.{name} {problem}.",
        fix="Correct the producer.",
    )
