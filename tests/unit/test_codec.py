"""JSON as Node writes and reads it."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpy import codec, errors

INT64 = st.integers(min_value=-(2**63), max_value=2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ANY_TEXT = st.text(st.characters())


def json_values(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | INT64 | st.floats(allow_nan=False) | text
    return st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=20
    )


def without_infinity(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [without_infinity(item) for item in value]
    if isinstance(value, dict):
        return {key: without_infinity(item) for key, item in value.items()}
    return value


@given(json_values(TEXT))
def test_what_is_written_is_read_back(value: Any) -> None:
    assert codec.loads(codec.dumps(value)) == without_infinity(value)


@given(json_values(ANY_TEXT))
def test_lone_surrogates_are_read_back_too(value: Any) -> None:
    encoded = codec.dumps(value)
    encoded.decode("utf-8")
    assert codec.loads(encoded) == without_infinity(value)


@given(json_values(ANY_TEXT))
def test_whatever_json_dumps_writes_is_read(value: Any) -> None:
    value = without_infinity(value)
    assert codec.loads(json.dumps(value)) == value


@given(st.integers())
def test_integers_of_any_size_are_written_in_full(value: int) -> None:
    assert codec.dumps([value]) == f"[{value}]".encode()


@given(st.binary())
def test_reading_raises_nothing_but_value_errors(raw: bytes) -> None:
    try:
        codec.loads(raw)
    except (ValueError, RecursionError):
        pass


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("with_slow_path", [False, True])
def test_what_is_not_a_number_becomes_null(value: float, with_slow_path: bool) -> None:
    extra = [2**70] if with_slow_path else []
    assert codec.dumps([value, *extra]).startswith(b"[null")


def test_json_is_compact_utf8() -> None:
    assert codec.dumps({"ä": [1, "ü"], "b": None}) == '{"ä":[1,"ü"],"b":null}'.encode()


class Colour(Enum):
    RED = "red"


class Word(StrEnum):
    YES = "yes"


@dataclass
class Point:
    x: int
    tags: set[str]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), "2026-01-02T03:04:05Z"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.time(3, 4), "03:04:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.10"), "1.10"),
        (PurePosixPath("/a"), "/a"),
        ({1}, [1]),
        (frozenset([1]), [1]),
        (deque([1, 2]), [1, 2]),
        ((1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        (MappingProxyType({"a": {1}}), {"a": [1]}),
        (Colour.RED, "red"),
        (Word.YES, "yes"),
        (Point(1, {"a"}), {"x": 1, "tags": ["a"]}),
        (np.float64(1.5), 1.5),
        (np.int8(-3), -3),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([1.0, np.nan]), [1.0, None]),
        (np.arange(6).reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("with_slow_path", [False, True])
def test_pythons_types_have_a_json_form(value: Any, expected: Any, with_slow_path: bool) -> None:
    extra = {2: 2**70} if with_slow_path else {}
    decoded = codec.loads(codec.dumps({"value": value, **extra}))  # type: ignore[dict-item]
    assert decoded["value"] == expected


def test_keys_become_text_as_in_javascript() -> None:
    value = {7: 1, 2.5: 2, None: 3, False: 4, uuid.UUID(int=0): 5}
    zero = "00000000-0000-0000-0000-000000000000"
    assert list(codec.loads(codec.dumps(value))) == ["7", "2.5", "null", "false", zero]


@pytest.mark.parametrize(
    "value", [b"x", bytearray(b"x"), object(), print, {"a": [b"x"]}, {(1,): 2}], ids=repr
)
def test_what_has_no_json_form_is_refused_with_advice(value: object) -> None:
    with pytest.raises(errors.EncodingError, match="has no JSON form") as refused:
        codec.dumps(value)
    assert refused.value.fix


def test_what_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append({"again": endless})
    with pytest.raises(errors.EncodingError):
        codec.dumps(endless)
