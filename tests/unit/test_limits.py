"""Which limits make sense, and how numbers of bytes are read and written."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpy import errors
from bullpy.limits import NO_LIMITS, Limits, byte_count, shown_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("512MB", 512_000_000),
        ("512 MB", 512_000_000),
        ("512mb", 512_000_000),
        (" 2 GiB ", 2 * 2**30),
        ("1.5 GiB", 3 * 2**29),
        ("10KiB", 10_240),
        ("1TB", 10**12),
        ("7B", 7),
        ("1024", 1024),
        ("0", 0),
        ("1e3 kB", 10**6),
        (4096, 4096),
    ],
)
def test_bytes_from_text(text: str | int, count: int) -> None:
    assert byte_count(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MB",
        "12 XB",
        "-1MB",
        "1,5GB",
        "nan MB",
        "inf",
        "1 MB MB",
        "12M",
        True,
        False,
        None,
        1.5j,
    ],
    ids=repr,
)
def test_what_is_no_number_of_bytes_is_refused(text: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="no number of bytes"):
        byte_count(text)


@given(st.integers(0, 10**15))
def test_bytes_of_a_number_are_itself(count: int) -> None:
    assert byte_count(count) == byte_count(f"{count}B") == byte_count(f"{count} b") == count


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (512_000_000, "512.0 MB"),
        (1_500_000_000, "1.5 GB"),
        (5e12, "5000.0 GB"),
    ],
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert shown_bytes(count) == text


@given(st.integers(0, 10**13))
def test_shown_bytes_can_be_read_again(count: int) -> None:
    again = byte_count(shown_bytes(count))
    assert abs(again - count) <= max(count * 0.05, 1)


def test_limits_of_a_processor() -> None:
    limits = Limits.of(timeout=1.5, memory="300MB", cpu=2)
    assert limits == Limits(1.5, 300_000_000, 2)
    assert limits.need_process
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.timeout = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("limits", "need_process"),
    [
        (NO_LIMITS, False),
        (Limits.of(), False),
        (Limits.of(timeout=1), False),
        (Limits.of(memory="64MB"), True),
        (Limits.of(cpu=1), True),
    ],
)
def test_what_needs_a_process_of_its_own(limits: Limits, need_process: bool) -> None:
    assert limits.need_process is need_process


@pytest.mark.parametrize("name", ["timeout", "cpu"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "5", [1]], ids=repr)
def test_seconds_that_make_no_sense_are_refused(name: str, value: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"limit {name}"):
        Limits.of(**{name: value})


@pytest.mark.parametrize("value", [0, -5, 512, "512KB", "1B", True, "lots", ""], ids=repr)
def test_memory_that_makes_no_sense_is_refused(value: Any) -> None:
    with pytest.raises(errors.ConfigurationError):
        Limits.of(memory=value)


def test_too_little_memory_is_told_as_a_slip_of_the_unit() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"counts bytes.*512MB"):
        Limits.of(memory=512)
