"""Jobs whose files come from each kind of store, through a real queue and worker."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import obstore
import pytest
from audio.objectserver import BUCKET, CREDENTIALS, object_server
from audio.webserver import WebServer, content, stuck_in_body, web_server
from obstore.store import S3Store as Bucket
from support.outcomes import failure_of, result_of

from bullpy import Queue, QueueEvents, Worker
from bullpy.audio import process_audio

StartWorker = Callable[..., Any]


@pytest.fixture
def web(good: Path) -> Iterator[WebServer]:
    with web_server() as server:
        for file in good.iterdir():
            server.answers[f"/audio/{file.name}"] = content(file.read_bytes())
        yield server


@pytest.fixture(autouse=True)
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where downloads go; nothing may be left there."""
    monkeypatch.setenv("BULLPY_AUDIO_TMP", str(tmp_path))
    yield tmp_path
    assert [path for path in tmp_path.rglob("*.wav") if "bullpy-audio" in str(path)] == []


def payload(**fields: Any) -> dict[str, Any]:
    return {"jobId": str(uuid4()), "fileKey": "ok.wav", "mode": "genre", **fields}


def audio_worker(queue: Queue, redis_url: str, isolation: str = "process") -> Worker:
    worker = Worker(queue.name, redis=redis_url)
    worker.processor("process-audio", isolation=isolation)(process_audio)
    return worker


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_files_come_from_a_web_server(
    queue: Queue,
    redis_url: str,
    start_worker: StartWorker,
    web: WebServer,
    monkeypatch: pytest.MonkeyPatch,
    isolation: str,
) -> None:
    monkeypatch.setenv("BULLPY_AUDIO_STORE", web.url("/audio"))
    monkeypatch.setenv("BULLPY_AUDIO_ALLOW_PRIVATE", "1")
    await start_worker(worker=audio_worker(queue, redis_url, isolation))
    sent = payload(mode="comparison", fileKey="ok.flac", referenceFileKey="ok.wav")
    result = await result_of(await queue.add("process-audio", sent), within=30)
    assert result["metadata"]["fileName"] == "ok.flac"
    assert result["comparison"]["lufs"]["delta"] == pytest.approx(0, abs=1e-3)
    missing = await queue.add("process-audio", payload(fileKey="none.wav"), attempts=3)
    assert "404" in await failure_of(missing, within=30)
    assert [asked.path for asked in web.asked].count("/audio/none.wav") == 1


async def test_files_come_from_a_bucket(
    queue: Queue,
    redis_url: str,
    start_worker: StartWorker,
    good: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with object_server() as server:
        bucket = Bucket(
            BUCKET,
            config={"endpoint": server.endpoint, "region": "us-east-1"},
            client_options={"allow_http": True},
        )
        obstore.put(bucket, "up/2024/ok.flac", good / "ok.flac")
        monkeypatch.setenv("BULLPY_AUDIO_STORE", server.url("up"))
        await start_worker(worker=audio_worker(queue, redis_url))
        job = await queue.add("process-audio", payload(fileKey="2024/ok.flac"))
        result = await result_of(job, within=30)
        assert result["metadata"]["fileName"] == "ok.flac"
        missing = await queue.add("process-audio", payload(fileKey="none.wav"))
        assert "no file 'none.wav'" in await failure_of(missing, within=30)


async def test_private_addresses_are_refused_by_default(
    queue: Queue,
    redis_url: str,
    start_worker: StartWorker,
    web: WebServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BULLPY_AUDIO_STORE", web.url("/audio"))
    await start_worker(worker=audio_worker(queue, redis_url))
    job = await queue.add("process-audio", payload(), attempts=3)
    assert "no public address" in await failure_of(job, within=30)
    assert web.asked == []


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_a_job_is_cancelled_while_it_downloads_and_progress_has_moved(
    queue: Queue,
    redis_url: str,
    start_worker: StartWorker,
    web: WebServer,
    monkeypatch: pytest.MonkeyPatch,
    isolation: str,
) -> None:
    monkeypatch.setenv("BULLPY_AUDIO_STORE", web.url("/"))
    monkeypatch.setenv("BULLPY_AUDIO_ALLOW_PRIVATE", "1")
    web.answers["/stuck.wav"] = stuck_in_body
    await start_worker(worker=audio_worker(queue, redis_url, isolation))
    async with QueueEvents(queue.name, redis=redis_url) as events:
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        events.once("progress", lambda event, _id: told.set_result(event["data"]))
        await events.wait_until_ready()
        job = await queue.add("process-audio", payload(fileKey="stuck.wav"))
        # Half of the file has come, and downloading is half of the job.
        assert int(await asyncio.wait_for(told, 20)) == 25
        await queue.cancel(job.id, "the test says so")
        assert "the test says so" in await failure_of(job, within=5)


def test_the_system_s_folder_is_the_default_for_downloads() -> None:
    from bullpy.audio.stores.temporary import Downloads

    assert Downloads().folder.parent == Path(tempfile.gettempdir())
