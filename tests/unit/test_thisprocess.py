"""What a process says about itself never holds a secret."""

from __future__ import annotations

import sys

import pytest

from bullpy import thisprocess


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["bullpy", "worker", "app:worker"], "bullpy worker app:worker"),
        (["bullpy", "--redis", "redis://u:geheim@h/1"], "bullpy --redis redis://u:***@h/1"),
        (["bullpy", "--redis", "redis://:a/b@c@h"], "bullpy --redis redis://:***@h"),
        (["app", "--token", "geheim", "x"], "app --token *** x"),
        (["app", "--api-key=geheim"], "app --api-key=***"),
        (["app", "PASSWORD=geheim"], "app PASSWORD=***"),
        (["app", "a b"], "app 'a b'"),
    ],
)
def test_command_is_told_without_secrets(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], shown: str
) -> None:
    monkeypatch.setattr(sys, "orig_argv", arguments)
    thisprocess.command.cache_clear()
    try:
        assert thisprocess.command() == shown
    finally:
        thisprocess.command.cache_clear()


def test_text_is_masked_before_it_is_cut() -> None:
    long = "x" * 290 + " redis://u:" + "geheim" * 100 + "@h"
    text = thisprocess.clipped(long)
    assert len(text) == thisprocess.LONGEST_TEXT
    assert "geheim" not in text
    assert thisprocess.clipped("\udcff") == "\\udcff"
    assert thisprocess.clipped("short") == "short"
