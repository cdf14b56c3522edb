"""What a worker does with jobs: its processors, middleware and lifespan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from bullpy import hooks, processors
from bullpy.limits import Limits
from bullpy.types import Isolation

Function = TypeVar("Function", bound=Callable[..., Any])


class Registration:
    """The decorators of a worker, and what they have collected.

    Args:
        isolation: Where processors run that do not say it themselves; None leaves it to whether
            they are async.
    """

    def __init__(self, isolation: Isolation | None) -> None:
        self._table = processors.ProcessorTable(isolation)
        self._hooks = hooks.Hooks()

    def processor(
        self,
        name: str | None = None,
        *,
        isolation: Isolation | str | None = None,
        timeout: float | None = None,
        memory: int | str | None = None,
        cpu: float | None = None,
    ) -> Callable[[Function], Function]:
        """Decorate the function that processes jobs of that name.

        Args:
            name: The job name; None takes every job that no other processor takes.
            isolation: `process`, `thread` or `loop`; by default `async def` runs on the event
                loop and `def` in a child process.
            timeout: Seconds that a run may take.
            memory: Bytes of memory that its child process may have, or text such as `"512MB"`.
            cpu: Seconds of CPU time that a run may take.

        Raises:
            errors.ProcessorError: The function cannot be used, or the name is taken.
            errors.ConfigurationError: A limit makes no sense.
        """
        limits = Limits.of(timeout, memory, cpu)

        def register(function: Function) -> Function:
            self._table.add(function, name, isolation, limits)
            return function

        return register

    def add_plugin(
        self,
        job_name: str,
        *,
        isolation: Isolation | str | None = None,
        timeout: float | None = None,
        memory: int | str | None = None,
        cpu: float | None = None,
    ) -> None:
        """Process jobs of that name with the processor of an installed plugin.

        Args:
            job_name: The job name.
            isolation: As for `processor`, and so are the limits.
            timeout: Seconds that a run may take.
            memory: Bytes of memory that its child process may have, or text such as `"512MB"`.
            cpu: Seconds of CPU time that a run may take.

        Raises:
            errors.ProcessorError: No plugin offers one.
            errors.ConfigurationError: A limit makes no sense.
        """
        limits = Limits.of(timeout, memory, cpu)
        self._table.add(processors.plugin(job_name), job_name, isolation, limits)

    def lifespan(self, function: hooks.Lifespan) -> hooks.Lifespan:
        """Decorate an async generator that runs around the worker's life.

        What it yields is `worker.state`. It starts before the first fetch, and ends after the
        last job.
        """
        return self._hooks.set_lifespan(function)

    def middleware(self, function: hooks.Middleware) -> hooks.Middleware:
        """Decorate `async def around(call_next, job)`, which surrounds every job."""
        return self._hooks.add_middleware(function)

    @property
    def job_names(self) -> list[str]:
        """The job names that have a processor of their own."""
        return self._table.job_names

    @property
    def isolations(self) -> frozenset[Isolation]:
        """Where its processors run."""
        # No job has the empty name: it finds the processor for all other names.
        found = (self._table.find(name) for name in (*self._table.job_names, ""))
        return frozenset(processor.isolation for processor in found if processor is not None)
