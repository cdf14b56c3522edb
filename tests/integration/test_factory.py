"""One factory for every connection: shared, named, bounded, and given back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ResponseError
from support.faults import Ledger, eventually
from support.proxy import BLOCKING, COMMAND, LOCKS, Proxy

from bullpy import EmbeddedServer, Queue, Worker, errors
from bullpy.connection.factory import (
    BLOCK_MARGIN,
    BlockingConnection,
    client_name,
    share,
)
from bullpy.connection.sockets import open_connection
from bullpy.connection.threadclient import ThreadClient
from bullpy.scripts import load
from bullpy.settings import RedisSettings


@pytest.fixture
async def proxy(own_server: EmbeddedServer) -> AsyncIterator[Proxy]:
    async with Proxy(own_server.port) as opened:
        yield opened


async def test_queues_and_workers_of_a_process_share_one_connection(
    proxy: Proxy, queue_name: str
) -> None:
    ledger = Ledger()
    queues = [Queue(f"{queue_name}-{number}", redis=proxy.url) for number in range(5)]
    worker = Worker(f"{queue_name}-0", ledger.processor(), redis=proxy.url)
    ledger.watch(worker)
    # It runs by itself where a loop runs; who calls run() as well does no harm.
    task = asyncio.create_task(worker.run())
    await asyncio.gather(*(queue.add("job", 1) for queue in queues))
    await ledger.until_completed(1, 5.0)

    # The shared one, and the worker's blocking one; the lock thread opens its own when needed.
    async def expected() -> bool:
        kinds = sorted(link.kind for link in proxy.links)
        return kinds in ([BLOCKING, COMMAND], [BLOCKING, COMMAND, LOCKS])

    await eventually(expected, 2.0)
    await asyncio.gather(*(queue.close() for queue in queues))
    assert any(link.kind == COMMAND for link in proxy.links)
    await worker.close()
    await task

    async def none_left() -> bool:
        return not proxy.links

    await eventually(none_left, 3.0)


async def test_connections_do_not_pile_up_under_resets(proxy: Proxy, queue_name: str) -> None:
    ledger = Ledger()
    worker = Worker(queue_name, ledger.processor(), redis=proxy.url)
    task = asyncio.create_task(worker.run())
    async with Queue(queue_name, redis=proxy.url) as queue:
        for number in range(20):
            await queue.add("job", number, job_id=f"job-{number}")
            await ledger.until(lambda n=number: len(ledger.ended) > n, 5.0)
            proxy.cut()
        # Required: at most 3 connections a worker.
        assert len(proxy.links) <= 3
    await worker.close()
    await task


async def test_connections_carry_names(own_server: EmbeddedServer, queue_name: str) -> None:
    worker = Worker(queue_name, Ledger().processor(), redis=own_server.url)
    task = asyncio.create_task(worker.run())
    async with Queue(queue_name, redis=own_server.url) as queue:
        await asyncio.wait_for(worker.wait_until_ready(), 5.0)

        async def named() -> bool:
            names = {entry["name"] for entry in await queue.client.client_list()}
            return worker.clientName in names and client_name() in names

        await eventually(named, 3.0)
        assert ":w:" in worker.clientName
        assert ":w:" not in client_name()
    await worker.close()
    await task


async def test_blocking_wait_may_outlast_the_command_timeout(own_server: EmbeddedServer) -> None:
    settings = RedisSettings.of(own_server.url).model_copy(update={"command_timeout": 0.3})
    connection = BlockingConnection(settings, "waits")
    began = time.monotonic()
    assert await connection.call("BZPOPMIN", "nothing", "1.2", block=1.2) is None
    assert 1.1 <= time.monotonic() - began < 1.2 + BLOCK_MARGIN
    await connection.aclose()


async def test_refused_command_keeps_the_blocking_connection(own_server: EmbeddedServer) -> None:
    connection = BlockingConnection(RedisSettings.of(own_server.url), "waits")
    first = await connection.call("CLIENT", "ID", block=1)
    with pytest.raises(ResponseError):
        await connection.call("NO-SUCH-COMMAND", block=1)
    assert await connection.call("CLIENT", "ID", block=1) == first
    await connection.aclose()
    await connection.aclose()


async def test_cancelled_wait_does_not_leave_its_reply_to_the_next(
    own_server: EmbeddedServer,
) -> None:
    connection = BlockingConnection(RedisSettings.of(own_server.url), "waits")
    waiting = asyncio.create_task(connection.call("BLPOP", "list", "10", block=10))
    await asyncio.wait({waiting}, timeout=0.2)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await connection.call("ECHO", "mine", block=1) == b"mine"
    await connection.aclose()


async def test_thread_client_reconnects_and_bounds_its_calls(
    proxy: Proxy, own_server: EmbeddedServer
) -> None:
    client = ThreadClient(RedisSettings.of(proxy.url), "test:locks", timeout=0.5)
    sha, source = load("releaseLock")

    def run() -> Any:
        return client.run_script(sha, source, 1, "no-such-lock", "token", "1")

    assert await asyncio.to_thread(run) == 0
    proxy.cut()
    with pytest.raises(errors.RedisUnavailableError):
        await asyncio.to_thread(run)
    assert await asyncio.to_thread(run) == 0
    proxy.swallow(LOCKS)
    began = time.monotonic()
    with pytest.raises(errors.RedisUnavailableError):
        await asyncio.to_thread(run)
    assert time.monotonic() - began < 1.5
    proxy.heal()
    assert await asyncio.to_thread(run) == 0
    client.close()


@pytest.mark.parametrize("kind", ["tcp", "unix", "password"])
async def test_every_kind_of_address_works(kind: str) -> None:
    options = {"tcp": {}, "unix": {"unix_socket": True}, "password": {"password": True}}[kind]
    async with EmbeddedServer(**options) as server, Queue("q", redis=server.url) as queue:
        await queue.add("job", 1)
        assert await queue.count() == 1


async def test_connection_error_hides_the_password(proxy: Proxy) -> None:
    url = proxy.url.replace("redis://", "redis://someone:very-secret@")
    with pytest.raises(errors.RedisAuthError) as raised:
        await open_connection(RedisSettings.of(url), client_name="test")
    assert "very-secret" not in str(raised.value)


async def test_share_is_one_per_settings_and_closes_with_its_last_user(proxy: Proxy) -> None:
    first, second = (share(RedisSettings.of(proxy.url)) for _ in range(2))
    other = share(RedisSettings.of(proxy.url.removesuffix("/0") + "/1"))
    assert first is second
    assert first is not other
    await first.whoami()
    await first.release()
    assert await second.client.ping()
    await second.release()
    with pytest.raises(errors.RedisUnavailableError):
        await second.client.ping()
    await other.release()
    assert share(RedisSettings.of(proxy.url)) is not first
    await share(RedisSettings.of(proxy.url)).aclose()


def test_queue_is_usable_under_one_event_loop_after_another(redis_url: str) -> None:
    queue = Queue("loops", redis=redis_url)

    async def use() -> int:
        await queue.add("job", 1, job_id="same", remove_on_complete=True)
        count = await queue.count()
        await queue.close()
        return count

    assert asyncio.run(use()) == asyncio.run(use()) == 1
