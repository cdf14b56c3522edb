"""How jobs ended, as who waits for them sees it."""

from __future__ import annotations

from typing import Any

import pytest

from bullpy import Job, errors


async def result_of(job: Job[Any], within: float = 5) -> Any:
    return await job.wait_until_finished(within)


async def failure_of(job: Job[Any], within: float = 5) -> str:
    with pytest.raises(errors.JobFailedError) as failed:
        await job.wait_until_finished(within)
    return failed.value.failed_reason
