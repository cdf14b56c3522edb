"""Targets in both shapes, and differences per metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from audio.test_job import PAYLOAD, StandIn, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bullpy import errors
from bullpy.audio import comparison, raw
from bullpy.audio.targets import BAND_NAMES, Target, parse_targets

FLAT = {
    "lufs_target": -9, "tol_lufs": 1.5, "true_peak_target": -1, "tol_true_peak": 0.5,
    "dr_target": 8, "tol_dr": 2, "stereo_target": 0.7, "tol_stereo": 0.2,
    "lra_target": 5, "tol_lra": 2,
    "bands": {
        "sub": {"target_db": -12, "tol_db": 3, "target_range": {"min": -14, "max": -8}},
        "low_mid": {"target_db": -6, "tol_db": 2},
    },
}  # fmt: skip
NESTED = {
    "lufs": {"target": -9, "tolerance": 1.5},
    "truePeak": {"target": -1, "tolerance": 0.5},
    "dr": {"target": 8, "tolerance": 2},
    "stereo": {"target": 0.7, "tolerance": 0.2},
    "lra": {"target": 5, "tolerance": 2},
    "bands": {
        "sub": {"target": -12, "tolerance": 3, "min": -14, "max": -8},
        "lowMid": {"target": -6, "tolerance": 2},
    },
}
REPORT: dict[str, Any] = {
    "loudness": {"integrated": -10.0, "lra": 8.0, "shortTerm": None},
    "truePeak": {"maxDbtp": -0.4},
    "dynamics": {"range": None},
    "stereo": {"correlation": 0.5},
    "spectralBands": {"sub": {"energyDb": -15.0}, "lowMid": {"energyDb": -6.5}},
    "metadata": {"engine": "bullpy-audio", "engineVersion": "1"},
}


@pytest.fixture(autouse=True)
def root(good: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BULLPY_AUDIO_ROOT", str(good))
    return good


def test_the_bands_are_those_of_the_measurement() -> None:
    assert tuple(name for name, _, _ in raw.BANDS) == BAND_NAMES


def test_both_shapes_say_the_same() -> None:
    flat, nested = parse_targets(FLAT), parse_targets(NESTED)
    assert flat == nested
    assert flat.metrics["lufs"] == Target(-9, 1.5)
    assert flat.bands["sub"] == Target(-12, 3, -14, -8)
    assert not flat.unknown


def test_each_metric_has_value_target_tolerance_delta_and_ok() -> None:
    compared = comparison.with_targets(REPORT, parse_targets(FLAT))
    assert compared.values is not None
    assert compared.values["lufs"] == {
        "value": -10.0, "target": -9.0, "tolerance": 1.5, "min": -10.5, "max": -7.5,
        "delta": -1.0, "ok": True,
    }  # fmt: skip
    found: dict[str, Any] = compared.values
    assert {name: entry["ok"] for name, entry in found.items() if name != "bands"} == {
        "lufs": True, "truePeak": False, "dr": None, "lra": False, "stereo": True,
    }  # fmt: skip
    # The band's range wins over target and tolerance, by which it would be fine.
    assert found["bands"]["sub"]["ok"] is False
    assert found["bands"]["lowMid"]["ok"] is True
    (warning,) = compared.warnings
    assert warning["code"] == "nothing-to-compare"
    assert "comparison.dr.value" in warning["message"]


@pytest.mark.parametrize(
    ("targets", "ok", "delta"),
    [
        ({"lufs_target": -9, "tol_lufs": 0.5, "lufs_min": -11}, True, -1.0),
        ({"lufs_target": -9, "tol_lufs": 5, "lufs_min": -9.5}, False, -1.0),
        ({"lufs_target": -9, "tol_lufs": 5, "lufs_max": -10.5}, False, -1.0),
        ({"lufs_min": -9}, False, -1.0),
        ({"lufs_max": -12}, False, 2.0),
        ({"lufs": {"min": -12, "max": -8}}, True, 0.0),
        ({"lufs": {"min": -10, "max": -10}}, True, 0.0),
        ({"lufsTarget": -9, "tolLufs": 1}, True, -1.0),
    ],
)
def test_minimum_and_maximum_win(targets: dict[str, Any], ok: bool, delta: float) -> None:
    compared = comparison.with_targets(REPORT, parse_targets(targets))
    entry: Any = (compared.values or {})["lufs"]
    assert (entry["ok"], entry["delta"]) == (ok, delta)
    assert compared.warnings == []


def test_a_target_without_tolerance_decides_nothing() -> None:
    compared = comparison.with_targets(REPORT, parse_targets({"lufs_target": -9}))
    entry: Any = (compared.values or {})["lufs"]
    assert (entry["delta"], entry["ok"]) == (-1.0, None)
    assert [warning["code"] for warning in compared.warnings] == ["no-tolerance"]
    assert "comparison.lufs.ok" in compared.warnings[0]["message"]


def test_unknown_targets_are_told_and_never_guessed() -> None:
    sent = {
        "lufs_target": -9, "tol_lufs": 1, "sparkle_target": 3, "Lufs": None,
        "bands": {"sub": {"target_db": -9, "tol_db": 1, "q": 2}, "mud": {"target_db": 1}},
        "lra": {"goal": 3},
    }  # fmt: skip
    targets = parse_targets(sent)
    assert sorted(targets.unknown) == ["bands.mud", "bands.sub.q", "lra.goal", "sparkle_target"]
    assert set(targets.metrics) == {"lufs"}
    (warning,) = comparison.with_targets(REPORT, targets).warnings
    assert warning["code"] == "unknown-target"
    assert "genreTargets.bands.mud" in warning["message"]


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ({"lufs_target": "-9"}, "lufs_target"),
        ({"lufs_target": True}, "lufs_target"),
        ({"lufs_target": float("nan")}, "lufs_target"),
        ({"lufs_target": 10**400}, "lufs_target"),
        ({"lufs_target": 1e308}, "lufs_target"),
        ({"lufs": -9}, "genreTargets.lufs"),
        ({"bands": []}, "bands"),
        ({"bands": {"sub": 3}}, "bands.sub"),
        ({"bands": {"sub": {"target_range": 3}}}, "bands.sub.target_range"),
        ({"lufs_min": -8, "lufs_max": -9}, "lufs"),
        ({"tol_lufs": -1, "lufs_target": -9}, "lufs"),
        ({"lufs_target": -9, "lufs": {"target": -8}}, "lufs.target"),
    ],
)
def test_a_broken_target_names_the_field_and_fails_at_once(
    sent: dict[str, Any], named: str
) -> None:
    with pytest.raises(errors.PayloadError, match=named):
        run(StandIn({**PAYLOAD, "fileKey": "not-there.wav", "genreTargets": sent}))


def test_a_genre_job_is_compared() -> None:
    result = run(StandIn({**PAYLOAD, "genreTargets": {"lufs_target": -8, "tol_lufs": 1}}))
    entry = result["comparison"]["lufs"]
    assert entry["value"] == result["loudness"]["integrated"]
    assert entry["ok"] is True
    assert [warning["code"] for warning in result["warnings"]] == ["too-short"]


def test_targets_that_are_all_unknown_compare_nothing_and_say_why() -> None:
    result = run(StandIn({**PAYLOAD, "genreTargets": {"sparkle": {"target": 3}}}))
    assert result["comparison"] is None
    codes = [warning["code"] for warning in result["warnings"]]
    assert codes == ["too-short", "unknown-target", "nothing-to-compare"]


def test_two_files_in_one_job() -> None:
    job = StandIn({**PAYLOAD, "mode": "comparison", "referenceFileKey": "ok.flac"})
    result = run(job)
    compared = result["comparison"]
    assert set(compared) == {*comparison.METRICS, "bands"}
    assert compared["lufs"]["value"] == result["loudness"]["integrated"]
    assert compared["lufs"]["delta"] == pytest.approx(0, abs=1e-3)
    assert set(compared["bands"]) == set(result["spectralBands"]) - {"totalPercentage"}
    assert job.progress[-1] == 100
    assert any(warning["message"].startswith("Reference: ") for warning in result["warnings"])


def test_a_second_file_that_is_missing_or_refused(root: Path) -> None:
    base = {**PAYLOAD, "mode": "comparison"}
    with pytest.raises(errors.Discard):
        run(StandIn({**base, "referenceFileKey": "../ok.wav"}))


def test_a_reference_of_another_engine_is_told() -> None:
    other = {**REPORT, "metadata": {"engine": "node"}}
    codes = [found["code"] for found in comparison.with_reference(REPORT, other).warnings]
    assert codes == ["nothing-to-compare", "reference-engine"]


def test_the_reference_stage_has_nothing_to_compare() -> None:
    result = run(StandIn({**PAYLOAD, "mode": "reference", "referenceStage": "base"}))
    assert result["comparison"] is None
    assert result["warnings"][-1]["code"] == "nothing-to-compare"


NAMES = st.sampled_from(
    [
        *("lufs", "lufs_target", "tolLufs", "lra_min", "lra_max", "bands", "sub", "lowMid"),
        *("target", "tolerance", "min", "max", "target_range", "target_db", "gold"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_any_targets_are_read_refused_or_told_to_be_unknown(sent: dict[str, Any]) -> None:
    try:
        targets = parse_targets(sent)
    except errors.PayloadError:
        return
    compared = comparison.with_targets(REPORT, targets)
    json.dumps([compared.values, compared.warnings], allow_nan=False)
    if sent.get("gold") is not None:
        assert "gold" in targets.unknown
