"""The life of a job: told from its events and its hash, with both clocks, and followed live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.repairing import abandoned, everything

from bullpy import FlowProducer, Job, Queue, errors, repairs, timeline
from bullpy.cli.jobtext import life_lines, step_line
from bullpy.following import Follower
from bullpy.joblife import JobLife, Step


def names(life: JobLife) -> list[str]:
    return [step.name for step in life.steps]


async def test_a_completed_job_is_told_from_beginning_to_end(
    queue: Queue, start_worker: Any
) -> None:
    async def process(job: Job[Any]) -> str:
        for percent in (10, 50, 90):
            await job.update_progress(percent)
        await job.log("a line")
        return "the result"

    job = await queue.add("send", {"secret": "data"})
    worker = await start_worker(process)
    await job.wait_until_finished(10)
    await worker.close()
    before = await everything(queue)
    life = await timeline.read(queue, job.id)
    assert names(life) == ["created", "waiting", "active", "progress", "completed"]
    created, _, active, progress, completed = life.steps
    assert active.details == {"from": "waiting", "attempt": "1", "worker": worker.workerName}
    assert (progress.details, progress.times) == ({"progress": "90"}, 3)
    assert life.reaches_back
    assert all(abs(step.skew) < 1 for step in life.steps)
    assert created.process_at == job.timestamp
    assert completed.process_at
    assert completed.after is not None
    assert completed.after >= 0
    assert (life.state, life.logs, life.starts, life.ending) == ("completed", 1, 1, "completed")
    assert life.sizes == {"data": 17, "returnvalue": 12}
    told = str(life.as_dict()) + "\n".join(life_lines(life, timeline=True))
    assert "secret" not in told
    assert "the result" not in told
    with_data = (await timeline.read(queue, job.id, with_data=True)).as_dict()
    assert with_data["data"] == {"data": {"secret": "data"}, "returnvalue": "the result"}
    assert await everything(queue) == before


async def test_delays_stalls_retries_and_failures_are_steps(
    queue: Queue, start_worker: Any
) -> None:
    async def process(job: Job[Any]) -> None:
        raise ValueError("no redis://u:hunter2@h/1 token=abc123")

    job = await queue.add("send", delay=0.01, attempts=2, backoff=0.01)
    await start_worker(process)
    with pytest.raises(errors.JobFailedError):
        await job.wait_until_finished(10)
    await repairs.retry_failed(queue, dry_run=False, everything=True)
    async with asyncio.timeout(10):
        while (await timeline.read(queue, job.id)).attempts_made < 3:
            await queue.client.ping()
    life = await timeline.read(queue, job.id)
    assert [n for n in names(life) if n != "retries-exhausted"] == [
        *("created", "delayed", "waiting", "active", "delayed", "waiting", "active", "failed"),
        *("retried", "active", "failed"),
    ]
    starts = [step.details["attempt"] for step in life.steps if step.name == "active"]
    assert starts == ["1", "2", "3"]
    assert (life.attempts, life.attempts_made, life.state) == (2, 3, "failed")
    due = int(life.steps[1].details["due"])
    assert abs(due - life.steps[0].at - 10) < 1000
    told = str(life.as_dict()) + "\n".join(life_lines(life, timeline=True))
    assert "no redis://" in told
    assert "hunter2" not in told
    assert "abc123" not in told


async def test_a_running_job_shows_its_worker_and_lock_and_a_lost_one_that_it_stalled(
    queue: Queue, start_worker: Any
) -> None:
    job = await abandoned(queue)
    await repairs.recover_active(queue, dry_run=False, apart=0)
    running, go = asyncio.Event(), asyncio.Event()

    async def process(job: Job[Any]) -> None:
        running.set()
        await go.wait()

    worker = await start_worker(process)
    async with asyncio.timeout(10):
        await running.wait()
    life = await timeline.read(queue, job.id)
    assert names(life) == ["created", "waiting", "waiting", "stalled", "active"]
    assert (life.worker, life.stalls, life.state) == (worker.workerName, 1, "active")
    assert life.lock
    assert life.lock_for is not None
    assert 0 < life.lock_for <= 30
    assert any(line.startswith("  lock ") for line in life_lines(life, timeline=False))
    go.set()
    await job.wait_until_finished(10)


async def test_clocks_that_are_wrong_are_told_as_skew(queue: Queue) -> None:
    job = await abandoned(queue)
    events = queue.keys["events"]
    await queue.client.xadd(events, {"event": "active", "jobId": job.id, "prev": "waiting"})
    slow = {"timestamp": job.timestamp + 600_000, "processedOn": job.timestamp - 300_000}
    await queue.client.hset(queue.backend.toKey(job.id), mapping=slow)
    life = await timeline.read(queue, job.id)
    created, _, active = life.steps
    assert active.event_id
    assert created.skew == pytest.approx(600, abs=5)
    assert active.skew == pytest.approx(-300, abs=5)
    lines = "\n".join(life_lines(life, timeline=True))
    assert "s ahead)" in lines
    assert "s behind)" in lines


async def test_a_start_whose_event_is_missing_stands_after_the_creation(queue: Queue) -> None:
    job = await abandoned(queue)
    key = queue.backend.toKey(job.id)
    await queue.client.hset(key, "processedOn", job.timestamp - 300_000)
    assert names(await timeline.read(queue, job.id)) == ["created", "active", "waiting"]
    await queue.client.xtrim(queue.keys["events"], maxlen=0, approximate=False)
    await queue.client.xadd(queue.keys["events"], {"event": "stalled", "jobId": job.id})
    assert names(await timeline.read(queue, job.id)) == ["created", "active", "stalled"]


async def test_what_the_stream_has_dropped_is_told_from_the_hash(queue: Queue) -> None:
    job = await abandoned(queue)
    key = queue.backend.toKey(job.id)
    done = {"finishedOn": job.timestamp + 7_005, "returnvalue": "1", "atm": 1}
    await queue.client.hset(key, mapping=done)
    await queue.client.lrem(queue.keys["active"], 0, job.id)
    await queue.client.zadd(queue.keys["completed"], {job.id: 1})
    await queue.client.xtrim(queue.keys["events"], maxlen=0, approximate=False)
    await queue.add("another")
    life = await timeline.read(queue, job.id)
    told = [(step.name, step.clock, step.after) for step in life.steps]
    assert told == [
        ("created", "producer", None),
        ("active", "worker", None),
        ("completed", "worker", 7.0),
    ]
    assert not life.reaches_back
    text = "\n".join(life_lines(life, timeline=True))
    assert "the 2 events that were searched begin at" in text
    assert "(by the producer's clock; its event is not kept)" in text
    assert "ran 7.000 s" in text


async def test_a_job_that_is_gone_is_told_from_its_events_alone(
    queue: Queue, start_worker: Any
) -> None:
    job = await queue.add("send", remove_on_complete=True)
    await start_worker(lambda job: None)
    async with asyncio.timeout(10):
        while await queue.get_job(job.id) is not None:
            await queue.client.ping()
    life = await timeline.read(queue, job.id)
    assert (life.exists, life.ending) == (False, "completed")
    assert names(life) == ["created", "waiting", "active", "completed"]
    assert "gone" in next(life_lines(life, timeline=False))
    assert (await timeline.read(queue, "never")).steps == []


async def test_only_the_last_life_of_an_id_is_told(queue: Queue) -> None:
    for _ in range(2):
        job = await queue.add("send", job_id="same")
        await job.remove()
    await queue.add("send", job_id="same")
    await queue.add("send", job_id="same")
    assert names(await timeline.read(queue, "same")) == ["created", "waiting", "duplicated"]


@pytest.mark.parametrize("job_id", ["", "meta", "wait", "x\n\x1b[31m", "ünï", "*", "a:b:c"])
async def test_odd_ids_do_no_harm(queue: Queue, job_id: str) -> None:
    await queue.add("send")
    await queue.client.lpush(queue.keys["wait"], job_id)
    await queue.client.xadd(queue.keys["events"], {"event": "stalled\x1b[31m", "jobId": job_id})
    life = await timeline.read(queue, job_id)
    lines = "\n".join(life_lines(life, timeline=True))
    assert "\x1b" not in lines
    assert life.as_dict()["id"] == job_id


async def test_the_search_is_bounded_and_finds_what_is_far_back(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await queue.add("send")
    await queue.add_bulk([{"name": "j"} for _ in range(300)])
    life = await timeline.read(queue, job.id)
    assert (names(life), life.searched) == (["created", "waiting"], 602)
    monkeypatch.setattr(timeline, "WINDOW", 200)
    life = await timeline.read(queue, job.id)
    assert ([step.clock for step in life.steps], life.searched) == (["producer"], 200)


async def test_a_parent_shows_that_it_waits(queue: Queue, redis_url: str) -> None:
    async with FlowProducer(redis=redis_url) as flows:
        child = {"name": "child", "queueName": queue.name}
        flow = await flows.add({"name": "p", "queueName": queue.name, "children": [child]})
    parent = await timeline.read(queue, flow["job"].id)
    child_life = await timeline.read(queue, flow["children"][0]["job"].id)
    assert (parent.children, parent.state) == (1, "waiting-children")
    assert child_life.parent == f"bull:{queue.name}:{flow['job'].id}"


# -- following -----------------------------------------------------------------------------


async def told(steps: AsyncIterator[Step], on_step: Callable[[Step], None]) -> list[Step]:
    found: list[Step] = []
    async with asyncio.timeout(15):
        async for step in steps:
            found.append(step)
            on_step(step)
    return found


async def test_a_job_is_followed_from_its_past_to_its_end(queue: Queue, start_worker: Any) -> None:
    going, ready = asyncio.Event(), asyncio.Event()

    async def process(job: Job[Any]) -> None:
        await going.wait()
        await job.update_progress(50)

    job = await queue.add("send")
    follower = Follower(queue, job.id)

    def on_step(step: Step) -> None:
        if step.name == "waiting":
            ready.set()
        if step.name == "active":
            going.set()

    following = asyncio.create_task(told(follower.steps(), on_step))
    await ready.wait()
    worker = await start_worker(process)
    steps = await following
    assert [step.name for step in steps] == [
        "created",
        "waiting",
        "active",
        "progress",
        "completed",
    ]
    assert follower.ending == "completed"
    assert steps[2].details["worker"] == worker.workerName
    assert steps[2].details["attempt"] == "1"
    assert steps[4].process_at
    assert all(step.after is not None for step in steps[1:])
    assert all(step_line(step) for step in steps)


@pytest.mark.parametrize(
    ("options", "ending"),
    [({}, "failed"), ({"remove_on_fail": True}, "failed"), ({"delay": 60}, "gone")],
)
async def test_the_end_is_told_however_it_comes(
    queue: Queue, start_worker: Any, options: dict[str, Any], ending: str
) -> None:
    async def process(job: Job[Any]) -> None:
        raise ValueError("boom")

    job = await queue.add("send", **options)
    follower = Follower(queue, job.id)
    ready = asyncio.Event()
    following = asyncio.create_task(told(follower.steps(), lambda step: ready.set()))
    await ready.wait()
    if ending == "gone":
        await job.remove()
    else:
        await start_worker(process)
    steps = await following
    assert follower.ending == ending
    assert [step.name for step in steps if step.name in ("failed", "removed")] == [
        "removed" if ending == "gone" else "failed"
    ]


async def test_a_job_that_has_ended_is_told_at_once_and_one_that_never_was_is_an_error(
    queue: Queue, start_worker: Any
) -> None:
    job = await queue.add("send")
    await start_worker(lambda job: None)
    await job.wait_until_finished(10)
    follower = Follower(queue, job.id)
    steps = await told(follower.steps(), lambda step: None)
    assert (steps[-1].name, follower.ending) == ("completed", "completed")
    with pytest.raises(errors.JobNotFoundError, match="There is no job never"):
        await told(Follower(queue, "never").steps(), lambda step: None)
