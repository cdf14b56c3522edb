"""Each cause of an outage made real, and healthy situations; what the doctor says first of each."""

from __future__ import annotations

import pytest
from support.scenes.causes import HEALTHY, OF_CAUSES
from support.scenes.runner import Outcome, Runner
from support.scenes.scene import Report, Scene

# The first test waits while scenes of others are played as well.
pytestmark = pytest.mark.timeout(300)


def report_of(outcome: Outcome) -> Report:
    assert outcome.report is not None, f"the scene could not be played:\n{outcome.trouble}"
    return outcome.report


def test_every_cause_of_the_dictionary_has_a_scene() -> None:
    assert {scene.number for scene in OF_CAUSES} == set(range(1, 50))
    assert len(HEALTHY) >= 20


@pytest.mark.parametrize("scene", OF_CAUSES, ids=lambda scene: scene.name)
def test_cause_is_named_first(runner: Runner, scene: Scene) -> None:
    outcome = runner.outcome(scene)
    report = report_of(outcome)
    first = report.first
    assert first is not None, f"nothing was said about: {scene.title}"
    assert first["code"] == scene.code, f"{scene.title}:\n{report}"
    assert first["certainty"] in scene.certainties, report
    assert first["proofs"], "a verdict without proof"
    assert first["fix"]
    assert set(report.others) <= scene.also, f"{scene.title}, a false alarm:\n{report}"
    # Verdicts come in the order of their level, so none of a higher one may follow.
    assert first["level"] == report.level, report
    assert report.exit_code == ["ok", "warning", "blocked", "unreachable"].index(report.level)


@pytest.mark.parametrize("scene", HEALTHY, ids=lambda scene: scene.name)
def test_no_alarm_where_nothing_is_wrong(runner: Runner, scene: Scene) -> None:
    report = report_of(runner.outcome(scene))
    assert report.level == "ok", f"{scene.title}:\n{report}"
    assert report.exit_code == 0
