"""An outage is two lines, whatever is tried in the meantime; a short one is one line."""

from __future__ import annotations

import logging

import pytest

from bullpy import errors
from bullpy.outage import Outage

AWAY = errors.RedisUnavailableError("Nothing listens.")
ENDED = errors.ReplyLostError("The connection ended.")
DENIED = errors.RedisAuthError("Wrong password.")


@pytest.fixture
def outage() -> Outage:
    return Outage(logging.getLogger("test"), "lost", "back", "Trying.", {"redis": "redis://host"})


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_outage_is_one_line_at_its_beginning_and_one_at_its_end(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    outage.ended(ENDED)
    for _ in range(50):
        outage.failed(AWAY)
    assert outage.is_on
    assert outage.worked(detail=": valkey")
    assert not outage.is_on
    assert said(caplog) == ["lost: Nothing listens. Trying.", "back after 0.0 s: valkey"]
    assert {record.redis for record in caplog.records} == {"redis://host"}
    assert caplog.records[0].code == "redis-unavailable"


def test_what_never_failed_is_never_told(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    assert not outage.worked()
    assert not outage.worked("fetch")
    assert not caplog.records


def test_outage_is_over_when_all_that_failed_works(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    outage.failed(AWAY, "fetch")
    outage.failed(AWAY, "store 1")
    outage.worked("fetch")
    outage.failed(AWAY, "fetch")
    outage.worked("store 1")
    assert len(caplog.records) == 1
    outage.worked("fetch")
    assert len(caplog.records) == 2
    outage.failed(AWAY, "fetch")
    assert len(caplog.records) == 3, "the next one is told again"


def test_reason_that_waiting_does_not_heal_is_told_when_it_comes_later(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (AWAY, DENIED, AWAY, DENIED):
        outage.failed(error)
    assert [line.split(".")[0] for line in said(caplog)] == [
        "lost: Nothing listens",
        "lost: Wrong password",
    ]


def test_interruptions_without_a_failed_attempt_are_one_line_in_ten_seconds(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        outage.ended(ENDED)
        assert outage.worked(detail=": valkey")
    assert said(caplog) == ["back after 0.0 s: valkey: The connection ended."]
