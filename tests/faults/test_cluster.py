"""A real cluster of three nodes: everything works there, and goes on when nodes and slots move."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio.cluster import RedisCluster
from support.faults import eventually
from support.ha import Cluster, Crew, Server
from support.node import VERSIONS, Node, Peer
from support.repairing import abandoned

from bullpy import (
    Backoff,
    FlowProducer,
    Queue,
    QueueEvents,
    RedisSettings,
    Retry,
    Worker,
    errors,
    registry,
    repairs,
    timeline,
)
from bullpy.connection.asking import Asker
from bullpy.connection.probe import probe
from bullpy.registry import Registry

PREFIX = "{bull}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The cluster of this file. A test that moves a slot leaves it where it is then."""
    with Cluster() as started:
        yield started


@pytest.fixture
async def queue(cluster: Cluster, queue_name: str) -> AsyncIterator[Queue]:
    async with Queue(queue_name, redis=cluster.url, prefix=PREFIX) as opened:
        yield opened


@pytest.fixture
async def crew(cluster: Cluster, queue_name: str) -> AsyncIterator[Crew]:
    made = Crew(cluster.url, queue_name, prefix=PREFIX)
    yield made
    await made.dismiss()


# -- what works --------------------------------------------------------------------------------


async def test_jobs_delays_and_bulk_adds_work(queue: Queue, crew: Crew) -> None:
    started: dict[int, float] = {}

    async def work(job: Any) -> None:
        started[job.data] = time.time()

    await crew.hire(work, concurrency=5)
    began = time.time()
    await queue.add("job", -1, delay=0.5)
    added = await queue.add_bulk([{"name": "job", "data": number} for number in range(50)])
    assert len({job.id for job in added}) == 50
    await crew.ledger.until_completed(51, 10.0)
    assert 0.49 <= started[-1] - began <= 0.8
    assert set(crew.ledger.started.values()) == {1}
    counts = await queue.get_job_counts()
    assert (counts["completed"], counts["failed"], counts["active"]) == (51, 0, 0)
    assert not crew.ledger.errors


async def test_retries_and_priorities_work(queue: Queue, crew: Crew) -> None:
    seen: list[Any] = []

    async def work(job: Any) -> None:
        seen.append(job.data)
        if job.data == "flaky" and job.attempts_made < 2:
            raise Retry("not yet")

    await queue.add("job", "late", priority=10)
    await queue.add("job", "early", priority=1)
    flaky = await queue.add("job", "flaky", attempts=3, backoff=Backoff.fixed(0.05))
    await crew.hire(work)
    await crew.ledger.until_completed(3, 5.0)
    assert seen.index("early") < seen.index("late")
    assert seen.count("flaky") == 3
    assert crew.ledger.completed[flaky.id] == 1


async def test_flow_runs_children_first_over_several_queues(
    cluster: Cluster, queue: Queue, crew: Crew, queue_name: str
) -> None:
    order: list[str] = []

    async def work(job: Any) -> str:
        order.append(job.name)
        return job.name

    await crew.hire(work)
    others = Crew(cluster.url, f"{queue_name}-children", prefix=PREFIX)
    await others.hire(work)
    async with FlowProducer(redis=cluster.url, prefix=PREFIX) as flows:
        children = [{"name": f"child-{n}", "queueName": f"{queue_name}-children"} for n in (1, 2)]
        tree = await flows.add({"name": "parent", "queueName": queue_name, "children": children})
        await crew.ledger.until_completed(1, 5.0)
    assert sorted(order[:2]) == ["child-1", "child-2"]
    assert order[2] == "parent"
    parent = await queue.get_job(tree["job"].id)
    assert parent is not None
    values = await parent.getChildrenValues()
    assert sorted(values.values()) == ["child-1", "child-2"]
    await others.dismiss()


async def test_flow_over_several_slots_is_refused_before_anything_is_added(
    cluster: Cluster, queue: Queue, queue_name: str
) -> None:
    async with FlowProducer(redis=cluster.url, prefix=PREFIX) as flows:
        with pytest.raises(errors.ConfigurationError, match="same prefix in braces"):
            await flows.add(
                {
                    "name": "parent",
                    "queueName": queue_name,
                    "children": [{"name": "child", "queueName": "q", "prefix": "{other}"}],
                }
            )
    assert await queue.count() == 0


async def test_scripts_that_a_node_lost_are_sent_again_in_transactions_too(
    cluster: Cluster, queue: Queue, crew: Crew
) -> None:
    await crew.hire()
    for number in range(5):
        cluster.owner(PREFIX).ask("SCRIPT", "FLUSH")
        await queue.add_bulk([{"name": "job", "data": number}] * 3)
        cluster.owner(PREFIX).ask("SCRIPT", "FLUSH")
        await queue.add("job", number)
    await crew.ledger.until_completed(20, 5.0)


async def test_events_and_wait_until_finished_work(queue: Queue, crew: Crew) -> None:
    await crew.hire()
    job = await queue.add("job", 1)
    assert await job.wait_until_finished(timeout=5) == job.id


async def test_job_scheduler_makes_job_after_job(queue: Queue, crew: Crew) -> None:
    await crew.hire()
    await queue.upsertJobScheduler("often", {"every": 200}, "tick")
    await crew.ledger.until_completed(3, 5.0)
    await queue.removeJobScheduler("often")


async def test_queue_name_may_carry_the_hash_tag(cluster: Cluster, queue_name: str) -> None:
    name = f"{{{queue_name}}}"
    crew = Crew(cluster.url, name)
    await crew.hire()
    async with Queue(name, redis=cluster.url) as queue:
        job = await queue.add("job", 1)
        assert await job.wait_until_finished(timeout=5) == job.id
    await crew.dismiss()


async def test_waiting_commands_and_ready_made_clients_find_the_node(
    cluster: Cluster, queue: Queue, queue_name: str
) -> None:
    assert await queue.client.blpop([f"{PREFIX}:nothing"], timeout=0.1) is None
    client = RedisCluster(host="127.0.0.1", port=cluster.nodes[1].port)
    async with Queue(queue_name, {"connection": client}, prefix=PREFIX) as same:
        await same.add("job", 1)
    await client.aclose()
    assert await queue.count() == 1


async def test_one_seed_is_enough_and_dead_ones_are_passed_over(
    cluster: Cluster, queue: Queue, queue_name: str
) -> None:
    [other, *_] = cluster.others(PREFIX)
    host, port = "127.0.0.1", other.port
    for settings in (
        RedisSettings(cluster=True, host=host, port=port),
        RedisSettings.of(f"redis://{host}:{port}?cluster=true"),
        RedisSettings(cluster=[f"{host}:1", (host, port)]),
    ):
        async with Queue(queue_name, redis=settings, prefix=PREFIX) as opened:
            await opened.add("job", 1)
    assert await queue.count() == 3


async def test_queues_of_one_slot_share_a_connection_and_others_have_their_own(
    cluster: Cluster, queue: Queue
) -> None:
    async with (
        Queue("another", redis=cluster.url, prefix=PREFIX) as same,
        Queue("q", redis=cluster.url, prefix="{elsewhere}") as other,
    ):
        assert same.shared is queue.shared
        assert other.shared is not queue.shared
        await asyncio.gather(same.add("job", 1), other.add("job", 1))
        assert f":{cluster.owner('{elsewhere}').port}/" in (await other.whoami()).url
        await same.obliterate(force=True)


async def test_probe_and_identity_name_the_node_that_owns_the_queue(
    cluster: Cluster, queue: Queue
) -> None:
    owner = cluster.owner(PREFIX)
    report = await probe(RedisSettings.of(cluster.url), key=queue.keys["wait"])
    assert report.ok, report.error
    assert report.steps[0].name == "cluster"
    assert report.identity is not None
    identity = await queue.whoami()
    assert identity.run_id == report.identity.run_id == owner.client.info("server")["run_id"]
    assert identity.fingerprint == report.identity.fingerprint
    assert (await probe(RedisSettings.of(cluster.url))).ok


@pytest.mark.parametrize("generation", sorted(VERSIONS))
async def test_node_and_python_share_a_queue(
    cluster: Cluster, queue: Queue, crew: Crew, queue_name: str, generation: str
) -> None:
    peer = Peer(generation, cluster.url)
    await asyncio.to_thread(peer.start)
    try:
        node = Node(peer, queue_name)
        await node.follow(prefix=PREFIX)
        worker = await crew.hire()
        made = await node.add("job", {"from": "node"}, prefix=PREFIX)
        assert await node.wait(made, prefix=PREFIX) == made
        await worker.close()
        there = await node.start_worker("echo", prefix=PREFIX)
        job = await queue.add("job", {"from": "python"})
        await there.event("completed", job.id)
        bulk = await queue.add_bulk([{"name": "job", "data": n} for n in range(3)])
        await there.event("completed", bulk[-1].id)
        await there.stop()
    finally:
        await asyncio.to_thread(peer.stop)


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("made", [Queue, Worker, QueueEvents, FlowProducer])
async def test_prefix_without_hash_tag_is_refused_with_what_to_do(made: Any) -> None:
    arguments = () if made is FlowProducer else ("orders",)
    with pytest.raises(errors.ConfigurationError) as caught:
        made(*arguments, redis="redis+cluster://h1,h2", prefix="bull")
    assert 'prefix="{bull}"' in str(caught.value)
    assert "Node" in str(caught.value)


async def test_plain_url_to_another_node_names_the_cluster_setting(
    cluster: Cluster, queue_name: str
) -> None:
    [other, *_] = cluster.others(PREFIX)
    async with Queue(queue_name, redis=f"redis://{other.node}", prefix=PREFIX) as queue:
        with pytest.raises(errors.RedisError, match="BULLPY_REDIS_CLUSTER") as caught:
            await queue.add("job", 1)
    assert not isinstance(caught.value, errors.RedisUnavailableError)


async def test_cluster_setting_for_a_single_server_is_said_at_once(redis_url: str) -> None:
    url = redis_url.replace("redis://", "redis+cluster://")
    async with Queue("q", redis=url, prefix=PREFIX) as queue:
        with pytest.raises(errors.UnsupportedServerError, match="no node of a cluster"):
            await asyncio.wait_for(queue.add("job", 1), 3.0)


async def test_no_node_reachable_times_producers_out_and_workers_wait(queue_name: str) -> None:
    settings = RedisSettings(cluster=["127.0.0.1:1", "127.0.0.1:2"], command_timeout=0.5)
    async with Queue(queue_name, redis=settings, prefix=PREFIX) as queue:
        with pytest.raises(errors.RedisUnavailableError, match="None of the nodes of the cluster"):
            await queue.add("job", 1)


# -- what moves ----------------------------------------------------------------------------------


async def test_owner_that_dies_and_comes_back_is_used_within_two_seconds(
    cluster: Cluster, queue: Queue, crew: Crew, record_property: Any
) -> None:
    jobs = 200
    await crew.hire(0.1, concurrency=5, lock_duration=10)
    await queue.add_bulk([{"name": "job", "data": number} for number in range(jobs)])
    await crew.ledger.until_completed(10, 5.0)
    owner = cluster.owner(PREFIX)
    owner.kill()
    # Long enough for the others to call the cluster down.
    await eventually(lambda: _is_down(cluster, owner), 10.0)
    before = sum(crew.ledger.completed.values())
    await asyncio.to_thread(owner.start)
    await eventually(lambda: asyncio.to_thread(_works, owner), 15.0)
    came_back = time.monotonic()
    await crew.ledger.until(lambda: sum(crew.ledger.completed.values()) > before, 2.0)
    resumed = time.monotonic() - came_back
    record_property("resumed", resumed)
    print(f"resumed {resumed:.2f} s after the owner served its slots again")
    await crew.ledger.until_completed(jobs, jobs * 0.1 / 5 + 8)
    counts = await queue.get_job_counts()
    assert counts["completed"] == jobs
    assert counts["active"] == counts["failed"] == counts["waiting"] == 0
    # Locks outlived the outage: nothing ran twice.
    assert set(crew.ledger.started.values()) == {1}
    assert not crew.ledger.failed


@pytest.mark.parametrize("way", ["step by step", "at once"])
async def test_slot_that_moves_while_jobs_run_takes_the_worker_along(
    cluster: Cluster, queue: Queue, crew: Crew, queue_name: str, way: str
) -> None:
    jobs = 120
    seen: list[str] = []
    async with QueueEvents(queue_name, redis=cluster.url, prefix=PREFIX) as events:
        events.on("completed", lambda args, _id: seen.append(args["jobId"]))
        await crew.hire(0.05, concurrency=5)
        await queue.add_bulk([{"name": "job", "data": number} for number in range(jobs)])
        await crew.ledger.until_completed(20, 5.0)
        target, *_ = cluster.others(PREFIX)
        loop = asyncio.get_running_loop()
        half_way: list[Any] = []

        def add_half_way() -> None:
            # Producers wait for the slot to have moved; they do not fail.
            adding = asyncio.run_coroutine_threadsafe(queue.add("job", "half-way"), loop)
            half_way.append(adding)

        if way == "at once":
            source = cluster.owner(PREFIX)
            slot, target_id = cluster.slot(PREFIX), target.ask("CLUSTER", "MYID")
            source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target_id)
            add_half_way()
        else:
            await asyncio.to_thread(cluster.migrate, PREFIX, target, before=add_half_way)
        moved_by = time.monotonic()
        await eventually(lambda: _owns(cluster, target), 15.0)
        before = sum(crew.ledger.completed.values())
        await crew.ledger.until(lambda: sum(crew.ledger.completed.values()) > before, 2.0)
        print(f"resumed {time.monotonic() - moved_by:.2f} s after the migration's last command")
        await crew.ledger.until_completed(jobs + 1, jobs * 0.05 / 5 + 8)
        assert (await asyncio.wrap_future(half_way[0])).id in crew.ledger.completed
        await eventually(lambda: _is(len(set(seen)) == jobs + 1), 5.0)
    assert len(seen) == jobs + 1
    counts = await queue.get_job_counts()
    assert counts["completed"] == jobs + 1
    assert counts["active"] == counts["failed"] == counts["waiting"] == 0
    assert set(crew.ledger.started.values()) == {1}
    assert f":{target.port}/" in (await queue.whoami()).url
    assert not crew.ledger.failed


async def test_idle_worker_hears_of_jobs_after_its_slot_moved(
    cluster: Cluster, queue: Queue, crew: Crew
) -> None:
    await crew.hire()
    target, *_ = cluster.others(PREFIX)
    await asyncio.to_thread(cluster.migrate, PREFIX, target)
    for number in range(3):
        added = time.monotonic()
        await queue.add("job", number)
        await crew.ledger.until_completed(number + 1, 2.0)
        print(f"picked up after {time.monotonic() - added:.3f} s")


async def test_locks_are_renewed_across_a_move(cluster: Cluster, queue: Queue, crew: Crew) -> None:
    await crew.hire(4.0, lock_duration=1.5, stalled_interval=1.0)
    job = await queue.add("job", 1)
    await crew.ledger.until(lambda: crew.ledger.started, 3.0)
    target, *_ = cluster.others(PREFIX)
    await asyncio.to_thread(cluster.migrate, PREFIX, target)
    await crew.ledger.until_completed(1, 8.0)
    assert crew.ledger.started[job.id] == 1
    assert not crew.ledger.stalled


async def _is(value: bool) -> bool:
    return value


def _works(node: Server) -> bool:
    return "cluster_state:ok" in str(node.ask("CLUSTER", "INFO"))


async def _owns(cluster: Cluster, node: Server) -> bool:
    return await asyncio.to_thread(cluster.owners, PREFIX) == {node.port}


async def _is_down(cluster: Cluster, dead: Server) -> bool:
    alive = [node for node in cluster.nodes if node is not dead]
    return all([not await asyncio.to_thread(_works, node) for node in alive])


# -- the registry ------------------------------------------------------------------------------


async def test_repairs_and_the_life_of_a_job_stay_in_the_slot_of_the_queue(queue: Queue) -> None:
    job = await abandoned(queue)
    await queue.client.lpush(queue.keys["wait"], "gone")
    await queue.client.set(queue.keys["limiter"], "3")
    await queue.pause()
    done = [
        await repairs.recover_active(queue, dry_run=False, apart=0),
        await repairs.drop_ids(queue, dry_run=False),
        await repairs.release_limiter(queue, dry_run=False),
        await repairs.resume(queue, dry_run=False),
    ]
    assert [report.changes for report in done] == [1, 1, 1, 1]
    assert (await repairs.requeue_orphans(queue, dry_run=False)).found_nothing
    assert (await repairs.retry_failed(queue)).found_nothing
    entries = await repairs.read_log(queue)
    assert [entry.run for entry in entries] == [report.run for report in reversed(done)]
    life = await timeline.read(queue, job.id)
    assert [step.name for step in life.steps][-1] == "stalled"


async def test_records_lie_in_the_slot_of_the_queue_and_node_has_the_same_fingerprint(
    cluster: Cluster, queue: Queue, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BULLPY_HEARTBEAT", "0.2")
    worker = await crew.hire()
    asker = await Asker.open(queue.redisConnection.settings, "test", key=queue.keys["meta"])

    async def known() -> Registry | None:
        found = await registry.read(asker, [(PREFIX, queue.name)])
        listed = queue.name in await registry.queues(asker, PREFIX)
        return found if listed and found.live() else None

    found = await eventually(known, 10)
    await asker.close()
    assert [record.id for record in found.live()] == [worker.id]
    ours = await queue.fingerprint()
    assert found.live()[0].fingerprint == ours.value
    peer = Peer("6", cluster.url)
    peer.start()
    try:
        theirs = await peer.ask("fingerprint", queue=queue.name, prefix=PREFIX)
    finally:
        peer.stop()
    assert theirs["fingerprint"] == ours.value
