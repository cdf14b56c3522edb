"""What the documentation says is true: its tables are complete, its examples run."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic_settings import BaseSettings

from bullpy import RedisSettings, Worker, WorkerSettings, errors
from bullpy.options import JobOptions

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")

RUN = "<!-- run -->"
DEADLINE = 60.0
"""Seconds for one example, on a busy machine."""


class Block(NamedTuple):
    """One ```python block of a page."""

    page: Path
    line: int
    code: str
    runs: bool

    @property
    def label(self) -> str:
        return f"{self.page.name}:{self.line}"


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        start: int | None = None
        for index, line in enumerate(lines):
            if start is None and line.strip() == "```python":
                start = index
            elif start is not None and line.strip() == "```":
                runs = start > 0 and lines[start - 1].strip() == RUN
                code = "\n".join(lines[start + 1 : index]) + "\n"
                yield Block(page, start + 1, code, runs)
                start = None
        assert start is None, f"{page.name}: the block of line {start} is not closed"


BLOCKS = list(_blocks())
RUNNABLE = [block for block in BLOCKS if block.runs]


def _row(section: str, name: str) -> list[str] | None:
    """The cells of the row that begins with that name, in a section of the reference."""
    text = REFERENCE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] == f"`{name}`":
            return cells
    return None


def _shown(default: object) -> str:
    if default is None:
        return "none"
    if default in ("", ()):
        return "empty"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def _fields() -> Iterator[tuple[type[BaseSettings], str]]:
    for settings in (RedisSettings, WorkerSettings):
        for field in settings.model_fields:
            yield settings, field


@pytest.mark.parametrize(
    ("settings", "field"),
    [pytest.param(*pair, id=f"{pair[0].__name__}.{pair[1]}") for pair in _fields()],
)
def test_every_setting_stands_in_the_reference_with_its_default_and_variable(
    settings: type[BaseSettings], field: str
) -> None:
    variable = f"`{settings.model_config.get('env_prefix', '')}{field.upper()}`"
    row = _row(settings.__name__, field)
    assert row is not None, f"docs/reference.md has no row for {field}"
    assert row[2] == _shown(settings.model_fields[field].default)
    assert row[3] == variable


def _codes(kind: type[errors.BullpyError]) -> Iterator[str]:
    yield kind.code
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _codes(child)


@pytest.mark.parametrize("code", sorted(set(_codes(errors.BullpyError))))
def test_every_error_code_stands_in_the_reference(code: str) -> None:
    assert _row("Errors", code), f"docs/reference.md has no row for the error code {code}"


@pytest.mark.parametrize("event", sorted(Worker.EVENTS))
def test_every_worker_event_stands_in_the_reference(event: str) -> None:
    assert _row("Worker events", event), f"docs/reference.md has no row for the event {event}"


@pytest.mark.parametrize("option", sorted(JobOptions.__annotations__))
def test_every_job_option_stands_in_the_reference(option: str) -> None:
    assert _row("Job options", option), f"docs/reference.md has no row for the job option {option}"


@pytest.mark.parametrize("block", [pytest.param(block, id=block.label) for block in BLOCKS])
def test_python_examples_compile(block: Block) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    compile(block.code, block.label, "exec", flags)


def test_every_run_mark_stands_before_a_python_block() -> None:
    marks = sum(
        len(re.findall(rf"^\s*{RUN}\s*$", page.read_text(encoding="utf-8"), re.MULTILINE))
        for page in PAGES
    )
    assert len(RUNNABLE) == marks
    assert marks >= 3


@pytest.mark.parametrize("block", [pytest.param(block, id=block.label) for block in RUNNABLE])
def test_marked_examples_run_to_their_end(block: Block, redis_url: str, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(block.code, encoding="utf-8")
    environment = {**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, f"{block.label}\n{done.stdout}\n{done.stderr}"


def test_every_test_that_the_delivery_promise_names_exists() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(?:([\w/]+\.py))?::(\w+)`", page)
    assert len(named) > 20
    file = ""
    for given, name in named:
        file = given or file
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, name)
