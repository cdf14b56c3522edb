"""What single jobs say: ignored, lost, without owner, stalled, failed."""

from __future__ import annotations

from dataclasses import replace

from support.looks import NOW, codes, event, job, only, queue_look, sample, verdicts, worker_row

from bullpy.doctor.look import NO_KEY, NO_TTL
from bullpy.doctor.verdicts import Certainty, Level


def test_an_add_with_the_id_of_a_completed_job_is_a_note():
    seen = sample(
        events=(event("duplicated", "user-7", ago=5), event("added", "user-7", ago=4000)),
        places={"user-7": "completed"},
    )
    found = only(queue_look(seen), "duplicate-id")
    assert found.level is Level.OK
    assert "`completed`" in found.message


def test_adds_that_are_all_ignored_for_ended_jobs_warn():
    repeated = [event("duplicated", "user-7", ago=ago) for ago in (1, 2, 3)]
    seen = sample(events=(*repeated, event("added", "x", ago=9)), places={"user-7": "failed"})
    assert only(queue_look(seen), "duplicate-id").level is Level.WARNING
    waiting = replace(seen, places={"user-7": "wait"})
    assert only(queue_look(waiting), "duplicate-id").level is Level.OK


def test_an_old_duplicate_and_one_of_a_scheduler_are_nothing():
    old = sample(events=(event("duplicated", "user-7", ago=90_000),))
    scheduled = sample(events=(event("duplicated", "repeat:x:1", ago=1),))
    assert "duplicate-id" not in codes(queue_look(old)) | codes(queue_look(scheduled))


def _deduplicated(*later: tuple[str, float], ttl: int) -> Level:
    ignored = event("deduplicated", "1", ago=2, deduplicationId="x", deduplicatedJobId="2")
    others = [event(name, "1", ago=ago) for name, ago in later]
    seen = sample(events=(ignored, *others), deduplicated={"x": ttl})
    return only(queue_look(seen), "deduplicated").level


def test_deduplication_is_a_note():
    assert _deduplicated(("added", 9), ttl=NO_TTL) is Level.OK
    assert _deduplicated(("completed", 5), ttl=50_000) is Level.OK


def test_deduplication_by_a_job_that_has_ended_warns():
    assert _deduplicated(("completed", 5), ttl=NO_TTL) is Level.WARNING


def test_a_job_in_no_list_at_both_looks_is_orphaned():
    seen = sample(places={"7": "nowhere", "8": "wait", "9": "gone"})
    found = only(queue_look(seen), "orphaned-jobs")
    assert found.message.startswith("1 job is in no list")
    assert "repair orphans" in found.fix


def test_a_job_that_was_in_a_list_at_the_first_look_is_not_orphaned():
    last = sample(places={"7": "nowhere"})
    first = replace(last, at=NOW - 6000, places={"7": "wait"})
    assert "orphaned-jobs" not in codes(queue_look(first, last))


def test_data_that_is_no_json_is_told_without_the_data():
    seen = sample(active=[job("bad", data_is_json=False, starts=3, stalls=2)])
    found = only(queue_look(seen), "undecodable-data")
    assert found.level is Level.BLOCKED
    young = sample(active=[job("bad", data_is_json=False, starts=1, lock="t:1")])
    assert only(queue_look(young), "undecodable-data").certainty is Certainty.PROBABLE


def test_waiting_ids_without_hash_are_counted():
    seen = sample(wait=200, checked=50, without_data=tuple(map(str, range(18))))
    found = only(queue_look(seen), "ids-without-data")
    assert "18 of 50" in found.message
    assert found.level is Level.BLOCKED


def test_an_active_job_without_lock_blocks_where_nobody_checks():
    seen = sample(active=[job(starts=1)], stalled_check_ttl=NO_KEY)
    assert only(queue_look(seen), "active-without-owner").level is Level.BLOCKED


def test_an_active_job_without_lock_is_a_note_where_a_check_runs():
    assert only(queue_look(sample(active=[job()])), "active-without-owner").level is Level.OK


def test_a_job_that_got_its_lock_or_was_started_meanwhile_has_an_owner():
    last = sample(active=[job(starts=2)], stalled_check_ttl=NO_KEY)
    for was in (job(starts=2, lock="t:1"), job(starts=1), job("other")):
        first = replace(last, at=NOW - 6000, active=(was,))
        assert "active-without-owner" not in codes(queue_look(first, last))


def test_a_long_job_with_a_live_lock_is_a_note():
    held = job(lock="t:1", lock_ttl=20_000, processed_on=NOW - 7_200_000, worker="w-hang")
    seen = queue_look(sample(active=[held]), clients=[worker_row(flags="N", idle=7200)])
    found = only(seen, "long-running")
    assert found.level is Level.OK
    assert "2 h" in found.message
    assert "w-hang" in found.message


def test_a_short_job_is_not_worth_a_note():
    held = job(lock="t:1", processed_on=NOW - 3000)
    assert "long-running" not in codes(queue_look(sample(active=[held])))


_TAKEN = (
    event("active", ago=10),
    event("stalled", ago=11),
    event("waiting", ago=11),
    event("active", ago=45),
)


def test_a_worker_that_is_silent_since_it_took_a_job_that_stalled_blocks_its_loop():
    blocked = worker_row(worker="py-cpu", flags="N", idle=45, age=600)
    seen = queue_look(sample(events=_TAKEN), clients=[blocked, worker_row(age=600)])
    found = only(seen, "loop-blocked")
    assert found.level is Level.WARNING
    assert "py-cpu" in found.message


def test_a_crashed_worker_is_not_taken_for_a_blocked_loop():
    restarted = queue_look(sample(events=_TAKEN), clients=[worker_row(age=8)])
    neighbour = job("2", lock="t:1", processed_on=NOW - 45_000)
    busy = queue_look(
        sample(events=_TAKEN, active=[neighbour]),
        clients=[worker_row(flags="N", idle=45, age=600)],
    )
    assert "loop-blocked" not in codes(restarted) | codes(busy)


def test_jobs_lost_at_several_times_by_workers_that_are_still_there_are_probably_blocked_loops():
    later = tuple(
        replace(each, job_id="2", at=each.at + 8000) for each in _TAKEN if each.name != "waiting"
    )
    found = only(
        queue_look(sample(events=(*later, *_TAKEN)), clients=[worker_row(age=600)]), "loop-blocked"
    )
    assert found.certainty is Certainty.PROBABLE


def test_a_job_that_stalled_more_than_allowed_is_poison():
    reason = "job stalled more than allowable limit"
    poison = job("a", stalls=3, failed_reason=reason, finished_on=NOW - 60_000)
    found = only(queue_look(sample(failed=[poison])), "poison-job")
    assert "3 workers" in found.message
    old = replace(poison, finished_on=NOW - 86_400_000)
    assert "poison-job" not in codes(queue_look(sample(failed=[old])))


def test_a_job_that_stalled_once_and_runs_is_not_poison():
    recovered = job("a", stalls=1, lock="t:1", processed_on=NOW)
    assert "poison-job" not in codes(queue_look(sample(active=[recovered])))


def _fails(reason: str, ago: float = 5.0) -> tuple:
    return (
        event("retries-exhausted", ago=ago),
        event("failed", ago=ago, failedReason=reason),
        event("active", ago=ago + 0.04),
    )


def test_failures_that_leave_nothing_are_quoted_from_the_events_without_secrets():
    reason = "no module sharp at redis://user:hunter2@host"
    found = only(queue_look(sample(events=_fails(reason))), "failed-and-removed")
    assert found.level is Level.WARNING
    assert "no module sharp" in found.message
    assert "hunter2" not in str(found.as_dict())


def test_one_removed_failure_among_completed_jobs_is_a_note():
    events = (*(event("completed", f"c{n}") for n in range(5)), *_fails("boom"))
    assert only(queue_look(sample(events=events)), "failed-and-removed").level is Level.OK


def test_failures_that_are_kept_or_retried_are_not_removed_ones():
    kept = sample(events=_fails("boom"), failed=[job(failed_reason="boom")])
    retried = sample(events=(event("waiting", ago=1), *_fails("boom")), wait=1)
    assert "failed-and-removed" not in codes(queue_look(kept)) | codes(queue_look(retried))


def test_a_plain_function_given_to_the_python_port_is_named():
    reason = "object dict can't be used in 'await' expression"
    seen = sample(failed=[job(failed_reason=reason, finished_on=NOW - 5000)])
    found = only(queue_look(seen), "processor-contract")
    assert found.level is Level.BLOCKED
    assert "async def" in found.fix


def test_a_broken_processor_that_was_mended_long_ago_is_nothing():
    reason = "Object of type datetime is not JSON serializable"
    failed = [job(failed_reason=reason, finished_on=NOW - 9_000_000)]
    mended = sample(failed=failed, completed=[job("2", finished_on=NOW - 10)])
    assert not verdicts(queue_look(mended), "processor-contract")
    broken = sample(failed=failed)
    assert only(queue_look(broken), "processor-contract").level is Level.BLOCKED


def test_an_error_of_the_processors_own_is_no_broken_contract():
    failed = [job(failed_reason="TypeError: 'NoneType' object is not iterable", finished_on=NOW)]
    assert "processor-contract" not in codes(queue_look(sample(failed=failed)))
