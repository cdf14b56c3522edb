"""What the queue itself says: pauses, limits, delays, priorities."""

from __future__ import annotations

from support.looks import (
    NODE,
    NOW,
    codes,
    event,
    job,
    look,
    only,
    queue_look,
    sample,
    server,
    verdicts,
    worker_row,
)

from bullpy.doctor.look import NO_KEY, NO_TTL, QueueLook
from bullpy.doctor.verdicts import Level


def test_a_paused_queue_says_since_when_and_how_to_resume():
    paused = sample(meta={**NODE, "paused": "1"}, paused=4, events=(event("paused", "", ago=3600),))
    found = only(queue_look(paused, clients=[worker_row()]), "paused")
    assert found.level is Level.BLOCKED
    assert "1 h ago" in found.message
    assert "4 jobs" in found.message
    assert "bullpy repair resume --queue audio --apply" in found.fix
    assert "BullMQ 5" in found.fix


def test_a_resume_after_the_pause_is_no_pause():
    resumed = sample(events=(event("resumed", ""), event("paused", "", ago=5)))
    assert not verdicts(queue_look(resumed), "paused", "split-pause")


def test_jobs_in_both_lists_of_a_paused_queue_forbid_a_resume_by_version_5():
    split = sample(meta={**NODE, "paused": "1"}, wait=3, paused=2, next=(job(),), checked=3)
    found = only(queue_look(split), "split-pause")
    assert "it would drop 3 jobs" in found.message
    assert verdicts(queue_look(split))[0].code == "split-pause"


def test_jobs_in_paused_of_a_running_queue_are_read_by_nobody():
    left = sample(paused=600, wait=7001, next=(job(),), checked=50)
    found = only(queue_look(left), "split-pause")
    assert found.level is Level.BLOCKED
    assert "repair orphans" in found.fix


def test_the_marker_of_bullmq_4_is_no_job_in_wait():
    marked = sample(meta={**NODE, "paused": "1"}, wait=1, paused=2, checked=1)
    assert not verdicts(queue_look(marked), "split-pause")


def _full(lock: str | None, **fields: object) -> QueueLook:
    held = sample(
        meta={**NODE, "concurrency": "1"},
        wait=5,
        active=[job("dead", lock=lock, worker="w1", starts=1)],
        **fields,
    )
    return queue_look(held, clients=[worker_row()])


def test_global_concurrency_used_by_a_dead_job_blocks():
    found = only(_full(None, stalled_check_ttl=NO_KEY), "concurrency-used-up")
    assert found.level is Level.BLOCKED
    assert "dead" in found.message


def test_global_concurrency_used_by_a_dead_job_that_a_check_will_free_warns():
    found = only(_full(None), "concurrency-used-up")
    assert found.level is Level.WARNING
    assert "20 s" in found.message


def test_global_concurrency_at_work_is_a_note():
    found = only(_full("token:1"), "concurrency-used-up")
    assert found.level is Level.OK
    assert "dead (held by w1)" in found.message


def test_global_concurrency_with_a_free_place_is_nothing():
    free = sample(meta={**NODE, "concurrency": "2"}, wait=5, active=[job(lock="t:1")])
    assert "concurrency-used-up" not in codes(queue_look(free))


def _limited(ttl: int, count: int = 10, **meta: str) -> list[Level]:
    seen = sample(meta={**NODE, **meta}, wait=3, limiter=count, limiter_ttl=ttl)
    return [each.level for each in verdicts(queue_look(seen), "rate-limited")]


def test_a_rate_limit_that_flows_is_a_note():
    assert _limited(900, max="10", duration="1000") == [Level.OK]


def test_a_rate_limit_below_its_maximum_holds_nothing_back():
    assert _limited(900, 9, max="10", duration="1000") == []


def test_a_long_configured_rate_limit_warns_and_a_long_call_of_rate_limit_blocks():
    assert _limited(2_400_000, max="10", duration="3600000") == [Level.WARNING]
    assert _limited(2_400_000, 2**53 - 1) == [Level.BLOCKED]


def test_a_limiter_that_never_ends_warns():
    assert _limited(NO_TTL, max="10", duration="1000") == [Level.WARNING]


def test_a_limit_of_the_workers_own_under_which_jobs_move_is_nothing():
    moving = sample(wait=3, limiter=2, limiter_ttl=500, events=(event("active", ago=1),))
    assert "rate-limited" not in codes(queue_look(moving))


def test_job_that_is_delayed_beyond_the_calendar_is_a_note_too():
    seen = sample(delayed=(job("1", due=NOW + 2**53),), meta=NODE | {"concurrency": "²"})
    assert only(queue_look(seen), "delayed").level is Level.OK


def test_delayed_jobs_are_a_note_with_the_time_that_is_left():
    seen = sample(delayed=[job(due=NOW + 57_000)])
    found = only(queue_look(seen), "delayed")
    assert found.level is Level.OK
    assert "57 s" in found.message


def test_a_due_job_that_a_waiting_worker_does_not_take_warns():
    seen = sample(delayed=[job(due=NOW - 42_000)], due=1)
    found = only(queue_look(seen, clients=[worker_row()]), "delayed")
    assert found.level is Level.WARNING
    assert "42 s" in found.message


def test_a_due_job_beside_busy_workers_is_a_note():
    seen = sample(delayed=[job(due=NOW - 42_000)], due=1)
    busy = queue_look(seen, clients=[worker_row(flags="N", idle=40)])
    assert only(busy, "delayed").level is Level.OK


def test_prioritized_jobs_are_told_beside_the_count_that_misses_them():
    seen = sample(prioritized=[job("1", priority=1), job("2", priority=1)])
    found = only(queue_look(seen), "prioritized-not-counted")
    assert found.level is Level.OK
    assert "2 jobs with a priority" in found.message


def test_a_quiet_queue_and_a_quiet_server_have_no_verdict_above_ok():
    quiet = queue_look(sample(), clients=[worker_row()])
    busy = queue_look(
        sample(wait=2, next=(job("2"), job("3")), active=[job(lock="t:1", processed_on=NOW)]),
        clients=[worker_row(flags="N")],
    )
    found = [*verdicts(quiet), *verdicts(busy), *verdicts(look(servers=[server()]))]
    assert not [each.code for each in found if each.level > Level.OK]
