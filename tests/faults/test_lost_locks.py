"""A worker that has lost a job stops running it, and stores nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faults import Ledger, eventually
from support.in_children import loses_its_lock, loses_its_lock_async

from bullpy import Queue, StopReason, Worker, WorkerSettings, errors

ISOLATIONS = ["loop", "thread", "process"]


class Pair:
    """A worker that runs the job, and one that takes over what stalls."""

    def __init__(self, queue: Queue, isolation: str, start_worker: Any) -> None:
        self.ledger = Ledger()
        self._queue = queue
        self._start = start_worker
        self._function = loses_its_lock_async if isolation == "loop" else loses_its_lock
        self._isolation = isolation

    async def hire(self) -> Worker:
        settings = WorkerSettings(lock_duration=1.0, stalled_interval=0.2, stop_grace=0.5)
        made = Worker(
            self._queue.name, redis=self._queue.redisConnection.settings, settings=settings
        )
        made.processor(isolation=self._isolation)(self._function)
        self.ledger.watch(made)
        await self._start(worker=made)
        return made


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where processors look whether the test is over."""
    yield tmp_path
    (tmp_path / "over").touch()


def runs(folder: Path) -> int:
    file = folder / "runs"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.parametrize("deaf", [False, True], ids=["looks", "deaf"])
@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_job_that_another_worker_took_over_is_stopped_and_finished_once(
    queue: Queue, folder: Path, start_worker: Any, isolation: str, deaf: bool
) -> None:
    pair = Pair(queue, isolation, start_worker)
    first = await pair.hire()
    job = await queue.add("job", {"folder": str(folder), "deaf": deaf})

    async def has_begun() -> bool:
        return runs(folder) == 1

    await eventually(has_begun, 5.0)
    # As if this worker had been away from Redis for longer than the lock.
    await queue.client.delete(f"{queue.toKey(job.id)}:lock")
    await pair.hire()
    await pair.ledger.until_completed(1, 10.0)

    async def first_has_let_go() -> bool:
        return not first.active_jobs or first.active_jobs[0].stop_reason is not None

    await eventually(first_has_let_go, 5.0)
    (folder / "over").touch()

    async def first_is_idle() -> bool:
        return not first.active_jobs

    await eventually(first_is_idle, 5.0)
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert await stored.get_state() == "completed"
    assert stored.return_value == "second"
    assert stored.attempts_made == 1
    assert runs(folder) == 2
    assert pair.ledger.completed == {job.id: 1}
    assert not pair.ledger.failed
    assert any(isinstance(error, errors.LockLostError) for _, error in pair.ledger.errors)


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_processor_hears_why_it_is_stopped(
    queue: Queue, folder: Path, start_worker: Any, isolation: str
) -> None:
    pair = Pair(queue, isolation, start_worker)
    worker = await pair.hire()
    job = await queue.add("job", {"folder": str(folder), "deaf": False})

    async def has_begun() -> bool:
        return runs(folder) == 1

    await eventually(has_begun, 5.0)
    # Another worker holds the job from here on.
    await queue.client.set(f"{queue.toKey(job.id)}:lock", "thief:1")

    async def has_noted() -> bool:
        return (folder / "stopped").exists() and not worker.active_jobs

    await eventually(has_noted, 5.0)
    assert (folder / "stopped").read_text() == "lock-lost"
    assert await queue.client.get(f"{queue.toKey(job.id)}:lock") == "thief:1"
    assert await job.get_state() == "active"
    assert not pair.ledger.completed
    assert not pair.ledger.failed


async def test_late_word_of_a_lost_lock_does_not_stop_the_jobs_next_run(
    direct: Queue, crew: Any
) -> None:
    """The renewal that was under way tells of the first run's lock when the second has begun."""
    tokens: list[str] = []
    reasons: list[Any] = []
    release = asyncio.Event()

    async def work(job: Any) -> str:
        tokens.append(job.token)
        try:
            await release.wait()
        except asyncio.CancelledError:
            reasons.append((job.token, job.stop_reason))
            raise
        return "done"

    worker = await crew.hire(work, concurrency=2, stalled_interval=0.2)
    job = await direct.add("job")
    await crew.ledger.until(lambda: len(tokens) == 1, 5.0)
    await direct.client.delete(f"bull:{direct.name}:{job.id}:lock")
    await crew.ledger.until(lambda: len(tokens) == 2, 5.0)
    worker._engine._locks_lost({job.id: tokens[0]})
    release.set()
    await crew.ledger.until(lambda: crew.ledger.completed[job.id], 5.0)
    assert crew.ledger.completed[job.id] == 1
    assert job.id not in crew.ledger.failed
    # The first run was stopped when the second began, and its outcome counts for nothing.
    assert reasons == [(tokens[0], StopReason.LOCK_LOST)]


async def test_result_is_stored_although_its_lock_ran_out_if_nobody_took_the_job(
    direct: Queue, crew: Any
) -> None:
    # As in an outage that is longer than the lock. (Upstream: the work is done again.)
    async def work(job: Any) -> str:
        await direct.client.delete(f"{direct.toKey(job.id)}:lock")
        # The stalled check has seen it as well, and will put it back the next time.
        await direct.client.sadd(direct.toKey("stalled"), job.id)
        return "whole"

    await crew.hire(work)
    job = await direct.add("job")
    assert await job.wait_until_finished(5) == "whole"
    await crew.ledger.until_completed(1, 2.0)
    assert crew.ledger.started == crew.ledger.completed == {job.id: 1}
    assert not crew.ledger.errors
    assert not await direct.client.exists(f"{direct.toKey(job.id)}:lock")
    assert not await direct.client.scard(direct.toKey("stalled"))


@pytest.mark.parametrize("owner", ["another worker", "the queue"])
async def test_result_of_a_job_that_somebody_else_has_is_discarded(
    direct: Queue, crew: Any, owner: str
) -> None:
    async def work(job: Any) -> str:
        if owner == "another worker":
            await direct.client.set(f"{direct.toKey(job.id)}:lock", "thief:1")
        else:
            await direct.client.delete(f"{direct.toKey(job.id)}:lock")
            await direct.client.lrem(direct.toKey("active"), 1, job.id)
        return "late"

    await crew.hire(work)
    job = await direct.add("job")
    await crew.ledger.until(lambda: crew.ledger.errors, 5.0)
    [(_, error)] = crew.ledger.errors
    assert "was discarded" in str(error)
    stored = await direct.get_job(job.id)
    assert stored is not None
    assert stored.return_value is None
    lock = await direct.client.get(f"{direct.toKey(job.id)}:lock")
    assert lock == ("thief:1" if owner == "another worker" else None)
    assert not crew.ledger.completed


async def test_scheduler_goes_on_after_refusals_of_redis(
    own_server: Any, direct: Queue, proxy: Any, crew: Any
) -> None:
    await crew.hire()
    proxy.answer("updateJobScheduler", "-READONLY You can't write against a replica.", times=2)
    await direct.upsertJobScheduler("often", {"every": 200}, "tick", {})
    # Upstream, and one refusal was the scheduler's end.
    await crew.ledger.until(lambda: len(crew.ledger.completed) >= 4, 10.0)
