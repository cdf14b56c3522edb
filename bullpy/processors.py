"""Processors: the user's functions, found by job name."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import typing_extensions

from bullpy import errors
from bullpy.job import Job
from bullpy.types import Isolation

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
    """

    target: Callable[..., Any]
    job_name: str | None
    isolation: Isolation
    arguments: int
    _adapter: Any = None
    _model: str = ""

    @property
    def wants_signal(self) -> bool:
        """Whether it takes upstream's `AbortSignal` as third argument."""
        return self.arguments == 3

    def prepare(self) -> None:
        """Resolve the payload's type once, before the first job.

        Raises:
            errors.ProcessorError: The annotation names something that cannot be found, or that
                pydantic cannot validate.
        """
        model = _payload_type(self.target)
        if model is not None:
            from pydantic import TypeAdapter
            from pydantic.errors import PydanticUserError

            try:
                self._adapter = TypeAdapter(cast("Any", model))
            except PydanticUserError as error:
                raise errors.ProcessorError(
                    f"The payload type of {_name(self.target)} cannot be used: {error.message}",
                    fix="Annotate the job with a pydantic model, or with Job[Any].",
                ) from error
            self._model = getattr(model, "__name__", str(model))

    def load_payload(self, job: Job[Any]) -> None:
        """Turn `job.data` into what the processor's annotation says.

        Raises:
            errors.PayloadError: The data breaks the model; names the fields.
        """
        if self._adapter is None:
            return
        from pydantic import ValidationError

        try:
            job.data = self._adapter.validate_python(job.data)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in detail['loc']) or 'data'}: {detail['msg']}"
                for detail in error.errors(include_url=False, include_input=False)
            )
            raise errors.PayloadError(
                f"The data of job {job.id} breaks {self._model}: {problems}.",
                cause="Producer and worker disagree about the payload.",
                fix="Correct the producer, or the model; the job is not retried.",
            ) from None


class ProcessorTable:
    """The processors of a worker, by job name."""

    def __init__(self) -> None:
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
    ) -> Processor:
        """Register a function.

        Args:
            target: See `Processor.target`.
            job_name: Which jobs it takes; None makes it the default.
            isolation: `thread` or `loop`; by default `async def` runs on the loop, `def` in a
                thread.

        Raises:
            errors.ProcessorError: It cannot be called, its signature does not fit, or the
                name has a processor already.
        """
        if job_name in self._by_name:
            what = f"jobs named {job_name!r}" if job_name else "all other jobs"
            raise errors.ProcessorError(
                f"There is a processor for {what} already: "
                f"{_name(self._by_name[job_name].target)}.",
                fix="Give each job name one processor.",
            )
        processor = Processor(target, job_name, _isolation(target, isolation), _arguments(target))
        self._by_name[job_name] = processor
        return processor

    def prepare(self) -> None:
        """Resolve all annotations; see `Processor.prepare`."""
        for processor in self._by_name.values():
            processor.prepare()

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


def _isolation(target: Callable[..., Any], wanted: Isolation | str | None) -> Isolation:
    is_async = inspect.iscoroutinefunction(inspect.unwrap(target)) or inspect.iscoroutinefunction(
        getattr(target, "__call__", None)  # noqa: B004 - an instance with async __call__
    )
    if wanted is None:
        return Isolation.LOOP if is_async else Isolation.THREAD
    try:
        isolation = Isolation(wanted)
    except ValueError:
        isolation = Isolation.PROCESS
    if isolation is Isolation.PROCESS:
        raise errors.ProcessorError(
            f"The isolation {str(wanted)!r} is not available.", fix='Use "thread" or "loop".'
        )
    if is_async and isolation is Isolation.THREAD:
        raise errors.ProcessorError(
            f"{_name(target)} is an async function and cannot run in a thread.",
            fix="Make it a plain def, or leave isolation out.",
        )
    return isolation


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
            f"{_name(target)} cannot be called with a job.",
            cause=f"Its signature is {inspect.signature(target)}.",
            fix="Take the job as the one argument: def process(job): ...",
        )
    return max(1, min(3, len(positional)))


def _payload_type(target: Callable[..., Any]) -> object | None:
    """The `T` of a first parameter annotated `Job[T]`, if it is a model."""
    function = inspect.unwrap(target)
    if not inspect.isfunction(function) and not inspect.ismethod(function):
        function = cast("Callable[..., Any]", type(function).__call__)
    raw = dict(getattr(function, "__annotations__", {}))
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    annotation = raw.get(names[0]) if names else None
    if annotation is None:
        return None
    if isinstance(annotation, str):
        if "[" not in annotation:
            return None
        annotation = _resolved(function, names[0], annotation)
    if typing.get_origin(annotation) is not Job:
        return None
    model = typing.get_args(annotation)[0]
    return model if _is_model(model) else None


def _resolved(function: Callable[..., Any], name: str, text: str) -> object:
    try:
        return typing.get_type_hints(function)[name]
    except Exception as error:
        raise errors.ProcessorError(
            f"The annotation {text!r} of {_name(function)} cannot be resolved: "
            f"{errors.describe(error)}.",
            cause="A name in it is imported for type checkers only, or local to a function.",
            fix="Import it at the top of the module, outside `if TYPE_CHECKING`.",
        ) from error


def _is_model(model: object) -> bool:
    if not inspect.isclass(model):
        return typing.get_origin(model) is not None and typing.get_origin(model) is not dict
    return (
        hasattr(model, "model_validate")
        or dataclasses.is_dataclass(cast("type", model))
        or typing_extensions.is_typeddict(model)
    )


def _name(target: Callable[..., Any]) -> str:
    return getattr(target, "__qualname__", repr(target))
