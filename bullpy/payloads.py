"""The payload of a processor: what the annotation of its first parameter says."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any, cast

from bullpy import errors
from bullpy.jobfields import JobFields


class Payload:
    """The model of `def process(job: Job[Model])`: a pydantic model, dataclass or TypedDict."""

    def __init__(self, model: object, function_name: str) -> None:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticUserError

        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", model))
        except PydanticUserError as error:
            raise errors.ProcessorError(
                f"The payload type of {function_name} cannot be used: {error.message}",
                fix="Annotate the job with a pydantic model, or with Job[Any].",
            ) from error
        self._name = getattr(model, "__name__", str(model))

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Payload | None:
        """The payload that a processor wants, None if it takes plain JSON.

        Raises:
            errors.ProcessorError: The annotation names something that cannot be found, or that
                pydantic cannot validate.
        """
        model = _model(function)
        return None if model is None else cls(model, name_of(function))

    def load(self, job_id: str, data: object) -> Any:
        """The job's data as the model.

        Raises:
            errors.PayloadError: The data breaks the model; names the fields.
        """
        from pydantic import ValidationError

        try:
            return self._adapter.validate_python(data)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in detail['loc']) or 'data'}: {detail['msg']}"
                for detail in error.errors(include_url=False, include_input=False)
            )
            raise errors.PayloadError(
                f"The data of job {job_id} breaks {self._name}: {problems}.",
                cause="Producer and worker disagree about the payload.",
                fix="Correct the producer, or the model; the job is not retried.",
            ) from None


def name_of(function: Callable[..., Any]) -> str:
    """How a function is called in messages."""
    return getattr(function, "__qualname__", repr(function))


def _model(target: Callable[..., Any]) -> object | None:
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
    origin = typing.get_origin(annotation)
    if not (inspect.isclass(origin) and issubclass(origin, JobFields)):
        return None
    model = typing.get_args(annotation)[0]
    return model if _is_model(model) else None


def _resolved(function: Callable[..., Any], name: str, text: str) -> object:
    try:
        return typing.get_type_hints(function)[name]
    except Exception as error:
        raise errors.ProcessorError(
            f"The annotation {text!r} of {name_of(function)} cannot be resolved: "
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
        or _is_typeddict(model)
    )


def _is_typeddict(model: object) -> bool:
    import typing_extensions

    return typing_extensions.is_typeddict(model)
