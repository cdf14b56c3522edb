"""D34 to D42, D47 and D48: the server, and who else uses it."""

from __future__ import annotations

import asyncio
import shutil
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from support.ha import Cluster, Server
from support.node import PeerError
from support.scenes.scene import LIKELY, STATED, Call, cause
from support.scenes.stage import Stage, until

from bullpy.settings import WorkerSettings


@cause(34, "evicted-keys", "allkeys-lru and a full memory", also=frozenset({"ids-without-data"}))
async def a_cache_used_as_a_queue(stage: Stage) -> Call:
    server = await stage.server("--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru")
    node = await stage.node("5", server.url)
    redis = stage.redis(server.url)

    async def is_evicting() -> bool:
        with suppress(PeerError):
            await node.add_many(100, data={"text": "x" * 4000})
        return (await redis.info("stats"))["evicted_keys"] > 100

    await until(is_evicting, timeout=30)
    await node.worker("hold")
    return Call(stage.queue, server.url)


@cause(35, "out-of-memory", "noeviction and a full memory: add() is refused")
async def a_full_memory(stage: Stage) -> Call:
    server = await stage.server("--maxmemory", "8mb")
    node = await stage.node("5", server.url)
    worker = await node.worker("hold")
    await node.add()
    await worker.event("processing")
    redis = stage.redis(server.url)
    with pytest.raises(PeerError, match="OOM"):
        await node.add_many(10_000, data={"text": "x" * 8000})
    assert (await redis.info("errorstats"))["errorstat_OOM"]["count"] >= 1
    return Call(stage.queue, server.url)


@cause(36, "persistence-failing", "the disk's folder is gone: add() is refused")
async def a_disk_that_fails(stage: Stage) -> Call:
    server = await stage.enter(Running("--save", "3600 1"))
    redis = stage.redis(server.url)
    node = await stage.node("5", server.url)
    await (await stage.node("6", server.url)).worker()
    await node.add()
    shutil.rmtree(Path((await redis.config_get("dir"))["dir"]))

    async def has_failed() -> bool:
        with suppress(RedisError):
            await redis.bgsave()
        return (await redis.info("persistence"))["rdb_last_bgsave_status"] == "err"

    await until(has_failed)
    with suppress(PeerError):
        await node.add()
    assert (await redis.info("errorstats"))["errorstat_MISCONF"]["count"] >= 1
    return Call(stage.queue, server.url)


@cause(37, "read-only-replica", "the worker's URL is that of a replica", is_heavy=True)
async def a_replica(stage: Stage) -> Call:
    primary = await stage.server()
    replica = await stage.server("--replicaof", f"127.0.0.1 {primary.port}")
    await (await stage.node("5", primary.url)).add_many(2)
    redis = stage.redis(replica.url)
    await until(lambda: redis.llen(stage.key("wait")), 2)
    await (await stage.lone("5", replica.url)).says("^error")
    assert (await redis.info("replication"))["role"] == "slave"
    return Call(stage.queue, replica.url, interval=2)


@cause(38, "cluster-without-tag", "a cluster, and the prefix is bull", is_heavy=True)
async def a_prefix_without_tag(stage: Stage) -> Call:
    cluster = await stage.enter(Cluster())
    nodes = [{"host": "127.0.0.1", "port": node.port} for node in cluster.nodes]
    await (await stage.lone("5", cluster=nodes)).says("^error .*CROSSSLOT")
    return Call(stage.queue, cluster.url, interval=2)


@cause(39, "auth-refused", "the worker has yesterday's password", also=frozenset({"no-worker"}))
async def yesterdays_password(stage: Stage) -> Call:
    server = await stage.server(password=True)
    await (await stage.node("5", server.url)).add_many(2)
    wrong = await stage.lone("5", server.url, connection={"password": "yesterday"})
    await wrong.says("^error .*WRONGPASS")
    redis = stage.redis(server.url)
    assert (await redis.info("errorstats"))["errorstat_WRONGPASS"]["count"] >= 1
    return Call(stage.queue, server.url)


@cause(39, "auth-refused", "the doctor's own URL has a wrong password; the command", STATED)
async def a_wrong_password_in_the_url(stage: Stage) -> Call:
    server = await stage.server(password=True)
    wrong = f"redis://:yesterday@127.0.0.1:{server.port}/0"
    return Call(stage.queue, wrong, is_command=True)


@cause(40, "acl-denied", "the worker's user may not run bzpopmin", is_heavy=True)
async def a_user_without_bzpopmin(stage: Stage) -> Call:
    server = await stage.server()
    redis = stage.redis(server.url)
    await redis.execute_command(
        "ACL", "SETUSER", "w2", "on", ">pw", "~*", "&*", "+@all", "-bzpopmin"
    )
    await (await stage.node("5", server.url)).add_many(2)
    user = f"redis://w2:pw@127.0.0.1:{server.port}/0"
    worker = await stage.lone("5", user, behaviour="hold", options={"concurrency": 5})
    await worker.says("^error .*NOPERM")
    assert (await redis.info("errorstats"))["errorstat_NOPERM"]["count"] >= 1
    await (await stage.node("5", server.url)).add_many(8)
    return Call(stage.queue, server.url, interval=2)


@cause(40, "acl-denied", "the user may not touch the queue's keys, asked as that user", LIKELY)
async def a_user_without_the_keys(stage: Stage) -> Call:
    server = await stage.server()
    redis = stage.redis(server.url)
    await redis.execute_command("ACL", "SETUSER", "w3", "on", ">pw", "~other:*", "&*", "+@all")
    await (await stage.node("5", server.url)).add_many(2)
    return Call(stage.queue, f"redis://w3:pw@127.0.0.1:{server.port}/0")


def _connections(port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]


@cause(41, "too-many-clients", "a client without a pool is rejected again and again", LIKELY)
async def bursts_of_connections(stage: Stage) -> Call:
    server = await stage.server("--maxclients", "30")
    worker = await (node := await stage.node("5", server.url)).worker()
    await worker.event("completed", await node.add())

    async def burst() -> None:
        while True:
            for each in await asyncio.to_thread(_connections, server.port, 60):
                each.close()
            await asyncio.sleep(0.5)

    stage.background(burst())
    redis = stage.redis(server.url)

    async def rejected() -> bool:
        with suppress(RedisError):
            return (await redis.info("stats"))["rejected_connections"] > 20
        return False

    await until(rejected)
    return Call(stage.queue, server.url)


@cause(41, "too-many-clients", "the doctor itself is rejected")
async def no_place_is_free(stage: Stage) -> Call:
    server = await stage.server("--maxclients", "30")
    crowd = await asyncio.to_thread(_connections, server.port, 60)
    for each in crowd:
        await stage.cleanly(asyncio.to_thread, each.close)
    with pytest.raises(RedisError, match="max number of clients"):
        await stage.redis(server.url).ping()
    return Call(stage.queue, server.url)


@cause(42, "data-gone", "restarted without persistence", is_long=True)
async def a_restart_without_persistence(stage: Stage) -> Call:
    server = await stage.server(persist=False)
    await stage.worker(url=server.url, settings=WorkerSettings(heartbeat=3.0))
    await (await stage.node("5", server.url)).add_many(20)
    redis = stage.redis(server.url)

    await until(lambda: _says_that_it_did(redis, 20))
    before = server.run_id
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    assert server.run_id != before
    # The worker says again who it is: that it is older than all data.
    after = stage.redis(server.url)
    await until(lambda: _says_that_it_did(after, 20))
    assert await after.exists(stage.key("id")) == 0
    return Call(stage.queue, server.url)


async def _says_that_it_did(redis: Redis, jobs: int) -> bool:
    records = [await redis.get(each) for each in await redis.keys("bullpy:*:proc:*")]
    return any(f'"processed":{jobs},' in each for each in records if each)


@cause(42, "data-gone", "somebody called FLUSHDB", LIKELY)
async def flushed(stage: Stage) -> Call:
    server = await stage.server()
    node = await stage.node("5", server.url)
    await node.worker()
    await node.add_many(20)
    redis = stage.redis(server.url)
    await redis.flushdb()
    assert (await redis.info("commandstats"))["cmdstat_flushdb"]["calls"] == 1
    return Call(stage.queue, server.url)


@cause(47, "shared-with-others", "a laptop takes half of the jobs", LIKELY)
async def a_laptop_takes_jobs(stage: Stage) -> Call:
    node = await stage.node("5")
    await node.worker("sleep", params={"ms": 50}, name="worker-1")
    await stage.lone("5", options={"name": "laptop-ana"}, behaviour="sleep", params={"ms": 50})
    redis = stage.redis()

    async def both_did() -> bool:
        await node.add_many(4)
        done = await redis.zrange(stage.key("completed"), 0, -1)
        return {await redis.hget(stage.key(job), "pb") for job in done} == {
            "worker-1",
            "laptop-ana",
        }

    await until(both_did)
    return Call(stage.queue, stage.url)


@cause(48, "slow-commands", "the API's health check runs KEYS on 200,000 keys", LIKELY)
async def keys_in_a_health_check(stage: Stage) -> Call:
    server = await stage.server("--enable-debug-command", "local")
    redis = stage.redis(server.url)
    await redis.execute_command("DEBUG", "POPULATE", 200_000)
    node = await stage.node("5", server.url)
    worker = await node.worker()
    await worker.event("completed", await node.add())

    async def check() -> None:
        while True:
            await redis.execute_command("KEYS", "*:waiting")
            await asyncio.sleep(1)

    stage.background(check())

    async def is_slow() -> bool:
        return any(b"KEYS" in entry["command"] for entry in await _slow(server.url))

    await until(is_slow)
    return Call(stage.queue, server.url)


async def _slow(url: str) -> list[dict[str, bytes]]:
    async with Redis.from_url(url) as client:
        return await client.slowlog_get(20)


class Running(Server):
    """A server with a folder of its own choice."""

    def __enter__(self) -> Running:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"redis://{self.node}/0"
