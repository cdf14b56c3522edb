"""Processors: the user's functions, found by job name."""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bullpy import errors
from bullpy.executors.target import Target
from bullpy.job import Job
from bullpy.limits import NO_LIMITS, Limits
from bullpy.payloads import Payload, name_of
from bullpy.types import Isolation

log = logging.getLogger("bullpy.worker")

ENTRY_POINTS = "bullpy.processors"
"""Plugins announce processors under this group; an entry's name is the job name."""


@dataclass(slots=True)
class Processor:
    """One function that processes jobs.

    Attributes:
        target: The function; `def` or `async def`, taking the job, or as upstream's
            `(job, token)` and `(job, token, signal)`.
        job_name: Which jobs it takes; None takes those that no other takes.
        isolation: Where it runs.
        arguments: How many positional arguments it takes, 1 to 3.
        limits: What one run may use.
        is_explicit: Whether the isolation was asked for, so that nothing else will do.
    """

    target: Callable[..., Any]
    job_name: str | None
    isolation: Isolation
    arguments: int
    limits: Limits = NO_LIMITS
    is_explicit: bool = False
    _payload: Payload | None = None
    _place: Target | None = None

    @property
    def name(self) -> str:
        """What the function is called, for messages."""
        return name_of(self.target)

    @property
    def wants_signal(self) -> bool:
        """Whether it takes upstream's `AbortSignal` as third argument."""
        return self.arguments == 3

    def prepare(self) -> None:
        """Resolve the payload's type once, and where a child process finds the function.

        A `def` that no child can find runs in a thread, which is logged.

        Raises:
            errors.ProcessorError: The annotation names something that cannot be found, or that
                pydantic cannot validate; or only a child would do, and none finds the function.
        """
        self._payload = Payload.of(self.target)
        if self.isolation is not Isolation.PROCESS:
            return
        try:
            self._place = Target.of(self.target)
        except errors.ProcessorError as error:
            if self.is_explicit or self.limits.need_process:
                raise
            self.isolation = Isolation.THREAD
            log.warning(
                "%s It runs in a thread instead, where a crash or a hang is the worker's own.",
                error,
            )

    def load_payload(self, job: Job[Any]) -> None:
        """Turn `job.data` into what the processor's annotation says.

        Raises:
            errors.PayloadError: The data breaks the model; names the fields.
        """
        if self._payload is not None:
            job.data = self._payload.load(job.id, job.data)

    def wire(self) -> dict[str, Any]:
        """What a child process has to know of it. Only after `prepare`."""
        place = self._place
        assert place is not None
        return {
            "target": [place.module, place.file, place.qualname],
            "arguments": self.arguments,
            "is_script": place.file is not None,
        }


class ProcessorTable:
    """The processors of a worker, by job name.

    Args:
        isolation: Where processors run that do not say it themselves; None leaves it to whether
            they are async.
    """

    def __init__(self, isolation: Isolation | None = None) -> None:
        self._default = isolation
        self._by_name: dict[str | None, Processor] = {}

    def __bool__(self) -> bool:
        return bool(self._by_name)

    @property
    def job_names(self) -> list[str]:
        """The names with a processor of their own."""
        return sorted(name for name in self._by_name if name is not None)

    def add(
        self,
        target: Callable[..., Any],
        job_name: str | None = None,
        isolation: Isolation | str | None = None,
        limits: Limits | None = None,
    ) -> Processor:
        """Register a function.

        Args:
            target: See `Processor.target`.
            job_name: Which jobs it takes; None makes it the default.
            isolation: `process`, `thread` or `loop`; by default `async def` runs on the loop,
                `def` in a child process.
            limits: What one run may use.

        Raises:
            errors.ProcessorError: It cannot be called, its signature does not fit, the name has
                a processor already, or the limits need another isolation.
        """
        if job_name in self._by_name:
            what = f"jobs named {job_name!r}" if job_name else "all other jobs"
            raise errors.ProcessorError(
                f"There is a processor for {what} already: {self._by_name[job_name].name}.",
                fix="Give each job name one processor.",
            )
        where, is_explicit = _isolation(target, isolation, self._default)
        limits = limits or NO_LIMITS
        if limits.need_process and where is not Isolation.PROCESS:
            raise errors.ProcessorError(
                f"{name_of(target)} has a limit of memory or CPU time, but runs in the "
                f"worker's own process (isolation {where.value!r}).",
                cause="Both can be watched and enforced only in a process of its own.",
                fix='Say isolation="process", or leave the limit out.',
            )
        processor = Processor(target, job_name, where, _arguments(target), limits, is_explicit)
        self._by_name[job_name] = processor
        return processor

    def prepare(self) -> None:
        """Resolve all annotations; see `Processor.prepare`."""
        for processor in self._by_name.values():
            processor.prepare()

    def isolated(self, where: Isolation) -> list[Processor]:
        """The processors that run there. Only after `prepare`."""
        return [found for found in self._by_name.values() if found.isolation is where]

    def find(self, job_name: str) -> Processor | None:
        """The processor for that name, or the default, or None."""
        return self._by_name.get(job_name) or self._by_name.get(None)


def plugin(job_name: str) -> Callable[..., Any]:
    """The processor that an installed plugin offers for a job name.

    Raises:
        errors.ProcessorError: No plugin offers it, or it cannot be loaded.
    """
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    for entry in found.select(name=job_name):
        try:
            return entry.load()
        except ImportError as error:
            if isinstance(error, errors.BullpyError):
                raise
            raise errors.ProcessorError(
                f"The plugin {entry.value} cannot be loaded: {errors.describe(error)}.",
                cause="One of its dependencies is missing.",
            ) from error
    raise errors.ProcessorError(
        f"No installed plugin processes {job_name!r}.",
        cause=f"Found: {', '.join(sorted({entry.name for entry in found})) or 'none'}.",
        fix="Install the plugin, or correct the name.",
    )


def _isolation(
    target: Callable[..., Any], wanted: Isolation | str | None, default: Isolation | None
) -> tuple[Isolation, bool]:
    """Where a function runs, and whether somebody asked for that."""
    is_async = inspect.iscoroutinefunction(inspect.unwrap(target)) or inspect.iscoroutinefunction(
        getattr(target, "__call__", None)  # noqa: B004 - an instance with async __call__
    )
    if wanted is None:
        if is_async:
            # A worker's default of threads is meant for what blocks.
            is_process = default is Isolation.PROCESS
            return (Isolation.PROCESS if is_process else Isolation.LOOP), is_process
        return default or Isolation.PROCESS, default is not None
    try:
        isolation = Isolation(wanted)
    except ValueError:
        raise errors.ProcessorError(
            f"There is no isolation {str(wanted)!r}.", fix='Use "process", "thread" or "loop".'
        ) from None
    if is_async and isolation is Isolation.THREAD:
        raise errors.ProcessorError(
            f"{name_of(target)} is an async function and cannot run in a thread.",
            fix="Make it a plain def, or leave isolation out.",
        )
    return isolation, True


def _arguments(target: Callable[..., Any]) -> int:
    if not callable(target):
        raise errors.ProcessorError(f"A processor must be a function, not {type(target).__name__}.")
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return 1
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 3
    required = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    keyword_only = [p for p in required if p.kind is p.KEYWORD_ONLY]
    if not positional or len(required) > 3 or keyword_only:
        raise errors.ProcessorError(
            f"{name_of(target)} cannot be called with a job.",
            cause=f"Its signature is {inspect.signature(target)}.",
            fix="Take the job as the one argument: def process(job): ...",
        )
    return max(1, min(3, len(positional)))
