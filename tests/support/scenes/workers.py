"""D10 to D13, D20 to D22, D43 to D46, D49: what workers do, and do not."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from support.scenes.scene import LIKELY, Call, cause
from support.scenes.stage import Stage, blocking, make_older, until

SHORT = {"lockDuration": 1000, "stalledInterval": 500, "drainDelay": 1}
"""Options of a Node worker whose jobs stall within a second."""


@cause(10, "consumer-reconnects", "the Python port with redis-py 8's time-out", is_long=True)
async def a_wait_longer_than_the_socket(stage: Stage) -> Call:
    await stage.port(options={"drainDelay": 8})
    await (await stage.node("5")).add()
    redis = stage.redis()
    await until(lambda: redis.zcard(stage.key("completed")))

    async def waiting() -> set[str]:
        # The port gives the name of its waiting connection to the other one too.
        rows = await blocking(redis, stage.queue)
        return {row["id"] for row in rows if row["cmd"] == "bzpopmin"}

    first = await until(waiting)

    async def another() -> bool:
        return bool(await waiting() - first)

    await until(another)
    return Call(stage.queue, stage.url, interval=18)


@cause(11, "command-timeout-below-block", "commandTimeout of 1 s, Node waits for 5 s")
async def a_short_command_timeout(stage: Stage) -> Call:
    api = await stage.node("5")
    impatient = await stage.node("5", commandTimeout=1000)
    await impatient.worker(drainDelay=5)
    redis = stage.redis()
    await until(lambda: _unread(redis, stage.queue))
    await api.add()
    return Call(stage.queue, stage.url)


async def _unread(redis: Any, queue: str) -> bool:
    rows = await blocking(redis, queue)
    return any("b" in row["flags"] and int(row["qbuf"]) > 0 for row in rows)


@cause(12, "worker-frozen", "a Node 5 worker gets SIGSTOP while it waits", is_long=True)
async def a_frozen_process(stage: Stage) -> Call:
    frozen = await stage.lone("5", options={"drainDelay": 1, "name": "w-froze"})
    await frozen.says("^ready")
    redis = stage.redis()
    await until(lambda: _waits(redis, stage.queue))
    frozen.send(signal.SIGSTOP)
    await (await stage.node("6")).add_many(3)
    await until(lambda: _has_been_silent(redis, stage.queue, 8))
    assert await redis.llen(stage.key("wait")) == 3
    return Call(stage.queue, stage.url)


async def _waits(redis: Any, queue: str) -> bool:
    return any("b" in row["flags"] for row in await blocking(redis, queue))


async def _has_been_silent(redis: Any, queue: str, seconds: int) -> bool:
    [row] = await blocking(redis, queue)
    return row["flags"] == "N" and row["cmd"] == "bzpopmin" and int(row["idle"]) >= seconds


@cause(13, "worker-never-fetched", "Node 6 with autorun: false and nobody calls run()", LIKELY)
async def autorun_off(stage: Stage) -> Call:
    node = await stage.node("6")
    await node.worker(autorun=False)
    await node.add_many(3)
    redis = stage.redis()
    [row] = await until(lambda: blocking(redis, stage.queue))
    assert row["cmd"] == "info"
    assert await redis.exists(stage.key("stalled-check")) == 0
    return Call(stage.queue, stage.url)


@cause(13, "worker-never-fetched", "Node 5 paused its own worker before it ran", LIKELY)
async def paused_for_itself(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker(autorun=False)
    await worker.call("pause", True)
    stage.background(worker.call("run"))
    await node.add_many(3)
    assert await worker.call("isPaused")
    assert await stage.redis().llen(stage.key("wait")) == 3
    return Call(stage.queue, stage.url)


@cause(20, "worker-without-priorities", "a BullMQ 3 worker, priorities from BullMQ 5")
async def a_worker_of_bullmq_3(stage: Stage) -> Call:
    await (await stage.node("3")).worker()
    await (await stage.node("5")).add_many(2, priority=3)
    redis = stage.redis()
    assert await redis.zcard(stage.key("prioritized")) == 2
    [row] = await until(lambda: blocking(redis, stage.queue))
    assert row["cmd"] == "brpoplpush"
    return Call(stage.queue, stage.url)


@cause(21, "worker-too-old", "a BullMQ 4 worker, priorities from BullMQ 5", LIKELY)
async def a_worker_of_bullmq_4(stage: Stage) -> Call:
    old, new = await stage.node("4"), await stage.node("5")
    await old.worker(drainDelay=5)
    redis = stage.redis()

    async def waits() -> bool:
        rows = await blocking(redis, stage.queue)
        return any(row["cmd"] == "brpoplpush" and "b" in row["flags"] for row in rows)

    await until(waits)

    async def goes_on() -> None:
        while True:
            await new.add(priority=3)
            await asyncio.sleep(2)

    stage.background(goes_on())
    await until(lambda: redis.zcard(stage.key("prioritized")))
    return Call(stage.queue, stage.url)


@cause(22, "legacy-bull-worker", "a worker of Bull 4 takes the jobs of BullMQ 5")
async def a_worker_of_bull(stage: Stage) -> Call:
    await (await stage.bull(name="report")).says("^ready")
    await (await stage.node("5")).add_many(5, "process-audio")
    redis = stage.redis()
    await until(lambda: redis.zcard(stage.key("failed")), 5)
    reason = await redis.hget(stage.key("1"), "failedReason")
    assert "Missing process handler" in reason
    return Call(stage.queue, stage.url)


async def _done_twice(stage: Stage) -> Call:
    """Another worker takes the job that stalled at the one that blocks."""
    redis = stage.redis()
    await until(lambda: redis.hget(stage.key("1"), "stc"), "1")
    await until(lambda: redis.hget(stage.key("1"), "ats"), "2")
    names = [fields["event"] for _, fields in await redis.xrange(stage.key("events"))]
    assert "stalled" in names
    return Call(stage.queue, stage.url)


@cause(43, "loop-blocked", "CPU-bound work on Node's event loop", LIKELY)
async def a_blocked_loop_of_node(stage: Stage) -> Call:
    options = {**SHORT, "name": "node-cpu", "skipStalledCheck": True}
    blocked = await stage.lone("5", options=options, behaviour="block", params={"ms": 12_000})
    await blocked.says("^ready")
    node = await stage.node("5")
    await node.add()
    await blocked.says("^processing")
    await node.worker(**SHORT, name="node-2")
    return await _done_twice(stage)


@cause(43, "loop-blocked", "CPU-bound work on the loop of the Python port", LIKELY)
async def a_blocked_loop_of_the_port(stage: Stage) -> Call:
    options = {"name": "py-cpu", "lockDuration": 1000, "stalledInterval": 500, "drainDelay": 2}
    blocked = await stage.port(behaviour="block", ms=12_000, options=options)
    node = await stage.node("6")
    await node.add()
    await blocked.says("^processing")
    await node.worker(**SHORT, name="node-2")
    return await _done_twice(stage)


@cause(44, "long-running", "a job that has been held for hours", LIKELY)
async def a_job_that_hangs(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker("hold", lockDuration=3000, name="w-hang")
    job = await node.add()
    await worker.event("processing", job)
    redis = stage.redis()
    await make_older(redis, stage.queue, 5, job)
    assert await redis.pttl(stage.key(f"{job}:lock")) > 0
    return Call(stage.queue, stage.url)


@cause(45, "poison-job", "a job kills every worker that takes it")
async def a_job_that_kills(stage: Stage) -> Call:
    options = {**SHORT, "name": "victim"}
    victims = [await stage.lone("5", options=options, behaviour="die") for _ in range(2)]
    for victim in victims:
        await victim.says("^ready")
    node = await stage.node("5")
    job = await node.add()
    codes = await asyncio.gather(*(victim.ended() for victim in victims))
    assert codes == [-signal.SIGKILL] * 2
    await node.worker(**SHORT, name="survivor")
    redis = stage.redis()
    await until(lambda: redis.zscore(stage.key("failed"), job))
    reason = await redis.hget(stage.key(job), "failedReason")
    assert "stalled more than allowable limit" in reason
    return Call(stage.queue, stage.url)


@cause(46, "crash-loop", "a supervisor starts a worker that ends at once", is_long=True)
async def a_worker_that_restarts(stage: Stage) -> Call:
    await (await stage.node("5")).add_many(2)
    started = asyncio.Event()

    async def supervise() -> None:
        while True:
            options = {"name": "w-crash", "autorun": False}
            program = await stage.lone("5", options=options, lifetime=1200)
            assert await program.ended() == 1
            started.set()
            await asyncio.sleep(0.3)

    stage.background(supervise())
    await started.wait()
    return Call(stage.queue, stage.url, interval=12)


@cause(49, "too-few-workers", "four jobs a second arrive, two are done", LIKELY)
async def more_than_can_be_done(stage: Stage) -> Call:
    node = await stage.node("5")
    worker = await node.worker("sleep", params={"ms": 500})
    # More than a minute's work lies there already.
    await node.add_many(150)
    await worker.event("completed")

    async def arrive() -> None:
        while True:
            await node.add()
            await asyncio.sleep(0.25)

    stage.background(arrive())
    redis = stage.redis()
    await until(lambda: redis.llen(stage.key("wait")))
    return Call(stage.queue, stage.url)
