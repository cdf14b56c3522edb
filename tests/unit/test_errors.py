"""The tree of errors, and the text that any exception gets."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpy import errors

CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, errors.BullpyError)
}


def drawn_tree() -> dict[str, str | None]:
    """Each class of the docstring's drawing with the class above it."""
    assert errors.__doc__
    drawing = errors.__doc__.split("```")[1]
    parents: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in drawing.strip().splitlines():
        found = re.match(r"^([│├└─ ]*)(\w+)", line)
        assert found, line
        depth, name = len(found[1]), found[2]
        while path and path[-1][0] >= depth:
            path.pop()
        parents[name] = path[-1][1] if path else None
        path.append((depth, name))
    return parents


def test_the_drawing_shows_exactly_the_classes_with_their_parents() -> None:
    actual = {
        name: next((base.__name__ for base in kind.__bases__ if base.__name__ in CLASSES), None)
        for name, kind in CLASSES.items()
    }
    assert drawn_tree() == actual


def test_what_the_drawing_says_an_error_is_also_it_is() -> None:
    assert errors.__doc__
    for line in errors.__doc__.splitlines():
        found = re.search(r"(\w+Error).*also (\w+)\)", line)
        if found:
            kind: type[Any] = CLASSES[found[1]]
            bases = [base.__name__ for base in kind.__mro__]
            assert found[2] in bases, found[1]


def test_codes_are_stable_and_unlike() -> None:
    codes = [kind.code for kind in CLASSES.values()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


def test_every_error_has_a_docstring() -> None:
    assert all(kind.__doc__ for kind in CLASSES.values())


def test_text_says_what_why_and_what_to_do() -> None:
    error = errors.ConfigurationError("It is wrong.", cause="A typo.", fix="Correct it.")
    assert str(error) == "It is wrong. A typo. Correct it."
    assert errors.as_dict(error) == {
        "code": "configuration",
        "message": "It is wrong.",
        "cause": "A typo.",
        "fix": "Correct it.",
    }
    assert errors.as_dict(KeyError("x"))["code"] == "KeyError"


class BrokenError(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("boom"), "ValueError: boom"),
        (TimeoutError(), "TimeoutError"),
        (KeyError("x"), "KeyError: 'x'"),
        (BrokenError(), "BrokenError: <its __str__ raised KeyboardInterrupt>"),
        (errors.Discard("no fileKey"), "no fileKey"),
        (errors.Discard(""), "Discard"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_exception_is_described(error: BaseException, text: str) -> None:
    assert errors.describe(error) == text


@given(st.text(st.characters()))
def test_descriptions_are_never_empty(text: str) -> None:
    for kind in (ValueError, errors.Discard, errors.BullpyError, KeyError, OSError):
        assert errors.describe(kind(text))


def test_missing_extra_says_what_to_install() -> None:
    assert 'pip install "bullpy[audio]"' in str(errors.MissingExtraError("soundfile", "audio"))


def test_a_processor_signal_carries_what_it_asks() -> None:
    assert errors.Retry(delay=3).delay == 3
    assert errors.Snooze(2.5).delay == 2.5
    assert errors.RateLimited(1).delay == 1
    assert errors.RateLimited().delay is None
    assert errors.JobFailedError("7", "boom").failed_reason == "boom"
