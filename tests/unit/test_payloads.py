"""The payload of a processor, in the worker and in a child alike."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from bullpy import Job, errors
from bullpy.executors.childjob import ChildJob
from bullpy.payloads import Payload, name_of

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers


class NoModel:
    """Nothing that pydantic knows how to check."""


class Inner(BaseModel):
    rate: int


class Model(BaseModel):
    key: str
    inner: list[Inner] = Field(default_factory=list)


@dataclasses.dataclass
class Record:
    key: str
    number: int = 1


class Typed(TypedDict):
    key: str


def model(job: Job[Model]) -> None: ...
def model_in_a_child(job: ChildJob[Model]) -> None: ...
def record(job: Job[Record]) -> None: ...
def typed(job: Job[Typed]) -> None: ...
def numbers(job: Job[list[int]]) -> None: ...
def bare(job: Job) -> None: ...  # type: ignore[type-arg]
def anything(job: Job[Any]) -> None: ...
def plain(job: Job[dict[str, Any]]) -> None: ...
def untyped(job) -> None: ...  # type: ignore[no-untyped-def]
def other(job: list[int]) -> None: ...
def of_checkers(job: Job[OnlyForCheckers]) -> None: ...


@functools.wraps(model)
def wrapped(*args: Any) -> None: ...


class Instance:
    def __call__(self, job: Job[Model]) -> None: ...

    def method(self, job: Job[Model]) -> None: ...


@pytest.mark.parametrize(
    ("function", "data", "loaded"),
    [
        (model, {"key": "a", "inner": [{"rate": 1}]}, Model(key="a", inner=[Inner(rate=1)])),
        (model_in_a_child, {"key": "a"}, Model(key="a")),
        (record, {"key": "a"}, Record("a")),
        (typed, {"key": "a"}, {"key": "a"}),
        (numbers, ["1", 2], [1, 2]),
        (wrapped, {"key": "a"}, Model(key="a")),
        (Instance(), {"key": "a"}, Model(key="a")),
        (Instance().method, {"key": "a"}, Model(key="a")),
    ],
)
def test_data_becomes_what_the_annotation_says(function: Any, data: Any, loaded: Any) -> None:
    payload = Payload.of(function)
    assert payload is not None
    assert payload.load("7", data) == loaded


@pytest.mark.parametrize("function", [bare, anything, plain, untyped, other])
def test_other_annotations_leave_the_data_alone(function: Any) -> None:
    assert Payload.of(function) is None


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({}, "key: "),
        ({"key": "a", "inner": [{"rate": 1}, {"rate": "x"}]}, "inner.1.rate: "),
        (None, "data: "),
        ([], "data: "),
    ],
)
def test_data_that_breaks_the_model_names_job_model_and_field(data: Any, named: str) -> None:
    payload = Payload.of(model)
    assert payload is not None
    with pytest.raises(errors.PayloadError, match="job 7 breaks Model") as raised:
        payload.load("7", data)
    assert named in str(raised.value)


def test_data_is_not_shown_in_the_error() -> None:
    payload = Payload.of(numbers)
    assert payload is not None
    with pytest.raises(errors.PayloadError) as raised:
        payload.load("7", ["secret word"])
    assert "secret word" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_name_for_type_checkers_alone_is_told() -> None:
    with pytest.raises(errors.ProcessorError, match=r"OnlyForCheckers.*TYPE_CHECKING"):
        Payload.of(of_checkers)


def test_type_that_pydantic_cannot_validate_is_told() -> None:
    with pytest.raises(errors.ProcessorError, match="payload type"):
        Payload(NoModel, "process")


@pytest.mark.parametrize(
    ("function", "name"), [(model, "model"), (Instance().method, "Instance.method")]
)
def test_how_a_function_is_called_in_messages(function: Any, name: str) -> None:
    assert name_of(function) == name
    assert "partial" in name_of(functools.partial(model))
