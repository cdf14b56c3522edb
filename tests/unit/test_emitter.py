"""Events that cannot hurt who emits them."""

from __future__ import annotations

import asyncio
import logging

import pytest

from bullpy import errors
from bullpy.emitter import SafeEmitter


class Named(SafeEmitter):
    EVENTS = frozenset(["done", "error"])


def test_listeners_are_called_in_order_until_they_are_taken_off() -> None:
    emitter = SafeEmitter()
    heard: list[str] = []
    first = emitter.on("x", lambda value: heard.append(f"first {value}"))
    emitter.on("x", lambda value: heard.append(f"second {value}"))
    emitter.emit("x", 1)
    emitter.off("x", first)
    emitter.emit("x", 2)
    emitter.emit("nobody listens", 3)
    assert heard == ["first 1", "second 1", "second 2"]


def test_on_is_a_decorator_too() -> None:
    emitter = SafeEmitter()
    heard: list[int] = []

    @emitter.on("x")
    def listener(value: int) -> None:
        heard.append(value)

    emitter.emit("x", 1)
    listener(2)
    assert heard == [1, 2]


def test_once_hears_one_event_even_when_it_emits_itself() -> None:
    emitter = SafeEmitter()
    heard: list[int] = []

    def listener(value: int) -> None:
        heard.append(value)
        emitter.emit("x", value + 1)

    emitter.once("x", listener)
    emitter.emit("x", 1)
    assert heard == [1]
    assert emitter.listener_count("x") == 0


def test_unknown_listeners_are_taken_off_without_complaint() -> None:
    emitter = SafeEmitter()
    emitter.off("x", print)
    emitter.on("x", print)
    emitter.on("y", print)
    emitter.remove_all_listeners("x")
    assert (emitter.listener_count("x"), emitter.listener_count("y")) == (0, 1)
    emitter.remove_all_listeners()
    assert emitter.listener_count("y") == 0


def test_misspelt_names_are_refused_and_the_right_ones_named() -> None:
    with pytest.raises(errors.ConfigurationError, match="done, error"):
        Named().on("dnoe", print)
    Named().on("done:job-1", print)


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), asyncio.CancelledError(), GeneratorExit(), RecursionError(), StopIteration()],
    ids=lambda error: type(error).__name__,
)
def test_a_listener_that_raises_stops_nobody(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    emitter = SafeEmitter()
    heard: list[int] = []

    def broken(*args: object) -> None:
        raise error

    emitter.on("x", broken)
    emitter.on("x", heard.append)
    for number in range(3):
        emitter.emit("x", number)
    assert heard == [0, 1, 2]
    told = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(told) == 1, "the same kind of error is told once"
    assert type(error).__name__ in told[0].getMessage()


def test_a_listener_with_the_wrong_arguments_stops_nobody() -> None:
    emitter = SafeEmitter()
    heard: list[str] = []
    emitter.on("error", lambda error, job: heard.append("two"))
    emitter.on("error", lambda error: heard.append("one"))
    emitter.emit("error", ValueError())
    assert heard == ["one"]


@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt()], ids=repr)
def test_who_wants_to_end_the_process_is_not_held_back(error: BaseException) -> None:
    emitter = SafeEmitter()

    def leave() -> None:
        raise error

    emitter.on("x", leave)
    with pytest.raises(type(error)):
        emitter.emit("x")


async def test_async_listeners_run_and_can_be_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    emitter = SafeEmitter()
    heard: list[str] = []

    async def slow(value: str) -> None:
        await asyncio.sleep(0.01)
        heard.append(value)

    async def broken(value: str) -> None:
        raise ValueError(value)

    emitter.on("x", slow)
    emitter.on("x", broken)
    emitter.emit("x", "a")
    assert heard == []
    await emitter.drain_listeners()
    await asyncio.sleep(0)
    assert heard == ["a"]
    assert "ValueError: a" in caplog.text
