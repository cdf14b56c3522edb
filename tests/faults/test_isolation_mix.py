"""Hundreds of jobs, of which many go wrong in every way: the others complete exactly once."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import isolated
from support.isolated_bench import Bench, open_descriptors, resident_bytes

from bullpy import Queue

JOBS = 500
BAD = 50
WARM_UP = 60
GROWTH = 30_000_000
"""Bytes that the worker's process may grow by; a leak of one child's buffers is far more."""

REASONS = {
    "crash": "was killed by SIGSEGV",
    "hang": "timeout of 0.5 s",
    "memory": "memory limit of 120.0 MB",
}


@pytest.fixture
async def bench(redis_url: str, queue: Queue, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(redis_url, queue, tmp_path)
    yield made
    await made.close()


def kinds(seed: int) -> list[str]:
    mixed = [kind for kind in REASONS for _ in range(BAD)]
    mixed += ["good"] * (JOBS - len(mixed))
    random.Random(seed).shuffle(mixed)
    return mixed


@pytest.mark.timeout(240)
async def test_mix_of_bad_and_good_jobs(bench: Bench, queue: Queue) -> None:
    # A closed worker leaves the connection that it shares with the queue.
    await queue.count()
    before = open_descriptors()
    worker = await bench.hire(
        isolated.mixed, limits={"timeout": 0.5, "memory": "120MB"}, concurrency=4, stop_grace=0.1
    )
    wanted = kinds(seed=20)
    jobs = {}
    sizes: list[int] = []

    async def run(part: list[str]) -> None:
        added = await queue.add_bulk(
            [
                {"name": "bad", "data": {"kind": kind, "number": len(jobs) + number}}
                for number, kind in enumerate(part)
            ]
        )
        jobs.update({job.id: job for job in added})
        await bench.ledger.until(
            lambda: len(bench.ledger.completed) + len(bench.ledger.failed) == len(jobs), 120.0
        )
        await bench.only_children_are_left()
        gc.collect()
        sizes.append(resident_bytes())

    await run(wanted[:WARM_UP])
    await run(wanted[WARM_UP : JOBS // 2])
    await run(wanted[JOBS // 2 :])

    ended: Counter[str] = Counter()
    for job in jobs.values():
        kind, stored = job.data["kind"], await bench.stored(job)
        assert stored.job.attempts_started == 1
        if kind == "good":
            assert bench.ledger.completed[job.id] == 1
            assert job.id not in bench.ledger.failed
            assert stored.job.returnvalue == job.data["number"]
            assert stored.log == "ran"
        else:
            assert job.id not in bench.ledger.completed
            assert len(bench.ledger.failed[job.id]) == 1
            assert REASONS[kind] in stored.reason
        ended[kind] += 1
    assert ended == {"good": JOBS - 3 * BAD, "crash": BAD, "hang": BAD, "memory": BAD}
    counts = await queue.get_job_counts()
    assert (counts["completed"], counts["failed"]) == (JOBS - 3 * BAD, 3 * BAD)
    assert counts["active"] == counts["waiting"] == counts["delayed"] == 0
    assert not bench.ledger.stalled
    assert not bench.ledger.errors
    assert not bench.runs[0].done()

    assert max(sizes) - sizes[0] < GROWTH, sizes
    await worker.close()
    await asyncio.gather(*bench.runs)
    assert not bench.children()
    assert len(open_descriptors()) <= len(before), (before, open_descriptors())
