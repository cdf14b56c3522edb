"""Verdicts about workers of another environment, and teams of workers that look alike."""

from __future__ import annotations

import pytest

from bullpy.doctor.clients import Client
from bullpy.doctor.look import Job, QueueLook
from bullpy.doctor.verdicts import Level
from tests.support.looks import codes, job, only, queue_look, sample, worker_row


def done(*names: str) -> list[Job]:
    """Jobs that workers of these names have done."""
    return [job(str(number), worker=name) for number, name in enumerate(names)]


def seen(*names: str, clients: list[Client] | None = None) -> QueueLook:
    return queue_look(sample(completed=done(*names)), clients=clients or [worker_row()])


def test_jobs_that_a_laptop_did_are_told() -> None:
    names = ["prod-1", "laptop-ana"] * 5
    verdict = only(seen(*names), "shared-with-others")
    assert verdict.level is Level.WARNING
    assert verdict.message == ("5 of the last 10 jobs were taken by laptop-ana, beside prod-1.")


def test_laptop_that_is_connected_and_had_no_job_yet_is_told() -> None:
    rows = [worker_row(worker="prod-1"), worker_row(worker="ana-macbook", id=11)]
    assert only(seen("prod-1", clients=rows), "shared-with-others").level is Level.WARNING


def test_worker_from_the_internet_beside_private_ones_is_told() -> None:
    rows = [worker_row(addr="10.0.0.3:1"), worker_row(addr="8.8.4.4:5", id=11)]
    verdict = only(seen(clients=rows), "shared-with-others")
    assert verdict.level is Level.WARNING
    assert "8.8.4.4:5" in verdict.message


def test_workers_of_several_kinds_are_a_note() -> None:
    assert only(seen("gpu-1", "cpu-1", "cpu-2"), "shared-with-others").level is Level.OK


@pytest.mark.parametrize(
    "names",
    [
        ["worker-1", "worker-2", "worker-13"],
        ["w1", "w2"],
        ["9f2c4b7a1d3e:7:1", "0a1b2c3d4e5f:7:1"],
        ["audio-7d9f8-xkcdq:1:1", "audio-7d9f8-bbvfz:1:1"],
        ["ip-10-0-0-1", "ip-10-0-0-2"],
        ["laptop-ana", "laptop-ben"],
        ["", ""],
        [],
    ],
)
def test_workers_of_one_kind_are_no_matter(names: list[str]) -> None:
    assert "shared-with-others" not in codes(seen(*names))


def test_workers_on_the_servers_own_machine_and_beside_it_are_no_matter() -> None:
    rows = [worker_row(addr="127.0.0.1:1"), worker_row(addr="10.0.0.2:2", id=11)]
    rows.append(worker_row(addr="/run/redis.sock:0", id=12))
    assert "shared-with-others" not in codes(seen(clients=rows))
