"""What a request to cancel a job says, and for which run of the job."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpy import Job
from bullpy.engine.cancel import CancelRequest
from bullpy.engine.runner import Running
from bullpy.queue import CANCEL_REASON_LIMIT

FIELDS = st.lists(st.sampled_from([b"id", b"reason", b"ats", b"processedOn", b"x"]), max_size=6)


def run_of(ats: int, processed_on: int = 1000) -> Running:
    job: Job[Any] = Job.__new__(Job)
    job.attemptsStarted, job.processedOn = ats, processed_on
    return Running(job)


def test_all_fields_are_read() -> None:
    fields = [b"id", "jöb".encode(), b"reason", "größe".encode(), b"ats", b"2"]
    request = CancelRequest.read(b"1700000000000-3", [*fields, b"processedOn", b"1699999999999"])
    assert request == CancelRequest(1700000000000, "jöb", "größe", 2, 1699999999999)


def test_all_but_the_id_is_optional() -> None:
    empty = [b"id", b"1", b"reason", b"", b"ats", b"", b"processedOn", b""]
    assert CancelRequest.read(b"5-0", [b"id", b"1"]) == CancelRequest(5, "1")
    assert CancelRequest.read(b"5-0", empty) == CancelRequest(5, "1")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ([], "no field id"),
        ([b"id", b""], "no field id"),
        ([b"job", b"1"], "no field id"),
        ([b"id", b"1", b"ats", b"two"], "ats is no number"),
        ([b"id", b"1", b"processedOn", b"now"], "processedOn is no number"),
    ],
)
def test_what_is_malformed_says_so(fields: list[bytes], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CancelRequest.read(b"5-0", fields)


def test_a_reason_beyond_the_limit_is_cut() -> None:
    request = CancelRequest.read(b"5-0", [b"id", b"1", b"reason", b"x" * 5000])
    assert request.reason == "x" * CANCEL_REASON_LIMIT


@given(names=FIELDS, values=st.lists(st.binary(max_size=20), min_size=6, max_size=6))
def test_no_bytes_raise_anything_but_a_value_error(names: list[bytes], values: list[bytes]) -> None:
    flat = [part for pair in zip(names, values, strict=False) for part in pair]
    with contextlib.suppress(ValueError):
        CancelRequest.read(b"5-0", flat)


@pytest.mark.parametrize(
    ("ats", "processed_on", "named"),
    [
        (None, None, True),
        (2, None, True),
        (1, None, False),
        (3, None, False),
        (2, 1000, True),
        (2, 999, False),
        (None, 999, False),
    ],
)
def test_a_request_names_the_run_whose_numbers_it_gives(
    ats: int | None, processed_on: int | None, named: bool
) -> None:
    request = CancelRequest(5, "1", None, ats, processed_on)
    assert request.names_run(run_of(2)) is named
