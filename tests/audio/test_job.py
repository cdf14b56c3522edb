"""The processor: payload rules, result, progress, and which failures are retried."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from pydantic import ValidationError

from bullpy import errors
from bullpy.audio import AudioJob, FileMissingError, StoreError, process_audio
from bullpy.job import Job

PAYLOAD: dict[str, Any] = {
    "jobId": "0B6D2C8E-6F4B-4F5F-9F0C-2B1A7B0F8A11",
    "externalId": "audio-1714564800000-0a1b2c3d",
    "fileKey": "ok.wav",
    "fileName": "My song.wav",
    "mode": "genre",
    "genre": "techno",
    "soundDestination": "pista",
    "planContext": {"plan": "pro"},
    "somethingNew": [1, 2],
}


class StandIn:
    """What the processor uses of a job, without a queue."""

    def __init__(self, data: object, stop: bool = False) -> None:
        self.id = "audio-1714564800000-0a1b2c3d"
        self.data = data
        self.progress: list[int] = []
        self.lines: list[str] = []
        self._stop = stop

    def update_progress(self, progress: int) -> None:
        self.progress.append(progress)

    def log(self, line: str) -> None:
        self.lines.append(line)

    def should_stop(self) -> bool:
        return self._stop


def run(job: StandIn) -> dict[str, Any]:
    return process_audio(typing.cast("Job[AudioJob]", job))


@pytest.fixture(autouse=True)
def root(good: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BULLPY_AUDIO_ROOT", str(good))
    return good


def test_the_result_follows_the_contract() -> None:
    job = StandIn(AudioJob.model_validate(PAYLOAD))
    result = run(job)
    assert list(result) == [
        "status", "mode", "jobId", "externalId", "genre", "soundDestination", "referenceStage",
        "referenceJobId", "planContext", "processingTime", "loudness", "truePeak", "stereo",
        "dynamics", "rms", "dcOffset", "spectral", "spectralBands", "comparison", "metadata",
        "warnings",
    ]  # fmt: skip
    assert result["jobId"] == PAYLOAD["jobId"]
    assert result["planContext"] == {"plan": "pro"}
    assert result["loudness"]["unit"] == "LUFS"
    assert result["metadata"]["fileName"] == "My song.wav"
    assert result["metadata"]["fileKey"] == "ok.wav"
    assert result["metadata"]["engine"] == "bullpy-audio"
    assert result["comparison"] is None
    codes = [warning["code"] for warning in result["warnings"]]
    assert codes == ["too-short", "nothing-to-compare"]
    json.dumps(result, allow_nan=False)
    assert len(job.lines) == 1


def test_a_plain_dictionary_is_taken_too() -> None:
    assert run(StandIn(PAYLOAD))["status"] == "completed"


def test_progress_rises_to_100(root: Path, tone: NDArray[np.float32]) -> None:
    soundfile.write(root / "long.wav", np.tile(tone, (12, 1)), 48_000)
    job = StandIn({**PAYLOAD, "fileKey": "long.wav"})
    run(job)
    assert job.progress == sorted(set(job.progress))
    assert job.progress[-1] == 100


def test_a_redis_that_is_away_costs_progress_alone() -> None:
    class Away(StandIn):
        def update_progress(self, progress: int) -> None:
            raise errors.RedisUnavailableError("away")

    assert run(Away(PAYLOAD))["status"] == "completed"


def test_curves_come_on_request() -> None:
    assert "series" not in run(StandIn(PAYLOAD))
    assert run(StandIn({**PAYLOAD, "series": True}))["series"]["momentary"]["step"] == 0.1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"jobId": "17"}, "jobId"),
        ({"jobId": None}, "jobId"),
        ({"fileKey": ""}, "fileKey"),
        ({"fileKey": None}, "fileKey"),
        ({"mode": "guess"}, "mode"),
        ({"referenceStage": "third"}, "referenceStage"),
        ({"soundDestination": "radio"}, "soundDestination"),
        ({"genreTargets": [1]}, "genreTargets"),
        ({"referenceJobId": "x"}, "referenceJobId"),
        ({"mode": "comparison"}, "referenceFileKey"),
        ({"mode": "reference", "referenceStage": "compare"}, "referenceJobId"),
    ],
)
def test_a_broken_payload_names_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        AudioJob.model_validate({**PAYLOAD, **change})
    with pytest.raises(errors.PayloadError, match=field):
        run(StandIn({**PAYLOAD, **change}))


def test_unknown_fields_are_kept() -> None:
    payload = AudioJob.model_validate(PAYLOAD)
    assert payload.model_dump(by_alias=True)["somethingNew"] == [1, 2]


def test_the_annotation_can_be_resolved_at_run_time() -> None:
    hints = typing.get_type_hints(process_audio)
    assert typing.get_args(hints["job"]) == (AudioJob,)


@pytest.mark.parametrize("key", ["../ok.wav", "/etc/passwd", "text.mp3", "empty.wav"])
def test_what_can_never_work_is_not_retried(key: str, root: Path) -> None:
    (root / "text.mp3").write_text("hello " * 100)
    (root / "empty.wav").touch()
    with pytest.raises(errors.Discard) as caught:
        run(StandIn({**PAYLOAD, "fileKey": key}))
    assert str(caught.value)


def test_a_missing_file_is_retried() -> None:
    with pytest.raises(FileMissingError):
        run(StandIn({**PAYLOAD, "fileKey": "later.wav"}))


def test_a_missing_root_folder_is_retried(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("BULLPY_AUDIO_ROOT", str(root / "unmounted"))
    with pytest.raises(StoreError):
        run(StandIn(PAYLOAD))


def test_an_unset_root_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BULLPY_AUDIO_ROOT")
    with pytest.raises(errors.ConfigurationError, match="BULLPY_AUDIO_ROOT"):
        run(StandIn(PAYLOAD))


def test_a_cancelled_job_stops() -> None:
    with pytest.raises(errors.JobCancelledError):
        run(StandIn(PAYLOAD, stop=True))
