"""Writes the part of docs/troubleshooting.md that is generated from the doctor's causes.

    .venv/bin/python scripts/docs_troubleshooting.py            # writes it
    .venv/bin/python scripts/docs_troubleshooting.py --check    # ends with 1 if it is stale

What stands outside the two marks is written by hand and kept.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import bullpy.doctor
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level

PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
BEGIN = "<!-- from here to the second mark: scripts/docs_troubleshooting.py -->"
END = "<!-- the second mark -->"

GROUPS: Mapping[str, tuple[int, ...]] = {
    "Jobs wait: another Redis, database, prefix or name": (1, 2, 3, 4, 5, 6, 7),
    "Jobs wait: the worker does not take them": (8, 10, 11, 12, 13, 16, 17, 18, 20, 27),
    "Jobs wait for a reason": (14, 15, 23, 24, 26, 28, 29),
    "No new jobs arrive": (9,),
    "Jobs come late, or slowly": (19, 21, 25, 43, 44, 48, 49),
    "Jobs fail at once, or crash their worker": (22, 30, 31, 32, 33, 45, 46, 47),
    "Jobs are gone": (34, 42),
    "Redis refuses": (35, 36, 37, 38, 39, 40, 41),
}
"""Groups by symptom, with the rows of the table of causes that belong there."""

PROJECT = "In the files of a project"
OTHER = "Further findings"

_PROOF = {
    Certainty.CERTAIN: "What Redis itself holds shows it",
    Certainty.WATCHED: "It is seen to happen between several looks",
    Certainty.STATED: "A process, a URL or a file says so",
    Certainty.PROBABLE: "It is the likely explanation; another one is possible",
}
_LEVEL = {
    Level.OK: "a note",
    Level.WARNING: "a warning",
    Level.BLOCKED: "blocks jobs",
    Level.UNREACHABLE: "Redis cannot be used",
}


def causes() -> list[Cause]:
    """All causes that any module of the doctor declares."""
    for module in pkgutil.walk_packages(bullpy.doctor.__path__, "bullpy.doctor."):
        importlib.import_module(module.name)
    return list(CHECKS.causes.values())


def groups(known: list[Cause]) -> dict[str, list[Cause]]:
    """The causes by symptom, in the order of the page; groups without any are left out."""
    from bullpy.doctor.project import causes as of_project

    told = {each.code for each in vars(of_project).values() if isinstance(each, Cause)}
    found: dict[str, list[Cause]] = {name: [] for name in (*GROUPS, PROJECT, OTHER)}
    for cause in sorted(known, key=lambda cause: (cause.number, cause.code)):
        by_number = (name for name, numbers in GROUPS.items() if cause.number in numbers)
        found[next(by_number, PROJECT if cause.code in told else OTHER)].append(cause)
    return {name: each for name, each in found.items() if each}


def generated() -> str:
    """The generated part, with its marks."""
    return "\n".join([BEGIN, "", *_lines(), END, ""])


def _lines() -> Iterator[str]:
    yield "## What bullpy doctor names"
    yield ""
    yield "One entry for each code that `bullpy doctor` can give."
    yield ""
    for name, entries in groups(causes()).items():
        yield f"## Doctor: {name[0].lower()}{name[1:]}"
        yield ""
        for cause in entries:
            yield from _entry(cause)


def _entry(cause: Cause) -> Iterator[str]:
    # The heading is the code alone, so that its anchor is the code.
    yield f"### {cause.code}"
    yield ""
    row = f" (D{cause.number})" if cause.number else ""
    yield f"{_text(cause.title)}{row}; {_LEVEL[cause.level]}."
    yield ""
    yield f"- **Symptom.** {_text(cause.symptom)}"
    yield f"- **Why.** {_text(cause.why)}"
    refuted = f"; it rules out {', '.join(cause.refutes)}" if cause.refutes else ""
    yield f"- **Proof.** {_PROOF[cause.certainty]}{_text(refuted)}."
    yield f"- **Fix.** {_text(cause.fix)}"
    yield ""


def _text(text: str) -> str:
    """Text as Markdown: what stands outside of backticks is no markup."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part if part.startswith("`") and len(part) > 1 else re.sub(r"([*<>\[\]])", r"\\\1", part)
        for part in parts
    )


def with_generated(page: str) -> str:
    """The page with the generated part as it is to be."""
    head, mark, rest = page.partition(BEGIN)
    tail = rest.partition(END)[2].lstrip("\n") if mark else ""
    return f"{head.rstrip()}\n\n{generated()}{tail}"


def main() -> int:
    """Write the page, or say whether it is stale."""
    old = PAGE.read_text(encoding="utf-8")
    new = with_generated(old)
    if "--check" in sys.argv[1:]:
        return int(old != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
