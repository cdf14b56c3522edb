"""The outage that bullpy was made for: the API adds jobs, the worker waits, nothing happens."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from support.proxy import Proxy
from support.scenes.stage import Stage, World, database

from bullpy.doctor import diagnose

KEYS = 200_000
QUEUE = "audio-analyzer"


@pytest.fixture
async def outage() -> AsyncIterator[str]:
    """A worker in database 1, an API in database 0 among many other keys; the worker's URL."""
    async with World() as world, Stage(world, "founding outage") as stage:
        stage.queue = QUEUE
        server = await stage.server("--enable-debug-command", "local")
        await stage.redis(server.url).execute_command("DEBUG", "POPULATE", KEYS)
        await (await stage.node("5", server.url)).add_many(3, "process-audio")
        url = database(server.url, 1)
        await (await stage.node("5", url)).worker(drainDelay=5)
        await stage.worker(url=url)
        async with Redis.from_url(server.url) as redis:
            assert await redis.dbsize() > KEYS
            assert await redis.llen(f"bull:{QUEUE}:wait") == 3
        yield url


async def test_command_names_it_in_ten_seconds(outage: str) -> None:
    async with World() as world, Stage(world, "the command") as stage:
        began = time.monotonic()
        command = ("doctor", "--queue", QUEUE, "--json")
        doctor = await stage.bullpy(*command, REDIS_URL=outage)
        code = await doctor.ended()
        took = time.monotonic() - began
    first, *_ = json.loads(doctor.output)["verdicts"]
    assert (first["code"], first["level"], first["certainty"]) == ("other-db", "blocked", "certain")
    assert "db 0" in first["message"]
    assert "db 1" in first["message"]
    assert code == 2
    assert took < 10, f"it took {took:.1f} s"


async def test_it_costs_fewer_than_a_hundred_commands(outage: str) -> None:
    port = int(outage.rpartition(":")[2].partition("/")[0])
    async with Proxy(port) as proxy:
        found = await diagnose([QUEUE], redis=database(proxy.url, 1))
        sent = dict(proxy.commands)
    assert found.verdicts[0].code == "other-db"
    assert sum(sent.values()) < 100, sent
    # Without what its connection says of itself.
    assert 0 <= sum(sent.values()) - found.commands <= 5, sent
    assert not {"KEYS", "DEBUG", "FLUSHDB", "SET", "DEL"} & set(sent)
    assert found.seconds < 10
