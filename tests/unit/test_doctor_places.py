"""Verdicts where the API and the worker do not meet, and the healthy queues that look alike."""

from __future__ import annotations

from typing import Any

import pytest

from bullpy.doctor.look import NO_KEY, Elsewhere, Place, QueueLook
from bullpy.doctor.verdicts import Certainty, Level
from bullpy.settings import RedisSettings
from tests.support.looks import NODE, codes, event, look, only, queue_look, sample, worker_row

PLACES = {"never-added", "other-db", "other-prefix", "other-queue-name"}
MISSING = PLACES | {"no-worker"}


def place(db: int = 0, prefix: str = "bull", queue: str = "audio", **fields: Any) -> Place:
    values: dict[str, Any] = {"added": None, "ready": 0, "has_worker": False} | fields
    return Place(db, prefix, queue, **values)


def alone(*places: Place, clients: Any = (), **fields: Any) -> QueueLook:
    """A worker, and nothing was ever added."""
    values: dict[str, Any] = {"added": None, "meta": {}} | fields
    return queue_look(sample(**values), clients=clients, elsewhere=Elsewhere(places))


def unserved(*places: Place, clients: Any = (), **fields: Any) -> QueueLook:
    """Jobs, and no worker."""
    seen = sample(added=4, wait=3, stalled_check_ttl=NO_KEY, **fields)
    return queue_look(seen, clients=clients, elsewhere=Elsewhere(places))


# -- never-added -----------------------------------------------------------------------------


def test_worker_without_any_add_is_told_with_its_proof() -> None:
    verdict = only(alone(), "never-added")
    assert (verdict.level, verdict.certainty) == (Level.BLOCKED, Certainty.CERTAIN)
    assert "A worker is alive" in verdict.message
    assert "No Node producer ever connected" in verdict.message
    assert "a dead worker" in verdict.refutes
    assert [proof.command for proof in verdict.proofs] == [
        "EXISTS bull:audio:id bull:audio:events",
        "HGET bull:audio:meta version",
        "PTTL bull:audio:stalled-check",
    ]


def test_producer_that_connected_and_never_added_is_named() -> None:
    assert "(bullmq 5.61.2) connected" in only(alone(meta=NODE), "never-added").message


def test_worker_is_seen_by_its_connection_before_its_first_stalled_check() -> None:
    seen = alone(stalled_check_ttl=NO_KEY, clients=[worker_row(plain=True)])
    assert only(seen, "never-added").level is Level.BLOCKED


def test_queue_that_does_not_exist_at_all_is_a_warning() -> None:
    verdict = only(alone(stalled_check_ttl=NO_KEY), "never-added")
    assert verdict.level is Level.WARNING
    assert "nothing of it exists" in verdict.message


def test_queue_whose_jobs_were_all_removed_was_added_to() -> None:
    assert not codes(alone(added=9)) & PLACES


def test_queue_with_events_alone_was_added_to() -> None:
    assert "never-added" not in codes(alone(events=(event("added"),)))


# -- other-db --------------------------------------------------------------------------------


def test_jobs_here_and_worker_in_another_db_are_told_first() -> None:
    seen = unserved(clients=[worker_row(db=3)])
    verdict = only(seen, "other-db")
    assert (verdict.level, verdict.certainty) == (Level.BLOCKED, Certainty.CERTAIN)
    assert "bull:audio in db 0 (3 jobs ready" in verdict.message
    assert "bull:audio in db 3" in verdict.message
    assert not codes(seen) & {"no-worker", "never-added"}


def test_worker_here_and_jobs_in_another_db_are_told() -> None:
    settings = RedisSettings(host="redis.example", db=1)
    seen = queue_look(
        sample(added=None, meta={}),
        of=look(settings=settings, clients=[worker_row(db=1)]),
        elsewhere=Elsewhere((place(0, added=7, ready=7),)),
    )
    verdict = only(seen, "other-db")
    assert "bull:audio in db 0 (7 jobs ready" in verdict.message
    assert "never-added" not in codes(seen)


def test_worker_in_another_db_is_found_without_client_list() -> None:
    assert "other-db" in codes(unserved(place(2, has_worker=True), clients=None))


def test_other_db_with_jobs_and_worker_of_its_own_is_another_environment() -> None:
    seen = unserved(place(3, added=50, has_worker=True), clients=[worker_row(db=3)])
    assert codes(seen) & MISSING == {"no-worker"}
    assert "in db 3" in only(seen, "no-worker").message


def test_worker_without_jobs_stays_never_added_where_the_other_db_is_served() -> None:
    seen = alone(place(0, added=50, has_worker=True))
    assert codes(seen) & PLACES == {"never-added"}


def test_workers_on_both_dbs_are_no_alarm() -> None:
    seen = queue_look(sample(added=4, wait=1), clients=[worker_row(), worker_row(db=3, id=11)])
    assert not codes(seen) & PLACES


# -- other-prefix ----------------------------------------------------------------------------


def test_worker_under_another_prefix_is_told() -> None:
    seen = unserved(clients=[worker_row(prefix="prod")])
    verdict = only(seen, "other-prefix")
    assert "prod:audio in db 0" in verdict.message
    assert "no-worker" not in codes(seen)


def test_prefix_with_jobs_and_worker_of_its_own_is_another_environment() -> None:
    seen = unserved(place(prefix="prod", added=9), clients=[worker_row(prefix="prod")])
    assert codes(seen) & MISSING == {"no-worker"}


# -- other-queue-name ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("audio-analyzer", "audio-analyser"),
        ("audio-analyzer", "Audio-Analyzer"),
        ("audio-analyzer", "audioAnalyzer"),
        ("audio-analyzer", "audio_analyzer"),
        ("audio-analyzer", "audio-analyzer-prod"),
        ("staging-emails", "email"),
        ("transcribe", "trasncribe"),
    ],
)
def test_worker_of_a_name_that_looks_like_it_is_told(here: str, there: str) -> None:
    seen = queue_look(
        sample(added=4, wait=3, stalled_check_ttl=NO_KEY),
        name=here,
        clients=[worker_row(there)],
        elsewhere=Elsewhere(),
    )
    verdict = only(seen, "other-queue-name")
    assert verdict.level is Level.BLOCKED
    assert there in verdict.message
    assert "no-worker" not in codes(seen)


@pytest.mark.parametrize(
    ("here", "there"),
    [("audio", "video"), ("shard-1", "shard-2"), ("pdf", "png"), ("stems", "mix"), ("v1", "v2")],
)
def test_worker_of_another_name_is_not_meant(here: str, there: str) -> None:
    seen = queue_look(
        sample(added=4, wait=3, stalled_check_ttl=NO_KEY),
        name=here,
        clients=[worker_row(there)],
        elsewhere=Elsewhere(),
    )
    assert codes(seen) & MISSING == {"no-worker"}


def test_similar_queue_that_is_worked_on_is_not_meant() -> None:
    seen = unserved(place(queue="audios", added=9), clients=[worker_row("audios")])
    assert codes(seen) & MISSING == {"no-worker"}


def test_jobs_under_a_similar_name_explain_a_worker_that_waits() -> None:
    seen = alone(place(queue="Audio", added=2, ready=2))
    assert only(seen, "other-queue-name").level is Level.BLOCKED
    assert "never-added" not in codes(seen)


def test_same_name_in_another_db_is_nearer_than_a_similar_one_here() -> None:
    seen = unserved(clients=[worker_row("audios"), worker_row(db=1, id=11)])
    assert codes(seen) & PLACES == {"other-db"}


def test_queue_name_that_looks_like_base64_is_read_as_it_is() -> None:
    # `YXVkaW8=` is "audio" in base64: a queue of that very name has a worker of its own.
    seen = queue_look(
        sample(added=4, wait=3),
        name="YXVkaW8=",
        clients=[worker_row("YXVkaW8=", plain=True)],
        elsewhere=Elsewhere(),
    )
    assert not codes(seen) & MISSING
