"""Functions of BullMQ's scripts that are made when they are called."""

from __future__ import annotations

import re
from pathlib import Path

import bullmq
import pytest

from bullpy import luafunctions

COMMANDS = Path(bullmq.__file__).parent / "commands"
HOT = ["addStandardJob", "moveToActive", "moveToFinished"]


def original(name: str) -> str:
    return next(COMMANDS.glob(f"{name}-*.lua")).read_text()


def functions(text: str) -> set[str]:
    declared = re.findall(r"^local (?:function (\w+)|(\w+) = function)", text, re.MULTILINE)
    return {first or second for first, second in declared}


def made_when_called(text: str) -> set[str]:
    return set(re.findall(r'if name == "(\w+)" then it = function', text))


@pytest.mark.parametrize("name", HOT)
def test_every_function_is_kept_and_the_rare_ones_wait(name: str) -> None:
    before, after = functions(original(name)), luafunctions.defer(name, original(name))
    waiting = made_when_called(after)
    assert functions(after) | waiting == before
    assert not functions(after) & waiting
    assert len(waiting) >= len(before) / 2


@pytest.mark.parametrize("name", HOT)
def test_a_name_that_is_called_often_is_still_one_of_the_script(name: str) -> None:
    """A later version of the package may call it something else."""
    assert luafunctions._OFTEN[name] <= functions(original(name))


@pytest.mark.parametrize("name", HOT)
def test_nothing_calls_a_function_that_waits_by_its_bare_name(name: str) -> None:
    after = luafunctions.defer(name, original(name))
    code = re.sub(r"--\[\[.*?\]\]|--[^\n]*", "", after, flags=re.DOTALL)
    for rare in made_when_called(after):
        assert not re.search(rf"(?<![\"\w]){rare}\b", code), rare


def test_other_scripts_stay_as_they_are() -> None:
    assert luafunctions.defer("removeJob", original("removeJob")) == original("removeJob")


RARE = "local function rare()\nend\n"
OFTEN = "local function getQueueMetadata()\nend\n"


@pytest.mark.parametrize(
    "text",
    [
        f"{RARE}local seen = 1\n{OFTEN}rare()",
        f"{RARE}{OFTEN}rare()\npcall(rare)",
        f"local function one() return 1 end\n{RARE}{OFTEN}rare()",
        f"{RARE}{OFTEN}local function one() return 1 end\nif one() then\n  rare()\nend",
    ],
    ids=[
        "a variable is declared after it",
        "it is named without being called",
        "another one is in one line",
        "the last one is in one line",
    ],
)
def test_a_text_that_is_not_understood_stays_as_it_was(text: str) -> None:
    assert luafunctions.defer("moveToActive", text) == text
    assert luafunctions.defer("moveToActive", f"{RARE}{OFTEN}rare()") != f"{RARE}{OFTEN}rare()"
