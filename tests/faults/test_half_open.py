"""The peer is gone without a word: bytes vanish, and no connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.faults import eventually, outage_lines
from support.proxy import BLOCKING, COMMAND, LOCKS, Proxy

from bullpy import EmbeddedServer, Queue
from bullpy.connection.factory import BLOCK_MARGIN
from bullpy.settings import WorkerSettings


async def _came(proxy: Proxy, command: str) -> bool:
    return proxy.commands[command] > 0


async def _has(proxy: Proxy, connections: int) -> bool:
    return len(proxy.links) == connections


async def test_dead_blocking_connection_is_replaced(
    proxy: Proxy, direct: Queue, crew: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await crew.hire(settings=WorkerSettings(drain_delay=1))
    await eventually(lambda: _came(proxy, "BZPOPMIN"), 3.0)
    assert proxy.swallow_open(BLOCKING) == 1
    job = await direct.add("job", 1)
    # Required: the block and a margin of 2 to 5 s (upstream without a time-out: never).
    await crew.ledger.until_completed(1, 1 + BLOCK_MARGIN + 1)
    assert [error.code for _, error in crew.ledger.errors] == ["command-timeout"]
    following = await direct.add("job", 2)
    await crew.ledger.until(lambda: crew.ledger.completed[following.id], 0.5)
    assert crew.ledger.started[job.id] == 1
    [line] = outage_lines(caplog, proxy.url)
    assert "the connection that waits for jobs was lost" in line


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
async def test_worker_whose_connections_all_died_runs_a_job_within_the_block_and_five_seconds(
    proxy: Proxy, direct: Queue, crew: Any, caplog: pytest.LogCaptureFixture, is_busy: bool
) -> None:
    # As after a failover of the network, or when a firewall has forgotten idle connections.
    block = 1.0
    ledger = crew.ledger
    await crew.hire(0.2, settings=WorkerSettings(concurrency=2, drain_delay=block))
    if is_busy:
        await direct.add_bulk([{"name": "job", "data": number} for number in range(20)])
        await ledger.until_completed(4, 5.0)
    else:
        await eventually(lambda: _came(proxy, "BZPOPMIN"), 3.0)
    assert sum(proxy.swallow_open(kind) for kind in (COMMAND, BLOCKING, LOCKS)) >= 2
    began = time.monotonic()
    # A fetched job of each slot may be about to start.
    held = len(ledger.started) + (2 if is_busy else 0)
    if not is_busy:
        await direct.add("job", 1)
    # Required, and with default settings 10 s. (Upstream without a time-out: never.)
    await ledger.until(lambda: len(ledger.started) > held, block + 5)
    print(f"first job after {time.monotonic() - began:.2f} s")
    await ledger.until_completed(20 if is_busy else 1, 5.0)
    assert set(ledger.started.values()) == set(ledger.completed.values()) == {1}
    assert not ledger.failed
    [line] = outage_lines(caplog, proxy.url)
    assert "did not answer" in line
    assert "again after" in line


async def test_dead_command_connection_is_replaced_and_jobs_run_once(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    await crew.hire(0.2, redis={"command_timeout": 1.0}, concurrency=4)
    await direct.add_bulk([{"name": "job", "data": number} for number in range(40)])
    await crew.ledger.until_completed(8, 5.0)
    assert proxy.swallow_open(COMMAND) == 1
    # Required: the command's time-out, noticed at most a quarter later, and the jobs' own time.
    await crew.ledger.until_completed(40, 1.25 + 40 / 4 * 0.2 + 3)
    assert set(crew.ledger.started.values()) == {1}
    assert set(crew.ledger.completed.values()) == {1}
    assert not crew.ledger.failed
    assert not crew.ledger.stalled


async def test_worker_waits_for_a_silent_server_no_longer_than_a_third_of_its_lock(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    # With the default command_timeout of 15 s it was deaf for as long, and its locks ran out.
    await crew.hire(0.05, concurrency=2, lock_duration=3.0)
    await direct.add_bulk([{"name": "job", "data": number} for number in range(60)])
    await crew.ledger.until_completed(4, 5.0)
    assert proxy.swallow_open(COMMAND) == 1
    await crew.ledger.until_completed(60, 1.25 + 60 / 2 * 0.05 + 4)
    assert not crew.ledger.failed


async def test_dead_connection_of_the_lock_thread_costs_no_lock(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    await crew.hire(6.0, lock_duration=2.0, stalled_interval=0.3)
    job = await direct.add("job", 1)

    await eventually(lambda: _came(proxy, "extendLocks"), 3.0)
    assert proxy.swallow_open(LOCKS) == 1
    await crew.ledger.until_completed(1, 8.0)
    assert crew.ledger.started[job.id] == 1
    assert not crew.ledger.stalled


async def test_black_hole_for_everything_loses_nothing(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    settings = WorkerSettings(concurrency=4, drain_delay=1, lock_duration=20)
    redis = {"command_timeout": 1.0, "connect_timeout": 1.0}
    await crew.hire(0.1, redis=redis, settings=settings)
    await direct.add_bulk([{"name": "job", "data": number} for number in range(60)])
    await crew.ledger.until_completed(8, 5.0)
    proxy.swallow()
    with pytest.raises(AssertionError):
        await crew.ledger.until_completed(60, 4.0)
    proxy.heal()
    began = time.monotonic()
    held = len(crew.ledger.completed)
    # Required: 2 s after the network is back; an attempt to connect may be under way in the hole.
    await crew.ledger.until(lambda: len(crew.ledger.completed) > held, 2.0 + 1.0)
    await crew.ledger.until_completed(60, 8.0)
    assert time.monotonic() - began < 8
    assert set(crew.ledger.started.values()) == {1}
    assert not crew.ledger.failed


@pytest.fixture
def full_backlog() -> Iterator[socket.socket]:
    """A listening socket whose queue is full: the kernel drops what asks for a connection."""
    with contextlib.ExitStack() as sockets:
        listening = sockets.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield listening


async def test_worker_in_whose_hole_no_packet_is_answered_is_back_within_three_seconds(
    full_backlog: socket.socket, own_server: EmbeddedServer, direct: Queue, crew: Any
) -> None:
    # With default settings: 24 s for an attempt of the shared connection, 45 s of the other one.
    port = full_backlog.getsockname()[1]
    await crew.hire(url=f"redis://127.0.0.1:{port}/0", ready=False)
    await direct.add("job", 1)
    with pytest.raises(AssertionError):
        # The kernel asks again after 1, 3, 7, 15 s, newer ones after 5, 7, 11 s.
        await crew.ledger.until_completed(1, 7.5)
    full_backlog.close()
    async with Proxy(own_server.port, at=port):
        began = time.monotonic()
        await crew.ledger.until_completed(1, 3.0)
        print(f"first job after {time.monotonic() - began:.2f} s")


async def test_worker_whose_connections_are_taken_and_never_answered_is_back_within_three_seconds(
    proxy: Proxy, direct: Queue, crew: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # With default settings an attempt lasted 15 s, and nothing that it sent is ever answered.
    proxy.swallow()
    await crew.hire(ready=False)
    await direct.add_bulk([{"name": "job", "data": number} for number in range(3)])
    most = 0

    async def counted() -> bool:
        nonlocal most
        most = max(most, len(proxy.links))
        return proxy.accepted >= 4

    # Attempts end as others begin: three fresh ones have been made beside the first.
    await eventually(counted, 9.0)
    assert most <= 2
    proxy.heal()
    began = time.monotonic()
    await crew.ledger.until_completed(3, 3.0)
    print(f"first job after {time.monotonic() - began:.2f} s")
    assert set(crew.ledger.started.values()) == {1}
    # The shared connection and the one that waits: none is left of the others.
    await eventually(lambda: _has(proxy, 2), 3.0)
    began_with, ended_with = outage_lines(caplog, proxy.url)
    assert "no answer yet" in began_with
    assert "connected again" in ended_with


async def test_slow_network_loses_no_job(proxy: Proxy, direct: Queue, crew: Any) -> None:
    await crew.hire(0.05, concurrency=5)
    proxy.delay = 0.15
    await direct.add_bulk([{"name": "job", "data": number} for number in range(50)])
    await crew.ledger.until_completed(50, 50 / 5 * 0.6 + 5)
    assert set(crew.ledger.started.values()) == {1}
    assert not crew.ledger.errors


async def test_job_that_a_closing_worker_was_fetching_is_handed_back(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    worker = await crew.hire()
    # Not before: connecting takes several replies, each of them delayed.
    await eventually(lambda: _came(proxy, "BZPOPMIN"), 3.0)
    proxy.delay = 0.4
    fetches = proxy.commands["moveToActive"]
    job = await direct.add("job", 1)

    async def fetching() -> bool:
        return proxy.commands["moveToActive"] > fetches

    # The fetch is on its way; its reply comes when the worker has been told to stop.
    await eventually(fetching, 3.0)
    await worker.close(timeout=5)
    stored = await direct.get_job(job.id)
    assert stored is not None
    assert await stored.get_state() in ("wait", "completed")
    assert not await direct.client.exists(f"bull:{direct.name}:{job.id}:lock")
    proxy.delay = 0
    await crew.hire()
    if not crew.ledger.started:
        await crew.ledger.until_completed(1, 1.0)
    await asyncio.sleep(0)
    assert crew.ledger.started[job.id] == 1
