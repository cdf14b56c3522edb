"""Plays the scenes of the doctor side by side, and prints what it said of each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.scenes import causes
from support.scenes.runner import Outcome, Runner

_outcomes = pytest.StashKey[list[Outcome]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_outcomes] = []


@pytest.fixture(scope="session")
def runner(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[Runner]:
    """Plays the scenes of all tests that were selected, from now on."""
    wanted = {
        item.callspec.params.get("scene")
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    }
    with Runner([scene for scene in causes.ALL if scene in wanted]) as playing:
        yield playing
    pytestconfig.stash[_outcomes] = playing.outcomes


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    outcomes = config.stash.get(_outcomes, [])
    if not outcomes:
        return
    terminalreporter.section("what the doctor said")
    terminalreporter.write_line(f"{'cause':32}{'verdict':32}{'certainty':11}{'s':>5}  situation")
    for outcome in sorted(outcomes, key=lambda each: causes.ALL.index(each.scene)):
        terminalreporter.write_line(row(outcome))


def row(outcome: Outcome) -> str:
    """One line of the table."""
    scene, report = outcome.scene, outcome.report
    wanted = f"D{scene.number} {scene.code}" if scene.number else "healthy"
    if report is None:
        verdict, certainty, seconds = "(the scene failed)", "", outcome.seconds
    else:
        first = report.first
        verdict = first["code"] if first else f"({report.level})"
        certainty = first["certainty"] if first else ""
        seconds = report.seconds
    others = report.others if report is not None else []
    also = f" (also {', '.join(others)})" if others else ""
    return f"{wanted:32}{verdict:32}{certainty:11}{seconds:5.1f}  {scene.title}{also}"
