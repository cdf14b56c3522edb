"""QueueEvents: what happens to jobs, from whatever worker, without missing anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.implementations import eventually
from support.outcomes import result_of

from bullpy import EmbeddedServer, Job, Queue, QueueEvents, errors

StartWorker = Callable[..., Any]


async def echo(job: Job[Any]) -> Any:
    return job.data


async def test_the_life_of_a_job_is_told_in_order(
    queue: Queue, start_worker: StartWorker, redis_url: str
) -> None:
    async def process(job: Job[Any]) -> Any:
        await job.update_progress([1, "ü"])
        return {"result": job.data}

    await start_worker(process)
    heard: list[tuple[str, Any]] = []
    async with QueueEvents(queue.name, redis=redis_url) as events:
        for event in ("added", "waiting", "active", "progress", "completed"):
            events.on(event, lambda args, _id, event=event: heard.append((event, args)))
        own: list[Any] = []
        job_id = "my-job"
        events.on(f"completed:{job_id}", lambda args, _id: own.append(args["returnvalue"]))
        await queue.add("n", 7, job_id=job_id)
        await eventually(lambda: own)
    assert own == [{"result": 7}]
    assert [event for event, _ in heard] == ["added", "waiting", "active", "progress", "completed"]
    assert heard[3][1]["data"] == [1, "ü"]
    assert heard[4][1]["returnvalue"] == {"result": 7}
    assert all(args["jobId"] == job_id for _, args in heard)


async def test_delay_is_a_number_and_drained_carries_the_id_alone(
    queue: Queue, start_worker: StartWorker, redis_url: str
) -> None:
    async with QueueEvents(queue.name, redis=redis_url) as events:
        delays: list[Any] = []
        drained: list[Any] = []
        events.on("delayed", lambda args, _id: delays.append(args["delay"]))
        events.on("drained", lambda *args: drained.append(args))
        job = await queue.add("n", {}, delay=0.05)
        await start_worker(echo)
        await result_of(job)
        await eventually(lambda: delays and drained)
    assert isinstance(delays[0], int)
    assert len(drained[0]) == 1


async def test_following_may_begin_at_the_beginning_or_after_an_event(
    queue: Queue, redis_url: str
) -> None:
    ids = [(await queue.add("n", number)).id for number in range(3)]
    seen: list[tuple[str, str]] = []
    async with QueueEvents(queue.name, redis=redis_url, last_event_id="0-0") as events:
        events.on("added", lambda args, event_id: seen.append((args["jobId"], event_id)))
        await eventually(lambda: len(seen) == 3)
    assert [job_id for job_id, _ in seen] == ids
    again: list[str] = []
    async with QueueEvents(queue.name, redis=redis_url, last_event_id=seen[0][1]) as events:
        events.on("added", lambda args, _id: again.append(args["jobId"]))
        await eventually(lambda: len(again) == 2)
    assert again == ids[1:]


async def test_no_event_of_an_outage_is_missed(own_server: EmbeddedServer, queue_name: str) -> None:
    """What happened while the connection was away is told afterwards."""
    seen: list[str] = []
    async with (
        Queue(queue_name, redis=own_server.url) as queue,
        QueueEvents(queue_name, redis=own_server.url) as events,
    ):
        events.on("added", lambda args, _id: seen.append(args["jobId"]))
        first = await queue.add("n", {})
        await eventually(lambda: seen)
        cut = asyncio.Event()
        events.on("error", lambda error: cut.set())
        names = {client["id"]: client["name"] for client in await queue.client.client_list()}
        follower = next(number for number, name in names.items() if name.endswith(":qe"))
        # In one transaction, so that no reconnection comes between.
        async with queue.client.pipeline(transaction=True) as pipe:
            pipe.client_kill_filter(_id=follower)
            pipe.xadd(queue.keys["events"], {"event": "added", "jobId": "while away"})
            await pipe.execute()
        async with asyncio.timeout(3):
            await cut.wait()
        await eventually(lambda: len(seen) == 2)
    assert seen == [first.id, "while away"]


async def test_listeners_that_raise_end_nothing(queue: Queue, redis_url: str) -> None:
    heard: list[str] = []

    async def broken_too(args: Any, _id: str) -> None:
        heard.append("async")
        raise RuntimeError("broken")

    def broken(args: Any, _id: str) -> None:
        heard.append("sync")
        raise RuntimeError("broken")

    async with QueueEvents(queue.name, redis=redis_url) as events:
        events.on("added", broken)
        events.on("added", broken_too)
        await queue.add("n", 1)
        await queue.add("n", 2)
        await eventually(lambda: len(heard) == 4)
        assert events.running


@pytest.mark.parametrize("turns", range(0, 40, 4))
async def test_closing_at_any_moment_ends_at_once(
    redis_url: str, queue_name: str, turns: int
) -> None:
    """Also while a command is being sent, where redis-py may swallow the cancellation."""
    events = QueueEvents(queue_name, redis=redis_url)
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(2):
        await events.close()
        await events.close()
    assert events.closed
    assert not events.running


@pytest.mark.parametrize("adds", range(6))
async def test_closing_while_events_arrive_ends_at_once(
    queue: Queue, redis_url: str, adds: int
) -> None:
    seen: list[str] = []
    events = QueueEvents(queue.name, redis=redis_url)
    await events.wait_until_ready()
    events.on("added", lambda args, _id: seen.append(args["jobId"]))
    for _ in range(adds + 1):
        await queue.add("n", {})
    await eventually(lambda: seen)
    async with asyncio.timeout(2):
        await events.close()


async def test_running_twice_is_refused(redis_url: str, queue_name: str) -> None:
    async with QueueEvents(queue_name, redis=redis_url) as events:
        with pytest.raises(errors.WorkerStateError, match="already running"):
            await events.run()


def test_events_may_be_created_before_any_loop_runs(redis_url: str, queue_name: str) -> None:
    events = QueueEvents(queue_name, redis=redis_url)

    async def follow() -> list[str]:
        seen: list[str] = []
        events.on("added", lambda args, _id: seen.append(args["jobId"]))
        async with events, Queue(queue_name, redis=redis_url) as queue:
            job = await queue.add("n", {})
            await eventually(lambda: seen)
            await queue.obliterate(force=True)
        return [job.id, *seen]

    added, heard = asyncio.run(follow())
    assert added == heard
