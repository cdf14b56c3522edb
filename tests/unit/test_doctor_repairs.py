"""The repairs that verdicts name exist, and mean the queue that the verdict is about."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from bullpy import RedisSettings
from bullpy.cli import app
from bullpy.doctor import repairs
from bullpy.doctor.look import Look, QueueLook
from bullpy.repairs import NAMES

COMMAND: Any = typer.main.get_command(app)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("prefix", "queue"), [("bull", "orders"), ("{pre fix}", "a queue's")])
def test_the_command_parses_and_names_the_queue(name: str, prefix: str, queue: str) -> None:
    look = QueueLook(Look(RedisSettings.of("redis://localhost")), prefix, queue)
    words = shlex.split(repairs.command(look, name))
    assert words[:3] == ["bullpy", "repair", name]
    parsed = COMMAND.commands["repair"].commands[name].make_context(name, words[3:]).params
    assert (parsed["queue"], parsed["apply"]) == (queue, True)
    assert (parsed["prefix"] or "bull") == prefix


def test_an_ordinary_command_is_short() -> None:
    look = QueueLook(Look(RedisSettings.of("redis://localhost")), "bull", "orders")
    told = repairs.command(look, "limiter", "--longer-than", "60")
    assert told == "bullpy repair limiter --queue orders --longer-than 60 --apply"
