"""`job.once`: a step that was done is not done again, whatever happens to the run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import in_children
from support.faults import Program, eventually
from support.outcomes import failure_of
from support.proxy import Proxy

from bullpy import Queue, Worker, errors

KINDS = ["loop", "thread", "process", "async in a process"]


def functions(kind: str, plain: Any, is_async: Any) -> tuple[Callable[..., Any], str]:
    """The processor and its isolation."""
    if kind == "async in a process":
        return is_async, "process"
    return (is_async if kind == "loop" else plain), kind


async def hire(start_worker: Any, queue: Queue, function: Any, isolation: str) -> Worker:
    made = Worker(queue.name, redis=queue.redisConnection.settings)
    made.processor(isolation=isolation)(function)
    await start_worker(worker=made)
    return made


def done(folder: Path) -> list[str]:
    file = folder / "steps"
    return file.read_text().split() if file.exists() else []


@pytest.mark.parametrize("kind", KINDS)
async def test_step_is_not_done_again_on_a_retry(
    queue: Queue, start_worker: Any, tmp_path: Path, kind: str
) -> None:
    chosen = functions(kind, in_children.in_steps, in_children.in_steps_async)
    await hire(start_worker, queue, *chosen)
    job = await queue.add("job", {"folder": str(tmp_path)}, attempts=2)
    assert await job.wait_until_finished(10) == {"a": [1, 2]}
    assert done(tmp_path) == ["first", "second"]
    stored = await queue.client.hgetall(queue.toKey(job.id))
    assert stored["bullpy:once:first"] == '{"a":[1,2]}'
    assert stored["bullpy:once:second"] == "null"
    found = await queue.get_job(job.id)
    assert found is not None
    assert found.attempts_made == 2


@pytest.mark.parametrize("kind", ["loop", "process"])
async def test_steps_stay_when_a_failed_job_is_retried_by_hand_and_go_with_it(
    queue: Queue, start_worker: Any, tmp_path: Path, kind: str
) -> None:
    chosen = functions(kind, in_children.in_steps, in_children.in_steps_async)
    await hire(start_worker, queue, *chosen)
    job = await queue.add("job", {"folder": str(tmp_path)})
    assert "between the steps" in await failure_of(job)
    await job.retry("failed")

    async def completed() -> bool:
        return await job.get_state() == "completed"

    await eventually(completed, 5.0)
    assert done(tmp_path) == ["first", "second"]
    await job.remove()
    assert not await queue.client.exists(queue.toKey(job.id))


WORKER = """
import os
from bullpy import Worker, run
from support.in_children import in_steps

worker = Worker(
    os.environ["QUEUE"], redis=os.environ["REDIS"], lock_duration=1.0, stalled_interval=0.25
)
worker.processor(isolation=os.environ["ISOLATION"])(in_steps)
worker.on("ready", lambda: print("ready", flush=True))
run(worker)
"""


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_step_outlives_its_worker(
    own_server: Any, direct: Queue, tmp_path: Path, isolation: str
) -> None:
    tests = Path(__file__).parents[1]
    environment = {
        "QUEUE": direct.name,
        "REDIS": own_server.url,
        "ISOLATION": isolation,
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]),
    }
    job = await direct.add("job", {"folder": str(tmp_path), "hang": True})

    async def between_the_steps() -> bool:
        return (tmp_path / "failed").exists()

    async with Program(WORKER, **environment) as program:
        await program.says("ready")
        await eventually(between_the_steps, 10.0)
        program.signal(signal.SIGKILL)
        await program.ends(5.0)
    async with Program(WORKER, **environment) as program:
        await program.says("ready")
        assert await job.wait_until_finished(15) == {"a": [1, 2]}
        program.signal(signal.SIGTERM)
        assert await program.ends(5.0) == 0
    assert done(tmp_path) == ["first", "second"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("wrong", "reason"), [("large", "the limit is 65536"), ("object", "has no JSON form")]
)
async def test_result_that_cannot_be_stored_fails_the_job_once(
    queue: Queue, start_worker: Any, tmp_path: Path, kind: str, wrong: str, reason: str
) -> None:
    chosen = functions(kind, in_children.in_wrong_steps, in_children.in_wrong_steps_async)
    await hire(start_worker, queue, *chosen)
    job = await queue.add("job", {"folder": str(tmp_path), "kind": wrong}, attempts=3)
    told = await failure_of(job, 10)
    assert reason in told or "JSON" in told
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert stored.attempts_made == 1
    assert not await queue.client.hexists(queue.toKey(job.id), "bullpy:once:step")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["", "x" * 201, 7, None], ids=["empty", "long", "number", "none"])
async def test_what_is_no_name_is_refused_before_anything_is_done(
    queue: Queue, start_worker: Any, tmp_path: Path, kind: str, name: Any
) -> None:
    chosen = functions(kind, in_children.in_wrong_steps, in_children.in_wrong_steps_async)
    await hire(start_worker, queue, *chosen)
    job = await queue.add("job", {"folder": str(tmp_path), "kind": "name", "name": name})
    assert "is no name for a step" in await failure_of(job, 10)
    assert not done(tmp_path)


@pytest.mark.parametrize("kind", ["thread", "process"])
async def test_async_step_in_a_plain_processor_is_refused(
    queue: Queue, start_worker: Any, tmp_path: Path, kind: str
) -> None:
    await hire(start_worker, queue, in_children.in_wrong_steps, kind)
    job = await queue.add("job", {"folder": str(tmp_path), "kind": "async"})
    assert "is async, and this processor is not" in await failure_of(job, 10)


async def test_job_that_is_not_processed_has_no_steps(queue: Queue) -> None:
    job = await queue.add("job", {})
    with pytest.raises(errors.WorkerStateError, match="not being processed"):
        await job.once("step", lambda: None)


async def test_steps_are_stored_under_the_lock_alone(
    queue: Queue, start_worker: Any, next_event: Any
) -> None:
    raised: list[BaseException] = []

    async def process(job: Any) -> None:
        key = queue.toKey(job.id)
        if job.data == "removed":
            await queue.client.delete(key)
        else:
            await queue.client.set(f"{key}:lock", "thief:1")
        try:
            await job.once("step", lambda: 1)
        except errors.BullpyError as error:
            raised.append(error)
            raise

    await start_worker(process, concurrency=2)
    for data in ("removed", "stolen"):
        job = await queue.add("job", data)

        async def has_raised(count: int = len(raised)) -> bool:
            return len(raised) > count

        await eventually(has_raised, 5.0)
        assert not await queue.client.hexists(queue.toKey(job.id), "bullpy:once:step")
    assert [type(error) for error in raised] == [errors.JobNotFoundError, errors.LockLostError]


async def test_known_steps_cost_no_command(proxy: Proxy, direct: Queue, crew: Any) -> None:
    counts: list[int] = []

    async def work(job: Any) -> None:
        before = sum(proxy.commands.values())
        for number in range(20):
            await job.once(f"step {number}", lambda: 1)
        counts.append(sum(proxy.commands.values()) - before)
        if len(counts) == 1:
            raise ValueError("once more")

    await crew.hire(work)
    await direct.add("job", 1, attempts=2)
    await crew.ledger.until_completed(1, 5.0)
    assert counts[0] >= 20
    assert counts[1] <= 2  # the worker's own


async def test_step_is_held_until_redis_takes_it(proxy: Proxy, direct: Queue, crew: Any) -> None:
    steps: list[int] = []
    away = asyncio.Event()

    async def work(job: Any) -> Any:
        async def step() -> int:
            steps.append(1)
            await proxy.refuse()
            proxy.cut()
            away.set()
            return len(steps)

        return await job.once("step", step)

    await crew.hire(work, redis={"command_timeout": 0.3})
    job = await direct.add("job", 1, attempts=3)
    await asyncio.wait_for(away.wait(), 3.0)
    with pytest.raises(AssertionError):
        await crew.ledger.until(lambda: crew.ledger.completed or crew.ledger.failed, 1.0)
    await proxy.accept()
    await crew.ledger.until_completed(1, 5.0)
    assert steps == [1]
    assert crew.ledger.started == {job.id: 1}
    assert not crew.ledger.failed


async def test_step_whose_reply_is_lost_is_stored_and_done_once(
    proxy: Proxy, direct: Queue, crew: Any
) -> None:
    steps: list[int] = []

    async def work(job: Any) -> Any:
        return await job.once("step", lambda: steps.append(1))

    await crew.hire(work)
    # bullpy's own scripts come by their text where the server does not know them yet.
    rule = proxy.lose_reply("EVAL")
    job = await direct.add("job", 1, attempts=3)
    await crew.ledger.until_completed(1, 5.0)
    assert rule.hits == 1
    assert steps == [1]
    assert crew.ledger.started == {job.id: 1}
    assert await direct.client.hget(direct.toKey(job.id), "bullpy:once:step") == "null"
