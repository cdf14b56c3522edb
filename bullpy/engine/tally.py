"""What a worker has done so far, in numbers."""

from __future__ import annotations

import time


class Tally:
    """Counts jobs that ended, and remembers the last ones; moments are of the monotonic clock.

    Attributes:
        completed: Jobs whose result is stored.
        failed: Attempts that failed.
        last_job: The id of the job that ended last.
        ended_at: When it did; None before the first.
        last_failure: Id and reason of the attempt that failed last; None before the first.
        failed_at: When it did.
    """

    __slots__ = ("completed", "ended_at", "failed", "failed_at", "last_failure", "last_job")

    def __init__(self) -> None:
        self.completed = 0
        self.failed = 0
        self.last_job = ""
        self.ended_at: float | None = None
        self.last_failure: tuple[str, str] | None = None
        self.failed_at = 0.0

    def complete(self, job_id: str) -> None:
        """Count a job whose result is stored."""
        self.completed += 1
        self.last_job = job_id
        self.ended_at = time.monotonic()

    def fail(self, job_id: str, reason: str) -> None:
        """Count a failed attempt."""
        self.failed += 1
        self.last_job = job_id
        self.last_failure = (job_id, reason)
        self.ended_at = self.failed_at = time.monotonic()
