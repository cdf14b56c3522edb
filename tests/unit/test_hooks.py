"""Lifespan and middleware, without a worker."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from bullpy import errors
from bullpy.hooks import Hooks

JOB: Any = SimpleNamespace(id="7")


async def processor(job: Any) -> list[str]:
    return ["processor"]


async def test_without_middleware_the_call_is_the_processors() -> None:
    assert await Hooks().around(processor)(JOB) == ["processor"]


async def test_the_first_middleware_is_the_outermost() -> None:
    hooks = Hooks()

    async def outer(call_next: Any, job: Any) -> Any:
        return ["outer", *await call_next(job)]

    async def inner(call_next: Any, job: Any) -> Any:
        return ["inner", *await call_next(job)]

    assert hooks.add_middleware(outer) is outer
    hooks.add_middleware(inner)
    assert await hooks.around(processor)(JOB) == ["outer", "inner", "processor"]


async def test_middleware_may_answer_itself_or_change_the_error() -> None:
    hooks = Hooks()

    async def translate(call_next: Any, job: Any) -> Any:
        try:
            return await call_next(job)
        except KeyError:
            raise ValueError("translated") from None

    async def answer(call_next: Any, job: Any) -> Any:
        if job.id == "7":
            raise KeyError
        return "answered"

    hooks.add_middleware(translate)
    hooks.add_middleware(answer)
    call = hooks.around(processor)
    with pytest.raises(ValueError, match="translated"):
        await call(JOB)
    other: Any = SimpleNamespace(id="8")
    assert await call(other) == "answered"


async def test_lifespan_gives_the_state_and_ends_after_an_error_too() -> None:
    hooks = Hooks()
    steps: list[str] = []

    async def lifespan(worker: Any) -> AsyncGenerator[dict[str, Any], None]:
        steps.append(f"start {worker}")
        try:
            yield {"db": 1}
        finally:
            steps.append("end")

    hooks.set_lifespan(lifespan)

    async def fail() -> None:
        async with hooks.lifespan("w") as state:
            assert state == {"db": 1}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert steps == ["start w", "end"]


async def test_state_is_empty_where_nothing_is_given() -> None:
    async with Hooks().lifespan(None) as state:
        assert state == {}
    hooks = Hooks()

    async def nothing(worker: Any) -> AsyncGenerator[None, None]:
        yield

    hooks.set_lifespan(nothing)
    async with hooks.lifespan(None) as state:
        assert state == {}
    with pytest.raises(errors.ConfigurationError, match="already"):
        hooks.set_lifespan(nothing)
