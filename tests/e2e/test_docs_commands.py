"""The commands that the documentation shows exist, and the quickstart works as it is written."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from support.processes import ROOT, Process, bullpy, run, worker

from bullpy import Queue
from bullpy.cli import app

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
COMMAND: Any = typer.main.get_command(app)


def _blocks(text: str, *languages: str) -> list[str]:
    fences = re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [code for language, code in fences if language in languages]


def _shell_lines() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in _blocks(page.read_text(encoding="utf-8"), "sh", "bash"):
            for line in block.splitlines():
                if line.strip() and not line.startswith("#"):
                    yield page.name, line


def _bullpy_commands() -> list[Any]:
    return [
        pytest.param(shlex.split(line, comments=True)[1:], id=f"{page}: {line}")
        for page, line in _shell_lines()
        if line.startswith("bullpy ")
    ]


@pytest.mark.parametrize("arguments", _bullpy_commands())
def test_every_bullpy_command_of_the_pages_parses(arguments: list[str]) -> None:
    group, rest = COMMAND, arguments
    # A group may do something without a command too.
    while hasattr(group, "commands") and (rest or not group.invoke_without_command):
        assert rest[0] in group.commands, rest
        group, rest = group.commands[rest[0]], rest[1:]
    group.make_context("bullpy", rest)


def test_every_make_target_of_the_pages_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [line.split()[1] for _, line in _shell_lines() if line.startswith("make ")]
    assert named
    assert set(named) <= targets


def test_the_reference_lists_every_command_and_option_of_the_command_line() -> None:
    commands = REFERENCE.partition("\n## Commands\n")[2].partition("\n## ")[0]
    described = commands.split("\nOptions of `bullpy ")[1:]
    assert len(described) >= 2
    for text in described:
        name, _, table = text.partition("`:\n")
        command = COMMAND
        for word in name.split():
            command = command.commands[word]
        rows = re.match(r"\n((?:\|.*\n)+)", table)
        assert rows, name
        listed = set(re.findall(r"^\| `(--[a-z-]+)", rows[1], re.MULTILINE))
        # Of a group: the options of all its commands.
        real = {
            option
            for each in [command, *getattr(command, "commands", {}).values()]
            for parameter in each.params
            for option in parameter.opts
            if option.startswith("--")
        }
        assert listed == real, name
    for name, command in COMMAND.commands.items():
        inner = getattr(command, "commands", None) or {"": None}
        assert all(f"`bullpy {name} {word}".rstrip() in commands for word in inner)


async def test_the_quickstart_works_as_it_is_written(tmp_path: Path, redis_url: str) -> None:
    modules = ROOT / "examples" / "node-api" / "node_modules"
    assert modules.is_dir(), "run: make setup"
    (app_py,) = [code for code in _blocks(QUICKSTART, "python") if 'Worker("greetings"' in code]
    (produce,) = _blocks(QUICKSTART, "js")
    (tmp_path / "app.py").write_text(app_py, encoding="utf-8")
    (tmp_path / "produce.mjs").write_text(produce, encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(modules)
    node = shutil.which("node")
    assert node, "Node is needed for this test"
    with worker("app:worker", cwd=tmp_path, REDIS_URL=redis_url) as process:
        process.wait_for(r"connected: ")
        process.wait_for(r"ready: queue greetings \(prefix bull\) at .*, concurrency 4, 0 waiting")
        done = run(node, "produce.mjs", cwd=tmp_path, env={"REDIS_URL": redis_url})
        assert done.returncode == 0, done.stderr
        assert done.stdout == "{ text: 'Hello Ada' }\n"
        assert process.stop() == 0
    async with Queue("greetings", redis=redis_url) as queue:
        await queue.obliterate(force=True)


async def test_the_worker_of_the_readme_runs_both_ways(tmp_path: Path, redis_url: str) -> None:
    (code,) = _blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    (tmp_path / "app.py").write_text(code, encoding="utf-8")
    starts = [
        lambda: worker("app:worker", cwd=tmp_path, REDIS_URL=redis_url),
        lambda: Process(sys.executable, "app.py", cwd=tmp_path, env={"REDIS_URL": redis_url}),
    ]
    for start in starts:
        with start() as process:
            async with Queue("audio-analyzer", redis=redis_url) as queue:
                job = await queue.add("process-audio", {"fileKey": "song.flac"})
                assert await job.wait_until_finished(20) == {"ok": True}
                await queue.obliterate(force=True)
            assert process.stop() == 0


def test_the_commands_of_the_audio_page_print_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "note.wav").write_text("no audio")
    done = bullpy("audio", "analyze", "--json", "note.wav", cwd=tmp_path)
    assert done.returncode == 1
    assert '"code":"not-audio"' in done.stdout.replace(" ", "")
