"""The parent of worker processes, with processes that do one thing each."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import IO

import pytest

from bullpy import errors
from bullpy.supervisor import Parent, Restarts, Supervisor

QUICK = Restarts(first=0.01, longest=0.05, healthy=60.0)

READY = (
    "import os, signal, socket, sys\n"
    "where, number = os.environ['BULLPY_SUPERVISOR'].split(':')\n"
    "parent = socket.socket(fileno=int(where))\n"
    "parent.send(b'ready\\n')\n"
)


def supervisor(code: str, processes: int = 1, patience: float = 20.0) -> Supervisor:
    command = [sys.executable, "-I", "-S", "-c", code]
    return Supervisor(command, processes, patience=patience, restarts=QUICK)


def obeying(handler: str = "lambda *_: sys.exit(0)", first: str = "", then: str = "") -> str:
    """A process that is ready, and does that on SIGTERM."""
    imports, _, rest = READY.partition("\n")
    wait = then or "while True: signal.pause()"
    return f"{imports}\nsignal.signal(signal.SIGTERM, {handler})\n{first}\n{rest}{wait}"


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Code that opens the writing end of a pipe, and the reading end.

    Reading ends when no process holds the writing end any more.
    """
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as reader:
        os.set_blocking(reader.fileno(), True)
        yield f"pipe = os.open({str(path)!r}, os.O_WRONLY)", reader


class Said(logging.Handler):
    """What the supervisor logs, to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._news = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._news.set()

    async def wait_for(self, pattern: str, times: int = 1) -> list[re.Match[str]]:
        async with asyncio.timeout(20):
            while True:
                self._news.clear()
                found = [match for line in self.lines if (match := re.search(pattern, line))]
                if len(found) >= times:
                    return found
                await self._news.wait()


@pytest.fixture
def said() -> Iterator[Said]:
    handler = Said()
    logger = logging.getLogger("bullpy.supervisor")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


async def code_of(running: Awaitable[int]) -> int:
    async with asyncio.timeout(20):
        return await running


# -- pauses --------------------------------------------------------------------------------


def test_the_pause_doubles_up_to_the_longest_and_starts_anew_after_a_healthy_life() -> None:
    restarts = Restarts()
    pauses = [restarts.pause(None, lived=1)]
    for _ in range(8):
        pauses.append(restarts.pause(pauses[-1], lived=29.9))
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert restarts.pause(30, lived=30) == 0.5


async def test_a_process_that_ends_again_and_again_is_restarted_more_and_more_slowly(
    said: Said,
) -> None:
    parent = supervisor(READY + "sys.exit(3)")
    running = asyncio.create_task(parent.run())
    found = await said.wait_for(r"ended: exit code 3; restart in (\S+) s", times=5)
    parent.stop()
    assert [match[1] for match in found[:5]] == ["0.01", "0.02", "0.04", "0.05", "0.05"]
    assert await code_of(running) == 0
    assert re.search(r"all worker processes have stopped; restarts: [4-9]", said.lines[-1])


# -- ends ----------------------------------------------------------------------------------


async def test_a_killed_process_is_restarted_under_its_number_and_its_neighbour_stays(
    said: Said,
) -> None:
    parent = supervisor(obeying(), processes=2)
    running = asyncio.create_task(parent.run())
    await said.wait_for("is ready", times=2)
    (pid,) = {match[1] for match in await said.wait_for(r"process 2 \(pid (\d+)\) started")}
    os.kill(int(pid), signal.SIGKILL)
    await said.wait_for(r"process 2 \(pid \d+\) is ready", times=2)
    parent.stop()
    assert await code_of(running) == 0
    assert len(await said.wait_for(r"ended: SIGKILL; restart in 0.01 s")) == 1
    assert len(await said.wait_for(r"process 1 \(pid \d+\) started")) == 1
    assert said.lines[-1].endswith("restarts: 1")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(1)", 1),
        ("raise SystemExit(2)", 2),
        ("raise SystemExit(0)", 1),
        ("import os; os.kill(os.getpid(), 9)", 137),
    ],
)
async def test_an_end_before_any_was_ready_ends_all(code: str, expected: int, said: Said) -> None:
    assert await code_of(supervisor(code, processes=2).run()) == expected
    assert len(await said.wait_for("started")) == 2
    assert not any("restart in" in line for line in said.lines)


async def test_a_wrong_configuration_later_ends_all_and_the_others_drain(
    said: Said, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    code = f"import os\nif os.path.exists({str(broken)!r}): raise SystemExit(2)\n" + obeying()
    running = asyncio.create_task(supervisor(code, processes=2).run())
    await said.wait_for("is ready", times=2)
    (found,) = await said.wait_for(r"process 1 \(pid (\d+)\) started")
    broken.touch()
    os.kill(int(found[1]), signal.SIGKILL)
    assert await code_of(running) == 2
    assert len(await said.wait_for(r"process 2 \(pid \d+\) stopped: exit code 0")) == 1


async def test_code_2_of_a_process_that_was_ready_is_no_wrong_configuration(said: Said) -> None:
    parent = supervisor(READY + "sys.exit(2)")
    running = asyncio.create_task(parent.run())
    await said.wait_for("restart in", times=2)
    parent.stop()
    assert await code_of(running) == 0


async def test_a_command_that_cannot_start_is_an_end_before_any_was_ready(said: Said) -> None:
    parent = Supervisor(["/nonexistent/python"], 2, patience=5)
    assert await code_of(parent.run()) == 1
    assert any("cannot start" in line for line in said.lines)


# -- jobs of the dead ----------------------------------------------------------------------

TELLING = READY.replace(
    "parent.send", "parent.send(f'workers w{number}a w{number}b\\n'.encode())\nparent.send"
) + (
    "while said := parent.recv(4096).decode():\n"
    "    parent.send(answer(said).encode())\n"
    "    os.write(pipe, f'{number}: {said}'.encode())\n"
)
"""Has two workers, and writes into the pipe what it is told."""


def telling(opened: str, answer: str = "''") -> str:
    return f"import os\n{opened}\nanswer = lambda said: {answer}\n{TELLING}"


async def read_line(reader: IO[bytes]) -> str:
    async with asyncio.timeout(20):
        return (await asyncio.to_thread(reader.readline)).decode().strip()


async def test_a_process_that_is_ready_is_told_whose_jobs_to_release(
    said: Said, pipe: tuple[str, IO[bytes]]
) -> None:
    opened, reader = pipe
    parent = supervisor(telling(opened), processes=2)
    running = asyncio.create_task(parent.run())
    await said.wait_for("is ready", times=2)
    (found,) = await said.wait_for(r"process 2 \(pid (\d+)\) started")
    os.kill(int(found[1]), signal.SIGKILL)
    assert await read_line(reader) == "1: dead w2a w2b"
    await said.wait_for(r"process 2 \(pid \d+\) is ready", times=2)
    # It has not said that it is done, so that is left to the next one.
    (found,) = await said.wait_for(r"process 1 \(pid (\d+)\) started")
    os.kill(int(found[1]), signal.SIGKILL)
    assert await read_line(reader) == "2: dead w1a w1b w2a w2b"
    parent.stop()
    assert await code_of(running) == 0


async def test_where_none_lives_the_next_process_that_is_ready_is_told(
    said: Said, pipe: tuple[str, IO[bytes]]
) -> None:
    opened, reader = pipe
    parent = supervisor(telling(opened))
    running = asyncio.create_task(parent.run())
    await said.wait_for("is ready")
    (found,) = await said.wait_for(r"process 1 \(pid (\d+)\) started")
    os.kill(int(found[1]), signal.SIGKILL)
    await said.wait_for("is ready", times=2)
    assert await read_line(reader) == "1: dead w1a w1b"
    parent.stop()
    assert await code_of(running) == 0


async def test_what_a_process_has_released_is_not_asked_for_again(
    said: Said, pipe: tuple[str, IO[bytes]]
) -> None:
    opened, reader = pipe
    parent = supervisor(telling(opened, "said.replace('dead', 'released')"))
    running = asyncio.create_task(parent.run())
    for dead in range(1, 3):
        await said.wait_for("is ready", times=dead)
        pid = (await said.wait_for(r"process 1 \(pid (\d+)\) started", times=dead))[-1][1]
        os.kill(int(pid), signal.SIGKILL)
        await said.wait_for("is ready", times=dead + 1)
        assert await read_line(reader) == "1: dead w1a w1b"
    parent.stop()
    assert await code_of(running) == 0


# -- stopping ------------------------------------------------------------------------------


async def test_the_worst_code_of_those_that_were_stopped_counts(said: Said) -> None:
    parent = supervisor(obeying("lambda *_: sys.exit(int(number))"), processes=3)
    running = asyncio.create_task(parent.run())
    await said.wait_for("is ready", times=3)
    parent.stop()
    parent.stop()
    assert await code_of(running) == 3


async def test_stopping_before_the_start_starts_nothing(said: Said) -> None:
    parent = supervisor(obeying())
    parent.stop()
    parent.hurry()
    assert await code_of(parent.run()) == 0
    assert said.lines == ["all worker processes have stopped; restarts: 0"]


async def test_stopping_processes_that_have_not_come_far_is_a_clean_end(said: Said) -> None:
    parent = supervisor("import signal; signal.pause()", processes=3)
    running = asyncio.create_task(parent.run())
    await said.wait_for("started", times=3)
    parent.stop()
    assert await code_of(running) == 0


async def test_stopping_during_a_pause_starts_nothing_any_more(said: Said) -> None:
    parent = Supervisor(
        [sys.executable, "-I", "-S", "-c", READY],
        1,
        patience=5,
        restarts=Restarts(first=1000, longest=1000),
    )
    running = asyncio.create_task(parent.run())
    await said.wait_for("restart in 1000 s")
    parent.stop()
    assert await code_of(running) == 0
    assert len(await said.wait_for("started")) == 1


async def test_a_process_that_dies_while_stopping_is_not_restarted(said: Said) -> None:
    parent = supervisor(obeying("lambda *_: os.kill(os.getpid(), 9)"))
    running = asyncio.create_task(parent.run())
    await said.wait_for("is ready")
    parent.stop()
    assert await code_of(running) == 137
    assert any("stopped: SIGKILL" in line for line in said.lines)


async def test_a_stuck_process_is_killed_with_what_it_started(
    said: Said, pipe: tuple[str, IO[bytes]]
) -> None:
    opened, reader = pipe
    code = obeying("signal.SIG_IGN", first=f"{opened}\nos.fork()")
    parent = supervisor(code, patience=0.05)
    running = asyncio.create_task(parent.run())
    await said.wait_for("is ready")
    parent.stop()
    assert await code_of(running) == 137
    async with asyncio.timeout(20):
        assert await asyncio.to_thread(reader.read) == b""
    assert any("did not stop in time and is killed" in line for line in said.lines)


async def test_hurrying_signals_again(said: Said, pipe: tuple[str, IO[bytes]]) -> None:
    opened, reader = pipe
    code = obeying(
        "first",
        first=opened,
    ).replace(
        "\n",
        "\ndef first(*_):\n"
        "    signal.signal(signal.SIGINT, lambda *_: sys.exit(7))\n"
        "    os.write(pipe, b'1')\n",
        1,
    )
    parent = supervisor(code)
    running = asyncio.create_task(parent.run())
    await said.wait_for("is ready")
    parent.stop()
    assert await asyncio.to_thread(reader.read, 1) == b"1"
    parent.hurry()
    parent.hurry()
    assert await code_of(running) == 7


async def test_a_cancelled_supervisor_stops_its_processes_first(
    said: Said, pipe: tuple[str, IO[bytes]]
) -> None:
    opened, reader = pipe
    running = asyncio.create_task(supervisor(obeying(first=opened), processes=2).run())
    await said.wait_for("is ready", times=2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await code_of(running)
    assert reader.read() == b""


# -- the worker's side ---------------------------------------------------------------------


def test_without_a_supervisor_there_is_no_parent() -> None:
    assert Parent.from_environment() is None


@pytest.mark.parametrize("value", ["", "x", "1", "999999:1", "a:b", "1:2:3"])
def test_a_stray_variable_is_a_clear_error(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULLPY_SUPERVISOR", value)
    with pytest.raises(errors.ConfigurationError, match="leads to no supervisor"):
        Parent.from_environment()


def test_the_variable_is_taken_out_and_the_end_of_the_parent_is_a_sigterm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair()
    signals: list[tuple[int, int]] = []
    ended = threading.Event()

    def kill(pid: int, number: int) -> None:
        signals.append((pid, number))
        ended.set()

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setenv("BULLPY_SUPERVISOR", f"{theirs.detach()}:4")
    parent = Parent.from_environment()
    assert parent is not None
    assert parent.number == 4
    assert "BULLPY_SUPERVISOR" not in os.environ
    assert not signals
    ours.close()
    assert ended.wait(20)
    assert signals == [(os.getpid(), signal.SIGTERM)]
