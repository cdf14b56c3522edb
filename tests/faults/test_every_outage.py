"""Whatever way Redis fails: told once, few commands, back within 2 s, and nothing runs twice."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faults import outage_lines
from support.outages import FAULTS, Fault, Scene
from support.proxy import Proxy

from bullpy import EmbeddedServer, Queue

JOBS = 40
CONCURRENCY = 10
WORK = 0.5

BACK_WITHIN = 2.0
"""Required: seconds until the first job starts."""

PER_SECOND = 20
"""Required: fewer commands than this while Redis fails; the same is asked of connections."""


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.name)
def fault(request: pytest.FixtureRequest) -> Fault:
    return request.param


@pytest.fixture
def own_server(tmp_path: Path, fault: Fault) -> Iterator[EmbeddedServer]:
    """As the others', and every write is on disk before it is answered."""
    args = ("--appendfsync", "always", *fault.args)
    with EmbeddedServer(tmp_path / "redis", args=args) as started:
        yield started


@pytest.fixture
async def scene(fault: Fault, own_server: EmbeddedServer, proxy: Proxy, direct: Queue) -> Scene:
    made = Scene(own_server, proxy, direct)
    await made.fill(fault.keys)
    return made


async def test_outage_is_told_once_costs_few_commands_and_is_over_within_two_seconds(
    fault: Fault,
    scene: Scene,
    proxy: Proxy,
    direct: Queue,
    crew: Any,
    caplog: pytest.LogCaptureFixture,
    record_property: Any,
) -> None:
    caplog.set_level(logging.INFO, logger="bullpy")
    ledger = crew.ledger
    await crew.hire(WORK, concurrency=CONCURRENCY, lock_duration=fault.lock)
    await direct.add_bulk([{"name": "job", "data": number} for number in range(JOBS)])
    await ledger.until(lambda: len(ledger.started) > CONCURRENCY, 5.0)
    caplog.clear()

    await fault.begin(scene)
    began = time.monotonic()
    commands, connections = proxy.commands.total(), proxy.accepted
    # The window of the fault.
    with pytest.raises(AssertionError):
        await ledger.until(lambda: ledger.failed, fault.lasts)
    took = time.monotonic() - began
    commands_per_second = (proxy.commands.total() - commands) / took
    connections_per_second = (proxy.accepted - connections) / took

    held = len(ledger.started)
    await fault.end(scene)
    back = time.monotonic()
    outage = back - began
    assert any(fault.is_told(error) for _, error in ledger.errors), ledger
    # Without memory Redis still lets jobs finish, and the next ones with them: one for later.
    late = asyncio.create_task(direct.add("job", "late"))
    await ledger.until(lambda: len(ledger.started) > held, BACK_WITHIN)
    first = time.monotonic() - back
    await late
    await ledger.until_completed(JOBS + 1, JOBS / CONCURRENCY * WORK + 5)
    for name, value in (
        ("first job after", first),
        ("commands a second", commands_per_second),
        ("connections a second", connections_per_second),
    ):
        record_property(name, value)
        print(f"{fault.name}: {name} {value:.2f}")

    assert commands_per_second < PER_SECOND, proxy.commands
    assert connections_per_second < PER_SECOND
    # What it had is finished, and nothing ran twice.
    counts = await direct.get_job_counts()
    assert counts["completed"] == JOBS + 1
    assert sum(counts.values()) == JOBS + 1
    assert set(ledger.started.values()) == set(ledger.completed.values()) == {1}
    assert not ledger.failed
    assert not ledger.stalled
    lines = outage_lines(caplog, proxy.url)
    assert len(lines) == 2, lines
    lost, again = lines
    assert f":{scene.proxy.port}/" in lost, "which Redis"
    assert fault.is_told(Exception(lost)) or "The connection" in lost, "why"
    assert "again" in lost, "what is done about it"
    seconds = re.search(r"after (\d+\.\d) s", again)
    assert seconds is not None
    assert float(seconds[1]) == pytest.approx(outage, abs=BACK_WITHIN)
