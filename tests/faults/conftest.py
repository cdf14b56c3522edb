"""Each fault test has a server of its own, a proxy in front of it, and workers behind that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.faults import Ledger
from support.proxy import Proxy

from bullpy import EmbeddedServer, Queue, Worker
from bullpy.settings import RedisSettings


class Crew:
    """The workers of one test.

    Attributes:
        ledger: What they did.
        url: Where they find Redis.
    """

    def __init__(self, url: str, queue_name: str) -> None:
        self.ledger = Ledger()
        self.url = url
        self._queue_name = queue_name
        self._hired: list[tuple[Worker, asyncio.Task[None]]] = []

    async def hire(
        self,
        work: Any = 0.0,
        *,
        url: str | None = None,
        redis: dict[str, Any] | None = None,
        ready: bool = True,
        **options: Any,
    ) -> Worker:
        """Start a worker whose jobs take `work` seconds, or run the coroutine function `work`."""
        settings = RedisSettings.of(url or self.url).model_copy(update=redis or {})
        made = Worker(
            self._queue_name,
            self.ledger.processor(work),
            {"autorun": False},
            redis=settings,
            **options,
        )
        self.ledger.watch(made)
        task = asyncio.create_task(made.run())
        self._hired.append((made, task))
        if ready:
            async with asyncio.timeout(15):
                await made.wait_until_ready()
        return made

    async def dismiss(self) -> None:
        for made, task in self._hired:
            await made.close(timeout=3)
            await asyncio.gather(task, return_exceptions=True)

    @property
    def runs(self) -> list[asyncio.Task[None]]:
        """The tasks of the workers' `run()`."""
        return [task for _, task in self._hired]


@pytest.fixture
async def proxy(own_server: EmbeddedServer) -> AsyncIterator[Proxy]:
    """A proxy in front of the test's own server."""
    async with Proxy(own_server.port) as opened:
        yield opened


@pytest.fixture
async def direct(own_server: EmbeddedServer, queue_name: str) -> AsyncIterator[Queue]:
    """The queue, reached without the proxy."""
    async with Queue(queue_name, redis=own_server.url) as opened:
        yield opened


@pytest.fixture
async def crew(proxy: Proxy, queue_name: str) -> AsyncIterator[Crew]:
    """Workers behind the proxy; they are dismissed at the end."""
    made = Crew(proxy.url, queue_name)
    yield made
    proxy.heal()
    await proxy.accept()
    await made.dismiss()
