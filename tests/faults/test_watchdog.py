"""An event loop that is blocked says so, and by what."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.faults import Program, eventually

from bullpy import Queue, WorkerSettings

THRESHOLD = 0.2


class Told(logging.Handler):
    """What the watchdog logs, from whatever thread."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def matching(self, text: str) -> list[logging.LogRecord]:
        return [record for record in self.records if text in record.getMessage()]

    async def wait_for(self, text: str, times: int = 1) -> list[logging.LogRecord]:
        async def enough() -> bool:
            return len(self.matching(text)) >= times

        await eventually(enough, 5.0)
        return self.matching(text)


@pytest.fixture
def told() -> Iterator[Told]:
    handler = Told()
    logger = logging.getLogger("bullpy.watchdog")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def holds_the_loop(seconds: float) -> None:
    time.sleep(seconds)


async def test_block_is_told_once_with_function_stack_and_job_and_once_at_its_end(
    queue: Queue, start_worker: Any, told: Told
) -> None:
    async def process(job: Any) -> None:
        holds_the_loop(4 * THRESHOLD)

    worker = await start_worker(process, settings=WorkerSettings(loop_warning=THRESHOLD))
    job = await queue.add("heavy")
    await told.wait_for("was blocked")
    (began,) = told.matching("is blocked")
    (ended,) = told.matching("was blocked")
    assert "by holds_the_loop (" in began.getMessage()
    assert __file__ in began.getMessage()
    assert "time.sleep(seconds)" in (began.stack_info or "")
    assert "holds_the_loop(4 * THRESHOLD)" in (began.stack_info or "")
    for record in (began, ended):
        fields = vars(record)
        assert (fields["job_id"], fields["job_name"]) == (job.id, "heavy")
        assert fields["queue"] == queue.name
    lasted = re.search(r"for (\d+\.\d) s by holds_the_loop", ended.getMessage())
    assert lasted is not None
    assert 2 * THRESHOLD <= float(lasted[1]) <= 4 * THRESHOLD + 1
    assert worker.loop_blocks == 1
    assert worker.loop_lag < THRESHOLD or worker.loop_lag > 2 * THRESHOLD


async def test_each_block_is_told_and_counted(queue: Queue, start_worker: Any, told: Told) -> None:
    async def process(job: Any) -> None:
        holds_the_loop(3 * THRESHOLD)

    worker = await start_worker(process, settings=WorkerSettings(loop_warning=THRESHOLD))
    for number in range(1, 3):
        await queue.add("heavy")
        await told.wait_for("was blocked", times=number)
    assert len(told.matching("is blocked")) == 2
    assert worker.loop_blocks == 2


async def test_workers_of_one_loop_tell_once(queue: Queue, start_worker: Any, told: Told) -> None:
    async def process(job: Any) -> None:
        holds_the_loop(3 * THRESHOLD)

    workers = [
        await start_worker(process, settings=WorkerSettings(loop_warning=THRESHOLD))
        for _ in range(2)
    ]
    await queue.add("heavy")
    await told.wait_for("was blocked")
    assert len(told.matching("blocked")) == 2
    assert [worker.loop_blocks for worker in workers] == [1, 1]
    watchdogs = [one for one in threading.enumerate() if one.name == "bullpy-watchdog"]
    assert len(watchdogs) == 1


async def test_block_outside_of_any_job_names_no_job(
    queue: Queue, start_worker: Any, told: Told
) -> None:
    await start_worker(
        lambda job: None, settings=WorkerSettings(isolation="thread", loop_warning=THRESHOLD)
    )
    holds_the_loop(3 * THRESHOLD)
    await told.wait_for("was blocked")
    (began,) = told.matching("is blocked")
    assert "by holds_the_loop (" in began.getMessage()
    assert "job_id" not in vars(began)


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_a_loop_that_turns_is_left_in_peace(
    queue: Queue, start_worker: Any, told: Told, isolation: str
) -> None:
    async def waits(job: Any) -> None:
        await asyncio.sleep(3 * THRESHOLD)

    def sleeps(job: Any) -> None:
        time.sleep(3 * THRESHOLD)

    function = waits if isolation == "loop" else sleeps
    worker = await start_worker(
        function, settings=WorkerSettings(isolation=isolation, loop_warning=THRESHOLD)
    )
    job = await queue.add("job")
    await job.wait_until_finished(5)
    assert not told.records
    assert worker.loop_blocks == 0


async def test_zero_switches_it_off_and_a_closed_worker_has_no_thread(
    queue: Queue, start_worker: Any
) -> None:
    def watchdogs() -> list[str]:
        return [one.name for one in threading.enumerate() if one.name == "bullpy-watchdog"]

    async def none() -> bool:
        return not watchdogs()

    await eventually(none, 3.0)
    off = await start_worker(
        lambda job: None, settings=WorkerSettings(isolation="thread", loop_warning=0.0)
    )
    assert not watchdogs()
    assert off.loop_lag == 0.0
    worker = await start_worker(
        lambda job: None, settings=WorkerSettings(isolation="thread", loop_warning=THRESHOLD)
    )
    assert len(watchdogs()) == 1
    await worker.close()
    await eventually(none, 3.0)


STOPPED = """
import logging, os
from bullpy import Worker, WorkerSettings, run

logging.basicConfig(level=logging.INFO, format="%(message)s")
settings = WorkerSettings(loop_warning=0.3)
worker = Worker(os.environ["QUEUE"], redis=os.environ["REDIS"], settings=settings)

@worker.processor()
async def process(job):
    pass

worker.on("ready", lambda: print("ready", flush=True))
run(worker)
"""


async def test_process_that_was_stopped_blames_no_function(redis_url: str, queue_name: str) -> None:
    async with Program(STOPPED, QUEUE=queue_name, REDIS=redis_url) as program:
        await program.says("ready")
        program.signal(signal.SIGSTOP)
        stopped = time.monotonic()

        async def a_while() -> bool:
            return time.monotonic() - stopped > 1.0

        await eventually(a_while, 3.0)
        program.signal(signal.SIGCONT)
        line = await program.says("the event loop was blocked", 5.0)
        assert "a process that was stopped" in line
        program.signal(signal.SIGTERM)
        assert await program.ends(5.0) == 0
