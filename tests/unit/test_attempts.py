"""Attempts to connect beside one that hears nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bullpy import errors
from bullpy.connection import attempts

Attempt = Callable[[], Coroutine[Any, Any, str]]


class Discarded(list[str]):
    async def __call__(self, opened: str) -> None:
        self.append(opened)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FRESH_EACH", 0.01)


def one_after_the_other(*made: Attempt) -> Attempt:
    following = iter(made)

    def attempt() -> Coroutine[Any, Any, str]:
        return next(following)()

    return attempt


async def refused() -> str:
    raise errors.RedisUnavailableError("Connection refused.")


async def wrong_password() -> str:
    raise errors.RedisAuthError("Wrong password.")


async def deaf() -> str:
    await asyncio.Event().wait()
    return "never"


async def test_a_fresh_attempt_that_is_refused_leaves_the_slow_one_its_time() -> None:
    second_refused = asyncio.Event()

    async def slow() -> str:
        await second_refused.wait()
        return "slow"

    async def refused_again() -> str:
        second_refused.set()
        return await refused()

    trying = one_after_the_other(slow, refused, refused_again)
    assert await asyncio.wait_for(attempts.first_of(trying, Discarded()), 2.0) == "slow"


async def test_a_fresh_attempt_that_finds_a_server_ends_both() -> None:
    trying = one_after_the_other(deaf, wrong_password)
    with pytest.raises(errors.RedisAuthError):
        await asyncio.wait_for(attempts.first_of(trying, Discarded()), 2.0)


async def test_what_was_opened_is_closed_where_nobody_takes_it_any_more() -> None:
    is_given_up, lingers = asyncio.Event(), asyncio.Event()

    async def stubborn() -> str:
        try:
            return await deaf()
        finally:
            is_given_up.set()
            await lingers.wait()

    async def opened() -> str:
        return "opened"

    discarded = Discarded()
    caller = asyncio.create_task(
        attempts.first_of(one_after_the_other(stubborn, opened), discarded)
    )
    await asyncio.wait_for(is_given_up.wait(), 2.0)
    caller.cancel()
    lingers.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(caller, 2.0)
    assert discarded == ["opened"]
