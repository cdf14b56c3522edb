"""A job that has lost its worker before runs while no other job runs in the process."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from support.faults import Program, eventually

from bullpy import Queue, Worker

POISON = """
import asyncio, ctypes, os
from bullpy import Worker, run

worker = Worker(
    os.environ["QUEUE"],
    redis=os.environ["REDIS"],
    concurrency=5,
    lock_duration=1.0,
    stalled_interval=0.25,
)

@worker.processor(isolation=os.environ["ISOLATION"] or None)
async def process(job):
    await asyncio.sleep(0.3)
    if job.data == "poison":
        ctypes.string_at(0)
    return job.id

worker.on("ready", lambda: print("ready", flush=True))
run(worker)
"""

POISON_DEF = """
import ctypes, os, time
from bullpy import Worker, run

worker = Worker(
    os.environ["QUEUE"], redis=os.environ["REDIS"], concurrency=5, lock_duration=1.0,
    stalled_interval=0.25, isolation=os.environ["ISOLATION"] or None,
)

@worker.processor()
def process(job):
    time.sleep(0.3)
    if job.data == "poison":
        ctypes.string_at(0)
    return job.id

if __name__ == "__main__":
    worker.on("ready", lambda: print("ready", flush=True))
    run(worker)
"""


class Crowd:
    """Jobs that run until they are let go, and what runs at a time.

    Attributes:
        together: The most jobs that ran at a time with each one, by the job's data.
    """

    def __init__(self) -> None:
        self.running: set[Any] = set()
        self.together: dict[Any, int] = {}
        self.order: list[Any] = []
        self._gates: dict[Any, asyncio.Event] = {}
        self._changed = asyncio.Event()

    async def process(self, job: Any) -> None:
        self.order.append(job.data)
        self.running.add(job.data)
        for other in self.running:
            self.together[other] = max(self.together.get(other, 0), len(self.running))
        self._changed.set()
        try:
            await self._gate(job.data).wait()
        finally:
            self.running.discard(job.data)
            self._changed.set()

    def let_go(self, *data: Any) -> None:
        for one in data:
            self._gate(one).set()

    async def until(self, *data: Any) -> None:
        """Wait until exactly these jobs run."""
        async with asyncio.timeout(5):
            while self.running != set(data):
                self._changed.clear()
                await self._changed.wait()

    def _gate(self, data: Any) -> asyncio.Event:
        return self._gates.setdefault(data, asyncio.Event())


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


async def add(queue: Queue, data: Any, delay: float = 0.0, **fields: int) -> Any:
    """Add a job, with fields of its hash as a dead worker leaves them.

    Where a worker is there already, a delay keeps it from being faster than the fields.
    """
    job = await queue.add("job", data, delay=delay)
    if fields:
        names = {"stalls": "stc", "deaths": "bullpy:deaths"}
        values = {names[name]: value for name, value in fields.items()}
        await queue.client.hset(f"bull:{queue.name}:{job.id}", mapping=values)
    return job


async def completed(queue: Queue, count: int) -> None:
    async def enough() -> bool:
        return (await queue.get_job_counts())["completed"] == count

    await eventually(enough, 10.0)


# -- real crashes --------------------------------------------------------------------------


@pytest.mark.parametrize("source", [POISON, POISON_DEF], ids=["loop", "thread"])
async def test_job_that_crashes_its_worker_fails_alone(
    own_server: Any, direct: Queue, source: str
) -> None:
    # Upstream: the poison and 4 innocents failed.
    isolation = "thread" if source is POISON_DEF else ""
    poison = await direct.add("job", "poison")
    good = [await direct.add("job", number) for number in range(20)]
    crashes = 0

    async def all_ended() -> bool:
        counts = await direct.get_job_counts()
        return counts["completed"] + counts["failed"] == 21

    async with asyncio.timeout(60):
        while not await all_ended():
            async with Program(
                source, QUEUE=direct.name, REDIS=own_server.url, ISOLATION=isolation
            ) as program:
                ended = asyncio.create_task(program.ends(60.0))
                done = asyncio.create_task(eventually(all_ended, 60.0))
                await asyncio.wait({ended, done}, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    assert ended.result() == -signal.SIGSEGV, program.output
                    crashes += 1
                    done.cancel()
                else:
                    program.signal(signal.SIGTERM)
                    await ended
    print(f"{crashes} crashes")
    counts = await direct.get_job_counts()
    assert (counts["completed"], counts["failed"]) == (20, 1)
    stored = await direct.get_job(poison.id)
    assert stored is not None
    assert stored.failed_reason == "job stalled more than allowable limit"
    # Once beside others, then alone until it has stalled more than 3 times.
    assert crashes == 4
    assert [await job.get_state() for job in good] == ["completed"] * 20


@pytest.mark.parametrize("stalls", [0, 1])
async def test_crash_of_a_child_counts_as_a_crash_and_not_as_a_stall(
    own_server: Any, direct: Queue, stalls: int, tmp_path: Any
) -> None:
    poison = await add(direct, "poison", **({"stalls": 1} if stalls else {}))
    good = [await direct.add("job", number) for number in range(20)]
    (tmp_path / "app.py").write_text(POISON_DEF)
    source = f"import runpy; runpy.run_path({str(tmp_path / 'app.py')!r}, run_name='__main__')"
    async with Program(
        source, QUEUE=direct.name, REDIS=own_server.url, ISOLATION="process"
    ) as program:
        await program.says("ready")

        async def all_ended() -> bool:
            counts = await direct.get_job_counts()
            return counts["completed"] + counts["failed"] == 21

        await eventually(all_ended, 20.0)
        program.signal(signal.SIGTERM)
        assert await program.ends(5.0) == 0
    stored = await direct.get_job(poison.id)
    assert stored is not None
    assert await stored.get_state() == "failed"
    assert "SIGSEGV" in (stored.failed_reason or "")
    assert (stored.crashes, stored.stalled_counter, stored.attempts_made) == (1, stalls, 1)
    assert [await job.get_state() for job in good] == ["completed"] * 20


# -- being alone ---------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"stalls": 1}, {"deaths": 2}], ids=str)
async def test_suspect_job_waits_for_the_others_and_starts_nothing_beside_itself(
    queue: Queue, start_worker: Any, crowd: Crowd, fields: dict[str, int]
) -> None:
    worker = await start_worker(crowd.process, concurrency=3, lock_duration=1.0)
    await add(queue, "a")
    await add(queue, "b")
    await crowd.until("a", "b")
    suspect = await add(queue, "suspect", 0.2, **fields)

    async def is_held() -> bool:
        return suspect.id in {job.id for job in worker.active_jobs}

    await eventually(is_held, 3.0)
    for number in range(4):
        await queue.add("job", number)
    crowd.let_go("a")
    await crowd.until("b")
    renewed: asyncio.Queue[Any] = asyncio.Queue()
    worker.on("locksRenewed", renewed.put_nowait)
    async with asyncio.timeout(5):
        while suspect.id not in (await renewed.get())["jobIds"]:
            pass
    crowd.let_go("b")
    await crowd.until("suspect")
    crowd.let_go(*range(4))
    assert (await queue.get_job_counts())["active"] == 1
    crowd.let_go("suspect")
    await completed(queue, 7)
    assert crowd.together["suspect"] == 1
    assert crowd.order[:3] == ["a", "b", "suspect"]
    stored = await queue.get_job(suspect.id)
    assert stored is not None
    assert stored.attempts_made == 1


async def test_first_death_of_its_process_makes_no_job_suspect(
    queue: Queue, start_worker: Any, crowd: Crowd
) -> None:
    await start_worker(crowd.process, concurrency=2)
    await add(queue, "a")
    await add(queue, "b", 0.2, deaths=1)
    await crowd.until("a", "b")
    crowd.let_go("a", "b")
    await completed(queue, 2)


async def test_two_suspect_jobs_run_one_after_the_other(
    queue: Queue, start_worker: Any, crowd: Crowd
) -> None:
    for name in ("s1", "s2", "s3"):
        await add(queue, name, stalls=1)
    for number in range(10):
        await queue.add("job", number)
    crowd.let_go("s1", "s2", "s3", *range(10))
    await start_worker(crowd.process, concurrency=5)
    await completed(queue, 13)
    assert [crowd.together[name] for name in ("s1", "s2", "s3")] == [1, 1, 1]


async def test_workers_of_one_process_leave_a_suspect_job_alone_too(
    queue: Queue, start_worker: Any, crowd: Crowd, redis_url: str
) -> None:
    async with Queue(f"{queue.name}-other", redis=redis_url) as other:
        beside = Worker(other.name, crowd.process, {"autorun": False}, redis=redis_url)
        await start_worker(worker=beside)
        await start_worker(crowd.process, concurrency=3)
        await other.add("job", "a")
        await crowd.until("a")
        await add(queue, "suspect", 0.2, stalls=1)
        crowd.let_go("a")
        await crowd.until("suspect")
        job = await other.add("job", "b")
        crowd.let_go("b", "suspect")
        await completed(queue, 1)
        await completed(other, 2)
        assert await job.get_state() == "completed"
        assert crowd.together["suspect"] == 1
        await other.obliterate(force=True)


async def test_suspect_job_in_a_child_process_waits_for_nobody(
    queue: Queue, start_worker: Any, crowd: Crowd
) -> None:
    from support.in_children import in_a_child

    worker = Worker(queue.name, redis=queue.redisConnection.settings, concurrency=2)
    worker.processor("job")(crowd.process)
    worker.processor("child")(in_a_child)
    await start_worker(worker=worker)
    await add(queue, "a")
    await crowd.until("a")
    job = await queue.add("child", 1, delay=0.2)
    await queue.client.hset(f"bull:{queue.name}:{job.id}", "stc", 1)
    assert await job.wait_until_finished(10) == "done"
    crowd.let_go("a")
    await completed(queue, 2)


async def test_closing_worker_hands_a_waiting_suspect_job_back_at_once(
    queue: Queue, start_worker: Any, crowd: Crowd
) -> None:
    worker = await start_worker(crowd.process, concurrency=3)
    await add(queue, "a")
    await crowd.until("a")
    suspect = await add(queue, "suspect", 0.2, stalls=1)

    async def is_held() -> bool:
        return len(worker.active_jobs) == 2

    await eventually(is_held, 3.0)
    closing = asyncio.create_task(worker.close(timeout=10))

    async def waits() -> bool:
        return await suspect.get_state() == "wait"

    await eventually(waits, 2.0)
    crowd.let_go("a")
    await asyncio.wait_for(closing, 5.0)
    assert crowd.order == ["a"]
    assert (await queue.get_job_counts())["completed"] == 1


async def test_pause_lets_a_waiting_suspect_job_have_its_turn(
    queue: Queue, start_worker: Any, crowd: Crowd
) -> None:
    worker = await start_worker(crowd.process, concurrency=3)
    await add(queue, "a")
    await crowd.until("a")
    await add(queue, "suspect", 0.2, stalls=1)

    async def is_held() -> bool:
        return len(worker.active_jobs) == 2

    await eventually(is_held, 3.0)
    pausing = asyncio.create_task(worker.pause())
    await queue.add("job", "b")
    crowd.let_go("a", "suspect", "b")
    await asyncio.wait_for(pausing, 5.0)
    assert crowd.order == ["a", "suspect"]
    worker.resume()
    await completed(queue, 3)


async def test_cancelling_a_waiting_suspect_job_opens_the_way_at_once(
    queue: Queue, start_worker: Any, crowd: Crowd
) -> None:
    worker = await start_worker(crowd.process, concurrency=3)
    await add(queue, "a")
    await crowd.until("a")
    suspect = await add(queue, "suspect", 0.2, stalls=1)

    async def is_held() -> bool:
        return len(worker.active_jobs) == 2

    await eventually(is_held, 3.0)
    assert worker.cancel_job(suspect.id, "not wanted")
    await queue.add("job", "b")
    await crowd.until("a", "b")
    assert await suspect.get_state() == "failed"
    crowd.let_go("a", "b")
    await completed(queue, 2)
    assert "suspect" not in crowd.order
