"""Queue: adding jobs, looking at them, and steering the queue."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from support.outcomes import failure_of, result_of

from bullpy import Backoff, Job, KeepJobs, Queue, errors

StartWorker = Callable[..., Any]


async def echo(job: Job[Any]) -> Any:
    if job.data == "fail":
        raise ValueError("boom")
    return job.data


# -- adding --------------------------------------------------------------------------------------


async def test_options_reach_the_wire_in_bullmqs_spelling(queue: Queue) -> None:
    created = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    job = await queue.add(
        "n",
        {"x": "ü"},
        delay=60,
        priority=3,
        attempts=4,
        backoff=Backoff.exponential(2, jitter=0.5),
        remove_on_complete=KeepJobs(count=10, age=60),
        remove_on_fail=True,
        timestamp=created,
        keep_logs=5,
    )
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert stored.opts["backoff"] == {"type": "exponential", "delay": 2000, "jitter": 0.5}
    assert stored.opts["removeOnComplete"] == {"count": 10, "age": 60}
    assert stored.opts["removeOnFail"] is True
    assert (stored.opts["attempts"], stored.opts["delay"]) == (4, 60_000)
    assert (stored.priority, stored.delay) == (3, 60_000)
    assert stored.timestamp == 1767312000000
    # UTF-8, not escapes: half the size for most of the world.
    assert await queue.client.hget(queue.toKey(job.id), "data") == '{"x":"ü"}'


async def test_keywords_win_over_opts_and_opts_over_defaults(
    redis_url: str, queue_name: str
) -> None:
    defaults: Any = {"attempts": 2, "delay": 1}
    async with Queue(queue_name, redis=redis_url, default_job_options=defaults) as queue:
        job = await queue.add("n", {}, {"attempts": 3, "lifo": True}, delay=5)
        assert job.opts["attempts"] == 3
        assert job.opts["lifo"] is True
        assert job.opts["delay"] == 5000
        await queue.obliterate(force=True)


async def test_unknown_option_is_refused_and_nothing_is_added(queue: Queue) -> None:
    unknown: dict[str, Any] = {"prioriti": 1}
    with pytest.raises(errors.InvalidJobOptionsError, match="prioriti"):
        await queue.add("n", {}, **unknown)
    with pytest.raises(errors.EncodingError):
        await queue.add("n", {"handle": object()})
    assert await queue.count() == 0


async def test_same_id_is_added_once(queue: Queue) -> None:
    first = await queue.add("n", 1, job_id="order-7")
    second = await queue.add("n", 2, job_id="order-7")
    assert first.id == second.id == "order-7"
    assert await queue.count() == 1
    stored = await queue.get_job("order-7")
    assert stored is not None
    assert stored.data == 1


async def test_bulk_adds_in_order(queue: Queue, start_worker: StartWorker) -> None:
    order: list[int] = []

    async def process(job: Job[int]) -> None:
        order.append(job.data)

    jobs = await queue.add_bulk([{"name": "n", "data": number, "opts": {}} for number in range(50)])
    assert len({job.id for job in jobs}) == 50
    await start_worker(process)
    await result_of(jobs[-1])
    assert order == list(range(50))
    assert await queue.add_bulk([]) == []


async def test_missing_parent_is_told(queue: Queue) -> None:
    parent = {"id": "not-there", "queue": queue.qualifiedName}
    with pytest.raises(errors.JobNotFoundError, match="Missing key for parent job"):
        await queue.add("n", {}, parent=parent)
    with pytest.raises(errors.JobNotFoundError, match=f"{queue.qualifiedName}:not-there"):
        await queue.add_bulk([{"name": "n", "data": {}, "opts": {"parent": parent}}])


async def test_jobs_are_added_to_a_server_that_forgot_its_scripts(queue: Queue) -> None:
    for number in range(2):
        await queue.add("n", number)
        await queue.client.script_flush()
        await queue.add("n", number, priority=1)
        await queue.client.script_flush()
        await queue.add_bulk(
            [{"name": "n", "data": 1}, {"name": "n", "data": 2, "opts": {"delay": 60_000}}] * 2
        )
        await queue.client.script_flush()
    assert await queue.get_job_counts("waiting", "prioritized", "delayed") == {
        "waiting": 6,
        "prioritized": 2,
        "delayed": 4,
    }


async def test_options_that_exclude_each_other_are_refused(queue: Queue) -> None:
    opts = {"failParentOnFailure": True, "ignoreDependencyOnFailure": True}
    with pytest.raises(errors.InvalidJobOptionsError, match="together"):
        await queue.add("n", 1, opts)
    with pytest.raises(errors.InvalidJobOptionsError, match="together"):
        await queue.add_bulk([{"name": "n", "data": 1}, {"name": "n", "data": 1, "opts": opts}])
    assert await queue.count() == 0


async def test_priorities_and_lifo_decide_the_order(
    queue: Queue, start_worker: StartWorker
) -> None:
    order: list[str] = []

    async def process(job: Job[str]) -> None:
        order.append(job.data)

    await queue.pause()
    last = await queue.add("n", "p9", priority=9)
    await queue.add("n", "p1", priority=1)
    await queue.add("n", "plain")
    await queue.add("n", "lifo", lifo=True)
    await queue.resume()
    await start_worker(process)
    await result_of(last)
    assert order == ["lifo", "plain", "p1", "p9"]


@pytest.mark.parametrize("name", ["", "  ", "a:b"])
def test_queue_names_that_node_refuses_are_refused(name: str, redis_url: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="queue name"):
        Queue(name, redis=redis_url)


# -- looking -------------------------------------------------------------------------------------


async def test_counts_states_and_lists(queue: Queue, start_worker: StartWorker) -> None:
    await queue.add("n", 1, delay=60)
    await queue.add("n", 2, priority=1)
    waiting = await queue.add("n", 3)
    assert await queue.get_job_counts("wait", "delayed", "prioritized", "failed") == {
        "wait": 1,
        "delayed": 1,
        "prioritized": 1,
        "failed": 0,
    }
    assert await queue.count() == 3
    assert await queue.get_job_state(waiting.id) == "wait"
    assert await queue.get_job_state("not-there") == "unknown"
    assert await queue.get_job("not-there") is None
    assert [job.data for job in await queue.get_jobs(["wait"])] == [3]
    assert {job.data for job in await queue.get_jobs()} == {1, 2, 3}
    await start_worker(echo)
    await result_of(waiting)
    assert [job.data for job in await queue.getJobs(["completed"], 0, 0)] in ([2], [3])


async def test_whoami_tells_which_server_it_is(queue: Queue, server: Any) -> None:
    assert (await queue.whoami()).run_id == server.run_id


# -- steering ------------------------------------------------------------------------------------


async def test_failed_jobs_can_be_retried_and_cleaned(
    queue: Queue, start_worker: StartWorker
) -> None:
    await start_worker(echo)
    job = await queue.add("n", "fail")
    await failure_of(job)
    await job.update_data("fine now")
    await queue.retry_jobs()
    assert await result_of(job) == "fine now"
    told: list[Any] = []
    queue.on("cleaned", lambda ids, state: told.append((ids, state)))
    assert await queue.clean() == [job.id]
    assert told == [([job.id], "completed")]
    assert await queue.get_job(job.id) is None


async def test_waiting_jobs_can_be_cleaned(queue: Queue) -> None:
    ids = [(await queue.add("n", number)).id for number in range(3)]
    assert sorted(await queue.clean(0, 100, "waiting")) == sorted(ids)
    assert await queue.count() == 0


async def test_paused_queue_gives_no_jobs_and_loses_none(
    queue: Queue, start_worker: StartWorker
) -> None:
    await start_worker(echo)
    await queue.pause()
    assert await queue.is_paused()
    job = await queue.add("n", 1)
    delayed = await queue.add("n", 2, delay=60)
    await queue.promote_jobs()
    assert await queue.get_job_state(job.id) in ("wait", "paused")
    await queue.resume()
    assert [await result_of(job), await result_of(delayed)] == [1, 2]


async def test_global_limits_can_be_set_read_and_removed(queue: Queue) -> None:
    assert await queue.get_global_concurrency() is None
    await queue.set_global_concurrency(3)
    assert await queue.get_global_concurrency() == 3
    await queue.remove_global_concurrency()
    assert await queue.get_global_concurrency() is None
    with pytest.raises(errors.ConfigurationError):
        await queue.set_global_concurrency(0)
    await queue.set_global_rate_limit(5, 1.5)
    assert await queue.client.hmget(queue.keys["meta"], "max", "duration") == ["5", "1500"]
    await queue.remove_global_rate_limit()


async def test_closing_twice_is_fine_and_one_connection_serves_all(
    redis_url: str, queue: Queue
) -> None:
    others = [Queue(queue.name, redis=redis_url) for _ in range(3)]
    for other in others:
        await other.add("n", 1)
        assert other.shared is queue.shared
    for other in others:
        await other.close()
        await other.close()
    assert await queue.count() == 3
