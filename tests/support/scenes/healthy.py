"""Situations in which nothing is wrong, idle and busy: the doctor must not raise an alarm."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from support.ha import Cluster, Sentinels
from support.isolated import good, until_asked_to_stop
from support.scenes.scene import Call, healthy
from support.scenes.stage import Stage, blocking, database, until

from bullpy import Retry, Worker


async def _does_one(stage: Stage, add: Callable[[], Awaitable[Any]]) -> None:
    """Show that a job comes through."""
    redis = stage.redis()
    await add()
    await until(lambda: redis.zcard(stage.key("completed")))


@healthy("an idle worker of Node 5")
async def idle_node_5(stage: Stage) -> Call:
    node = await stage.node("5")
    await node.worker(drainDelay=5)
    await _does_one(stage, node.add)
    return Call(stage.queue, stage.url)


@healthy("an idle worker of Node 6; the command")
async def idle_node_6(stage: Stage) -> Call:
    node = await stage.node("6")
    await node.worker(drainDelay=5)
    await _does_one(stage, node.add)
    return Call(stage.queue, stage.url, is_command=True)


@healthy("an idle worker of bullpy")
async def idle_bullpy(stage: Stage) -> Call:
    node = await stage.node("5")
    await stage.worker()
    await _does_one(stage, node.add)
    return Call(stage.queue, stage.url)


@healthy("an idle worker of the Python port, with a block shorter than its time-out")
async def idle_port(stage: Stage) -> Call:
    node = await stage.node("5")
    await stage.port(options={"drainDelay": 2})
    await _does_one(stage, node.add)
    return Call(stage.queue, stage.url)


@healthy("long jobs on all places of a Node worker, locks renewed, more jobs wait")
async def long_jobs(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker("hold", lockDuration=3000, concurrency=2)
    await node.add_many(5)
    await worker.event("processing", count=2)
    return Call(stage.queue, stage.url)


@healthy("a long job in a child process of bullpy")
async def long_job_in_a_child(stage: Stage) -> Call:
    await stage.worker(until_asked_to_stop, lock_duration=3.0)
    await (await stage.node("6")).add()
    redis = stage.redis()
    await until(lambda: redis.llen(stage.key("active")))
    return Call(stage.queue, stage.url)


@healthy("a steady flow that the worker keeps up with")
async def a_steady_flow(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker("sleep", params={"ms": 20}, concurrency=2)

    async def flow() -> None:
        while True:
            await node.add()
            await asyncio.sleep(0.1)

    stage.background(flow())
    await worker.event("completed", count=5)
    return Call(stage.queue, stage.url)


@healthy("a backlog that shrinks")
async def a_backlog_that_shrinks(stage: Stage) -> Call:
    node = await stage.node("6")
    await node.add_many(2000)
    worker = await node.worker("sleep", params={"ms": 100}, concurrency=10)
    await worker.event("completed")
    return Call(stage.queue, stage.url)


@healthy("delayed jobs, and an idle worker")
async def delayed_jobs(stage: Stage) -> Call:
    node = await stage.node("6")
    await node.worker(drainDelay=5)
    await _does_one(stage, node.add)
    for minutes in range(1, 4):
        await node.add(delay=minutes * 60_000)
    return Call(stage.queue, stage.url)


@healthy("jobs that fall due while the doctor looks")
async def delayed_jobs_that_fall_due(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker(drainDelay=5)
    for second in range(1, 8):
        await node.add(delay=second * 1000)
    await worker.event("completed")
    return Call(stage.queue, stage.url)


@healthy("failures that are tried again later")
async def retries_with_backoff(stage: Stage) -> Call:
    async def flaky(job: Any) -> str:
        if job.attempts_made < 2:
            raise Retry("the other side is busy", delay=2.0)
        return "done"

    await stage.worker(flaky)
    node = await stage.node("5")
    for _ in range(3):
        await node.add(attempts=5, backoff={"type": "fixed", "delay": 2000})
    redis = stage.redis()
    await until(lambda: redis.zcard(stage.key("delayed")))
    return Call(stage.queue, stage.url)


@healthy("a rate limit, and jobs pass")
async def rate_limited_and_flowing(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker(limiter={"max": 2, "duration": 1000})
    await node.add_many(40)
    await worker.event("completed", count=3)
    return Call(stage.queue, stage.url)


@healthy("a parent waits for children that run")
async def a_parent_of_running_children(stage: Stage) -> Call:
    node = await stage.node("5")
    await node.worker()
    stems = f"{stage.queue}-stems"
    worker = await node.worker("hold", queue=stems)
    children = [{"name": "stem", "queueName": stems, "data": {}} for _ in range(2)]
    await node.flow({"name": "mix", "queueName": stage.queue, "data": {}, "children": children})
    await worker.event("processing")
    assert await stage.redis().zcard(stage.key("waiting-children")) == 1
    return Call(stage.queue, stage.url)


@healthy("a worker that has just started, before any stalled check")
async def just_started(stage: Stage) -> Call:
    node = await stage.node("5")
    await _does_one_with(stage, await node.worker(), node.add)
    await stage.port(options={"drainDelay": 2})
    return Call(stage.queue, stage.url)


async def _does_one_with(stage: Stage, worker: Any, add: Callable[[], Awaitable[Any]]) -> None:
    """A job comes through, and the worker leaves."""
    await _does_one(stage, add)
    await worker.stop()


@healthy("ten thousand completed jobs")
async def much_history(stage: Stage) -> Call:
    node = await stage.node("6")
    worker = await node.worker(concurrency=100)
    await node.add_many(10_000)
    redis = stage.redis()
    await until(lambda: redis.zcard(stage.key("completed")), 10_000, timeout=40)
    del worker
    return Call(stage.queue, stage.url)


@healthy("jobs with priorities are worked off")
async def prioritized_jobs(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker("sleep", params={"ms": 50})
    for priority in (1, 5, 9):
        await node.add_many(100, priority=priority)
    await worker.event("completed")
    return Call(stage.queue, stage.url)


@healthy("workers of Node 5, Node 6, bullpy and the Python port on one queue")
async def mixed_workers(stage: Stage) -> Call:
    node = await stage.node("5")
    await node.worker(name="node-5")
    await (await stage.node("6")).worker(name="node-6")
    await stage.worker()
    await stage.port(options={"drainDelay": 2})

    async def flow() -> None:
        while True:
            await node.add_many(5)
            await asyncio.sleep(0.3)

    stage.background(flow())
    redis = stage.redis()
    await until(lambda: redis.zcard(stage.key("completed")))
    return Call(stage.queue, stage.url)


@healthy("the same queue under two prefixes, each with its worker")
async def two_prefixes(stage: Stage) -> Call:
    for prefix in ("bull", "staging"):
        node = await stage.node("5", prefix=prefix)
        worker = await node.worker()
        await worker.event("completed", await node.add())
    return Call(stage.queue, stage.url)


@healthy("the same queue in two databases, each with its worker")
async def two_databases(stage: Stage) -> Call:
    server = await stage.server()
    for number in (0, 1):
        node = await stage.node("5", database(server.url, number))
        worker = await node.worker()
        await worker.event("completed", await node.add())
    return Call(stage.queue, server.url)


@healthy("a cluster, and a prefix with a hash tag")
async def a_cluster(stage: Stage) -> Call:
    cluster = await stage.enter(Cluster())
    producer = await stage.producer(cluster.url, prefix="{bull}")
    await stage.worker(url=cluster.url, prefix="{bull}")
    job = await producer.add("work")
    await job.wait_until_finished(timeout=20)
    return Call(stage.queue, cluster.url, prefix="{bull}")


@healthy("sentinels in front of a primary and a replica", is_long=True)
async def sentinels(stage: Stage) -> Call:
    group = await stage.enter(Sentinels())
    producer = await stage.producer(group.url)
    await stage.worker(url=group.url)
    job = await producer.add("work")
    await job.wait_until_finished(timeout=20)
    return Call(stage.queue, group.url)


BULLMQ = ("+@read", "+@write", "+@scripting", "+@connection", "+@blocking", "+@stream", "+info")
"""Rights that a worker needs."""


async def _as_user(stage: Stage, *rights: str) -> str:
    server = await stage.server()
    redis = stage.redis(server.url)
    await redis.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~bull*", "&*", *rights)
    url = f"redis://app:pw@127.0.0.1:{server.port}/0"
    node = await stage.node("5", url)
    worker = await node.worker()
    await worker.event("completed", await node.add())
    return url


@healthy("an ACL user with the rights that are needed")
async def an_acl_user(stage: Stage) -> Call:
    url = await _as_user(
        stage, *BULLMQ, "+time", "+client|list", "+acl|log", "+slowlog|get", "+scan"
    )
    return Call(stage.queue, url)


@healthy("CLIENT LIST, ACL LOG and SLOWLOG are forbidden, as with managed servers")
async def clients_are_hidden(stage: Stage) -> Call:
    return Call(stage.queue, await _as_user(stage, *BULLMQ, "-client|list", "+time", "+scan"))


@healthy("INFO is forbidden too")
async def info_is_hidden(stage: Stage) -> Call:
    server = await stage.server()
    redis = stage.redis(server.url)
    rights = [*BULLMQ[:-1], "-client|list", "-info", "+time"]
    await redis.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~bull*", "&*", *rights)
    node = await stage.node("5", server.url)
    worker = await node.worker()
    await worker.event("completed", await node.add())
    return Call(stage.queue, f"redis://app:pw@127.0.0.1:{server.port}/0")


@healthy("a job scheduler every second")
async def a_scheduler(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker(drainDelay=5)
    await node.call("upsertJobScheduler", "tick", {"every": 1000}, {"name": "tick"})
    await worker.event("completed", count=2)
    return Call(stage.queue, stage.url)


@healthy("a job scheduler for every night")
async def a_nightly_scheduler(stage: Stage) -> Call:
    node = await stage.node("6")
    await node.worker(drainDelay=5)
    await _does_one(stage, node.add)
    await node.call("upsertJobScheduler", "nightly", {"pattern": "0 3 * * *"}, {"name": "report"})
    return Call(stage.queue, stage.url)


@healthy("workers are replaced one by one while jobs flow", is_long=True)
async def a_rolling_deploy(stage: Stage) -> Call:
    node = await stage.node("6")
    old = [await node.worker(name=f"v1-{number}") for number in range(2)]

    async def flow() -> None:
        while True:
            await node.add_many(2)
            await asyncio.sleep(0.2)

    async def deploy() -> None:
        for number, worker in enumerate(old):
            await asyncio.sleep(2)
            await node.worker(name=f"v2-{number}")
            await worker.stop()

    stage.background(flow())
    await old[0].event("completed")
    redis = stage.redis()

    async def are_old() -> bool:
        return all(int(row["age"]) >= 12 for row in await blocking(redis, stage.queue))

    await until(are_old, timeout=20)
    stage.background(deploy())
    return Call(stage.queue, stage.url)


@healthy("a worker came back a moment ago, and the jobs that waited are done")
async def restarted_a_moment_ago(stage: Stage) -> Call:
    node = await stage.node("5")
    first = await node.worker()
    await first.event("completed", await node.add())
    await first.stop()
    await node.add_many(50)
    await node.worker("sleep", params={"ms": 100})
    return Call(stage.queue, stage.url)


@healthy("global concurrency is used up, and jobs pass")
async def concurrency_full_and_moving(stage: Stage) -> Call:
    node = await stage.node("5")
    await node.call("setGlobalConcurrency", 2)
    worker = await node.worker("sleep", params={"ms": 300}, concurrency=10)
    await node.add_many(200)
    await worker.event("completed")
    return Call(stage.queue, stage.url)


@healthy("a queue whose last job is days old, and a worker waits")
async def a_quiet_queue(stage: Stage) -> Call:
    node = await stage.node("5")
    await node.worker(stalledInterval=1000)
    await _does_one(stage, node.add)
    redis = stage.redis()
    rows = await until(lambda: blocking(redis, stage.queue))
    assert len(rows) == 1
    await redis.xtrim(stage.key("events"), maxlen=0)
    return Call(stage.queue, stage.url)


@healthy("a `def` processor of bullpy in children, with a flow of jobs")
async def children_of_bullpy(stage: Stage) -> Call:
    await stage.worker(good, concurrency=2)
    node = await stage.node("6")

    async def flow() -> None:
        while True:
            await node.add_many(2)
            await asyncio.sleep(0.3)

    stage.background(flow())
    redis = stage.redis()
    await until(lambda: redis.zcard(stage.key("completed")))
    return Call(stage.queue, stage.url)


@healthy("a worker of bullpy with jobs by name, of which some fail now and then")
async def some_failures(stage: Stage) -> Call:
    async def mostly(job: Any) -> float:
        if int(job.id) % 5 == 0:
            raise ValueError("no such file")
        return time.time()

    worker: Worker = await stage.worker(mostly)
    assert worker
    node = await stage.node("5")
    await node.add_many(40)
    redis = stage.redis()
    await until(lambda: redis.zcard(stage.key("completed")), 32)
    return Call(stage.queue, stage.url)
