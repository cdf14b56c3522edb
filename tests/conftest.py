"""Fixtures that every test may use: a real server, queue names, and a clean environment."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from bullpy import EmbeddedServer, Queue, Worker

pytest_plugins = ["no_unexpected_skips", "support.implementations"]

# As on workers (docs/audio.md), and before anything loads numpy: a thread per core for each of
# its small matrices costs more than it saves.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings of whoever runs it."""
    for name in list(os.environ):
        if name.startswith("BULLPY_") or name == "REDIS_URL":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """A Valkey server for the whole session; tests keep apart by queue name."""
    with EmbeddedServer() as started:
        yield started


@pytest.fixture
def redis_url(server: EmbeddedServer) -> str:
    """Where the session's server is."""
    return server.url


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A server for one test alone, to stop, pause, or fill."""
    with EmbeddedServer() as started:
        yield started


@pytest.fixture
def queue_name() -> str:
    """A queue that no other test uses."""
    return f"q-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
async def queue(redis_url: str, queue_name: str) -> AsyncIterator[Queue]:
    """An empty queue on the session's server."""
    async with Queue(queue_name, redis=redis_url) as opened:
        yield opened
        await opened.obliterate(force=True)


StartWorker = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def start_worker(redis_url: str, queue_name: str) -> AsyncIterator[StartWorker]:
    """Start a worker on the test's queue and wait until it is ready; all are closed at the end.

    Call it with a processor and the keywords of `Worker`, or with a prepared `worker=`.
    """
    started: list[tuple[Worker, asyncio.Task[None]]] = []

    async def start(
        processor: Callable[..., Any] | None = None, *, worker: Worker | None = None, **options: Any
    ) -> Worker:
        options.setdefault("redis", redis_url)
        made = worker or Worker(queue_name, processor, {"autorun": False}, **options)
        task = asyncio.create_task(made.run())
        started.append((made, task))
        async with asyncio.timeout(15):
            await made.wait_until_ready()
        return made

    yield start
    for made, task in started:
        await made.close(timeout=5)
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def next_event() -> Callable[..., asyncio.Future[tuple[Any, ...]]]:
    """`next_event(emitter, "completed")` is a future of the event's arguments."""

    def wait(emitter: Any, event: str) -> asyncio.Future[tuple[Any, ...]]:
        future: asyncio.Future[tuple[Any, ...]] = asyncio.get_running_loop().create_future()

        def arrived(*args: Any) -> None:
            if not future.done():
                future.set_result(args)

        emitter.once(event, arrived)
        return future

    return wait
