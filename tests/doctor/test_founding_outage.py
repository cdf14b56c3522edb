"""The outage that bullpy was made for: the API adds jobs, the worker waits, nothing happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from support.processes import bullpy
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


async def test_it_is_named_in_ten_seconds_with_fewer_than_a_hundred_commands(outage: str) -> None:
    port = int(outage.rpartition(":")[2].partition("/")[0])
    async with Proxy(port) as proxy:
        found, ended = await asyncio.gather(
            diagnose([QUEUE], redis=database(proxy.url, 1)),
            asyncio.to_thread(
                bullpy, "doctor", "--queue", QUEUE, "--json", env={"REDIS_URL": outage}, timeout=60
            ),
        )
        sent = dict(proxy.commands)

    assert ended.returncode == 2
    said = json.loads(ended.stdout)
    # Its own time: Python's start, a second of it, is longer where others have the processor.
    assert said["seconds"] < 9
    told = said["verdicts"][0]
    assert (told["code"], told["level"], told["certainty"]) == ("other-db", "blocked", "certain")
    assert "db 0" in told["message"]
    assert "db 1" in told["message"]

    assert found.verdicts[0].code == "other-db"
    assert found.seconds < 10
    assert sum(sent.values()) < 100, sent
    # Without what its connection says of itself.
    assert 0 <= sum(sent.values()) - found.commands <= 5, sent
    assert not {"KEYS", "DEBUG", "FLUSHDB", "SET", "DEL"} & set(sent)
