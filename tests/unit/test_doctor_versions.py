"""Verdicts about generations of BullMQ that do not understand each other."""

from __future__ import annotations

from typing import Any

import pytest

from bullpy.doctor.clients import Client
from bullpy.doctor.look import NO_KEY, Event, QueueLook
from bullpy.doctor.verdicts import Certainty, Level
from tests.support.looks import NODE, NOW, codes, event, job, only, queue_look, sample, worker_row

OLD = {"version": "bullmq:4.18.3"}
VERSIONS = {
    "producer-without-marker",
    "worker-without-priorities",
    "worker-too-old",
    "legacy-bull-worker",
}
BULL = "Missing process handler for job type process-audio"


def old_worker(**fields: Any) -> Client:
    return worker_row(**({"cmd": "brpoplpush"} | fields))


def runs(*waits: float, at: float = 300) -> tuple[Event, ...]:
    """Events of jobs that started so many seconds after their add, one after the other."""
    events: list[Event] = []
    for number, wait in enumerate(waits):
        ago = at - 20 * number
        name = str(number)
        events += [
            event("added", name, ago=ago),
            event("waiting", name, ago=ago),
            event("active", name, ago=ago - wait),
            event("completed", name, ago=ago - wait - 1),
        ]
    return tuple(reversed(events))


def seen(worker: Client | None = None, **fields: Any) -> QueueLook:
    return queue_look(sample(**fields), clients=[worker or worker_row()])


# -- producer-without-marker -------------------------------------------------------------------


def test_late_starts_after_adds_of_an_old_producer_are_told() -> None:
    verdict = only(seen(meta=OLD, events=runs(4.4, 2.1)), "producer-without-marker")
    assert (verdict.level, verdict.certainty) == (Level.WARNING, Certainty.CERTAIN)
    assert "bullmq 4.18.3" in verdict.message
    assert any("2.1 s, 4.4 s after the add" in proof.value for proof in verdict.proofs)


def test_old_producer_without_any_run_yet_is_probable() -> None:
    assert only(seen(meta=OLD), "producer-without-marker").certainty is Certainty.PROBABLE


def test_job_that_waits_unmarked_is_proof_without_a_version() -> None:
    verdict = only(
        seen(meta={}, wait=1, next=(job(timestamp=NOW - 3000),)), "producer-without-marker"
    )
    assert (verdict.level, verdict.certainty) == (Level.WARNING, Certainty.PROBABLE)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"events": runs(0.01, 0.02)}, id="prompt"),
        pytest.param({"events": runs(4.4, 2.1)}, id="late-with-a-new-producer"),
        pytest.param({"meta": OLD, "events": runs(0.01, 0.02)}, id="an-old-dashboard"),
        pytest.param({"meta": {}}, id="python-producer"),
        pytest.param({"meta": {}, "wait": 1, "marker": True, "next": (job(),)}, id="marked"),
        pytest.param({"meta": {}, "wait": 1, "next": (job(timestamp=NOW - 5),)}, id="just-added"),
        pytest.param(
            {"meta": {"paused": "1"}, "wait": 1, "next": (job(timestamp=NOW - 9000),)}, id="paused"
        ),
    ],
)
def test_producer_that_wakes_workers_is_not_accused(fields: dict[str, Any]) -> None:
    assert not codes(seen(**fields)) & VERSIONS


def test_busy_worker_makes_late_starts_without_an_old_producer() -> None:
    # The second was added while the first ran.
    events = (
        event("active", "2", ago=10),
        event("completed", "1", ago=10),
        event("added", "2", ago=15),
        event("active", "1", ago=20),
        event("added", "1", ago=20),
    )
    found = seen(meta={}, wait=1, next=(job(timestamp=NOW - 3000),), events=events)
    assert "producer-without-marker" not in codes(found)


def test_worker_that_polls_needs_no_marker() -> None:
    found = codes(seen(old_worker(), meta=OLD, events=runs(4.4, 2.1)))
    assert not found & VERSIONS


# -- worker-without-priorities -----------------------------------------------------------------


def test_prioritized_job_that_an_idle_old_worker_leaves_is_told() -> None:
    verdict = only(seen(old_worker(), prioritized=[job(priority=1)]), "worker-without-priorities")
    assert (verdict.level, verdict.certainty) == (Level.BLOCKED, Certainty.WATCHED)
    assert "worker-too-old" not in codes(seen(old_worker(), prioritized=[job(priority=1)]))


@pytest.mark.parametrize(
    ("worker", "fields"),
    [
        pytest.param(worker_row(), {"prioritized": [job()]}, id="new-worker"),
        pytest.param(old_worker(), {"wait": 1, "prioritized": [job()]}, id="others-come-first"),
        pytest.param(old_worker(flags="N"), {"prioritized": [job()]}, id="busy"),
        pytest.param(old_worker(), {"meta": {"paused": "1"}, "prioritized": [job()]}, id="paused"),
    ],
)
def test_priorities_that_wait_for_their_turn_are_no_alarm(
    worker: Client, fields: dict[str, Any]
) -> None:
    assert "worker-without-priorities" not in codes(seen(worker, **fields))


def test_priorities_that_are_taken_late_are_of_bullmq_4() -> None:
    first = sample(at=NOW - 6000, prioritized=[job("1")])
    found = codes(queue_look(first, sample(prioritized=[job("2")]), clients=[old_worker()]))
    assert found & VERSIONS == {"worker-too-old"}


# -- worker-too-old ----------------------------------------------------------------------------


def test_old_worker_with_a_new_producer_is_told() -> None:
    verdict = only(seen(old_worker(), meta=NODE), "worker-too-old")
    assert (verdict.level, verdict.certainty) == (Level.WARNING, Certainty.CERTAIN)


def test_marker_tells_of_a_new_producer_without_version() -> None:
    assert "worker-too-old" in codes(seen(old_worker(), meta={}, marker=True))


@pytest.mark.parametrize("meta", [{}, OLD])
def test_old_worker_with_an_old_producer_is_no_alarm(meta: dict[str, str]) -> None:
    assert not codes(seen(old_worker(), meta=meta)) & VERSIONS


# -- legacy-bull-worker ------------------------------------------------------------------------


def failed(ago: float) -> list[Any]:
    return [job("7", failed_reason=BULL, finished_on=NOW - round(ago * 1000))]


def test_failures_of_bull_are_told_with_the_worker() -> None:
    verdict = only(seen(old_worker(), failed=failed(30)), "legacy-bull-worker")
    assert verdict.level is Level.BLOCKED
    assert "10.0.0.1:5000" in verdict.message
    assert verdict.proofs[0].command == "HGET bull:audio:7 failedReason"
    assert "worker-too-old" not in codes(seen(old_worker(), failed=failed(30)))


def test_removed_failures_of_bull_are_found_in_the_events() -> None:
    events = (event("failed", "7", ago=5, failedReason=BULL),)
    found = seen(events=events, stalled_check_ttl=NO_KEY)
    assert "legacy-bull-worker" in codes(found)


def test_failures_of_bull_from_last_week_are_over() -> None:
    assert "legacy-bull-worker" not in codes(seen(failed=failed(7 * 86_400)))


def test_other_failures_are_not_bulls() -> None:
    reason = [job(failed_reason="Error: no handler", finished_on=NOW)]
    assert "legacy-bull-worker" not in codes(seen(old_worker(), failed=reason))
