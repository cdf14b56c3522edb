"""Verdicts where nobody works or nobody adds, and the healthy queues that look alike."""

from __future__ import annotations

from typing import Any

import pytest

from bullpy.doctor.look import NO_KEY, QueueLook, Sample
from bullpy.doctor.verdicts import Certainty, Level, level_of
from tests.support.looks import (
    NODE,
    NOW,
    codes,
    event,
    job,
    only,
    queue_look,
    row,
    sample,
    verdicts,
    worker_row,
)


def dead(**fields: Any) -> Sample:
    values: dict[str, Any] = {"added": 30, "wait": 30, "stalled_check_ttl": NO_KEY} | fields
    return sample(**values)


# -- no-worker -------------------------------------------------------------------------------


def test_ready_jobs_without_worker_are_told_with_the_last_start() -> None:
    seen = queue_look(dead(events=(event("active", ago=7200),)), clients=[row()])
    verdict = only(seen, "no-worker")
    assert (verdict.level, verdict.certainty) == (Level.BLOCKED, Certainty.CERTAIN)
    assert "30 jobs are ready" in verdict.message
    assert "started 2 h ago" in verdict.message
    assert [proof.value for proof in verdict.proofs] == [
        "30",
        "-2 (expired)",
        "no worker's name in 2 looks",
    ]


@pytest.mark.parametrize("fields", [{"wait": 0, "prioritized": 4}, {"wait": 0, "due": 2}])
def test_jobs_with_priority_and_due_ones_are_ready_too(fields: dict[str, int]) -> None:
    assert only(queue_look(dead(**fields)), "no-worker").level is Level.BLOCKED


def test_queue_events_and_dashboards_are_no_workers() -> None:
    listener = row(name="bull:YXVkaW8=:qe", flags="b", cmd="xread")
    assert "no-worker" in codes(queue_look(dead(), clients=[listener, row()]))


def test_worker_of_another_queue_is_none_of_this_one() -> None:
    assert "no-worker" in codes(queue_look(dead(), clients=[worker_row("video")]))


def test_without_client_list_the_expired_key_is_proof_enough() -> None:
    verdict = only(queue_look(dead(), clients=None), "no-worker")
    assert [proof.command for proof in verdict.proofs] == [
        "LLEN bull:audio:wait (and paused, prioritized, due)",
        "PTTL bull:audio:stalled-check",
    ]


def test_without_client_list_a_renewed_key_is_a_living_worker() -> None:
    assert "no-worker" not in codes(queue_look(dead(stalled_check_ttl=9000), clients=None))


def test_worker_that_died_a_moment_ago_is_probable() -> None:
    first = dead(at=NOW - 6000, stalled_check_ttl=20_000)
    seen = queue_look(first, dead(stalled_check_ttl=14_000), clients=[row()])
    verdict = only(seen, "no-worker")
    assert (verdict.level, verdict.certainty) == (Level.BLOCKED, Certainty.PROBABLE)


def test_worker_behind_a_proxy_that_hides_its_name_is_alive() -> None:
    first = dead(at=NOW - 6000, stalled_check_ttl=3000)
    seen = queue_look(first, dead(stalled_check_ttl=27_000), clients=[row()])
    assert "no-worker" not in codes(seen)


def test_nameless_worker_that_starts_jobs_is_alive() -> None:
    seen = queue_look(dead(events=(event("active", ago=2),)), clients=[row()])
    assert "no-worker" not in codes(seen)


def test_worker_that_connects_during_the_look_is_there() -> None:
    assert "no-worker" not in codes(queue_look(dead(), clients=[[], [worker_row(age=1)]]))


def test_worker_that_restarts_during_the_look_is_there() -> None:
    assert "no-worker" not in codes(queue_look(dead(), clients=[[worker_row()], []]))


def test_delayed_jobs_without_worker_are_a_warning() -> None:
    verdict = only(queue_look(dead(wait=0, delayed=[job(due=NOW + 60_000)])), "no-worker")
    assert verdict.level is Level.WARNING


def test_empty_queue_without_worker_is_a_note() -> None:
    seen = queue_look(dead(wait=0))
    assert only(seen, "no-worker").level is Level.OK
    assert level_of(verdicts(seen)) is Level.OK


def test_queue_paused_on_purpose_without_worker_is_a_warning() -> None:
    meta = {**NODE, "paused": "1"}
    assert only(queue_look(dead(meta=meta)), "no-worker").level is Level.WARNING


# -- no-adds ---------------------------------------------------------------------------------


def test_long_silence_is_a_note_with_the_rhythm_before_it() -> None:
    events = tuple(event("added", str(n), ago=7200 + 12 * n) for n in range(20))
    seen = queue_look(sample(added=20, events=events), clients=[worker_row()])
    verdict = only(seen, "no-adds")
    assert verdict.level is Level.OK
    assert verdict.message.startswith("No job has arrived for 2 h; a worker waits.")
    assert "one came every 12 s" in verdict.message


@pytest.mark.parametrize(
    "fields",
    [
        {"events": (event("added", ago=30),)},
        {"events": (event("added", ago=7200),), "active": [job(lock="u:1")]},
        {"events": (event("added", ago=7200),), "delayed": [job(due=NOW + 9000)]},
        {"events": (event("added", ago=7200),), "stalled_check_ttl": NO_KEY},
        {"events": ()},
    ],
)
def test_silence_that_is_short_or_explained_is_not_told(fields: dict[str, Any]) -> None:
    assert "no-adds" not in codes(queue_look(sample(**fields)))


# -- child-without-worker --------------------------------------------------------------------


def parents(child: Sample, clients: Any = ()) -> QueueLook:
    seen = sample(waiting_children=2, parents=(job("p", children=("bull:stems:1",)),))
    return queue_look(seen, clients=clients, children={("bull", "stems"): child})


def test_children_that_nobody_works_on_are_told() -> None:
    verdict = only(parents(dead(wait=3)), "child-without-worker")
    assert verdict.level is Level.BLOCKED
    assert "3 of those are ready in bull:stems" in verdict.message
    assert "the queue stems" in verdict.fix


@pytest.mark.parametrize(
    "child",
    [
        dead(wait=0),
        dead(wait=3, stalled_check_ttl=9000, active=[job(lock="u:1")]),
    ],
)
def test_children_that_run_or_are_done_are_no_alarm(child: Sample) -> None:
    assert "child-without-worker" not in codes(parents(child))


def test_children_with_a_worker_are_no_alarm() -> None:
    assert "child-without-worker" not in codes(parents(dead(), [worker_row("stems")]))


def test_without_client_list_a_renewed_key_is_a_worker_of_the_children() -> None:
    assert "child-without-worker" not in codes(parents(dead(stalled_check_ttl=9000), None))
