"""Exceptions cross the border between a worker and its children, whatever they are."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import isolated

from bullpy import codec, errors
from bullpy.executors.wire import LONGEST_TEXT, error_from_wire, error_to_wire


def across(error: BaseException) -> errors.BullpyError:
    """The error on the other side."""
    return error_from_wire(codec.loads(codec.dumps(error_to_wire(error))))


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_any_exception_arrives_with_its_text_its_kinds_and_its_traceback() -> None:
    arrived = across(raised(KeyError("missing")))
    assert isinstance(arrived, errors.RemoteError)
    assert str(arrived) == errors.describe(arrived) == "KeyError: 'missing'"
    assert errors.kinds(arrived) == (
        *("KeyError", "LookupError", "Exception", "BaseException", "object"),
    )
    assert arrived.trace is not None
    assert "in raised" in arrived.trace
    assert arrived.trace.rstrip().endswith("KeyError: 'missing'")


@given(st.text(st.characters()))
def test_any_text_arrives(text: str) -> None:
    expected = f"ValueError: {text}" if text else "ValueError"
    assert str(across(ValueError(text))) == expected


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (isolated.UnprintableError(), "UnprintableError: <its __str__ raised RuntimeError>"),
        (isolated.UnpicklableError("why", object()), "UnpicklableError: why"),
        (ValueError("\ud800 \x00"), "ValueError: \ud800 \x00"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (BaseExceptionGroup("g", [GeneratorExit()]), "BaseExceptionGroup: g (1 sub-exception)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_odd_exceptions_arrive(error: BaseException, text: str) -> None:
    arrived = across(raised(error))
    assert str(arrived) == text
    assert type(error).__name__ in errors.kinds(arrived)
    assert type(error).__name__ in (arrived.trace or "")


def test_message_and_traceback_are_bounded() -> None:
    wire = error_to_wire(raised(ValueError("x" * 10_000_000)))
    assert len(wire["text"]) == len(wire["trace"]) == LONGEST_TEXT


def test_error_that_was_not_raised_has_no_traceback() -> None:
    assert across(ValueError("never raised")).trace is None


def test_cause_and_context_are_in_the_traceback() -> None:
    try:
        try:
            raise OSError("the disk")
        except OSError as first:
            raise ValueError("the file") from first
    except ValueError as second:
        trace = across(second).trace or ""
    assert "OSError: the disk" in trace
    assert "direct cause" in trace
    assert "ValueError: the file" in trace


def test_frames_of_the_way_to_the_processor_are_left_out() -> None:
    # What leads there lies beside `wire`.
    source = inspect.getsourcefile(error_to_wire)
    assert source is not None
    namespace: dict[str, Any] = {}
    exec(compile("def call(function):\n    function()\n", source, "exec"), namespace)

    def processor() -> None:
        raise ValueError("here")

    try:
        namespace["call"](processor)
    except ValueError as error:
        trace = error_to_wire(error)["trace"]
    assert "in processor" in trace
    assert source not in trace


OURS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.BullpyError)
]

MADE = {
    errors.MissingExtraError: lambda: errors.MissingExtraError("numpy", "audio"),
    errors.CommandRefusedError: lambda: errors.CommandRefusedError("no", kind="OOM"),
    errors.JobFailedError: lambda: errors.JobFailedError("7", "it did"),
    errors.RemoteError: lambda: errors.RemoteError("E: text", kinds=("E",), trace="there"),
    errors.Retry: lambda: errors.Retry("later", delay=3.5),
    errors.Snooze: lambda: errors.Snooze(4.0),
    errors.Discard: lambda: errors.Discard("never"),
    errors.WaitForChildren: errors.WaitForChildren,
    errors.RateLimited: lambda: errors.RateLimited(5.0),
}


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_each_error_of_ours_arrives_as_it_was(kind: type[errors.BullpyError]) -> None:
    make = MADE.get(kind, lambda: kind("what", cause="Why.", fix="Do that."))
    error = make()
    arrived = across(error)
    assert type(arrived) is kind
    assert str(arrived) == str(error)
    assert errors.as_dict(arrived) == errors.as_dict(error)
    kept = {name: value for name, value in vars(error).items() if name not in ("trace", "kinds")}
    assert kept.items() <= vars(arrived).items()
    assert errors.kinds(arrived) == errors.kinds(error)


def test_subclass_of_ours_arrives_as_ours_and_keeps_its_kinds() -> None:
    class Later(errors.Retry):
        pass

    arrived = across(raised(Later("busy", delay=2.0)))
    assert isinstance(arrived, errors.Retry)
    assert arrived.delay == 2.0
    assert str(arrived) == "busy"


@pytest.mark.parametrize("name", ["describe", "JobStateError_", "__name__", "annotations", "Any"])
def test_name_that_is_no_error_of_ours_is_none(name: str) -> None:
    wire = error_to_wire(ValueError("x")) | {"ours": name}
    assert type(error_from_wire(wire)) is errors.RemoteError


def test_attributes_without_json_form_stay_behind() -> None:
    error = errors.JobStateError("what")
    vars(error).update(lock=object(), number=5, text="t", nan=float("nan"))
    wire = error_to_wire(error)
    json.loads(codec.dumps(wire))
    arrived = error_from_wire(codec.loads(codec.dumps(wire)))
    assert (vars(arrived)["number"], vars(arrived)["text"]) == (5, "t")
    assert "lock" not in vars(arrived)


def test_error_arrives_twice_across_two_borders() -> None:
    once = across(raised(KeyError("x")))
    twice = across(once)
    assert str(twice) == str(once)
    assert errors.kinds(twice) == errors.kinds(once)
    assert "in raised" in str(getattr(twice, "trace", ""))
