"""Finds jobs by what their producer calls them, for a processor that needs another job's result."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from bullpy import codec
from bullpy.backend import Backend
from bullpy.types import JobSnapshot, JobState

LOOKED_AT = 1000
"""Jobs per state that are looked at; of those that have ended, the last ones."""

_CHUNK = 100
# In the order in which jobs move on: one that moves meanwhile is seen in its next state.
_WAITING = (
    *(JobState.DELAYED, JobState.WAITING_CHILDREN, JobState.PRIORITIZED),
    *(JobState.PAUSED, JobState.WAIT),
)
_STATES = (*_WAITING, JobState.ACTIVE, JobState.COMPLETED, JobState.FAILED)


async def find_jobs(backend: Backend, value: str, field: str | None) -> list[JobSnapshot]:
    """See `Job.find_jobs`.

    Raises:
        errors.RedisError: Redis could not be asked.
    """
    if field is None:
        found = await _snapshot(backend, value)
        return [] if found is None else [found]
    matching: dict[str, None] = {}
    for state in _STATES:
        ids = await backend.getRanges([str(state)], 0, LOOKED_AT - 1, False)
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            texts = await asyncio.gather(*(_data(backend, job_id) for job_id in chunk))
            matching |= dict.fromkeys(_with(value, field, chunk, texts))
    snapshots = [await _snapshot(backend, job_id) for job_id in matching]
    return [found for found in snapshots if found is not None]


def _with(value: str, field: str, ids: Sequence[str], texts: Sequence[str | None]) -> list[str]:
    """The ids of the jobs whose data has the value in that field."""
    return [
        job_id
        for job_id, text in zip(ids, texts, strict=True)
        # Few jobs hold the text at all: decoding every payload would be most of the work.
        if text and value in text and _field(text, field) == value
    ]


def _field(text: str, field: str) -> object:
    try:
        data = codec.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", data).get(field) if isinstance(data, dict) else None


async def _data(backend: Backend, job_id: str) -> str | None:
    return cast("str | None", await backend.conn.hget(backend.toKey(job_id), "data"))


async def _snapshot(backend: Backend, job_id: str) -> JobSnapshot | None:
    # The state first: a job that completes in between has its result all the more.
    state = JobState.of(str(await backend.getState(job_id)))
    raw = await backend.getJobData(job_id)
    if not raw or not raw.get("name"):
        return None
    return JobSnapshot(
        job_id,
        state,
        _decoded(raw.get("data")),
        _decoded(raw.get("returnvalue")) if state is JobState.COMPLETED else None,
        raw.get("failedReason"),
    )


def _decoded(text: str | None) -> Any:
    try:
        return codec.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
