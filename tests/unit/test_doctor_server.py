"""What the server says: memory, disk, role, cluster, connections, slow commands, clocks, load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.looks import (
    NOW,
    codes,
    event,
    job,
    look,
    only,
    queue_look,
    row,
    sample,
    server,
    verdicts,
    worker_row,
)

from bullpy.doctor.checks import topology
from bullpy.doctor.look import NO_KEY, Elsewhere, Look, Place, QueueLook, Server
from bullpy.doctor.verdicts import Certainty, Level
from bullpy.registry import Record, Registry


def _server(**info: object) -> Server:
    base = server()
    fields: dict[str, Any] = {
        name: info.pop(name) for name in ("commands", "errors") if name in info
    }
    shown = {name: str(value) for name, value in info.items()}
    return replace(base, info={**base.info, **shown}, **fields)


def _seen(*servers: Server, **fields: Any) -> Look:
    taken = [
        replace(each, at=100.0 - 6.0 * (len(servers) - 1 - n)) for n, each in enumerate(servers)
    ]
    return look(servers=taken, **fields)


def test_keys_that_are_evicted_now_block():
    seen = _seen(
        _server(maxmemory_policy="allkeys-lru"),
        _server(maxmemory_policy="allkeys-lru", evicted_keys=101),
    )
    found = only(seen, "evicted-keys")
    assert (found.level, found.certainty) == (Level.BLOCKED, Certainty.WATCHED)
    assert "101 keys" in found.message


@pytest.mark.parametrize(
    ("policy", "evicted", "level"),
    [
        ("allkeys-lru", 101, Level.WARNING),
        ("volatile-lru", 0, Level.WARNING),
        ("noeviction", 101, Level.OK),
        ("noeviction", 0, None),
    ],
)
def test_an_eviction_policy_or_old_evictions_are_no_outage(policy, evicted, level):
    seen = _seen(_server(maxmemory_policy=policy, evicted_keys=evicted))
    assert [each.level for each in verdicts(seen, "evicted-keys")] == (
        [] if level is None else [level]
    )


def test_a_counter_below_the_number_of_jobs_was_evicted():
    queue = queue_look(sample(added=53, wait=200), of=_seen(_server(evicted_keys=101)))
    assert "says 53" in only(queue, "evicted-keys").message
    assert "evicted-keys" not in codes(queue_look(sample(added=53, wait=200)))


def test_a_full_redis_blocks_and_a_nearly_full_one_warns():
    most = 100 * 2**20
    for used, level in ((most, Level.BLOCKED), (most * 0.95, Level.WARNING), (most * 0.5, None)):
        seen = _seen(_server(maxmemory=most, used_memory=int(used), errors={"OOM": 7}))
        assert [each.level for each in verdicts(seen, "out-of-memory")] == (
            [level] if level is not None else []
        )


def test_a_full_cache_that_evicts_is_not_out_of_memory():
    seen = _seen(_server(maxmemory=100, used_memory=100, maxmemory_policy="allkeys-lru"))
    assert codes(seen) == {"evicted-keys"}


def test_writes_refused_for_memory_between_the_looks_block():
    seen = _seen(_server(errors={"OOM": 7}), _server(errors={"OOM": 90}))
    assert "83 commands" in only(seen, "out-of-memory").message


@pytest.mark.parametrize(("refused", "level"), [(45, Level.BLOCKED), (0, Level.WARNING)])
def test_a_failed_save_blocks_where_writes_were_refused(refused, level):
    seen = _seen(_server(rdb_last_bgsave_status="err", errors={"MISCONF": refused}))
    assert only(seen, "persistence-failing").level is level


def test_a_save_that_failed_once_and_works_again_is_nothing():
    assert not codes(_seen(_server(rdb_last_bgsave_status="ok", errors={"MISCONF": 45})))


def test_a_replica_blocks_and_a_primary_with_old_errors_does_not():
    replica = _seen(_server(role="slave", slave_read_only=1, master_host="10.0.0.1"))
    assert "10.0.0.1" in only(replica, "read-only-replica").message
    assert not codes(_seen(_server(errors={"READONLY": 9000})))


def test_a_cluster_needs_a_hash_tag():
    cluster = _seen(_server(cluster_enabled=1))
    queue_look(of=cluster, name="audio")
    found = only(cluster, "cluster-without-tag")
    assert found.queue == "audio"
    assert "{bull}" in found.fix
    tagged = _seen(_server(cluster_enabled=1))
    queue_look(of=tagged, prefix="{bull}")
    assert not codes(tagged)


def test_slots_are_those_of_redis():
    # CLUSTER KEYSLOT of the specification's example, and of keys with tags.
    assert topology._slot("123456789") == 12739
    assert topology._slot("{user1000}.following") == topology._slot("user1000")
    assert topology._slot("foo{}{bar}") != topology._slot("bar")


def test_connections_refused_now_block_and_old_ones_do_not():
    before, after = (
        _server(rejected_connections=1),
        _server(rejected_connections=46, connected_clients=50),
    )
    found = only(_seen(before, after, clients=[row(), row()]), "too-many-clients")
    assert "45 connections" in found.message
    assert "2 come from 10.0.0.1" in found.message
    assert not codes(_seen(after, after))


def test_connections_near_the_limit_warn():
    seen = _seen(_server(connected_clients=95, maxclients=100))
    assert only(seen, "too-many-clients").level is Level.WARNING
    assert not codes(_seen(_server(connected_clients=50, maxclients=100)))


def test_a_slow_command_between_the_looks_warns_without_its_arguments():
    old = (90_000, "SORT secret-key", "10.0.0.3:1")
    before, after = (
        replace(server(), slow=(old,)),
        replace(server(), slow=((51_000, "KEYS *secret*", "10.0.0.2:1"), old)),
    )
    found = only(_seen(before, after), "slow-commands")
    assert "KEYS took 51 ms from 10.0.0.2:1" in found.message
    assert "secret" not in str(found.as_dict())
    assert not codes(_seen(after, after))


def test_keys_that_is_called_regularly_and_slow_warns():
    slow = {"keys": "calls=400,usec=1,usec_per_call=51000.0,rejected_calls=0"}
    regular = _server(uptime_in_seconds=4000, commands=slow)
    assert only(_seen(regular), "slow-commands").certainty is Certainty.PROBABLE
    assert not codes(_seen(_server(uptime_in_seconds=4_000_000, commands=slow)))
    quick = {"keys": "calls=400,usec=1,usec_per_call=40.0"}
    assert not codes(_seen(_server(uptime_in_seconds=4000, commands=quick)))


def test_a_flush_between_the_looks_blocks():
    calls = [_server(run_id="a", commands={"flushall": f"calls={n},usec=1"}) for n in (3, 4)]
    assert "FLUSHALL" in only(_seen(*calls), "data-gone").message


def test_a_restart_between_the_looks_without_persistence_blocks():
    after = _server(run_id="b", uptime_in_seconds=3, aof_enabled=0)
    found = only(_seen(_server(run_id="a"), after), "data-gone")
    assert found.level is Level.BLOCKED
    failover = replace(after, info={**after.info, "uptime_in_seconds": "9000"})
    assert not codes(_seen(_server(run_id="a"), failover))


def _gone(uptime: int, **fields: Any) -> QueueLook:
    commands = {"flushall": "calls=1", "xadd": "calls=20"}
    whole = _seen(_server(uptime_in_seconds=uptime, commands=commands, aof_enabled=1))
    return queue_look(sample(added=None), of=whole, **fields)


def test_a_flush_today_explains_an_empty_queue_and_one_of_last_month_does_not():
    found = only(_gone(3600), "data-gone")
    assert (found.level, found.certainty) == (Level.BLOCKED, Certainty.PROBABLE)
    assert "data-gone" not in codes(_gone(2_600_000))


def test_a_flush_and_a_queue_of_which_nothing_is_left_may_be_a_wrong_name():
    gone = _gone(3600)
    gone.samples[:] = [replace(each, meta={}, stalled_check_ttl=NO_KEY) for each in gone.samples]
    assert only(gone, "data-gone").level is Level.WARNING


def test_a_queue_that_is_found_elsewhere_was_not_flushed():
    place = Place(0, "bull", "audio", 3, 1, has_worker=False)
    assert "data-gone" not in codes(_gone(3600, elsewhere=Elsewhere((place,))))


def test_a_new_server_says_nothing_of_what_was_before():
    # It looks the same as one to which the API never wrote, which is the other verdict's to tell.
    whole = _seen(_server(uptime_in_seconds=60, aof_enabled=0))
    assert "data-gone" not in codes(queue_look(sample(added=None), of=whole))


def test_a_worker_that_is_older_than_the_server_and_its_jobs_tells_of_a_restart():
    whole = _seen(_server(uptime_in_seconds=60, aof_enabled=0))
    who = {"id": "w", "role": "worker", "prefix": "bull", "queue": "audio", "heartbeat": 15}

    def seen(age: float, processed: int) -> QueueLook:
        began = NOW / 1000 - age
        record = Record(**who, seen=NOW / 1000, started=began, processed=processed, name="py-1")
        found = queue_look(sample(added=None), of=whole)
        found.look.registry = Registry(NOW / 1000, (record,))
        return found

    found = only(seen(600, 7), "data-gone")
    assert (found.level, found.certainty) == (Level.BLOCKED, Certainty.CERTAIN)
    assert "py-1, which is older, has run 7 jobs" in found.message
    assert "never-added" not in codes(seen(600, 7))
    assert "data-gone" not in codes(seen(600, 0))
    assert "data-gone" not in codes(seen(30, 7))


def test_a_counter_that_falls_tells_that_the_queue_was_deleted():
    last = sample(added=2)
    assert only(queue_look(replace(last, added=90), last), "data-gone").level is Level.BLOCKED


def _clock(
    *ahead: float, apart: float = 5.0, field: str = "timestamp"
) -> list[tuple[str, Certainty]]:
    name = {"timestamp": "added", "processed_on": "active"}[field]
    events = [event(name, str(n), ago=apart * n + 1) for n in range(len(ahead))]
    jobs = [
        job(each.job_id, worker="w", **{"timestamp": 0, field: each.at + round(skew * 1000)})
        for each, skew in zip(events, ahead, strict=True)
    ]
    found = verdicts(queue_look(sample(events=tuple(events), completed=jobs)), "clock-skew")
    return [(each.message, each.certainty) for each in found]


def test_a_clock_that_is_ahead_is_certain_from_one_job():
    ((message, certainty),) = _clock(600.0)
    assert message.startswith("The producer's clock is 10 min ahead of Redis's")
    assert certainty is Certainty.CERTAIN


def test_a_clock_that_is_behind_is_certain_from_jobs_of_different_times():
    ((message, certainty),) = _clock(-300.0, -300.2, field="processed_on")
    assert "worker w is 5 min behind" in message
    assert certainty is Certainty.CERTAIN


def test_latency_and_jobs_that_waited_for_a_connection_are_no_skew():
    assert not _clock(-0.02, 0.001, -0.4)
    assert not _clock(-30.0, -25.0, -20.0)
    assert not _clock(-30.0, -0.01)
    assert not _clock(-30.0, -30.1, apart=0.1)


def test_the_clock_of_this_machine_is_compared_by_both_looks():
    wrong = replace(server(), skew=-7.0)
    assert "7 s behind" in only(_seen(wrong, wrong), "clock-skew").message
    assert not codes(_seen(wrong, replace(server(), skew=0.1)))
    assert not codes(_seen(replace(server(), skew=0.3)))


def _loaded(*, ready: tuple[int, int], came: int, burst: bool = False, **fields: Any) -> QueueLook:
    adds = [event("added", str(n), ago=0.5 if burst else n) for n in range(6)]
    events = (*adds, event("active", ago=1), event("completed", ago=1))
    waiting = [job("next", timestamp=NOW - 20_000)]
    first = sample(at=NOW - 6000, added=100, wait=ready[0], next=waiting)
    last = sample(added=100 + came, wait=ready[1], next=waiting, events=events)
    return queue_look(first, last, **{"clients": [worker_row(flags="N", idle=3)], **fields})


def test_a_backlog_that_grows_while_all_work_warns():
    found = only(_loaded(ready=(300, 312), came=24), "too-few-workers")
    assert found.level is Level.WARNING
    assert "4.0 jobs/s in, 2.0 jobs/s out" in found.message


def test_bursts_and_short_backlogs_and_idle_workers_are_no_overload():
    seen = [
        _loaded(ready=(300, 312), came=24, burst=True),
        _loaded(ready=(3, 5), came=24),
        _loaded(ready=(300, 312), came=24, clients=[worker_row()]),
        _loaded(ready=(0, 12), came=24),
    ]
    assert not [each for queue in seen for each in verdicts(queue, "too-few-workers")]


def test_a_backlog_that_shrinks_is_a_note_with_the_time_it_takes():
    found = only(_loaded(ready=(312, 300), came=0), "too-few-workers")
    assert found.level is Level.OK
    assert "clears in about 2 min 30 s" in found.message
