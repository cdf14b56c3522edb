"""The processor of `process-audio` jobs: payload in, measurement out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from bullpy import Job, errors
from bullpy.audio.errors import AudioError
from bullpy.audio.settings import AudioSettings
from bullpy.audio.store import LocalStore

_PROGRESS_STEP = 5  # percent: at most 20 updates per job


def _uuid(text: str) -> str:
    UUID(text)
    return text  # as it came: the producer looks it up by its own spelling


UuidText = Annotated[str, AfterValidator(_uuid)]


class AudioJob(BaseModel):
    """What a producer sends (camelCase on the wire). Unknown fields are kept and ignored.

    Attributes:
        job_id: The producer's own key of the analysis, a UUID; not BullMQ's job id.
        external_id: BullMQ's job id as the producer knows it.
        file_key: Where the file is, relative to the store's root.
        file_name: What the user called it.
        mode: What to compare with.
        analysis_type: Carried through to the result.
        reference_stage: Carried through to the result.
        sound_destination: Carried through to the result.
        plan_context: Carried through to the result.
        genre: Name of the genre, carried through to the result.
        genre_targets: Target values per metric.
        reference_job_id: The earlier job whose result is the reference.
        reference_file_key: The second file of mode `comparison`.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="allow", frozen=True
    )

    job_id: UuidText
    external_id: str | None = None
    file_key: str = Field(min_length=1)
    file_name: str | None = None
    mode: Literal["genre", "reference", "comparison"]
    analysis_type: str | None = None
    reference_stage: Literal["base", "compare"] | None = None
    sound_destination: Literal["pista", "streaming"] | None = None
    # Any JSON: the producer's own, never looked into.
    plan_context: Any = None
    genre: str | None = None
    genre_targets: dict[str, Any] | None = None
    reference_job_id: UuidText | None = None
    reference_file_key: str | None = None

    @model_validator(mode="after")
    def _comparison_names_its_reference(self) -> AudioJob:
        if self.mode == "comparison" and not self.reference_file_key:
            raise ValueError("referenceFileKey is required when mode is 'comparison'")
        return self


def process_audio(job: Job[AudioJob]) -> dict[str, object]:
    """Measure the file that a job names; the result is the plugin's JSON report.

    The file is read below `BULLPY_AUDIO_ROOT`. Progress follows decoding, in steps of 5 %.

    Raises:
        errors.Discard: The file can never be measured: not audio, damaged, outside the
            limits, or its key is refused. The job fails without retries.
        errors.PayloadError: The payload breaks the model; fails without retries.
        FileMissingError: No such file (yet); the job is retried.
        StoreError: The file cannot be read now; the job is retried.
        errors.JobCancelledError: The job was asked to stop.
    """
    started = time.monotonic()
    payload = _payload(job.data)
    settings = AudioSettings.from_env()
    try:
        report = _measure(job, payload, settings)
    except AudioError as error:
        if error.permanent:
            raise errors.Discard(str(error)) from error
        raise
    metadata = report.pop("metadata")
    assert isinstance(metadata, dict)
    warnings = report.pop("warnings")
    assert isinstance(warnings, list)
    return {
        "status": "completed",
        "mode": payload.mode,
        "jobId": payload.job_id,
        "externalId": payload.external_id if payload.external_id is not None else job.id,
        **_carried(payload),
        "processingTime": round((time.monotonic() - started) * 1000),
        **report,
        "metadata": {
            **metadata,
            "fileName": payload.file_name or metadata["fileName"],
            "fileKey": payload.file_key,
        },
        "warnings": [*warnings, *_unbuilt(payload)],
    }


def _payload(data: object) -> AudioJob:
    """The model, also when the processor was called with undecoded data."""
    if isinstance(data, AudioJob):
        return data
    try:
        return AudioJob.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc']) or 'data'}: {detail['msg']}"
            for detail in error.errors(include_url=False, include_input=False)
        )
        raise errors.PayloadError(
            f"The job's data breaks AudioJob: {problems}.", fix="Correct the producer."
        ) from None


def _measure(job: Job[AudioJob], payload: AudioJob, settings: AudioSettings) -> dict[str, object]:
    from bullpy.audio.analysis import analyze  # numpy and libsndfile load with the first job

    with LocalStore(settings.require_root()).fetch(payload.file_key) as path:
        report = analyze(
            path,
            settings=settings,
            on_progress=_throttled(job.update_progress),
            should_stop=job.should_stop,
        )
    metadata = report.metadata
    job.log(
        f"Measured {metadata.duration:.1f} s of {metadata.format}, "
        f"{metadata.sample_rate} Hz, {metadata.channels} channels."
    )
    return report.to_wire()


def _throttled(update: Callable[[int], object]) -> Callable[[float], None]:
    """Progress in percent, told only when it moved by a step."""
    told = 0

    def on_progress(share: float) -> None:
        nonlocal told
        percent = int(share * 100) // _PROGRESS_STEP * _PROGRESS_STEP
        if percent > told:
            told = percent
            update(percent)

    return on_progress


def _carried(payload: AudioJob) -> dict[str, object]:
    """What the producer gets back as it sent it."""
    carried: dict[str, object] = {
        "genre": payload.genre,
        "soundDestination": payload.sound_destination,
        "referenceStage": payload.reference_stage,
        "referenceJobId": payload.reference_job_id,
    }
    sent = payload.model_fields_set
    if "analysis_type" in sent:
        carried["analysisType"] = payload.analysis_type
    if "plan_context" in sent:
        carried["planContext"] = payload.plan_context
    return carried


def _unbuilt(payload: AudioJob) -> list[dict[str, str]]:
    if payload.mode == "genre" and payload.genre_targets is None:
        return []
    text = f"Mode {payload.mode!r}: the file was measured; comparing is not built yet."
    return [{"code": "comparison-not-built", "message": text}]
