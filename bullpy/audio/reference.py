"""The stored result of an earlier job, as the reference of this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from bullpy import Job, JobSnapshot, JobState
from bullpy.audio.errors import (
    ReferenceFailedError,
    ReferenceMissingError,
    ReferencePendingError,
)


def stored_result(job: Job[Any], reference_id: str) -> Mapping[str, object]:
    """The result of the job that a producer knows by that id.

    Args:
        job: The job that needs it.
        reference_id: The `jobId` in the other job's data, or its BullMQ id.

    Raises:
        ReferenceMissingError: There is no such job, or none with a result any more.
        ReferencePendingError: It has not ended; waiting helps.
        ReferenceFailedError: It has failed.
        errors.RedisError: Redis could not be asked.
    """
    # In a `def` processor the call has its answer when it returns.
    look = cast("Any", job.find_jobs)
    found: list[JobSnapshot] = [*look(reference_id, "jobId"), *look(reference_id)]
    others = [snapshot for snapshot in found if snapshot.id != job.id]
    return _result_of(others, reference_id)


def _result_of(found: Sequence[JobSnapshot], reference_id: str) -> Mapping[str, object]:
    """The result of the first that has one; an analysis may have been repeated."""
    for snapshot in found:
        if snapshot.state is JobState.COMPLETED and isinstance(snapshot.return_value, Mapping):
            result = cast("Mapping[str, object]", snapshot.return_value)
            if isinstance(result.get("loudness"), Mapping):
                return result
    # A state can be unknown for a moment, while the job moves.
    ended = (JobState.COMPLETED, JobState.FAILED)
    if waiting := [snapshot for snapshot in found if snapshot.state not in ended]:
        raise ReferencePendingError(
            f"The reference job {reference_id} has not ended: it is {waiting[0].state}.",
            fix="Add the job when its reference has completed, or let it try again.",
        )
    if failed := [snapshot for snapshot in found if snapshot.state is JobState.FAILED]:
        raise ReferenceFailedError(
            f"The reference job {reference_id} failed: {failed[0].failed_reason or 'unknown'}.",
            fix="Analyse the reference again.",
        )
    if found:
        raise ReferenceMissingError(
            f"The reference job {reference_id} completed without the result of an analysis.",
            cause="It is a job of another kind.",
        )
    raise ReferenceMissingError(
        f"There is no reference job {reference_id} in the queue.",
        cause="It was removed after it completed (removeOnComplete), or is of another queue.",
        fix="Keep more completed jobs, or analyse the reference again.",
    )
