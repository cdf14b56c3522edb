"""Job options: Python's spelling to BullMQ's, and every check that Node makes."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpy import Backoff, KeepJobs, errors, options


def validate(opts: dict[str, Any], data: bytes = b"{}", *, has_parent: bool = False) -> None:
    options.validate("n", data, opts, has_parent=has_parent)


@pytest.mark.parametrize(
    ("opts", "text"),
    [
        ({"sizeLimit": 1}, "sizeLimit"),
        ({"jobId": "0"}, "integer"),
        ({"jobId": "12"}, "integer"),
        ({"jobId": "-12"}, "integer"),
        ({"jobId": 12}, "not text"),
        ({"jobId": "a:b"}, "colon"),
        ({"jobId": "a:b:c:d"}, "colon"),
        ({"priority": 1.5}, "priority"),
        ({"priority": -1}, "priority"),
        ({"priority": options.PRIORITY_LIMIT + 1}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"deduplication": {}}, "Deduplication id"),
        ({"deduplication": {"id": ""}}, "Deduplication id"),
        ({"deduplication": "id"}, "Deduplication id"),
        ({"debounce": {"id": "x"}}, "debounce"),
        ({"backoff": {"type": "fixed", "jitter": 1.1}}, "jitter"),
        ({"backoff": {"type": "fixed", "jitter": -0.1}}, "jitter"),
        (
            {"failParentOnFailure": True, "removeDependencyOnFailure": True},
            "failParentOnFailure",
        ),
        ({"ignoreDependencyOnFailure": True, "continueParentOnFailure": True}, "together"),
    ],
    ids=str,
)
def test_what_node_refuses_is_refused(opts: dict[str, Any], text: str) -> None:
    with pytest.raises(errors.InvalidJobOptionsError, match=text) as refused:
        validate(opts)
    assert refused.value.fix


def test_deduplication_of_a_child_is_refused() -> None:
    with pytest.raises(errors.InvalidJobOptionsError, match="parent"):
        validate({"deduplication": {"id": "x"}}, has_parent=True)


@pytest.mark.parametrize(
    "opts",
    [
        {},
        {"sizeLimit": 2},
        {"jobId": "order-12"},
        {"jobId": "012"},
        {"jobId": "1.5"},
        {"jobId": "repeat:id:123"},
        {"jobId": ""},
        {"priority": 0},
        {"priority": options.PRIORITY_LIMIT},
        {"priority": 2.0},
        {"deduplication": {"id": "x", "ttl": 5}},
        {"backoff": {"type": "fixed", "delay": 1, "jitter": 1}},
        {"backoff": 1000},
        {"failParentOnFailure": True, "removeDependencyOnFailure": False},
    ],
    ids=str,
)
def test_what_node_takes_is_taken(opts: dict[str, Any]) -> None:
    validate(opts)


@given(st.integers())
def test_no_integer_is_a_job_id(number: int) -> None:
    with pytest.raises(errors.InvalidJobOptionsError):
        validate({"jobId": str(number)})


def test_keywords_become_bullmqs_options() -> None:
    created = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    assert options.to_wire(
        {
            "job_id": "a",
            "delay": 1.5,
            "backoff": Backoff.fixed(0.25),
            "lifo": True,
            "timestamp": created,
            "remove_on_complete": KeepJobs(count=3),
            "remove_on_fail": 5,
            "stack_trace_limit": 2,
            "size_limit": 100,
            "fail_parent_on_failure": True,
            "priority": None,
        }
    ) == {
        "jobId": "a",
        "delay": 1500,
        "backoff": {"type": "fixed", "delay": 250},
        "lifo": True,
        "timestamp": 1767225600000,
        "removeOnComplete": {"count": 3},
        "removeOnFail": 5,
        "stackTraceLimit": 2,
        "sizeLimit": 100,
        "failParentOnFailure": True,
    }
    assert options.to_wire({"backoff": 2}) == {"backoff": {"type": "fixed", "delay": 2000}}


def test_every_documented_keyword_is_taken() -> None:
    samples: dict[str, Any] = {"delay": 1, "backoff": 1, "timestamp": 1}
    for name in options.JobOptions.__annotations__:
        assert options.to_wire({name: samples.get(name, 1)})
        assert f"{name}:" in (options.JobOptions.__doc__ or "")


@pytest.mark.parametrize("name", ["jobId", "delays", "remove_on_failure", "repeat"])
def test_unknown_keywords_are_refused_and_the_known_ones_named(name: str) -> None:
    with pytest.raises(errors.InvalidJobOptionsError, match="remove_on_fail") as refused:
        options.to_wire({name: 1})
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, "1", True, None, [1]])
def test_durations_that_are_none_are_refused(seconds: object) -> None:
    with pytest.raises(errors.InvalidJobOptionsError):
        options.milliseconds("delay", seconds)


@given(st.floats(min_value=0, max_value=1e12))
def test_seconds_become_the_nearest_millisecond(seconds: float) -> None:
    assert abs(options.milliseconds("delay", seconds) - seconds * 1000) <= 0.5
