"""docs/troubleshooting.md has an entry for every cause, as the code has it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "docs_troubleshooting.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_troubleshooting", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docs = _load()
PAGE = docs.PAGE.read_text(encoding="utf-8")
CAUSES = docs.causes()


def test_the_page_is_as_it_is_generated() -> None:
    assert docs.with_generated(PAGE) == PAGE, "stale: run scripts/docs_troubleshooting.py"


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.code)
def test_a_cause_can_be_explained_and_is_found_by_its_code(cause: docs.Cause) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cause.code)
    for text in (cause.title, cause.symptom, cause.why, cause.fix):
        assert len(text.split()) >= 2, text
        assert text == text.strip()
    assert cause.title[-1] not in ".:;"
    assert len(re.findall(rf"^### {cause.code}$", PAGE, re.MULTILINE)) == 1


def test_every_row_of_the_table_has_one_group_and_one_cause() -> None:
    rows = [number for numbers in docs.GROUPS.values() for number in numbers]
    rows_of_the_table = list(range(1, 50))
    assert sorted(rows) == rows_of_the_table
    numbers = [cause.number for cause in CAUSES if cause.number]
    assert sorted(numbers) == rows_of_the_table


def test_what_is_written_by_hand_is_kept() -> None:
    head = "# Page\n\nBy hand.\n"
    written = docs.with_generated(head)
    assert written.startswith(head)
    assert docs.with_generated(written + "\n## Tail\n").endswith("\n## Tail\n")
    assert docs.with_generated(written) == written


def test_headings_are_not_doubled() -> None:
    headings = re.findall(r"^#{1,3} (.+)$", PAGE, re.MULTILINE)
    assert len(headings) == len(set(headings))
