"""Many callers, one socket: few writes, and every reply to who asked."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.faults import eventually
from support.proxy import Proxy

from bullpy import EmbeddedServer, Queue, errors
from bullpy.connection.client import PipeliningClient, pack
from bullpy.connection.factory import SharedRedis, share
from bullpy.connection.pipelining import retry_pause
from bullpy.settings import RedisSettings


@pytest.fixture
async def proxy(server: EmbeddedServer) -> AsyncIterator[Proxy]:
    async with Proxy(server.port) as opened:
        yield opened


@pytest.fixture
async def shared(proxy: Proxy) -> AsyncIterator[SharedRedis]:
    made = share(RedisSettings.of(proxy.url))
    await made.whoami()
    yield made
    await made.release()


@pytest.fixture
def client(shared: SharedRedis) -> PipeliningClient:
    return shared.client


async def test_concurrent_adds_leave_in_few_writes(
    proxy: Proxy, queue: Queue, queue_name: str
) -> None:
    async with Queue(queue_name, redis=proxy.url) as producer:
        await producer.add("job", 0)
        chunks, accepted = proxy.chunks, proxy.accepted
        jobs = await asyncio.gather(*(producer.add("job", number) for number in range(200)))
    assert len({job.id for job in jobs}) == 200
    assert proxy.accepted == accepted
    # One write; TCP may hand it on in a few pieces.
    assert proxy.chunks - chunks <= 10
    stored = {job.id: job.data for job in await queue.get_jobs(["wait"])}
    assert {job.id: job.data for job in jobs}.items() <= stored.items()


async def test_replies_of_mixed_sizes_reach_who_asked(
    client: PipeliningClient, queue_name: str
) -> None:
    sizes = [0, 1, 10, 1000, 70_000, 1_000_000]
    keys = {f"{queue_name}:{size}": str(size)[:1] * size for size in sizes}
    for key, value in keys.items():
        await client.set(key, value)
    chosen = random.Random(1).choices(list(keys), k=300)
    replies = await asyncio.gather(*(client.get(key) for key in chosen))
    assert replies == [keys[key] for key in chosen]
    await client.delete(*keys)


async def test_errors_reach_only_who_caused_them(client: PipeliningClient, queue_name: str) -> None:
    await client.set(queue_name, "text")
    calls: list[Any] = []
    for number in range(40):
        calls += [client.echo(str(number)), client.lpush(queue_name, 1), client.get(queue_name)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[::3] == [str(number) for number in range(40)]
    assert all(isinstance(error, errors.RedisError) for error in results[1::3])
    assert set(results[2::3]) == {"text"}
    await client.delete(queue_name)


async def test_bytes_that_are_not_utf8_break_nobody(
    shared: SharedRedis, client: PipeliningClient, queue_name: str
) -> None:
    broken = b"\xff\xfe\x80 broken \xc3"
    await client.set(queue_name, broken)
    results = await asyncio.gather(
        client.echo("before"),
        client.get(queue_name),
        shared.pipeliner.call(pack(("GET", queue_name)), raw=True),
        client.echo("after"),
    )
    assert results[0] == "before"
    assert results[1].encode("utf-8", "surrogateescape") == broken
    assert results[2] == broken
    assert results[3] == "after"
    await client.delete(queue_name)


async def test_transaction_is_not_interleaved(client: PipeliningClient, queue_name: str) -> None:
    async def transaction(number: int) -> list[Any]:
        async with client.pipeline(transaction=True) as pipe:
            pipe.rpush(queue_name, f"{number}:a")
            pipe.rpush(queue_name, f"{number}:b")
            pipe.incr(f"{queue_name}:count")
            return await pipe.execute()

    async def single(number: int) -> int:
        return await client.rpush(queue_name, f"single:{number}")

    work: list[Any] = []
    for number in range(50):
        work += [transaction(number), single(number)]
    random.Random(2).shuffle(work)
    replies = await asyncio.gather(*work)
    rows = await client.lrange(queue_name, 0, -1)
    assert len(rows) == 150
    for place, row in enumerate(rows):
        if row.endswith(":a"):
            assert rows[place + 1] == row[:-1] + "b"
    counts = sorted(reply[2] for reply in replies if isinstance(reply, list))
    assert counts == list(range(1, 51))
    await client.delete(queue_name, f"{queue_name}:count")


async def test_blocking_command_holds_up_nobody(client: PipeliningClient, queue_name: str) -> None:
    blocked = asyncio.create_task(client.blpop([queue_name], timeout=10))
    began = time.monotonic()
    replies = await asyncio.wait_for(
        asyncio.gather(*(client.echo(str(number)) for number in range(100))), 1.0
    )
    assert len(replies) == 100
    assert time.monotonic() - began < 1.0
    assert not blocked.done()
    await client.rpush(queue_name, "x")
    assert await asyncio.wait_for(blocked, 2.0) == (queue_name, "x")


async def test_stream_read_that_blocks_holds_up_nobody(
    client: PipeliningClient, queue_name: str
) -> None:
    blocked = asyncio.create_task(client.xread({queue_name: "$"}, block=5000))
    assert await asyncio.wait_for(client.echo("x"), 1.0) == "x"

    async def waiting() -> bool:
        return any("b" in entry["flags"] for entry in await client.client_list())

    await eventually(waiting, 2.0)
    await client.xadd(queue_name, {"a": "b"})
    assert (await asyncio.wait_for(blocked, 2.0))[0][0] == queue_name
    await client.delete(queue_name)


async def test_cancelled_callers_do_not_shift_the_replies(
    client: PipeliningClient,
) -> None:
    for _ in range(20):
        tasks = [asyncio.create_task(client.echo(str(number))) for number in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for number, result in enumerate(results):
            assert isinstance(result, asyncio.CancelledError) or result == str(number)
    assert await client.echo("still in step") == "still in step"


async def test_replies_in_flight_when_the_socket_ends_are_ambiguous_and_the_next_call_works(
    proxy: Proxy, client: PipeliningClient
) -> None:
    proxy.delay = 0.2
    calls = [asyncio.create_task(client.echo(str(number))) for number in range(20)]
    await asyncio.wait(calls, timeout=0.05)
    proxy.cut()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, errors.ReplyLostError) for result in results)
    # Each caller has an exception of its own: tracebacks do not grow into each other.
    assert len({id(result) for result in results}) == 20
    proxy.delay = 0
    assert await client.echo("again") == "again"


async def test_closed_client_fails_clearly_and_leaves_nothing_open(proxy: Proxy) -> None:
    made = share(RedisSettings.of(proxy.url))
    await made.whoami()
    client = made.client
    proxy.delay = 0.2
    flying = asyncio.create_task(client.echo("x"))
    await asyncio.sleep(0)
    await made.release()
    with pytest.raises(errors.RedisUnavailableError):
        await flying
    with pytest.raises(errors.RedisUnavailableError, match="closed"):
        await client.echo("y")
    proxy.delay = 0

    async def none_left() -> bool:
        return not proxy.links

    await eventually(none_left, 2.0)
    gc.collect()


def test_pauses_between_attempts_double_to_the_longest_with_jitter() -> None:
    assert retry_pause(0, 0.05, 1.0) == 0.0
    for failures in range(1, 60):
        pause = retry_pause(failures, 0.05, 1.0)
        assert 0.025 <= pause <= 1.0
        assert pause >= min(1.0, 0.05 * 2 ** min(failures - 1, 10)) / 2
