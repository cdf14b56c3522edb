"""Verdicts about connections that come and go, and restarts that look alike."""

from __future__ import annotations

from typing import Any

from bullpy.doctor.clients import Client
from bullpy.doctor.look import NO_KEY
from bullpy.doctor.verdicts import Certainty, Level
from tests.support.looks import codes, only, queue_look, sample, verdicts, worker_row

REDIS_PY = "redis-py 8.1.0"
LOOPS = {"consumer-reconnects", "crash-loop"}


def main(age: int, **fields: Any) -> Client:
    """The Python port's connection for scripts."""
    values: dict[str, Any] = {
        "plain": True,
        "worker": "py1",
        "flags": "N",
        "cmd": "evalsha",
        "id": 4,
        "age": age,
        "idle": age,
        "library": REDIS_PY,
    }
    return worker_row(**(values | fields))


def waiting(number: int, age: int, **fields: Any) -> Client:
    """The Python port's connection that waits."""
    values: dict[str, Any] = {
        "plain": True,
        "worker": "py1",
        "id": number,
        "age": age,
        "idle": age,
        "library": REDIS_PY,
    }
    return worker_row(**(values | fields))


def born(number: int, age: int, **fields: Any) -> Client:
    """A worker of Node."""
    return worker_row(**({"id": number, "age": age, "addr": f"10.0.0.1:{number}"} | fields))


# -- consumer-reconnects -----------------------------------------------------------------------


def test_consumer_that_reconnects_while_its_process_stays_is_told() -> None:
    # As seen with redis-py 8.1.0: 5 s of waiting, 1 to 2 s without.
    history = [
        [main(100), waiting(20, 3)],
        [main(102), waiting(20, 5)],
        [main(103)],
        [main(105), waiting(21, 1)],
        [main(106), waiting(21, 2)],
    ]
    seen = queue_look(sample(added=3, wait=1), clients=history)
    verdict = only(seen, "consumer-reconnects")
    assert (verdict.level, verdict.certainty) == (Level.BLOCKED, Certainty.WATCHED)
    assert "py1 at 10.0.0.1 was missing in 1 of 5 looks" in verdict.message
    assert [proof.value for proof in verdict.proofs][1:] == [REDIS_PY]
    assert "crash-loop" not in codes(seen)


def test_consumer_that_is_missing_at_first_is_told() -> None:
    history = [[main(100)], [main(103), waiting(21, 2)], [main(106), waiting(21, 5)]]
    assert "consumer-reconnects" in codes(queue_look(sample(wait=1), clients=history))


def test_consumer_of_a_young_process_is_probable() -> None:
    history = [
        [main(2), waiting(5, 2)],
        [main(5), waiting(5, 5)],
        [main(7)],
        [main(8), waiting(9, 1)],
    ]
    verdict = only(queue_look(sample(), clients=history), "consumer-reconnects")
    assert (verdict.level, verdict.certainty) == (Level.WARNING, Certainty.PROBABLE)


def test_consumer_that_stays_is_no_alarm() -> None:
    history = [
        [main(100), waiting(5, 99)],
        [main(103), waiting(5, 102)],
        [main(106), waiting(5, 105)],
    ]
    assert not codes(queue_look(sample(), clients=history)) & LOOPS


def test_consumer_whose_connection_was_cut_once_is_no_alarm() -> None:
    history = [
        [main(100, library=""), waiting(5, 99, library="")],
        [main(103, library="")],
        [main(106, library=""), waiting(9, 2, library="")],
    ]
    assert "consumer-reconnects" not in codes(queue_look(sample(), clients=history))


def test_restarted_process_is_no_consumer_that_reconnects() -> None:
    history = [[main(100), waiting(5, 3)], [], [main(2, id=30), waiting(31, 2)]]
    assert not codes(queue_look(sample(), clients=history)) & LOOPS


# -- crash-loop --------------------------------------------------------------------------------


def test_workers_that_vanish_again_and_again_are_told() -> None:
    history = [[born(20, 1)], [], [born(24, 1)], [], [born(28, 0)]]
    verdict = only(queue_look(sample(wait=2), clients=history), "crash-loop")
    assert (verdict.level, verdict.certainty) == (Level.BLOCKED, Certainty.WATCHED)
    assert "vanished 2 times in 6 s" in verdict.message


def test_crash_loop_explains_that_nobody_is_there() -> None:
    history = [[born(20, 1)], [], [born(24, 1)], [], []]
    seen = queue_look(sample(wait=2, stalled_check_ttl=NO_KEY), clients=history)
    assert "crash-loop" in codes(seen)
    assert "no-worker" not in codes(seen)


def test_crash_loop_beside_a_worker_that_stays_is_a_warning() -> None:
    history = [[born(5, 900), each] for each in (born(20, 1), born(24, 1), born(28, 1))]
    assert only(queue_look(sample(), clients=history), "crash-loop").level is Level.WARNING


def test_crash_loop_comes_before_the_jobs_that_never_came() -> None:
    history = [[born(20, 1)], [born(24, 1)], [born(28, 1)]]
    seen = queue_look(sample(added=None, meta={}), clients=history)
    assert [verdict.code for verdict in verdicts(seen)][:2] == ["crash-loop", "never-added"]


def test_one_restart_during_the_look_is_no_crash_loop() -> None:
    history = [[born(20, 2)], [born(20, 5)], [], [born(24, 1)]]
    assert not codes(queue_look(sample(), clients=history)) & LOOPS


def test_deployment_of_several_workers_is_no_crash_loop() -> None:
    old = [born(20, 900), born(21, 900), born(22, 900)]
    history = [old, [*old[1:], born(30, 1)], [old[2], born(30, 3), born(31, 1)], [born(32, 0)]]
    assert "crash-loop" not in codes(queue_look(sample(), clients=history))


def test_deployment_of_young_workers_one_by_one_is_no_crash_loop() -> None:
    old = [born(20, 9), born(21, 9)]
    history = [old, [*old, born(30, 1)], [old[1], born(30, 3)], [born(30, 4), born(31, 1)]]
    assert "crash-loop" not in codes(queue_look(sample(), clients=history))


def test_process_of_several_young_workers_that_ends_once_is_no_crash_loop() -> None:
    history = [[born(20, 2), born(21, 2)], [], [born(24, 1), born(25, 1)]]
    assert "crash-loop" not in codes(queue_look(sample(), clients=history))


def test_two_looks_are_too_few_for_a_loop() -> None:
    assert not codes(queue_look(sample(), clients=[[born(20, 1)], [born(24, 1)]])) & LOOPS
