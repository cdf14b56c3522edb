"""The audio queue as the Node API uses it: its job options, and what it reads back."""

from __future__ import annotations

import secrets
import time
from typing import Any
from uuid import uuid4

import pytest
from support.node import Node

from bullpy import Discard, Job, Worker

RESULT = {
    "status": "success",
    "mode": "genre",
    "loudness": {"integrated": -9.3, "lra": 4.1, "unit": "LUFS"},
    "truePeak": {"maxDbtp": None, "clipping": {"samples": 0}},
    "metadata": {"fileName": "Müsik 日本.wav", "duration": 12.5},
    "warnings": [{"code": "true-peak-missing", "message": "silence"}],
}


def options(job_id: str) -> dict[str, Any]:
    """Exactly what the API gives `queue.add`."""
    return {
        "jobId": job_id,
        "priority": 1,
        "attempts": 3,
        "backoff": {"type": "exponential", "delay": 2000},
        "removeOnComplete": 10,
        "removeOnFail": 5,
    }


def payload(job_id: str) -> dict[str, Any]:
    """What the API sends."""
    return {
        "jobId": str(uuid4()),
        "externalId": job_id,
        "fileKey": "uploads/Müsik.wav",
        "fileName": "Müsik 日本.wav",
        "mode": "genre",
        "genre": "techno",
        "genreTargets": {"lufs_target": -9.0, "tol_lufs": 1.0},
        "referenceJobId": None,
    }


def new_id() -> str:
    return f"audio-{round(time.time() * 1000)}-{secrets.token_hex(4)}"


async def stand_in(job: Job[Any]) -> Any:
    for percent in (10, 40, 90, 100):
        await job.update_progress(percent)
    return {**RESULT, "jobId": job.data["jobId"], "externalId": job.id}


async def test_api_gets_progress_in_order_and_the_result(node: Node, start_worker: Any) -> None:
    await node.follow()
    job_id = new_id()
    sent = payload(job_id)
    assert await node.add("process-audio", sent, options(job_id)) == job_id
    assert (await node.job(job_id))["state"] == "prioritized"

    worker = await start_worker(stand_in)
    completed = await node.event("completed", job_id)
    expected = {**RESULT, "jobId": sent["jobId"], "externalId": job_id}
    assert completed["args"]["returnvalue"] == expected
    assert await node.wait(job_id) == expected
    progress = [
        entry["args"]["data"] for entry in await node.events(job_id) if entry["event"] == "progress"
    ]
    assert progress == [10, 40, 90, 100]
    job = await node.job(job_id)
    assert job["progress"] == 100
    assert job["processedBy"] == worker.workerName


async def test_api_finds_the_last_ten_results(node: Node, start_worker: Any) -> None:
    await node.follow()
    await start_worker(stand_in)
    ids = [new_id() for _ in range(13)]
    for job_id in ids:
        await node.add("process-audio", payload(job_id), options(job_id))
    await node.event("completed", count=13)
    counts = await node.queue("getJobCounts", "completed", "prioritized", "active")
    assert counts == {"completed": 10, "prioritized": 0, "active": 0}
    kept = {job["id"] for job in await node.queue("getJobs", ["completed"])}
    assert kept == set(ids[-10:])


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_processor_registered_by_name_gets_the_payload_unchanged(
    node: Node, redis_url: str, start_worker: Any, isolation: str
) -> None:
    got: list[Any] = []
    worker = Worker(node.queue_name, redis=redis_url, concurrency=2)
    if isolation == "loop":

        @worker.processor("process-audio")
        async def on_loop(job: Job[Any]) -> Any:
            got.append(job.data)
            await job.update_progress(100)
            return RESULT

    else:

        @worker.processor("process-audio")
        def in_thread(job: Job[Any]) -> Any:
            got.append(job.data)
            job.update_progress(100)
            return RESULT

    await node.follow()
    await start_worker(worker=worker)
    job_id = new_id()
    sent = payload(job_id)
    await node.add("process-audio", sent, options(job_id))
    assert await node.wait(job_id) == RESULT
    assert got == [sent]


async def test_failed_analysis_reaches_the_api_with_its_reason(
    node: Node, start_worker: Any
) -> None:
    async def process(_job: Job[Any]) -> None:
        raise Discard("fileKey: no such file")

    await node.follow()
    await start_worker(process)
    ids = [new_id() for _ in range(7)]
    for job_id in ids:
        await node.add("process-audio", payload(job_id), options(job_id))
    failed = await node.event("failed", ids[0])
    assert "fileKey: no such file" in failed["args"]["failedReason"]
    await node.event("failed", count=7)
    assert (await node.queue("getJobCounts", "failed"))["failed"] == 5
