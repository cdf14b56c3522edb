"""The classes under test: bullpy's, or with `--implementation upstream` those of `bullmq`.

Both take upstream's call shapes, so one test runs against either. A test of the defect suite
holds for bullpy and fails for upstream; that is what the option is there to show.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import bullmq
import pytest

import bullpy

# Upstream's blocking wait outlives redis-py 8's socket time-out at its default of 5 s. Tests
# of other things keep below that, so that they fail for their own reason.
DRAIN_DELAY = 2

_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--implementation",
        choices=["bullpy", "upstream"],
        default="bullpy",
        help="whose classes the defect suite runs against; with upstream every test fails",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--implementation") == "upstream":
        # Tests shall fail for what upstream does, not for the warnings it leaves behind.
        config.addinivalue_line("filterwarnings", "ignore")


@dataclass
class Implementation:
    """Builds the classes of one library on one server, and closes what it built.

    Attributes:
        name: `bullpy` or `upstream`.
        url: The server, unless `connection` is given in a call.
    """

    name: str
    url: str
    queue_name: str = ""
    _made: list[Any] = field(default_factory=list)
    _tasks: list[asyncio.Future[Any]] = field(default_factory=list)

    @property
    def library(self) -> Any:
        return bullpy if self.name == "bullpy" else bullmq

    def new_name(self) -> str:
        return f"d-{os.getpid()}-{next(_numbers)}"

    def queue(self, name: str | None = None, **opts: Any) -> Any:
        return self._keep(self.library.Queue(name or self.queue_name, self._with(opts)))

    def events(self, name: str | None = None, **opts: Any) -> Any:
        return self._keep(self.library.QueueEvents(name or self.queue_name, self._with(opts)))

    def flows(self, **opts: Any) -> Any:
        return self._keep(self.library.FlowProducer(None, self._with(opts)))

    def idle_worker(
        self,
        processor: Callable[..., Any],
        name: str | None = None,
        *,
        worker_name: str | None = None,
        **opts: Any,
    ) -> Any:
        """A worker that does not run yet."""
        opts = {"drainDelay": DRAIN_DELAY, "autorun": False, **opts}
        if worker_name is not None:
            opts["name"] = worker_name
        worker = self.library.Worker(name or self.queue_name, processor, self._with(opts))
        return self._keep(worker)

    def worker(self, processor: Callable[..., Any], name: str | None = None, **opts: Any) -> Any:
        """A worker that runs."""
        worker = self.idle_worker(processor, name, **opts)
        self.run(worker)
        return worker

    def run(self, worker: Any) -> asyncio.Future[Any]:
        task = asyncio.ensure_future(worker.run())
        self._tasks.append(task)
        return task

    def background(self, awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
        """A task that the end of the test cancels."""
        task = asyncio.ensure_future(awaitable)
        self._tasks.append(task)
        return task

    async def close(self) -> None:
        """Close everything, in bounded time whatever state it is in."""
        for made in reversed(self._made):
            # Upstream's close fails or hangs where its connection is gone.
            with contextlib.suppress(*[Exception] if self.name == "upstream" else []):
                async with asyncio.timeout(3):
                    await (made.close(True) if isinstance(made, bullmq.Worker) else made.close())
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=3)
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.exception()

    def _with(self, opts: dict[str, Any]) -> dict[str, Any]:
        return {"connection": self.url, **opts}

    def _keep(self, made: Any) -> Any:
        self._made.append(made)
        return made


@pytest.fixture
def implementation(pytestconfig: pytest.Config) -> str:
    """`bullpy`, or `upstream` when asked for."""
    return pytestconfig.getoption("--implementation")


@pytest.fixture
async def impl(
    implementation: str, redis_url: str, queue_name: str
) -> AsyncIterator[Implementation]:
    """The implementation under test on the session's server."""
    made = Implementation(implementation, redis_url, queue_name)
    yield made
    await made.close()


async def eventually(
    check: Callable[[], Any], *, within: float = 3.0, because: str = "it did not happen"
) -> Any:
    """What `check` gives once that is true; it may be async.

    For states that no event tells of, such as what Redis holds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert loop.time() < deadline, f"{because} within {within} s"
        await asyncio.sleep(0.01)


def in_thread(main: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
    """Run a coroutine function to its end on an event loop of its own, in a thread."""
    outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def work() -> None:
        try:
            result, error = asyncio.run(main()), None  # type: ignore[arg-type]
        except BaseException as raised:
            result, error = None, raised

        def tell() -> None:
            if outcome.done():
                return
            if error is None:
                outcome.set_result(result)
            else:
                outcome.set_exception(error)

        loop.call_soon_threadsafe(tell)

    threading.Thread(target=work, daemon=True).start()
    return outcome
