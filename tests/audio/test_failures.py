"""What is wrong with a file for good fails its job once; what may pass is tried again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.outcomes import failure_of, result_of

from bullpy import Backoff, Queue, Worker
from bullpy.audio import process_audio

StartWorker = Callable[..., Any]


@pytest.fixture(autouse=True)
def root(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ok.wav", "ok.flac"):
        (tmp_path / name).write_bytes((good / name).read_bytes())
    monkeypatch.setenv("BULLPY_AUDIO_ROOT", str(tmp_path))
    return tmp_path


def audio_worker(queue: Queue, redis_url: str, isolation: str) -> Worker:
    worker = Worker(queue.name, redis=redis_url)
    worker.processor("process-audio", isolation=isolation)(process_audio)
    return worker


def payload(key: str) -> dict[str, str]:
    return {"jobId": str(uuid4()), "fileKey": key, "mode": "genre"}


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
    "text.mp3": (lambda _: b"hello\n" * 100, "not-audio: ", "looks like text"),
    "empty.wav": (lambda _: b"", "empty-audio: ", "has no bytes"),
    "cut.flac": (lambda flac: flac[: len(flac) // 2], "corrupt-audio: ", "damaged after"),
    "header.flac": (lambda flac: flac[:60], "corrupt-audio: ", "Its header is damaged"),
    "../secret.wav": (lambda _: b"", "file-key: ", "'..'"),
}


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_a_file_that_can_never_be_measured_fails_its_job_once(
    queue: Queue, redis_url: str, start_worker: StartWorker, isolation: str, root: Path
) -> None:
    flac = (root / "ok.flac").read_bytes()
    for name, (make, _, _) in DAMAGED.items():
        if not name.startswith(".."):
            (root / name).write_bytes(make(flac))
    attempts: list[str] = []
    worker = audio_worker(queue, redis_url, isolation)
    worker.on("active", lambda job, *_: attempts.append(job.id))
    await start_worker(worker=worker)
    jobs = {
        name: await queue.add("process-audio", payload(name), attempts=3, backoff=0.05)
        for name in DAMAGED
    }
    for name, (_, code, text) in DAMAGED.items():
        reason = await failure_of(jobs[name], within=30)
        assert reason.startswith(code)
        assert text in reason
        assert str(root) not in reason
        seen = await queue.get_job(jobs[name].id)
        assert seen is not None
        assert seen.attempts_made == 1
        assert seen.failed_reason == reason
    assert sorted(attempts) == sorted(job.id for job in jobs.values())
    # The worker is as good as new.
    after = await queue.add("process-audio", payload("ok.wav"))
    assert (await result_of(after, within=30))["status"] == "completed"


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_a_file_that_comes_late_is_measured_by_a_later_attempt(
    queue: Queue, redis_url: str, start_worker: StartWorker, isolation: str, root: Path
) -> None:
    worker = audio_worker(queue, redis_url, isolation)
    reasons: list[str] = []

    def arrive(_job: object, error: BaseException, *_: object) -> None:
        reasons.append(str(error))
        (root / "ok.wav").rename(root / "late.wav")

    worker.once("failed", arrive)
    await start_worker(worker=worker)
    job = await queue.add(
        "process-audio", payload("late.wav"), attempts=3, backoff=Backoff.fixed(0.2)
    )
    assert (await result_of(job, within=30))["status"] == "completed"
    seen = await queue.get_job(job.id)
    assert seen is not None
    assert seen.attempts_made == 2
    assert "late.wav" in reasons[0]


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_a_store_that_stays_away_uses_all_attempts(
    queue: Queue,
    redis_url: str,
    start_worker: StartWorker,
    isolation: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BULLPY_AUDIO_ROOT", str(root / "unmounted"))
    await start_worker(worker=audio_worker(queue, redis_url, isolation))
    job = await queue.add(
        "process-audio", payload("ok.wav"), attempts=3, backoff=Backoff.fixed(0.05)
    )
    assert "cannot be read" in await failure_of(job, within=30)
    seen = await queue.get_job(job.id)
    assert seen is not None
    assert seen.attempts_made == 3
