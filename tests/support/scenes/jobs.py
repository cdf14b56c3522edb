"""D14 to D19 and D23 to D33: what keeps jobs from being run, or ends them at once."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Awaitable, Callable

from support.scenes.scene import LIKELY, Call, cause
from support.scenes.stage import Stage, until


@cause(14, "paused", "paused by Node 5, which keeps the jobs in `paused`")
async def paused_by_bullmq_5(stage: Stage) -> Call:
    node = await stage.node("5")
    await node.worker()
    await node.call("pause")
    await node.add_many(3)
    redis = stage.redis()
    assert await redis.hget(stage.key("meta"), "paused") == "1"
    assert await redis.llen(stage.key("paused")) == 3
    return Call(stage.queue, stage.url)


@cause(14, "paused", "paused by Node 6, which leaves the jobs in `wait`; the command")
async def paused_by_bullmq_6(stage: Stage) -> Call:
    node = await stage.node("6")
    await node.worker()
    await node.call("pause")
    await node.add_many(3)
    redis = stage.redis()
    assert await redis.hget(stage.key("meta"), "paused") == "1"
    assert await redis.llen(stage.key("wait")) == 3
    return Call(stage.queue, stage.url, is_command=True)


async def _split(stage: Stage) -> None:
    """Jobs in both lists: version 5 pauses, version 6 adds."""
    old, new = await stage.node("5"), await stage.node("6")
    await old.add_many(2)
    await old.call("pause")
    await new.add_many(2)
    redis = stage.redis()
    lists = [await redis.llen(stage.key(name)) for name in ("paused", "wait")]
    assert lists == [2, 2]


@cause(15, "split-pause", "Node 5 paused, Node 6 added", also=frozenset({"paused"}))
async def two_majors_and_a_pause(stage: Stage) -> Call:
    await _split(stage)
    await (await stage.node("6")).worker()
    return Call(stage.queue, stage.url)


@cause(16, "orphaned-jobs", "then Node 5 resumed, which dropped what Node 6 had added")
async def resumed_by_the_wrong_major(stage: Stage) -> Call:
    await _split(stage)
    old = await stage.node("5")
    await old.call("resume")
    worker = await old.worker()
    await worker.event("completed", count=2)
    redis = stage.redis()
    left = [await redis.exists(stage.key(str(number))) for number in (3, 4)]
    assert left == [1, 1]
    assert await redis.llen(stage.key("wait")) == await redis.llen(stage.key("paused")) == 0
    return Call(stage.queue, stage.url)


async def _leave_active(stage: Stage, **options: object) -> str:
    """A worker takes a job and is killed; its lock has ended."""
    dying = await stage.lone(
        "5", options={"lockDuration": 1000, "skipStalledCheck": True, **options}, behaviour="die"
    )
    await dying.says("^ready")
    job = await (await stage.node("5")).add()
    assert await dying.ended() == -signal.SIGKILL
    redis = stage.redis()
    await until(lambda: redis.exists(stage.key(f"{job}:lock")), 0)
    assert await redis.lrange(stage.key("active"), 0, -1) == [job]
    return job


@cause(17, "concurrency-used-up", "global concurrency 1, used by a job whose worker was killed")
async def a_dead_owner_uses_the_concurrency(stage: Stage) -> Call:
    node = await stage.node("5")
    await node.call("setGlobalConcurrency", 1)
    await _leave_active(stage)
    await node.worker(skipStalledCheck=True)
    await node.add_many(3)
    redis = stage.redis()
    assert await redis.hget(stage.key("meta"), "concurrency") == "1"
    assert await redis.llen(stage.key("wait")) == 3
    return Call(stage.queue, stage.url)


@cause(18, "active-without-owner", "its worker was killed, and nobody checks for stalled jobs")
async def nobody_checks_for_stalled_jobs(stage: Stage) -> Call:
    await _leave_active(stage)
    await (await stage.node("5")).worker(skipStalledCheck=True)
    assert await stage.redis().exists(stage.key("stalled-check")) == 0
    return Call(stage.queue, stage.url)


async def _late(stage: Stage, add: Callable[[], Awaitable[object]]) -> Call:
    """A worker of version 6 waits in a block of 5 s, and somebody adds who does not wake it."""
    worker = await (await stage.node("6")).worker(drainDelay=5)

    async def goes_on() -> None:
        for number in itertools.count(1):
            await add()
            await worker.event("completed", count=number, timeout=30)
            # Into its next wait, of which most is still to come.
            await asyncio.sleep(0.5)

    stage.background(goes_on())
    done = await worker.event("completed")
    redis = stage.redis()
    added, started = await redis.hmget(stage.key(done["jobId"]), "timestamp", "processedOn")
    assert int(started) - int(added) > 1500, "it was woken"

    async def one_waits() -> bool:
        for job in await redis.lrange(stage.key("wait"), 0, -1):
            since = await redis.hget(stage.key(job), "timestamp")
            # BullMQ 4 keeps a marker of its own kind among the ids.
            if since is not None and time.time() * 1000 - int(since) > 1500:
                return True
        return False

    await until(one_waits)
    return Call(stage.queue, stage.url)


@cause(19, "producer-without-marker", "BullMQ 4 adds, BullMQ 6 works", LIKELY, is_long=True)
async def a_producer_of_bullmq_4(stage: Stage) -> Call:
    old = await stage.node("4")
    return await _late(stage, old.add)


@cause(19, "producer-without-marker", "Bull 4 adds, BullMQ 6 works", LIKELY, is_long=True)
async def a_producer_of_bull(stage: Stage) -> Call:
    async def add() -> None:
        await (await stage.bull(jobs=[["work", {}, {}]])).says("^added")

    return await _late(stage, add)


@cause(23, "rate-limited", "the worker's limiter: one a minute", LIKELY)
async def a_limiter_of_the_worker(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker(limiter={"max": 1, "duration": 60_000})
    await node.add_many(4)
    await worker.event("completed")
    redis = stage.redis()
    await until(lambda: redis.pttl(stage.key("limiter")))
    assert await redis.llen(stage.key("wait")) + await redis.zcard(stage.key("delayed")) >= 2
    return Call(stage.queue, stage.url)


@cause(23, "rate-limited", "a global limit: one a minute", LIKELY)
async def a_global_limit(stage: Stage) -> Call:
    node = await stage.node("6")
    await node.call("setGlobalRateLimit", 1, 60_000)
    worker = await node.worker()
    await node.add_many(4)
    await worker.event("completed")
    redis = stage.redis()
    await until(lambda: redis.pttl(stage.key("limiter")))
    assert await redis.hget(stage.key("meta"), "max") == "1"
    return Call(stage.queue, stage.url)


@cause(23, "rate-limited", "queue.rateLimit() for an hour", LIKELY)
async def rate_limited_by_hand(stage: Stage) -> Call:
    node = await stage.node("5")
    await node.worker(limiter={"max": 10, "duration": 1000})
    await node.call("rateLimit", 3_600_000)
    await node.add_many(3)
    redis = stage.redis()
    assert await redis.pttl(stage.key("limiter")) > 3_000_000
    return Call(stage.queue, stage.url)


@cause(24, "delayed", "three jobs that are due in an hour")
async def jobs_for_later(stage: Stage) -> Call:
    node = await stage.node("5")
    await node.worker()
    await node.add_many(3, delay=3_600_000)
    assert await stage.redis().zcard(stage.key("delayed")) == 3
    return Call(stage.queue, stage.url)


@cause(25, "clock-skew", "the API's clock is ten minutes ahead")
async def a_producer_ahead(stage: Stage) -> Call:
    worker = await (await stage.node("5")).worker()
    api = await stage.lone("6", clock=600_000, jobs=[["work", {}, {}]])
    await api.says("^added")
    await worker.event("completed")
    redis = stage.redis()
    stamped = int(await redis.hget(stage.key("1"), "timestamp"))
    assert stamped - time.time() * 1000 > 500_000
    return Call(stage.queue, stage.url)


@cause(25, "clock-skew", "the worker's clock is five minutes slow", LIKELY)
async def a_worker_behind(stage: Stage) -> Call:
    worker = await stage.lone("5", clock=-300_000)
    await worker.says("^ready")
    await (await stage.node("5")).add()
    await worker.says("^processing")
    redis = stage.redis()
    await until(lambda: redis.zcard(stage.key("completed")))
    began = int(await redis.hget(stage.key("1"), "processedOn"))
    assert began - time.time() * 1000 < -250_000
    return Call(stage.queue, stage.url)


@cause(26, "prioritized-not-counted", "jobs with priorities behind a busy worker")
async def jobs_with_priorities(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker("hold")
    await node.add_many(3, priority=5)
    await worker.event("processing")
    redis = stage.redis()
    assert await redis.zcard(stage.key("prioritized")) == 2
    assert await redis.llen(stage.key("wait")) == 0
    return Call(stage.queue, stage.url)


@cause(27, "child-without-worker", "a parent waits for a child that nobody runs")
async def a_child_that_nobody_runs(stage: Stage) -> Call:
    node = await stage.node("5")
    await node.worker()
    stems = f"{stage.queue}-stems"
    child = {"name": "stem", "queueName": stems, "data": {}}
    await node.flow({"name": "mix", "queueName": stage.queue, "data": {}, "children": [child]})
    redis = stage.redis()
    assert await redis.zcard(stage.key("waiting-children")) == 1
    assert await redis.llen(f"bull:{stems}:wait") == 1
    return Call(stage.queue, stage.url)


@cause(28, "duplicate-id", "add() with the id of a job that is completed already")
async def an_id_that_was_used(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker()
    await node.add(jobId="user-7")
    await worker.event("completed", "user-7")
    for _ in range(3):
        await node.add(jobId="user-7")
    events = await stage.redis().xrange(stage.key("events"))
    assert sum(fields["event"] == "duplicated" for _, fields in events) == 3
    return Call(stage.queue, stage.url)


@cause(29, "deduplicated", "add() with a deduplication id that has no end")
async def a_deduplication_id(stage: Stage) -> Call:
    node = await stage.node("5")
    await node.worker("hold")
    for _ in range(3):
        await node.add(deduplication={"id": "refresh"})
    redis = stage.redis()
    events = await redis.xrange(stage.key("events"))
    assert sum(fields["event"] == "deduplicated" for _, fields in events) == 2
    assert await redis.pttl(stage.key("de:refresh")) == -1
    return Call(stage.queue, stage.url)


@cause(30, "failed-and-removed", "every job fails at once and is removed")
async def failures_that_are_removed(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker("fail", params={"message": "Cannot find module 'sharp'"})
    await node.add_many(5, removeOnFail=True)
    await worker.event("failed", count=5)
    redis = stage.redis()
    assert await redis.get(stage.key("id")) == "5"
    assert await redis.zcard(stage.key("failed")) == 0
    return Call(stage.queue, stage.url)


async def _fails_with(stage: Stage, behaviour: str, reason: str) -> Call:
    await stage.port(behaviour=behaviour, options={"drainDelay": 2})
    await (await stage.node("5")).add_many(3)
    redis = stage.redis()
    await until(lambda: redis.zcard(stage.key("failed")), 3)
    assert reason in await redis.hget(stage.key("1"), "failedReason")
    return Call(stage.queue, stage.url)


@cause(31, "processor-contract", "the Python port is given a plain function")
async def a_processor_that_is_not_async(stage: Stage) -> Call:
    return await _fails_with(stage, "plain", "'await' expression")


@cause(31, "processor-contract", "the Python port's processor returns a set")
async def a_result_that_is_not_json(stage: Stage) -> Call:
    return await _fails_with(stage, "unwritable", "not JSON serializable")


@cause(32, "undecodable-data", "a script wrote half of a job's data")
async def data_that_is_not_json(stage: Stage) -> Call:
    node = await stage.node("5")
    await node.add()
    redis = stage.redis()
    await redis.hset(stage.key("1"), "data", '{"fileKey": "a.wa')
    await node.worker(lockDuration=2000)
    await until(lambda: redis.lrange(stage.key("active"), 0, -1), ["1"])
    return Call(stage.queue, stage.url)


@cause(33, "ids-without-data", "somebody pushes ids into `wait`")
async def ids_from_a_foreign_hand(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker("hold")
    await node.add()
    await worker.event("processing")
    redis = stage.redis()
    await redis.lpush(stage.key("wait"), *(f"a-{number}" for number in range(72)))
    await node.add_many(3)
    assert await redis.llen(stage.key("wait")) == 75
    assert await redis.exists(stage.key("a-1")) == 0
    return Call(stage.queue, stage.url)
