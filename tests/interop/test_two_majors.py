"""A queue that is paused, with peers of BullMQ 5 and 6: every job runs, and runs once."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from support.node import VERSIONS, Node, Peer, eventually

from bullpy import FlowProducer, Job, Queue, Worker
from bullpy.peers import MIXED, PAUSED_BY_5, PeerWarning

SIDES = ("node", "bullpy")


@pytest.fixture
async def nodes(peers: dict[str, Peer], queue_name: str) -> AsyncIterator[dict[str, Node]]:
    """The test's queue from the sides of both versions, by generation."""
    opened = {generation: Node(peers[generation], queue_name) for generation in VERSIONS}
    yield opened
    for node in opened.values():
        await node.close()


class Runs:
    """Counts how often each job is processed, in bullpy and in Node."""

    def __init__(self) -> None:
        self._mine: Counter[str] = Counter()
        self._theirs: list[Any] = []

    async def process(self, job: Job[Any]) -> None:
        self._mine[job.id] += 1

    async def beside(self, node: Node) -> None:
        self._theirs.append(await node.start_worker("echo", {"concurrency": 2}))

    async def all(self) -> Counter[str]:
        counted = Counter(self._mine)
        for worker in self._theirs:
            counted.update(str(call["jobId"]) for call in await worker.processed())
        return counted


async def steer(side: str, method: str, node: Node, queue: Queue) -> None:
    if side == "node":
        await node.queue(method)
    else:
        await getattr(queue, method)()


# -- what bullpy does while the queue is paused ----------------------------------------------
#
# Each takes the queue and what `prepare` gave, and gives the ids of the jobs that it concerns.


async def add(queue: Queue, _prepared: list[str]) -> list[str]:
    return [(await queue.add("added", {"n": n})).id for n in range(3)]


async def add_in_front(queue: Queue, _prepared: list[str]) -> list[str]:
    return [(await queue.add("added", {"n": n}, lifo=True)).id for n in range(2)]


async def add_prioritized(queue: Queue, _prepared: list[str]) -> list[str]:
    return [(await queue.add("added", {"n": n}, priority=2)).id for n in range(2)]


async def add_bulk(queue: Queue, _prepared: list[str]) -> list[str]:
    return [job.id for job in await queue.add_bulk([{"name": "bulk"}, {"name": "bulk"}])]


async def add_flow(queue: Queue, _prepared: list[str]) -> list[str]:
    async with FlowProducer(redis=queue.redisConnection.settings) as flows:
        child = {"name": "child", "queueName": queue.name}
        added = await flows.add({"name": "p", "queueName": queue.name, "children": [child]})
    return [added["job"].id, added["children"][0]["job"].id]


async def schedule(queue: Queue, _prepared: list[str]) -> list[str]:
    every_hour = {"every": 3_600_000, "limit": 1}
    job = await queue.upsertJobScheduler("hourly", every_hour, "tick", {})
    assert job is not None
    return [job.id]


async def retry(queue: Queue, prepared: list[str]) -> list[str]:
    for job_id in prepared:
        job = await queue.get_job(job_id)
        assert job is not None
        await job.retry("failed")
    return prepared


async def retry_all(queue: Queue, prepared: list[str]) -> list[str]:
    await queue.retry_jobs()
    return prepared


async def promote(queue: Queue, prepared: list[str]) -> list[str]:
    for job_id in prepared:
        job = await queue.get_job(job_id)
        assert job is not None
        await job.promote()
    return prepared


async def promote_all(queue: Queue, prepared: list[str]) -> list[str]:
    await queue.promote_jobs()
    return prepared


async def fetch_when_due(queue: Queue, prepared: list[str]) -> list[str]:
    """A worker's fetch moves jobs whose delay is over, also while the queue is paused."""
    worker = Worker(queue.name, {}.get, {"autorun": False}, redis=queue.redisConnection.settings)

    async def moved() -> bool:
        assert await worker.getNextJob("token") is None
        return (await queue.get_job_counts("delayed"))["delayed"] == 0

    await eventually(moved)
    await worker.close()
    return prepared


async def recover_stalled(queue: Queue, prepared: list[str]) -> list[str]:
    worker = Worker(
        queue.name,
        {}.get,
        {"autorun": False},
        redis=queue.redisConnection.settings,
        stalled_interval=0.05,
    )

    async def recovered() -> bool:
        await worker.runStalledJobsCheck()
        return (await queue.get_job_counts("active"))["active"] == 0

    await eventually(recovered)
    await worker.close()
    return prepared


async def raise_priority(queue: Queue, prepared: list[str]) -> list[str]:
    job = await queue.get_job(prepared[0])
    assert job is not None
    await job.change_priority(7)
    await job.change_priority(0)
    return prepared


# -- what has to be there before -------------------------------------------------------------


async def nothing(_node: Node, _queue: Queue) -> list[str]:
    return []


async def waiting(node: Node, _queue: Queue) -> list[str]:
    return [await node.add("waiting"), await node.add("waiting")]


async def failed(node: Node, queue: Queue) -> list[str]:
    worker = await node.start_worker("fail")
    ids = [await node.add("fails") for _ in range(2)]
    await worker.event("failed", count=2)
    await worker.stop()
    assert (await queue.get_job_counts("failed"))["failed"] == 2
    return ids


async def far(node: Node, _queue: Queue) -> list[str]:
    return [await node.add("far", {}, {"delay": 3_600_000}) for _ in range(2)]


async def soon(node: Node, _queue: Queue) -> list[str]:
    return [await node.add("soon", {}, {"delay": 30}) for _ in range(2)]


async def abandoned(node: Node, queue: Queue) -> list[str]:
    """Jobs that are active, and whose lock has expired."""
    worker = Worker(
        queue.name,
        {}.get,
        {"autorun": False},
        redis=queue.redisConnection.settings,
        lock_duration=0.1,
    )
    ids = [await node.add("abandoned") for _ in range(2)]
    for number in range(2):
        assert await worker.getNextJob(f"token-{number}") is not None
    keys = [queue.backend.toKey(f"{job_id}:lock") for job_id in ids]

    async def gone() -> bool:
        return await queue.client.exists(*keys) == 0

    await eventually(gone)
    await worker.close()
    return ids


Prepare = Callable[[Node, Queue], Awaitable[list[str]]]
Act = Callable[[Queue, list[str]], Awaitable[list[str]]]

ACTS: list[tuple[Prepare, Act]] = [
    (nothing, add),
    (nothing, add_in_front),
    (nothing, add_prioritized),
    (nothing, add_bulk),
    (nothing, add_flow),
    (nothing, schedule),
    (waiting, raise_priority),
    (failed, retry),
    (failed, retry_all),
    (far, promote),
    (far, promote_all),
    (soon, fetch_when_due),
    (abandoned, recover_stalled),
]


@pytest.mark.parametrize("resumed_by", SIDES)
@pytest.mark.parametrize("paused_by", SIDES)
@pytest.mark.parametrize(("prepare", "act"), ACTS, ids=[act.__name__ for _, act in ACTS])
async def test_no_job_is_lost_by_what_bullpy_does_while_the_queue_is_paused(
    node: Node,
    queue: Queue,
    start_worker: Any,
    prepare: Prepare,
    act: Act,
    paused_by: str,
    resumed_by: str,
) -> None:
    runs = Runs()
    prepared = await prepare(node, queue)
    before = [await node.add("before"), (await queue.add("before")).id]
    await steer(paused_by, "pause", node, queue)
    during = [await node.add("during")]
    expected = {*prepared, *before, *during, *await act(queue, prepared)}
    expected.add(await node.add("during"))
    await steer(resumed_by, "resume", node, queue)

    await runs.beside(node)
    await start_worker(runs.process, concurrency=2)

    async def done() -> bool:
        return (await queue.get_job_counts("completed"))["completed"] == len(expected)

    await eventually(done)
    assert await runs.all() == Counter(expected)
    assert (await queue.get_job_counts("wait", "paused")) == {"wait": 0, "paused": 0}


@pytest.mark.parametrize("resumed_by", [*VERSIONS, "bullpy"])
@pytest.mark.parametrize("paused_by", [*VERSIONS, "bullpy"])
async def test_mixed_fleet_runs_every_job_once_over_pauses_from_every_side(
    nodes: dict[str, Node],
    queue: Queue,
    start_worker: Any,
    paused_by: str,
    resumed_by: str,
) -> None:
    runs = Runs()
    five, six = nodes["5"], nodes["6"]
    for node in nodes.values():
        await runs.beside(node)
    await start_worker(worker=impatient(queue, runs))
    expected: list[str] = []
    for _ in range(3):
        expected += [(await queue.add("q")).id for _ in range(5)]
        expected += [await five.add("q"), await six.add("q")]
        await steer(
            "node" if paused_by in nodes else "bullpy", "pause", nodes.get(paused_by, five), queue
        )
        expected += [await five.add("q")]
        expected += [(await queue.add("q")).id for _ in range(5)]
        await steer(
            "node" if resumed_by in nodes else "bullpy",
            "resume",
            nodes.get(resumed_by, five),
            queue,
        )

    async def done() -> bool:
        return (await queue.get_job_counts("completed"))["completed"] == len(expected)

    await eventually(done)
    assert await runs.all() == Counter(expected)


@pytest.mark.parametrize("resumed_by", ["5", "6", "bullpy"])
async def test_parent_in_a_queue_that_version_5_paused_runs_once_its_child_is_done(
    nodes: dict[str, Node], queue: Queue, start_worker: Any, redis_url: str, resumed_by: str
) -> None:
    runs = Runs()
    children = f"{queue.name}-children"
    async with FlowProducer(redis=redis_url) as flows, Queue(children, redis=redis_url) as other:
        added = await flows.add(
            {
                "name": "parent",
                "queueName": queue.name,
                "children": [{"name": "child", "queueName": children}],
            }
        )
        parent, child = added["job"], added["children"][0]["job"]
        beside = await nodes["5"].add("beside")
        await nodes["5"].queue("pause")
        assert await nodes["5"].queue("getJobCounts", "paused") == {"paused": 1}
        await start_worker(
            worker=Worker(children, runs.process, {"autorun": False}, redis=redis_url)
        )

        async def released() -> bool:
            return await other.get_job_state(child.id) == "completed"

        await eventually(released)
        if resumed_by == "bullpy":
            await queue.resume()
        else:
            await nodes[resumed_by].queue("resume")
        await start_worker(runs.process)

        async def done() -> bool:
            return (await queue.get_job_counts("completed"))["completed"] == 2

        await eventually(done)
        assert await runs.all() == Counter([parent.id, child.id, beside])
        await other.obliterate(force=True)


async def test_jobs_keep_their_order_over_a_pause_by_version_5(
    nodes: dict[str, Node], queue: Queue, start_worker: Any
) -> None:
    order: list[str] = []

    async def process(job: Job[Any]) -> None:
        order.append(job.name)

    five = nodes["5"]
    await five.add("1")
    await queue.add("2")
    await five.queue("pause")
    await queue.add("3")
    await five.add("4")
    await queue.add_bulk([{"name": "5"}, {"name": "6"}])
    await queue.add("0", lifo=True)
    await five.queue("resume")
    await start_worker(process, concurrency=1)

    async def done() -> bool:
        return len(order) == 7

    await eventually(done)
    assert order == ["0", "1", "2", "3", "4", "5", "6"]


async def test_what_version_6_adds_to_a_queue_that_version_5_paused_is_saved_by_an_idle_worker(
    nodes: dict[str, Node], queue: Queue, start_worker: Any
) -> None:
    runs = Runs()
    five, six = nodes["5"], nodes["6"]
    expected = [await five.add("before")]
    await five.queue("pause")
    await start_worker(worker=impatient(queue, runs))
    expected += [await six.add("during")]

    async def merged() -> bool:
        return await queue.client.llen(queue.keys["paused"]) == 2

    await eventually(merged)
    await five.queue("resume")

    async def done() -> bool:
        return (await queue.get_job_counts("completed"))["completed"] == 2

    await eventually(done)
    assert await runs.all() == Counter(expected)


async def test_what_version_5_lost_of_version_6_is_warned_of_and_repaired(
    nodes: dict[str, Node], queue: Queue, start_worker: Any
) -> None:
    runs = Runs()
    five, six = nodes["5"], nodes["6"]
    warnings: list[PeerWarning] = []
    queue.on("warning", warnings.append)
    expected = [await five.add("before")]
    await queue.pause()
    assert [warning.code for warning in warnings] == [PAUSED_BY_5]
    expected += [await six.add("lost") for _ in range(3)]
    expected += [await six.add("lost", {}, {"priority": 3})]
    await five.queue("resume")
    for job_id in expected[1:4]:
        assert await six.job(job_id, "getState") == "unknown"

    worker = await start_worker(runs.process)
    await eventually_completed(queue, 2)
    found = await queue.repair(dry_run=True)
    assert (found.dry_run, found.waiting, found.merged) == (True, expected[1:4], 0)
    assert (await queue.get_job_counts("completed"))["completed"] == 2
    done = await queue.repair()
    assert (done.dry_run, done.waiting, done.restored) == (False, expected[1:4], 3)
    assert warnings[-1].code == MIXED
    assert "5.61.2" in warnings[-1].message
    assert "6.7.0" in warnings[-1].message
    await eventually_completed(queue, 5)
    assert (await queue.repair()).found_nothing
    assert await runs.all() == Counter(expected)
    assert not worker.closing


async def test_worker_says_when_it_is_ready_that_both_versions_are_there(
    nodes: dict[str, Node], queue: Queue, start_worker: Any, redis_url: str
) -> None:
    warnings: list[PeerWarning] = []
    await nodes["5"].add("one")
    await start_worker(Runs().process)
    await eventually_completed(queue, 1)
    await nodes["6"].add("two")
    worker = Worker(queue.name, Runs().process, {"autorun": False}, redis=redis_url)
    worker.on("warning", warnings.append)
    await start_worker(worker=worker)

    async def said() -> list[PeerWarning]:
        return warnings

    await eventually(said)
    assert [warning.code for warning in warnings] == [MIXED]


async def test_resume_takes_all_that_version_5_paused(nodes: dict[str, Node], queue: Queue) -> None:
    for start in range(0, 7600, 1900):
        jobs = [{"name": "j", "data": {}} for _ in range(start, start + 1900)]
        await nodes["5"].queue("addBulk", jobs)
    await nodes["5"].queue("pause")
    await queue.add("one more")
    await queue.resume()
    assert await queue.get_job_counts("wait", "paused") == {"wait": 7601, "paused": 0}


async def test_repair_beside_running_workers_runs_nothing_twice(
    nodes: dict[str, Node], queue: Queue, start_worker: Any
) -> None:
    runs = Runs()
    five, six = nodes["5"], nodes["6"]
    numbers = itertools.count()
    await five.add("before")
    await five.queue("pause")
    lost = [str(job["id"]) for job in await six.queue("addBulk", [{"name": "j"}] * 250)]
    await five.queue("resume")
    assert await six.job(lost[0], "getState") == "unknown"
    await start_worker(runs.process, concurrency=4)
    await runs.beside(six)
    added: list[str] = ["1"]

    stop = asyncio.Event()

    async def produce() -> None:
        while not stop.is_set():
            added.append((await queue.add("flood", {"n": next(numbers)})).id)

    producer = asyncio.create_task(produce())
    reports = await asyncio.gather(*(queue.repair() for _ in range(3)))
    stop.set()
    await producer
    assert sorted(itertools.chain(*(report.waiting for report in reports))) == sorted(lost)
    await eventually_completed(queue, len(added) + len(lost))
    assert set((await runs.all()).values()) == {1}


def impatient(queue: Queue, runs: Runs) -> Worker:
    """A worker that fetches every 0.1 s, and not only when the marker tells it to."""
    opts = {"autorun": False, "drainDelay": 0.1, "concurrency": 2}
    return Worker(queue.name, runs.process, opts, redis=queue.redisConnection.settings)


async def eventually_completed(queue: Queue, count: int) -> None:
    async def done() -> bool:
        return (await queue.get_job_counts("completed"))["completed"] == count

    await eventually(done)
