"""The processor of `process-audio` jobs: payload in, measurement out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from bullpy import Job, errors
from bullpy.audio import comparison, jobfiles
from bullpy.audio.comparison import Compared
from bullpy.audio.errors import AudioError, ReferencePendingError
from bullpy.audio.jobfiles import Wanted
from bullpy.audio.reference import stored_result
from bullpy.audio.settings import AudioSettings
from bullpy.audio.targets import parse_targets

_REFERENCE_PATIENCE = 600.0  # seconds that a job waits for its reference without using attempts
_REFERENCE_LOOK = 5.0  # seconds between two looks


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
        genre_targets: Target values per metric; see `bullpy.audio.targets`.
        reference_job_id: The earlier job whose result is the reference: its `jobId`, or
            BullMQ's id.
        reference_file_key: The second file of mode `comparison`.
        series: Whether the result holds curves for plots.
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
    series: bool = False

    @model_validator(mode="after")
    def _names_its_reference(self) -> AudioJob:
        if self.mode == "comparison" and not self.reference_file_key:
            raise ValueError("referenceFileKey is required when mode is 'comparison'")
        compares = self.mode == "reference" and self.reference_stage == "compare"
        if compares and not self.reference_job_id:
            raise ValueError("referenceJobId is required when referenceStage is 'compare'")
        return self


def process_audio(job: Job[AudioJob]) -> dict[str, object]:
    """Measure the file that a job names; the result is the plugin's JSON report.

    Files come from `BULLPY_AUDIO_STORE`, or from below `BULLPY_AUDIO_ROOT`. The mode says what
    the measurement is compared with: `genre` with `genreTargets`, `reference` with the result of
    `referenceJobId`, `comparison` with the file of `referenceFileKey`. Progress follows the bytes
    that arrive and those that are decoded.

    Raises:
        errors.Discard: The file can never be measured: not audio, damaged, outside the
            limits, or its key is refused; or the reference is gone or has failed. The job
            fails without retries, and its `failedReason` begins with the error's code.
        errors.PayloadError: The payload breaks the model; fails without retries.
        errors.Snooze: The reference has not ended; the job looks again in a few seconds.
        ReferencePendingError: It has not ended within ten minutes; the job is retried.
        FileMissingError: No such file (yet); the job is retried.
        StoreError: The file cannot be had now; the job is retried.
        errors.JobCancelledError: The job was asked to stop.
    """
    started = time.monotonic()
    payload = _payload(job.data)
    settings = AudioSettings.from_env()
    try:
        report, compared = _analyzed(job, payload, settings)
    except AudioError as error:
        if error.permanent:
            raise errors.Discard(f"{error.code}: {error}") from error
        raise
    metadata = cast("dict[str, object]", report.pop("metadata"))
    warnings = cast("list[object]", report.pop("warnings"))
    return {
        "status": "completed",
        "mode": payload.mode,
        "jobId": payload.job_id,
        "externalId": payload.external_id if payload.external_id is not None else job.id,
        **_carried(payload),
        "processingTime": round((time.monotonic() - started) * 1000),
        **report,
        "comparison": compared.values,
        "metadata": {
            **metadata,
            "fileName": payload.file_name or metadata["fileName"],
            "fileKey": payload.file_key,
        },
        "warnings": [*warnings, *compared.warnings],
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


def _analyzed(
    job: Job[AudioJob], payload: AudioJob, settings: AudioSettings
) -> tuple[dict[str, object], Compared]:
    """The measurement in its JSON form, and what it was compared with."""
    if payload.mode == "comparison":
        assert payload.reference_file_key is not None
        report, reference = _measured(job, payload, settings, payload.reference_file_key)
        compared = comparison.with_reference(report, reference)
        return report, Compared(compared.values, [*_of_reference(reference), *compared.warnings])
    # Before the file is read: what can be known to fail should fail at once.
    if payload.mode == "genre":
        wanted = parse_targets(payload.genre_targets or {})
        (report,) = _measured(job, payload, settings)
        compared = comparison.with_targets(report, wanted)
        if compared.values is None:
            none = comparison.nothing("There are no genreTargets.")
            return report, Compared(None, [*compared.warnings, *none.warnings])
        return report, compared
    if payload.reference_job_id is None:
        (report,) = _measured(job, payload, settings)
        return report, comparison.nothing("There is no referenceJobId: this is the reference.")
    stored = _reference(job, payload.reference_job_id)
    (report,) = _measured(job, payload, settings)
    return report, comparison.with_reference(report, stored)


def _reference(job: Job[AudioJob], reference_id: str) -> Mapping[str, object]:
    """The stored result; a young job waits for it without using its attempts."""
    try:
        return stored_result(job, reference_id)
    except ReferencePendingError as error:
        if time.time() - job.timestamp / 1000 < _REFERENCE_PATIENCE:
            job.log(str(error))
            raise errors.Snooze(_REFERENCE_LOOK) from error
        raise


def _measured(
    job: Job[AudioJob], payload: AudioJob, settings: AudioSettings, *others: str
) -> list[dict[str, object]]:
    """The reports of the job's file and of other files, in their JSON form."""
    wanted = [Wanted(payload.file_key, payload.series), *map(Wanted, others)]
    return jobfiles.measured(job, wanted, settings)


def _of_reference(reference: Mapping[str, object]) -> list[dict[str, str]]:
    """The warnings of the second file, marked as such."""
    found = cast("list[dict[str, str]]", reference["warnings"])
    return [{**warning, "message": f"Reference: {warning['message']}"} for warning in found]


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
