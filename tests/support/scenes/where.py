"""D1 to D9: the API and the worker do not meet."""

from __future__ import annotations

import socket
import time

from support.scenes.scene import LIKELY, STATED, Call, cause
from support.scenes.stage import Stage, blocking, database, make_older, until


@cause(1, "never-added", "Node 6 waits, a Node 5 API is connected and adds elsewhere")
async def an_api_on_another_server(stage: Stage) -> Call:
    here, there = await stage.server(), await stage.server()
    await (await stage.node("6", here.url)).worker()
    await (await stage.node("5", here.url)).call("waitUntilReady")
    await (await stage.node("5", there.url)).add()
    redis = stage.redis(here.url)
    await until(lambda: redis.pttl(stage.key("stalled-check")))
    await until(lambda: redis.hget(stage.key("meta"), "version"), "bullmq:5.61.2")
    assert await redis.exists(stage.key("id"), stage.key("events")) == 0
    return Call(stage.queue, here.url)


@cause(1, "never-added", "bullpy waits, nobody else was ever here; the command")
async def a_worker_alone(stage: Stage) -> Call:
    server = await stage.server()
    redis = stage.redis(server.url)

    async def is_old() -> bool:
        # A worker that came with Redis might have seen jobs before a restart.
        return (await redis.info("server"))["uptime_in_seconds"] >= 8

    await until(is_old)
    await stage.worker(url=server.url)
    await until(lambda: redis.exists(stage.key("stalled-check")))
    assert await redis.exists(stage.key("id"), stage.key("events")) == 0
    return Call(stage.queue, server.url, is_command=True)


async def _two_databases(stage: Stage) -> str:
    server = await stage.server()
    api, worker = server.url, database(server.url, 1)
    await (await stage.node("5", api)).add()
    await (await stage.node("6", worker)).worker()
    redis = stage.redis(api)
    [row] = await until(lambda: blocking(redis, stage.queue))
    assert row["db"] == "1"
    assert await redis.llen(stage.key("wait")) == 1
    assert await stage.redis(worker).exists(stage.key("id")) == 0
    return api


@cause(2, "other-db", "API in db 0, worker in db 1, asked with the worker's URL")
async def seen_from_the_worker(stage: Stage) -> Call:
    return Call(stage.queue, database(await _two_databases(stage), 1))


@cause(2, "other-db", "API in db 0, worker in db 1, asked with the API's URL; the command")
async def seen_from_the_api(stage: Stage) -> Call:
    return Call(stage.queue, await _two_databases(stage), is_command=True)


async def _two_prefixes(stage: Stage) -> str:
    server = await stage.server()
    await (await stage.node("5", server.url)).add()
    await (await stage.node("6", server.url, prefix="prod")).worker()
    redis = stage.redis(server.url)
    assert await until(lambda: blocking(redis, stage.queue, "prod"))
    assert await redis.llen(stage.key("wait")) == 1
    return server.url


@cause(3, "other-prefix", "jobs under bull, worker under prod, asked under bull")
async def seen_from_the_jobs(stage: Stage) -> Call:
    return Call(stage.queue, await _two_prefixes(stage))


@cause(3, "other-prefix", "jobs under bull, worker under prod, asked under prod")
async def seen_under_the_other_prefix(stage: Stage) -> Call:
    return Call(stage.queue, await _two_prefixes(stage), prefix="prod")


async def _two_names(stage: Stage, jobs: str, worker: str) -> str:
    server = await stage.server()
    await (await stage.node("5", server.url)).add(queue=jobs)
    await (await stage.node("6", server.url)).worker(queue=worker)
    redis = stage.redis(server.url)
    assert await until(lambda: blocking(redis, worker))
    assert await redis.llen(f"bull:{jobs}:wait") == 1
    return server.url


@cause(4, "other-queue-name", "a typo, asked for the queue with jobs", LIKELY)
async def a_typo(stage: Stage) -> Call:
    url = await _two_names(stage, "audio-analyzer", "audio-analyser")
    return Call("audio-analyzer", url)


@cause(4, "other-queue-name", "another case, asked for the queue with the worker", LIKELY)
async def another_case(stage: Stage) -> Call:
    return Call("audio-analyzer", await _two_names(stage, "Audio-Analyzer", "audio-analyzer"))


@cause(4, "other-queue-name", "an environment's suffix", LIKELY)
async def an_environments_suffix(stage: Stage) -> Call:
    return Call("mails-staging", await _two_names(stage, "mails-staging", "mails"))


@cause(
    5,
    "url-read-differently",
    "one URL with /1 and ?db=3, Node and the Python port",
    STATED,
    also=frozenset({"other-db"}),
)
async def one_url_two_databases(stage: Stage) -> Call:
    server = await stage.server()
    url = database(server.url, 1) + "?db=3"
    # ioredis itself reads the URL here, as redis-py does in the port.
    program = await stage.lone("5", server.url, connection={"url": url}, jobs=[["work", {}, {}]])
    await program.says("^added")
    await stage.port(url, options={"drainDelay": 2})
    redis = stage.redis(server.url)

    async def databases() -> set[str]:
        return {row["db"] for row in await blocking(redis, stage.queue)}

    await until(databases, {"3"})
    jobs = [await stage.redis(database(server.url, db)).llen(stage.key("wait")) for db in (1, 3)]
    assert jobs == [1, 0]
    return Call(stage.queue, url)


@cause(6, "localhost-default", "REDIS_URL is not set; the command", STATED)
async def no_redis_url(stage: Stage) -> Call:
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 6379)), "a Redis at the default port hides this"
    return Call(stage.queue, None, is_command=True)


@cause(6, "localhost-default", "REDIS_URL is set but empty; the command", STATED)
async def an_empty_redis_url(stage: Stage) -> Call:
    return Call(stage.queue, None, environment={"REDIS_URL": ""}, is_command=True)


@cause(7, "url-parameters", "?family=0 in the Python port's URL", STATED)
async def a_parameter_of_ioredis(stage: Stage) -> Call:
    server = await stage.server()
    url = server.url + "?family=0"
    await (await stage.node("5", server.url)).add()
    await stage.port(url)
    redis = stage.redis(server.url)
    assert await blocking(redis, stage.queue) == []
    assert await redis.llen(stage.key("wait")) == 1
    return Call(stage.queue, url)


@cause(8, "no-worker", "30 jobs, and the worker's service was never started")
async def nobody_works(stage: Stage) -> Call:
    await (await stage.node("5")).add_many(30)
    redis = stage.redis()
    assert await redis.llen(stage.key("wait")) == 30
    assert await blocking(redis, stage.queue) == []
    return Call(stage.queue, stage.url)


@cause(8, "no-worker", "a worker did some and was stopped for good; the command")
async def the_worker_has_left(stage: Stage) -> Call:
    node = await stage.node("6")
    worker = await node.worker(stalledInterval=1500)
    first = await node.add()
    await worker.event("completed", first)
    await worker.stop()
    await node.add_many(3, priority=2)
    redis = stage.redis()
    await until(lambda: redis.exists(stage.key("stalled-check")), 0)
    assert await redis.zcard(stage.key("prioritized")) == 3
    return Call(stage.queue, stage.url, is_command=True)


@cause(9, "no-adds", "the last job came long ago: the API's add() hangs", LIKELY)
async def adds_that_hang(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker()
    await worker.event("completed", await node.add(removeOnComplete=True))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        hanging = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
        api = await stage.lone("5", hanging, jobs=[["work", {}, {}]])
        await api.says("^error connect ECONNREFUSED")
    redis = stage.redis()
    await make_older(redis, stage.queue, 1)
    [(newest, _)] = await redis.xrevrange(stage.key("events"), count=1)
    assert time.time() - int(newest.partition("-")[0]) / 1000 > 3000
    return Call(stage.queue, stage.url)
