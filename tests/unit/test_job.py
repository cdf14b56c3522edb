"""Decoding jobs: whatever Redis holds, reading it never raises."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpy import Job, StopReason, errors
from bullpy.jobhash import stacktrace_json

QUEUE: Any = SimpleNamespace(backend=None, qualifiedName="bull:q", name="q", opts={}, prefix="bull")

FIELDS = b"""name data opts timestamp delay priority ats atm attemptsMade stc processedOn finishedOn
rjk defa failedReason pb deid progress returnvalue stacktrace parentKey parent""".split()
NODES = st.sampled_from(
    [
        b"",
        b"undefined",
        b"null",
        b"NaN",
        b"0",
        b"1.5",
        b"1e3",
        b"[]",
        b"{}",
        b'"x"',
        b"-1",
        b"Infinity",
    ]
)
VALUES = st.binary() | NODES | st.integers().map(lambda number: str(number).encode())


def read(**fields: str | bytes) -> Job[Any]:
    raw = {name.encode(): value for name, value in {"name": "n", **fields}.items()}
    return Job.from_raw(QUEUE, raw, "7", "token")


@given(st.dictionaries(st.sampled_from(FIELDS) | st.binary(), VALUES))
def test_reading_never_raises(raw: dict[bytes, bytes]) -> None:
    job = Job.from_raw(QUEUE, raw, "7", "token")
    assert job.id == "7"
    assert isinstance(job.name, str)
    assert isinstance(job.opts, dict)
    assert isinstance(job.stacktrace, list)
    for number in (job.timestamp, job.delay, job.attempts_made, job.stalled_counter):
        assert isinstance(number, int)
    assert job.is_ghost is (not job.name)
    repr(job)


@given(st.recursive(st.none() | st.integers(-9, 9) | st.text(max_size=3), st.lists, max_leaves=6))
def test_data_that_is_json_is_read(data: Any) -> None:
    job = read(data=json.dumps(data))
    assert job.data == data
    assert job.decode_error is None


def test_fields_of_a_finished_job_are_read() -> None:
    job = read(
        data='{"x":"\\ud800"}',
        opts='{"attempts":3,"backoff":500,"fpof":true,"de":{"id":"d"},"kl":5}',
        timestamp="1795467365673.5",
        ats="2",
        atm="1",
        stc="3",
        processedOn="11",
        finishedOn="12",
        pb="worker",
        deid="d",
        failedReason="boom",
        returnvalue="[1]",
        progress='{"p":1}',
        stacktrace='["one","two"]',
        parentKey="bull:p:1",
        parent='{"id":"1","queueKey":"bull:p"}',
    )
    assert job.data == {"x": "\ud800"}
    assert job.opts["backoff"] == {"type": "fixed", "delay": 500}
    assert job.opts["failParentOnFailure"] is True
    assert job.opts["keepLogs"] == 5
    assert job.timestamp == 1795467365673
    assert (job.attempts_started, job.attempts_made, job.stalled_counter) == (2, 1, 3)
    assert (job.processed_on, job.finished_on, job.processed_by) == (11, 12, "worker")
    assert (job.failed_reason, job.return_value, job.progress) == ("boom", [1], {"p": 1})
    assert job.stacktrace == ["one", "two"]
    assert job.parentKey == "bull:p:1"
    assert job.decode_error is None


@pytest.mark.parametrize(
    ("field", "empty"), [("data", {}), ("opts", None), ("progress", 0), ("returnvalue", None)]
)
def test_empty_fields_are_what_node_takes_them_for(field: str, empty: object) -> None:
    job = read(**{field: ""})
    assert job.decode_error is None
    if field != "opts":
        assert getattr(job, field) == empty


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"data": "{broken"}, "data"),
        ({"opts": "{broken"}, "opts"),
        ({"opts": "[1]"}, "opts"),
        ({"data": b"\xff\xfe"}, "data"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"name": ""}, "name"),
        ({"data": "[" * 100_000}, "data"),
    ],
)
def test_what_cannot_be_run_is_told_with_its_field(fields: dict[str, Any], named: str) -> None:
    error = read(**fields).decode_error
    assert isinstance(error, errors.UndecodableJobError)
    assert f"its {named} is" in str(error)


@pytest.mark.parametrize("field", ["progress", "returnvalue"])
def test_what_is_only_looked_at_may_be_any_text(field: str) -> None:
    job = read(**{field: "not json"})
    assert job.decode_error is None
    assert getattr(job, field) == "not json"


def test_the_first_reason_to_stop_stays() -> None:
    job = read()
    assert not job.should_stop()
    job.request_stop(StopReason.CANCELLED)
    job.request_stop(StopReason.SHUTDOWN)
    assert job.should_stop()
    assert job.stop_reason is StopReason.CANCELLED


@given(st.lists(st.text(st.characters())))
def test_stack_traces_of_any_text_are_json(traces: list[str]) -> None:
    encoded = stacktrace_json(traces)
    encoded.encode("ascii")
    assert json.loads(encoded) == traces
