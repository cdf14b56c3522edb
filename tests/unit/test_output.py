"""What a child writes: every line is logged, a flood is counted, its last lines are kept."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from logging import LogRecord
from typing import Any

import pytest
from support.faults import eventually
from support.isolated_bench import records

from bullpy.executors import output as output_module
from bullpy.executors.output import LINES_PER_SECOND, LONGEST_LINE, TAIL_LINES, Output

JOB = {"queue": "q", "job_id": "7", "job_name": "n"}


class Child:
    """Both streams, from the child's side."""

    def __init__(self) -> None:
        stdout, self.stdout = os.pipe()
        stderr, self.stderr = os.pipe()
        self.output = Output(1234, stdout, stderr)
        self.output.job = dict(JOB)

    def say(self, text: str | bytes, descriptor: int | None = None) -> None:
        data = text.encode() if isinstance(text, str) else text
        os.write(self.stderr if descriptor is None else descriptor, data)

    def close(self) -> None:
        for descriptor in (self.stdout, self.stderr):
            os.close(descriptor)
        self.output.close()


@pytest.fixture
def logged() -> Iterator[list[LogRecord]]:
    with records("bullpy.processor") as kept:
        yield kept


@pytest.fixture
async def child() -> Any:
    made = Child()
    yield made
    made.close()


def texts(logged: list[LogRecord]) -> list[str]:
    return [record.getMessage() for record in logged]


async def until(condition: Callable[[], Any]) -> None:
    async def holds() -> Any:
        return condition()

    await eventually(holds, 5.0, every=0.001)


async def test_lines_are_logged_with_stream_and_job(child: Child, logged: list[Any]) -> None:
    child.say("to stderr\n")
    child.say("to stdout\n", child.stdout)
    await until(lambda: len(logged) == 2)
    by_text = {record.getMessage(): record for record in logged}
    assert by_text["to stderr"].levelname == "WARNING"
    assert by_text["to stdout"].levelname == "INFO"
    assert by_text["to stdout"].stream == "stdout"
    for record in logged:
        assert (record.queue, record.job_id, record.job_name, record.child) == ("q", "7", "n", 1234)


async def test_line_in_pieces_is_one_line(child: Child, logged: list[LogRecord]) -> None:
    for piece in ("on", "e li", "ne\nand", " another"):
        child.say(piece)
        child.output._arrived(child.output._streams[1])
    assert texts(logged) == ["one line"]
    child.output.drain()
    assert texts(logged) == ["one line", "and another"]


async def test_unfinished_line_belongs_to_the_job_that_wrote_it(
    child: Child, logged: list[Any]
) -> None:
    child.say("no end")
    child.output.drain()
    child.output.job = {}
    child.say("next\n")
    child.output.drain()
    assert texts(logged) == ["no end", "next"]
    assert logged[0].job_id == "7"
    assert not hasattr(logged[1], "job_id")


async def test_bytes_that_are_no_text_are_shown(child: Child, logged: list[LogRecord]) -> None:
    child.say(b"\xff\xfe broken \x00\n")
    child.output.drain()
    assert texts(logged) == ["\\xff\\xfe broken \x00"]


async def test_empty_lines_are_not_logged(child: Child, logged: list[LogRecord]) -> None:
    child.say("\n\n  \na\n\r\n")
    child.output.drain()
    assert texts(logged) == ["a"]


async def test_line_that_is_too_long_is_cut_and_the_next_is_whole(
    child: Child, logged: list[LogRecord]
) -> None:
    child.say("x" * (LONGEST_LINE * 2))
    child.output.drain()
    child.say("y" * 1000 + "\nnext\n")
    child.output.drain()
    assert texts(logged)[0] == "x" * LONGEST_LINE
    assert texts(logged)[-1] == "next"
    assert max(map(len, texts(logged))) <= LONGEST_LINE


async def test_cut_line_of_one_job_takes_nothing_from_the_next(
    child: Child, logged: list[LogRecord]
) -> None:
    child.say("x" * (LONGEST_LINE * 2))
    child.output.drain()
    child.output.forget()
    child.say("the first words of the next job\n")
    child.output.drain()
    assert "the first words of the next job" in texts(logged)
    assert child.output.tail() == "the first words of the next job"


async def test_tail_is_the_last_lines_of_stderr(child: Child) -> None:
    child.say("not in it\n", child.stdout)
    child.say("".join(f"line {number}\n" for number in range(TAIL_LINES + 10)))
    child.output.drain()
    assert child.output.tail().splitlines() == [
        f"line {number}" for number in range(10, TAIL_LINES + 10)
    ]
    child.output.forget()
    assert child.output.tail() == ""


@pytest.mark.parametrize("at_once", [True, False])
async def test_tail_after_a_flood_is_whole(child: Child, at_once: bool) -> None:
    lines = [f"line {number}" for number in range(LINES_PER_SECOND * 3)]
    if at_once:
        child.say("".join(f"{line}\n" for line in lines))
        child.output.drain()
    else:
        for line in lines:
            child.say(f"{line}\n")
            child.output._arrived(child.output._streams[1])
    assert child.output.tail().splitlines() == lines[-TAIL_LINES:]


async def test_flood_is_logged_up_to_a_bound_and_the_rest_is_counted(
    child: Child, logged: list[LogRecord]
) -> None:
    total = LINES_PER_SECOND * 5
    for number in range(total):
        child.say(f"line {number}\n")
        child.output._arrived(child.output._streams[1])
    assert len(logged) == LINES_PER_SECOND
    # Told within a second.
    await until(lambda: len(logged) > LINES_PER_SECOND)
    assert texts(logged)[-1] == f"{total - LINES_PER_SECOND} more lines of output were not logged"
    child.say("calm again\n")
    await until(lambda: "calm again" in texts(logged))


async def test_bytes_without_end_are_bounded(child: Child, logged: list[LogRecord]) -> None:
    stream = child.output._streams[1]
    for _ in range(64):
        child.say(b"z" * 60_000)
        child.output._arrived(stream)
        child.output._read_now = 0
    assert len(stream.partial) <= LONGEST_LINE
    assert sum(map(len, texts(logged))) <= LONGEST_LINE


async def test_flood_leaves_turns_to_others(child: Child) -> None:
    # A writer that is never done: the reader pauses instead of reading for ever.
    loop = asyncio.get_running_loop()
    os.set_blocking(child.stderr, False)
    written = 0

    def write_on() -> None:
        nonlocal written
        try:
            while True:
                written += os.write(child.stderr, b"w" * 65_536)
        except BlockingIOError:
            pass

    loop.add_writer(child.stderr, write_on)
    try:
        await until(lambda: child.output._waiting is not None)
        assert written <= output_module.BYTES_PER_LOOK + 4 * 65_536
        await until(lambda: written > 2 * output_module.BYTES_PER_LOOK)
    finally:
        loop.remove_writer(child.stderr)


async def test_closed_streams_end_quietly(child: Child, logged: list[LogRecord]) -> None:
    child.say("last")
    os.close(child.stderr)
    await until(lambda: not child.output._streams[1].is_open)
    child.output.drain()
    assert texts(logged) == ["last"]
    assert child.output.tail() == "last"
    child.output.close()
    child.output.close()
    child.stderr = os.open(os.devnull, os.O_WRONLY)
