"""Verdicts about workers that are connected and do not fetch, and busy ones that look alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from bullpy.doctor.clients import Client
from bullpy.doctor.look import NO_KEY, QueueLook
from bullpy.doctor.verdicts import Certainty, Level
from tests.support.looks import (
    NODE,
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
    worker_row,
)

STUCK = {"command-timeout-below-block", "worker-frozen", "worker-never-fetched"}


def aging(*last: Client, step: int = 3) -> list[list[Client]]:
    """Three looks at connections that say nothing meanwhile."""
    return [
        [replace(each, age=each.age - ago, idle=max(0, each.idle - ago)) for each in last]
        for ago in (2 * step, step, 0)
    ]


def silent(**fields: Any) -> Client:
    """A worker whose wait ended, and that has said nothing since."""
    values: dict[str, Any] = {"flags": "N", "idle": 40} | fields
    return worker_row(**values)


def fresh(**fields: Any) -> Client:
    """A worker that connected and said nothing more."""
    values: dict[str, Any] = {"flags": "N", "cmd": "info", "age": 40, "idle": 40} | fields
    return worker_row(**values)


def seen(*rows: Client, **fields: Any) -> QueueLook:
    return queue_look(sample(**({"added": 9, "wait": 3} | fields)), clients=aging(*rows))


# -- command-timeout-below-block ---------------------------------------------------------------


def test_commands_behind_the_own_wait_are_told() -> None:
    verdict = only(seen(worker_row(qbuf=150, idle=0)), "command-timeout-below-block")
    assert (verdict.level, verdict.certainty) == (Level.BLOCKED, Certainty.CERTAIN)
    assert verdict.proofs[0].value == "flags=b cmd=bzpopmin qbuf=150"
    assert "commandTimeout" in verdict.fix


def test_commands_behind_the_own_wait_without_jobs_are_a_warning() -> None:
    verdict = only(seen(worker_row(qbuf=150), wait=0), "command-timeout-below-block")
    assert verdict.level is Level.WARNING


@pytest.mark.parametrize(
    "history",
    [
        [[worker_row()], [worker_row()], [worker_row()]],
        # One that is being closed, met once.
        [[worker_row()], [worker_row(qbuf=30)], []],
        # A command that is being read is no wait.
        [[worker_row(flags="N", idle=0, qbuf=30)]] * 3,
    ],
)
def test_worker_that_waits_or_closes_is_not_taken_for_it(history: Sequence[list[Client]]) -> None:
    found = codes(queue_look(sample(), clients=history))
    assert "command-timeout-below-block" not in found


# -- worker-frozen -----------------------------------------------------------------------------


def test_worker_that_says_nothing_after_its_wait_is_frozen() -> None:
    verdict = only(seen(silent(worker="w-froze")), "worker-frozen")
    assert (verdict.level, verdict.certainty) == (Level.BLOCKED, Certainty.WATCHED)
    assert "w-froze at 10.0.0.1:5000 got an answer 40 s ago" in verdict.message
    assert verdict.proofs[0].value == "flags=N cmd=bzpopmin idle=40"


def test_frozen_worker_without_jobs_is_a_warning() -> None:
    assert only(seen(silent(), wait=0), "worker-frozen").level is Level.WARNING


def test_frozen_worker_beside_a_waiting_one_is_a_warning() -> None:
    verdict = only(seen(silent(), worker_row(id=11)), "worker-frozen")
    assert verdict.level is Level.WARNING


def test_frozen_worker_is_told_from_its_busy_colleague() -> None:
    busy = job(lock="u1:4", worker="w-1", lock_ttl=20_000)
    verdict = only(
        seen(silent(worker="w-1", idle=30), silent(worker="w-2", id=11), active=[busy]),
        "worker-frozen",
    )
    assert "w-2" in verdict.message
    assert "w-1" not in verdict.message


def test_of_two_nameless_workers_and_one_lock_one_is_frozen() -> None:
    rows = (silent(idle=20, addr="10.0.0.1:1"), silent(idle=900, id=11, addr="10.0.0.2:2"))
    verdict = only(seen(*rows, active=[job(lock="u1:4")]), "worker-frozen")
    assert "10.0.0.2:2" in verdict.message
    assert "10.0.0.1:1" not in verdict.message


@pytest.mark.parametrize(
    ("rows", "fields"),
    [
        pytest.param([worker_row(idle=5)], {"wait": 0}, id="waits"),
        pytest.param([worker_row(idle=9)], {"wait": 0, "delayed": 1}, id="waits-for-delayed"),
        pytest.param([worker_row(idle=300)], {"wait": 0}, id="has-a-long-drain-delay"),
        pytest.param([silent()], {"active": [job(lock="u1:1")]}, id="busy"),
        pytest.param([silent()], {"active": [job(lock="u1:1", worker="x")]}, id="busy-other-name"),
        pytest.param(
            [silent(worker="w"), silent(worker="w", id=11)],
            {"active": [job("1", lock="u1:1", worker="w"), job("2", lock="u2:1", worker="w")]},
            id="two-busy-of-one-name",
        ),
        pytest.param(
            [silent(), silent(id=11)],
            {"counts": {**sample().counts, "active": 40}},
            id="many-active",
        ),
        pytest.param([silent()], {"meta": {**NODE, "paused": "1"}}, id="paused"),
        pytest.param([silent()], {"limiter_ttl": 30_000}, id="rate-limited"),
        pytest.param(
            [silent()],
            {"meta": {**NODE, "concurrency": "1"}, "active": [job()]},
            id="concurrency-used-up",
        ),
        pytest.param([silent(idle=3)], {}, id="silent-for-3-s"),
        pytest.param([silent()], {"wait": 0, "events": (event("completed", ago=1),)}, id="moves"),
    ],
)
def test_living_worker_is_not_frozen(rows: list[Client], fields: dict[str, Any]) -> None:
    assert not codes(seen(*rows, **fields)) & STUCK


def test_worker_that_ended_its_job_between_the_looks_is_not_frozen() -> None:
    first = sample(at=NOW - 6000, wait=1, active=[job(lock="u1:1")])
    ended = queue_look(first, sample(wait=1), clients=aging(silent()))
    assert not codes(ended) & STUCK


def test_worker_that_waited_in_one_look_is_not_frozen() -> None:
    history = aging(silent())
    history[1] = [replace(history[1][0], flags="b")]
    assert not codes(queue_look(sample(wait=1), clients=history)) & STUCK


def test_worker_whose_commands_the_server_refuses_is_not_frozen() -> None:
    servers = [server(errors={"NOPERM": 1}, at=94.0), server(errors={"NOPERM": 9000})]
    whole = look(clients=aging(silent(), fresh(id=11)), servers=servers)
    assert not codes(queue_look(sample(wait=1), of=whole)) & STUCK


def test_python_ports_second_connection_is_not_frozen() -> None:
    # Both of its connections carry the name; this one runs scripts.
    main = worker_row(plain=True, flags="N", cmd="evalsha", idle=25)
    assert not codes(seen(main, worker_row(plain=True, id=11), wait=0)) & STUCK


def test_without_client_list_nobody_is_called_frozen() -> None:
    assert not codes(queue_look(sample(wait=3), clients=None)) & STUCK


# -- worker-never-fetched ----------------------------------------------------------------------


@pytest.mark.parametrize("cmd", ["info", "client|setname", "client|setinfo"])
def test_worker_that_only_connected_never_fetched(cmd: str) -> None:
    verdict = only(seen(fresh(cmd=cmd), stalled_check_ttl=NO_KEY), "worker-never-fetched")
    assert (verdict.level, verdict.certainty) == (Level.BLOCKED, Certainty.WATCHED)
    assert "connected 40 s ago and has never asked" in verdict.message
    assert "run()" in verdict.fix


def test_process_that_froze_with_all_its_connections_is_frozen() -> None:
    shared = row(name="bullpy:box:77", id=9, idle=40, cmd="evalsha")
    assert codes(seen(silent(worker="box:77:1"), shared)) & STUCK == {"worker-frozen"}


def test_worker_that_may_pause_after_an_error_is_probable() -> None:
    verdict = only(seen(fresh(age=8, idle=8)), "worker-never-fetched")
    assert verdict.certainty is Certainty.PROBABLE


@pytest.mark.parametrize(
    "other", [{"idle": 4, "cmd": "evalsha"}, {"idle": 40, "cmd": "client|unblock"}]
)
def test_worker_that_is_paused_in_its_process_is_told_from_a_frozen_one(
    other: dict[str, Any],
) -> None:
    shared = row(name="bullpy:box:77", id=9, **other)
    whole = seen(silent(worker="box:77:1"), shared)
    assert "worker-frozen" not in codes(whole)
    assert "its process lives" in only(whole, "worker-never-fetched").message


@pytest.mark.parametrize(
    ("rows", "fields"),
    [
        pytest.param([fresh(age=2, idle=2)], {}, id="connected-just-now"),
        pytest.param([fresh()], {"active": [job(lock="u1:1")]}, id="busy-since-it-connected"),
        pytest.param(
            [
                worker_row(plain=True, flags="N", cmd="client|setname", age=40, idle=40),
                worker_row(plain=True, id=11),
            ],
            {},
            id="python-port-with-idle-second-connection",
        ),
        pytest.param(
            [row(name="bull:YXVkaW8=:qe", cmd="info", age=40, idle=40)], {}, id="queue-events"
        ),
    ],
)
def test_worker_that_fetches_is_not_accused(rows: list[Client], fields: dict[str, Any]) -> None:
    assert "worker-never-fetched" not in codes(seen(*rows, **fields))


def test_worker_that_connected_during_the_look_is_not_accused() -> None:
    history: list[list[Client]] = [[], [fresh(age=3, idle=3)], [fresh(age=6, idle=6)]]
    assert "worker-never-fetched" not in codes(queue_look(sample(wait=1), clients=history))


def test_thousands_of_workers_are_judged_at_once() -> None:
    rows = [
        worker_row(worker=f"w{number}", id=number, flags="N", idle=40) for number in range(1500)
    ]
    seen = queue_look(sample(wait=3, added=9), clients=rows)
    began = time.process_time()
    assert "worker-frozen" in codes(seen)
    # Seconds; looking at all of them for each of them takes minutes.
    assert time.process_time() - began < 10
