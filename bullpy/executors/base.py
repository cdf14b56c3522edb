"""What every executor offers."""

from __future__ import annotations

from typing import Any, Protocol

from bullpy.job import Job
from bullpy.processors import Processor


class Executor(Protocol):
    """Runs one job at a time per call, and survives whatever the processor does."""

    async def start(self) -> None:
        """Get ready for the first job."""
        ...

    async def ready(self) -> None:
        """Wait until a job that comes now starts at once."""
        ...

    async def run(self, processor: Processor, job: Job[Any], args: tuple[Any, ...]) -> Any:
        """Call the processor with the job and `args`, and give what it returns or raises."""
        ...

    async def close(self) -> None:
        """Take no more jobs. What still runs is left to itself, or ended where it can be."""
        ...
