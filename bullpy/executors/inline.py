"""Processors on the event loop."""

from __future__ import annotations

import inspect
from typing import Any

from bullpy.job import Job
from bullpy.processors import Processor


class InlineExecutor:
    """Awaits `async def` processors where the worker runs; `def` ones block the loop."""

    async def start(self) -> None:
        """Nothing to prepare."""

    async def ready(self) -> None:
        """It always is."""

    async def run(self, processor: Processor, job: Job[Any], args: tuple[Any, ...]) -> Any:
        """Call the processor, and await it if it is to be awaited."""
        result = processor.target(job, *args)
        return await result if inspect.isawaitable(result) else result

    async def close(self) -> None:
        """Nothing to give back."""
