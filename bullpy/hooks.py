"""Lifespan and middleware: what surrounds the processors of a worker."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from bullpy import errors
from bullpy.job import Job

CallNext = Callable[[Job[Any]], Awaitable[Any]]
Middleware = Callable[[CallNext, Job[Any]], Awaitable[Any]]
Lifespan = Callable[[Any], AsyncGenerator[Mapping[str, Any] | None, None]]


class Hooks:
    """The lifespan and the middleware of one worker.

    Attributes:
        middlewares: In the order they were added; the first is the outermost.
    """

    def __init__(self) -> None:
        self.middlewares: list[Middleware] = []
        self._lifespan: Lifespan | None = None

    def set_lifespan(self, function: Lifespan) -> Lifespan:
        """Use this async generator around the worker's life.

        Raises:
            errors.ConfigurationError: The worker has one already.
        """
        if self._lifespan is not None:
            raise errors.ConfigurationError(
                "The worker has a lifespan already.", fix="Do both things in one generator."
            )
        self._lifespan = function
        return function

    def add_middleware(self, function: Middleware) -> Middleware:
        """Run every job through this function, inside those added before."""
        self.middlewares.append(function)
        return function

    def lifespan(self, worker: object) -> AbstractAsyncContextManager[Mapping[str, Any]]:
        """A context manager for the worker's life; it gives the worker's state."""
        return _entered(self._lifespan, worker)

    def around(self, call: CallNext) -> CallNext:
        """The call with all middleware around it."""
        for middleware in reversed(self.middlewares):
            call = _wrapped(middleware, call)
        return call


def _wrapped(middleware: Middleware, call: CallNext) -> CallNext:
    def wrapped(job: Job[Any]) -> Awaitable[Any]:
        return middleware(call, job)

    return wrapped


@asynccontextmanager
async def _entered(lifespan: Lifespan | None, worker: object) -> AsyncGenerator[Mapping[str, Any]]:
    if lifespan is None:
        yield {}
        return
    async with asynccontextmanager(lifespan)(worker) as state:
        yield state or {}
