"""The doctor reads what bullpy's workers say about themselves."""

from __future__ import annotations

from typing import Any

from support.faults import eventually

from bullpy import Queue, registry
from bullpy.connection.asking import Asker
from bullpy.doctor import Diagnosis, diagnose, reading
from bullpy.settings import RedisSettings, WorkerSettings

BRISK = WorkerSettings(heartbeat=0.5)


async def look(queue: Queue) -> Diagnosis:
    settings = queue.redisConnection.settings
    return await diagnose([queue.name], redis=settings, interval=0.6)


async def state_of(queue: Queue) -> str:
    asker = await Asker.open(RedisSettings.of(queue.redisConnection.settings), reading.CLIENT_NAME)
    try:
        found = await registry.read(asker, [("bull", queue.name)])
    finally:
        await asker.close()
    return next((record.state for record in found.live()), "")


async def work(job: Any) -> None:
    pass


async def test_end_of_the_last_worker_is_told(queue: Queue, start_worker: Any) -> None:
    worker = await start_worker(work, settings=BRISK)
    await worker.close()
    await queue.add("x")
    first, *others = (await look(queue)).verdicts
    assert first.code == "no-worker"
    (told,) = [each for each in others if each.code == "worker-left"]
    assert (told.level.word, told.certainty.value) == ("ok", "stated")
    assert worker.workerName in told.message
    assert "closed by the program" in told.message


async def test_nothing_of_those_that_left_while_another_serves(
    queue: Queue, start_worker: Any
) -> None:
    gone = await start_worker(work, settings=BRISK)
    job = await queue.add("x")
    await job.wait_until_finished(timeout=10)
    await gone.close()
    await start_worker(work, settings=BRISK)
    found = await look(queue)
    assert [each.code for each in found.verdicts if each.code.startswith("worker-")] == []
    assert found.exit_code == 0


async def test_worker_paused_in_its_process_is_named(queue: Queue, start_worker: Any) -> None:
    worker = await start_worker(work, settings=BRISK)
    await worker.pause()

    async def says_so() -> bool:
        return await state_of(queue) == "paused"

    assert await eventually(says_so, 10.0)
    await queue.add("x")
    found = await look(queue)
    assert found.verdicts[0].code == "worker-paused"
    assert worker.workerName in found.verdicts[0].message
    assert found.exit_code == 2
    worker.resume()
