"""Numbers and lists in messages of the doctor."""

from __future__ import annotations

import pytest

from bullpy.doctor.wording import many, some, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0 s"),
        (0.44, "0.4 s"),
        (3.0, "3 s"),
        (9.97, "10 s"),
        (59.9, "1 min"),
        (190, "3 min 10 s"),
        (600, "10 min"),
        (7500, "2 h 5 min"),
        (36_000, "10 h"),
        (9 * 86_400 + 5, "9 d"),
    ],
)
def test_duration_is_told_in_its_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_one_is_not_many() -> None:
    assert (many(1, "job"), many(0, "job"), many(30, "job")) == ("1 job", "0 jobs", "30 jobs")


def test_long_list_is_cut_and_repeats_are_told_once() -> None:
    assert some(["a", "b", "a"]) == "a, b"
    assert some(range(9)) == "0, 1, 2 and 6 more"
