"""The result of an earlier job as the reference, in a child process and in a thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import soundfile
from support.outcomes import failure_of, result_of

from bullpy import Job, JobState, Queue, Worker, errors
from bullpy.audio import process_audio

StartWorker = Callable[..., Any]


@pytest.fixture(autouse=True)
def root(good: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BULLPY_AUDIO_ROOT", str(good))
    return good


def payload(**fields: Any) -> dict[str, Any]:
    return {"jobId": str(uuid4()), "fileKey": "ok.wav", "mode": "reference", **fields}


def audio_worker(queue: Queue, redis_url: str, isolation: str) -> Worker:
    worker = Worker(queue.name, redis=redis_url)
    worker.processor("process-audio", isolation=isolation)(process_audio)
    return worker


@pytest.mark.parametrize("isolation", ["process", "thread"])
@pytest.mark.parametrize("by", ["jobId", "bullmq"])
async def test_the_result_of_an_earlier_job_is_the_reference(
    queue: Queue, redis_url: str, start_worker: StartWorker, isolation: str, by: str
) -> None:
    await start_worker(worker=audio_worker(queue, redis_url, isolation))
    base = payload(referenceStage="base", fileKey="ok.flac")
    first = await queue.add("process-audio", base)
    reference = await result_of(first, within=30)
    # BullMQ's id is no UUID unless the producer gives one.
    named = base["jobId"] if by == "jobId" else str(uuid4())
    if by == "bullmq":
        again = await queue.add("process-audio", base, job_id=named)
        reference = await result_of(again, within=30)
    sent = payload(referenceStage="compare", referenceJobId=named)
    result = await result_of(await queue.add("process-audio", sent), within=30)
    compared = result["comparison"]["lufs"]
    assert compared["value"] == result["loudness"]["integrated"]
    assert compared["reference"] == reference["loudness"]["integrated"]
    assert compared["delta"] == pytest.approx(0, abs=1e-3)
    assert result["referenceJobId"] == named


async def test_a_job_waits_for_its_reference_without_using_attempts(
    queue: Queue, redis_url: str, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bullpy.audio.job._REFERENCE_LOOK", 0.1)
    base = payload(referenceStage="base")
    compared = await queue.add(
        "process-audio", payload(referenceJobId=base["jobId"]), attempts=1, priority=1
    )
    # Behind the one that needs it.
    await queue.add("process-audio", base, priority=2)
    await start_worker(worker=audio_worker(queue, redis_url, "thread"))
    result = await result_of(compared, within=30)
    assert result["comparison"]["lufs"]["delta"] == 0
    assert any("has not ended" in line for line in await queue.get_job_logs(compared.id))


async def test_a_reference_that_never_comes_fails_with_a_typed_error(
    queue: Queue, redis_url: str, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bullpy.audio.job._REFERENCE_PATIENCE", 0.0)
    base = payload()
    await queue.add("process-audio", base, delay=600)
    worker = audio_worker(queue, redis_url, "thread")
    raised: list[Exception] = []
    worker.on("failed", lambda _job, error: raised.append(error))
    await start_worker(worker=worker)
    sent = payload(referenceJobId=base["jobId"])
    job = await queue.add("process-audio", sent, attempts=2)
    assert "has not ended: it is delayed" in await failure_of(job, within=30)
    seen = await queue.get_job(job.id)
    assert seen is not None
    assert seen.attempts_made == 2
    assert getattr(raised[0], "code", None) == "reference-pending"


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_a_reference_that_is_gone_or_failed_is_not_retried(
    queue: Queue, redis_url: str, start_worker: StartWorker, isolation: str
) -> None:
    await start_worker(worker=audio_worker(queue, redis_url, isolation))
    gone = await queue.add("process-audio", payload(referenceJobId=str(uuid4())), attempts=3)
    assert "removeOnComplete" in await failure_of(gone, within=30)
    broken = payload(fileKey="../no.wav")
    await failure_of(await queue.add("process-audio", broken), within=30)
    sent = payload(referenceJobId=broken["jobId"])
    failed = await queue.add("process-audio", sent, attempts=3)
    assert "failed" in await failure_of(failed, within=30)
    own = payload()
    itself = await queue.add("process-audio", own | {"referenceJobId": own["jobId"]})
    assert "no reference job" in await failure_of(itself, within=30)
    for job in (gone, failed, itself):
        seen = await queue.get_job(job.id)
        assert seen is not None
        assert seen.attempts_made == 1


async def test_a_job_of_another_kind_is_no_reference(
    queue: Queue, redis_url: str, start_worker: StartWorker
) -> None:
    other = await queue.add("other", {"jobId": "x"}, job_id=str(uuid4()))
    worker = audio_worker(queue, redis_url, "thread")

    @worker.processor("other")
    async def other_kind(_job: Job[Any]) -> str:
        return "no analysis"

    await start_worker(worker=worker)
    await result_of(other)
    job = await queue.add("process-audio", payload(referenceJobId=other.id))
    assert "without the result of an analysis" in await failure_of(job, within=30)


async def test_jobs_are_found_by_a_field_of_their_data(queue: Queue) -> None:
    await queue.add("n", {"key": "a", "note": "b"}, delay=60)
    await queue.add("n", {"key": "b"}, priority=3, job_id="the-one")
    await queue.add("n", ["b"])
    probe = await queue.add("n", {"key": "ü"})
    (found,) = await probe.find_jobs("b", "key")
    assert (found.id, found.state, found.data) == ("the-one", JobState.PRIORITIZED, {"key": "b"})
    assert await probe.find_jobs("the-one") == [found]
    assert await probe.find_jobs("nothing") == []
    (itself,) = await probe.find_jobs("ü", "key")
    assert itself.id == probe.id


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_a_running_analysis_is_cancelled_at_once(
    queue: Queue, redis_url: str, start_worker: StartWorker, isolation: str, root: Path
) -> None:
    # Three hours that take no space on disk.
    path = root / f"long-{isolation}.wav"
    soundfile.write(path, np.zeros((100, 2)), 44_100)
    size = 44 + 3 * 3600 * 44_100 * 4
    with path.open("r+b") as file:
        file.truncate(size)
        for at, value in ((4, size - 8), (40, size - 44)):
            file.seek(at)
            file.write(value.to_bytes(4, "little"))
    await start_worker(worker=audio_worker(queue, redis_url, isolation))
    job = await queue.add("process-audio", payload(fileKey=path.name))
    began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    queue.events.on("progress", lambda *_: None if began.done() else began.set_result(None))
    await queue.events.wait_until_ready()
    async with asyncio.timeout(30):
        await began
    asked = time.monotonic()
    await queue.cancel(job.id, "enough")
    assert "enough" in await failure_of(job, within=10)
    # The request itself is read within half a second.
    assert time.monotonic() - asked < 1.0


def test_the_errors_say_whether_waiting_helps() -> None:
    from bullpy.audio import ReferenceFailedError, ReferenceMissingError, ReferencePendingError

    assert not ReferencePendingError.permanent
    assert ReferenceMissingError.permanent
    assert ReferenceFailedError.permanent
    assert issubclass(ReferencePendingError, errors.BullpyError)
