"""The example's Node API with a Python worker behind it, over HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from support.faults import eventually
from support.processes import ROOT, Process, run, worker

from bullpy import EmbeddedServer, Queue
from bullpy.doctor.peer import compare_with_peer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

SERVER = ROOT / "examples" / "node-api" / "server.mjs"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: dict[str, Any]
    headers: dict[str, str]


class Api:
    """The API's HTTP side."""

    def __init__(self, address: str) -> None:
        self.address = address
        parts = urlsplit(address)
        self._host, self._port = str(parts.hostname), parts.port

    async def ask(self, method: str, path: str, body: object = None) -> Answer:
        """One request; `body` is bytes as they are, or becomes JSON."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        return await asyncio.to_thread(self._ask, method, path, data)

    async def post(self, **body: object) -> str:
        """Ask for an analysis; gives its id."""
        answer = await self.ask("POST", "/analyses", body)
        assert answer.status == 202, answer
        assert answer.body["state"] == "waiting"
        assert answer.headers["location"] == f"/analyses/{answer.body['id']}"
        return answer.body["id"]

    async def finished(self, job_id: str, timeout: float = 30.0) -> dict[str, Any]:
        """Poll until the analysis has completed or failed."""

        async def look() -> dict[str, Any] | None:
            answer = await self.ask("GET", f"/analyses/{job_id}")
            assert answer.status == 200, answer
            return answer.body if answer.body["state"] in ("completed", "failed") else None

        return await eventually(look, timeout, every=0.1)

    def _ask(self, method: str, path: str, data: bytes | None) -> Answer:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=20)
        try:
            connection.request(method, path, data)
            response = connection.getresponse()
            text = response.read()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, json.loads(text) if text else {}, headers)
        finally:
            connection.close()


@asynccontextmanager
async def _node(url: str) -> AsyncIterator[tuple[Process, Api]]:
    node = shutil.which("node")
    assert node, "Node is needed for this test"
    with Process(node, SERVER, env={"REDIS_URL": url, "PORT": "0"}) as process:
        found = await asyncio.to_thread(process.wait_for, r"listening on (\S+)")
        yield process, Api(found[1])


@pytest.fixture(scope="module")
def redis() -> Any:
    with EmbeddedServer() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(
    redis: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Api]:
    """The whole of it: a server, tracks, a worker, and Node. All end by SIGTERM, with code 0."""
    folder = tmp_path_factory.mktemp("tracks")
    made = run(sys.executable, ROOT / "examples" / "make_tracks.py", folder, timeout=60)
    assert made.returncode == 0, made.stderr
    workers = worker(
        *(ROOT / "examples" / "audio_worker.py", "--concurrency", "2"),
        REDIS_URL=redis.url,
        BULLPY_AUDIO_ROOT=str(folder),
    )
    with workers:
        async with _node(redis.url) as (node, opened):
            await asyncio.to_thread(workers.wait_for, "ready: queue audio-analyzer")
            yield opened
            assert await asyncio.to_thread(node.stop) == 0, node.output
        assert await asyncio.to_thread(workers.stop) == 0, workers.output
    assert "Traceback" not in workers.output, workers.output


async def test_a_posted_file_is_measured_by_the_python_worker(api: Api) -> None:
    job_id = await api.post(fileName="song.flac")
    analysis = await api.finished(job_id)
    assert analysis["state"] == "completed", analysis
    assert (analysis["id"], analysis["fileName"]) == (job_id, "song.flac")
    assert analysis["progress"] == 100
    result = analysis["result"]
    assert result["metadata"]["fileName"] == "song.flac"
    assert result["metadata"]["duration"] == pytest.approx(20.0, abs=0.01)
    assert -40 < result["loudness"]["integrated"] < -5
    assert -12 < result["truePeak"]["maxDbtp"] < 3


async def test_file_key_names_the_file_and_file_name_its_title(api: Api) -> None:
    analysis = await api.finished(await api.post(fileName="My Söng.wav", fileKey="mono.wav"))
    assert analysis["state"] == "completed", analysis
    assert analysis["fileName"] == "My Söng.wav"
    assert analysis["result"]["metadata"]["duration"] == pytest.approx(10.0, abs=0.01)


async def test_files_posted_at_once_all_finish(api: Api) -> None:
    names = ["speech.wav", "single.mp3", "clipped.wav", "silence.wav", "high-resolution.flac"]
    ids = await asyncio.gather(*(api.post(fileName=name) for name in names))
    analyses = await asyncio.gather(*(api.finished(job_id) for job_id in ids))
    assert [(found["fileName"], found["state"]) for found in analyses] == [
        (name, "completed") for name in names
    ]


async def test_bad_file_fails_with_its_reason(api: Api) -> None:
    analysis = await api.finished(await api.post(fileName="not-audio.mp3"))
    assert analysis["state"] == "failed", analysis
    assert "not an audio file" in analysis["failedReason"]
    assert "Traceback" not in analysis["failedReason"]
    assert "result" not in analysis


async def test_file_outside_the_folder_fails_with_its_reason(api: Api) -> None:
    analysis = await api.finished(await api.post(fileName="../../outside.wav"))
    assert analysis["state"] == "failed", analysis
    assert analysis["failedReason"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        ({}, "fileName"),
        ({"fileName": ""}, "fileName"),
        ({"fileName": 7}, "fileName"),
        ({"fileName": "song.wav", "fileKey": "song.txt"}, "only .wav"),
        ({"fileName": "song.wav", "mode": "other"}, "mode"),
    ],
)
async def test_wrong_body_is_400_and_says_why(api: Api, body: object, says: str) -> None:
    answer = await api.ask("POST", "/analyses", body)
    assert answer.status == 400
    assert says in answer.body["error"]


async def test_wrongly_encoded_id_is_400(api: Api) -> None:
    assert (await api.ask("GET", "/analyses/%E0%A4%A")).status == 400


async def test_too_large_body_is_413(api: Api) -> None:
    answer = await api.ask("POST", "/analyses", {"fileName": "a" * 70_000 + ".wav"})
    assert answer.status == 413


@pytest.mark.parametrize("path", ["/", "/nothing", "/analyses/nobody", "/analyses/a/b"])
async def test_what_does_not_exist_is_404(api: Api, path: str) -> None:
    answer = await api.ask("GET", path)
    assert answer.status == 404
    assert answer.body["error"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/analyses", "POST"),
        ("PUT", "/analyses", "POST"),
        ("DELETE", "/analyses/some", "GET, HEAD"),
        ("POST", "/analyses/some", "GET, HEAD"),
    ],
)
async def test_wrong_method_is_405_and_names_the_right_one(
    api: Api, method: str, path: str, allowed: str
) -> None:
    answer = await api.ask(method, path)
    assert answer.status == 405
    assert answer.headers["allow"] == allowed
    assert answer.body["error"]


async def test_job_of_an_earlier_api_process_is_found(api: Api, redis: EmbeddedServer) -> None:
    job_id = await api.post(fileName="mono.wav")
    await api.finished(job_id)
    async with _node(redis.url) as (process, other):
        answer = await other.ask("GET", f"/analyses/{job_id}")
        assert (answer.status, answer.body["state"]) == (200, "completed")
        assert answer.body["result"]["metadata"]["fileName"] == "mono.wav"
        assert await asyncio.to_thread(process.stop) == 0, process.output


async def test_health_queue_says_the_queue_that_the_worker_has(
    api: Api, redis: EmbeddedServer
) -> None:
    answer = await api.ask("GET", "/health/queue")
    assert answer.status == 200
    async with Queue("audio-analyzer", redis=redis.url) as queue:
        ours = await queue.fingerprint()
        identity = await queue.whoami()
    assert answer.body["fingerprint"] == ours.value
    verdict = await compare_with_peer(api.address, identity, "bull", ["audio-analyzer"])
    assert verdict.code == "peer-agrees"


async def test_api_says_its_queue_at_boot(redis: EmbeddedServer) -> None:
    async with _node(redis.url) as (process, _):
        assert re.search(
            r"^queue fp=[0-9a-f]{12} .* queue=audio-analyzer via ", process.output, re.M
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_api_ends_with_code_0_on_a_signal(
    redis: EmbeddedServer, number: signal.Signals
) -> None:
    async with _node(redis.url) as (process, _):
        assert await asyncio.to_thread(process.stop, number, 5.0) == 0, process.output


async def test_api_without_redis_url_says_so() -> None:
    node = shutil.which("node")
    assert node, "Node is needed for this test"
    found = run(node, SERVER)
    assert found.returncode == 2
    assert "REDIS_URL is not set" in found.stderr
