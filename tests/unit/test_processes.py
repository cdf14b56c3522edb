"""What the processes of a queue do, in words."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from bullpy.doctor.clients import Client
from bullpy.doctor.processes import processes_of, queues_of
from bullpy.registry import Goodbye, Held, Incident, Record, Registry

NOW = 1_000_000.0
AUDIO = base64.b64encode(b"audio").decode()


def client(number: int = 7, **fields: Any) -> Client:
    row = {
        "id": number,
        "addr": "10.0.0.9:4711",
        "name": f"bull:{AUDIO}",
        "db": 0,
        "age": 100,
        "idle": 3,
        "flags": "b",
        "cmd": "bzpopmin",
        "qbuf": 0,
    } | fields
    return Client.parse(" ".join(f"{name}={value}" for name, value in row.items()))


def record(**fields: Any) -> Record:
    given = {
        "id": "a",
        "role": "worker",
        "prefix": "bull",
        "queue": "audio",
        "seen": NOW - 5,
        "heartbeat": 15.0,
        "started": NOW - 600,
        "state": "waiting",
        "name": "py-1",
        "clients": (3,),
        "options": {"concurrency": 4, "drain_delay": 5},
        "last_fetch": NOW - 6,
    }
    return Record(**(given | fields))


def states(records: list[Record], clients: list[Client] | None, **more: Any) -> list[str]:
    found = processes_of("bull", "audio", Registry(NOW, tuple(records)), clients, **more)
    return [each.state for each in found]


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "waiting"),
        ({"state": "running", "busy": 2}, "busy 2 of 4"),
        ({"state": "paused"}, "paused"),
        ({"state": "paused", "busy": 1}, "paused, 1 still run"),
        ({"state": "limited"}, "rate limited"),
        ({"state": "draining", "busy": 3}, "draining, 3 left"),
        ({"state": "starting", "started": NOW - 2}, "starting"),
        ({"state": "starting"}, "starting for 10 min"),
        ({"last_fetch": NOW - 105}, "not fetching for 1 min 40 s"),
        ({"role": "producer", "added": 12}, "added 12, the last one 5 s ago"),
    ],
)
def test_state_of_a_live_record(fields: dict[str, Any], state: str) -> None:
    assert states([record(**fields)], []) == [state]


def test_end_is_told_with_its_reason_and_code() -> None:
    ended = Goodbye(at=NOW - 300, reason="SIGTERM", code=0)
    assert states([record(ended=ended)], []) == ["left 5 min ago: SIGTERM (exit code 0)"]
    ended = Goodbye(at=NOW - 300, reason="closed by the program")
    assert states([record(ended=ended)], []) == ["left 5 min ago: closed by the program"]


def test_silent_worker_is_frozen_while_it_is_connected_and_gone_without() -> None:
    silent = record(seen=NOW - 60, active=(Held(id="17", seconds=3),))
    connected = client(3, name=f"bull:{AUDIO}:w:py-1")
    assert states([silent], [connected]) == ["frozen 1 min"]
    renewed = client(99, name=f"bull:{AUDIO}:w:py-1")
    assert states([silent], [renewed]) == ["frozen 1 min"]
    (gone,) = processes_of("bull", "audio", Registry(NOW, (silent,)), [])
    assert (gone.is_alive, gone.state) == (False, "gone without goodbye, last seen 1 min ago")
    assert "it ran 17" in gone.notes
    assert states([silent], None) == ["silent for 1 min: gone without goodbye, or frozen"]


@pytest.mark.parametrize(
    ("fields", "active", "state"),
    [
        ({}, 0, "waiting"),
        ({"flags": "b", "qbuf": 60}, 0, "stuck: its commands queue behind its own wait"),
        ({"flags": "N", "idle": 40}, 0, "frozen 40 s"),
        ({"flags": "N", "idle": 40}, 1, "busy"),
        ({"flags": "N", "idle": 2}, 0, "waiting"),
        ({"flags": "N", "cmd": "info", "idle": 99}, 0, "not fetching"),
        ({"flags": "N", "cmd": "info", "age": 1, "idle": 1}, 0, "starting"),
        ({"name": f"bull:{AUDIO}:qe", "cmd": "xread"}, 0, "following"),
    ],
)
def test_state_of_a_connection(fields: dict[str, Any], active: int, state: str) -> None:
    assert states([], [client(**fields)], active=active) == [state]


def test_active_jobs_of_records_do_not_make_others_busy() -> None:
    busy = record(state="running", busy=2)
    found = states([busy], [client(flags="N", idle=40)], active=2)
    assert found == ["busy 2 of 4", "frozen 40 s"]


def test_worker_with_a_record_is_shown_once() -> None:
    mine = client(3, name=f"bull:{AUDIO}:w:py-1")
    assert states([record()], [mine]) == ["waiting"]


def test_both_connections_of_the_port_are_one_worker() -> None:
    pair = [
        client(20, name="bull:audio", flags="N", cmd="evalsha"),
        client(21, name="bull:audio"),
    ]
    (found,) = processes_of("bull", "audio", Registry(NOW), pair)
    assert (found.state, found.lang) == ("waiting", "python")
    apart = [client(20, name="bull:audio"), client(21, name="bull:audio")]
    assert len(processes_of("bull", "audio", Registry(NOW), apart)) == 2


def test_other_queues_prefixes_and_databases_are_left_out() -> None:
    others = [
        client(1, name="bull:" + base64.b64encode(b"mails").decode()),
        client(2, name=f"prod:{AUDIO}"),
        client(3, db=1),
        client(4, name=""),
    ]
    assert states([], others, db=0) == []


def test_queues_are_those_of_records_and_of_connections() -> None:
    clients = [client(), client(name="bull:mails:w:x"), client(name="bullpy:host:12")]
    assert queues_of(clients, "bull", ["old"]) == ["audio", "mails", "old"]
    # A name that can be read in two ways is the one that is known.
    assert queues_of([client(name=f"bull:{AUDIO}")], "bull", [AUDIO]) == [AUDIO]


def test_last_error_is_a_note_without_secrets() -> None:
    error = Incident(at=NOW - 12, text="redis://u:geheim@h refused\nmore", code="redis")
    (found,) = processes_of("bull", "audio", Registry(NOW, (record(last_error=error),)), [])
    assert "last error 12 s ago: redis://u:***@h refused" in found.notes
    assert "geheim" not in "".join(found.notes)
