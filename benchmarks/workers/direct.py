"""One slot for `def` processors, called without a queue in between.

`--isolation` says whose: `process`, `preload` and `thread` are bullpy's executors, called as
its engine calls them; `futures` and `pebble` are the pools of these names with Python's default
start method, `futures-spawn` and `pebble-spawn` with a new interpreter for each child, which is
how bullpy starts its children without `preload`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.metadata
import itertools
import multiprocessing
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pebble

import bullpy
from benchmarks.workers import tasks
from benchmarks.workers.common import (
    PAYLOAD,
    Control,
    Task,
    lateness,
    run_producer,
    say,
    say_ready,
    spread,
    task,
)
from bullpy import codec, errors
from bullpy.codec import Encoded
from bullpy.executors.base import Executor
from bullpy.executors.process import ProcessExecutor
from bullpy.executors.thread import ThreadExecutor
from bullpy.job import Job
from bullpy.processors import ProcessorTable
from bullpy.settings import WorkerSettings
from bullpy.types import Isolation

PROCESSORS: dict[str, Callable[[Any], Any]] = {
    "noop": tasks.noop,
    "entered": tasks.entered,
    "crash": tasks.crash,
    "spin": tasks.spin,
}
CALL_TIMEOUT = 30.0
"""Seconds for one call."""


class Slots(ABC):
    """Where the processors run: a pool of threads or processes."""

    @abstractmethod
    def order(self, name: str, data: dict[str, Any]) -> Any:
        """What `run` takes; made outside of the measured time."""

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    async def run(self, order: Any) -> Any: ...

    @abstractmethod
    async def mend(self) -> None:
        """Get over a crash, where that is the caller's business."""

    @abstractmethod
    async def close(self) -> None: ...


class Bullpy(Slots):
    """One of bullpy's executors, as `bullpy.engine.runner` builds and calls it."""

    def __init__(self, todo: Task) -> None:
        where = Isolation.THREAD if todo.isolation == "thread" else Isolation.PROCESS
        table = ProcessorTable(where)
        for name, function in PROCESSORS.items():
            table.add(function, name)
        table.prepare()
        self._table = table
        self._numbers = itertools.count(1)
        self._queue = bullpy.Queue(todo.queue, redis=todo.url)
        settings = WorkerSettings(
            concurrency=todo.concurrency,
            preload=[tasks.__name__] if todo.isolation == "preload" else [],
        )
        self._executor: Executor = ThreadExecutor()
        if where is Isolation.PROCESS:
            self._executor = ProcessExecutor(
                table.isolated(where),
                settings,
                lambda: todo.concurrency,
                todo.queue,
                keep_raw=True,
            )

    def order(self, name: str, data: dict[str, Any]) -> Job[Any]:
        raw = {
            b"name": name.encode(),
            b"data": codec.dumps(data),
            b"opts": b'{"attempts":3}',
            b"timestamp": b"%d" % (time.time() * 1000),
        }
        return Job.from_raw(self._queue, raw, str(next(self._numbers)), "token:1")

    async def start(self) -> None:
        await self._executor.start()

    async def run(self, order: Job[Any]) -> Any:
        processor = self._table.find(order.name)
        assert processor is not None
        result = await self._executor.run(processor, order, ())
        return result.value if isinstance(result, Encoded) else result

    async def mend(self) -> None:
        """The executor has a new child already."""

    async def close(self) -> None:
        await self._executor.close()
        await self._queue.close()


class Futures(Slots):
    """`concurrent.futures.ProcessPoolExecutor`. A crash breaks it: a new one is needed."""

    def __init__(self, todo: Task) -> None:
        self._size = todo.concurrency
        self._context = multiprocessing.get_context(_start_method(todo.isolation))
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def order(self, name: str, data: dict[str, Any]) -> tuple[Callable[[Any], Any], Any]:
        return PROCESSORS[name], SimpleNamespace(data=data)

    async def start(self) -> None:
        self._pool = concurrent.futures.ProcessPoolExecutor(self._size, self._context)

    async def run(self, order: tuple[Callable[[Any], Any], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, *order)

    async def mend(self) -> None:
        assert self._pool is not None
        self._pool.shutdown(wait=False)
        await self.start()

    async def close(self) -> None:
        assert self._pool is not None
        self._pool.shutdown()


class Pebble(Slots):
    """`pebble.ProcessPool`, which replaces a child that crashed."""

    def __init__(self, todo: Task) -> None:
        self._size = todo.concurrency
        self._context = multiprocessing.get_context(_start_method(todo.isolation))
        self._pool: pebble.ProcessPool | None = None

    def order(self, name: str, data: dict[str, Any]) -> tuple[Callable[[Any], Any], Any]:
        return PROCESSORS[name], SimpleNamespace(data=data)

    async def start(self) -> None:
        self._pool = pebble.ProcessPool(self._size, context=self._context)

    async def run(self, order: tuple[Callable[[Any], Any], Any]) -> Any:
        assert self._pool is not None
        function, argument = order
        return await asyncio.wrap_future(self._pool.schedule(function, args=(argument,)))

    async def mend(self) -> None:
        """The pool does it."""

    async def close(self) -> None:
        assert self._pool is not None
        self._pool.close()
        await asyncio.to_thread(self._pool.join)


def main() -> None:
    todo = task()
    run_producer(_measure(todo), uvloop=todo.uvloop)


async def _measure(todo: Task) -> None:
    control = Control(_end_group)
    say_ready(_version(todo.isolation))
    await control.go()
    measure = {"calls": _calls, "first": _first, "crash": _crash, "lag": _lag}[todo.mode]
    say("measured", **await measure(todo))


async def _calls(todo: Task) -> dict[str, Any]:
    """Milliseconds of one call of a function that does nothing, one at a time."""
    slots = _slots(todo)
    await slots.start()
    taken: list[float] = []
    warm_up = max(20, todo.jobs // 10)
    for n in range(warm_up + todo.jobs):
        order = slots.order("noop", PAYLOAD)
        before = time.perf_counter()
        await slots.run(order)
        if n >= warm_up:
            taken.append((time.perf_counter() - before) * 1000)
    await slots.close()
    return {"ms": spread(taken)}


async def _first(todo: Task) -> dict[str, Any]:
    """Milliseconds from making a pool to its first call."""
    found: list[float] = []
    for _ in range(todo.jobs):
        before = time.monotonic()
        slots = _slots(todo)
        await slots.start()
        found.append((await _call(slots, "entered", {}) - before) * 1000)
        await slots.close()
    return {"start_to_first": found}


async def _crash(todo: Task) -> dict[str, Any]:
    """Milliseconds from a crash, and from hearing of it, to the next call."""
    slots = _slots(todo)
    await slots.start()
    await _call(slots, "entered", {})
    since_crash: list[float] = []
    since_noticed: list[float] = []
    note = todo.scratch / "crashed"
    for _ in range(todo.jobs):
        await _expect_crash(slots, note)
        noticed = time.monotonic()
        await slots.mend()
        entered = await _call(slots, "entered", {})
        since_crash.append((entered - float(note.read_text())) * 1000)
        since_noticed.append((entered - noticed) * 1000)
    await slots.close()
    return {"crash_to_next": since_crash, "noticed_to_next": since_noticed}


async def _expect_crash(slots: Slots, note: Path) -> None:
    try:
        await _call(slots, "crash", {"file": str(note)})
    except (
        errors.ChildCrashedError,
        pebble.ProcessExpired,
        concurrent.futures.process.BrokenProcessPool,
    ):
        return
    raise RuntimeError("the call that should have crashed its process returned")


async def _lag(todo: Task) -> dict[str, Any]:
    """How late the event loop is while each slot keeps a core busy: no queue, no worker."""
    slots = _slots(todo)
    await slots.start()
    await _call(slots, "entered", {})
    calls = [
        asyncio.create_task(slots.run(slots.order("spin", {"seconds": todo.seconds})))
        for _ in range(todo.jobs)
    ]
    found = await lateness(lambda: all(call.done() for call in calls))
    await asyncio.gather(*calls)
    await slots.close()
    return {"ms": spread(found)}


async def _call(slots: Slots, name: str, data: dict[str, Any]) -> Any:
    async with asyncio.timeout(CALL_TIMEOUT):
        return await slots.run(slots.order(name, data))


def _slots(todo: Task) -> Slots:
    whose = todo.isolation.partition("-")[0]
    kinds: dict[str, Callable[[Task], Slots]] = {"futures": Futures, "pebble": Pebble}
    return kinds.get(whose, Bullpy)(todo)


def _start_method(isolation: str) -> str:
    return "spawn" if isolation.endswith("-spawn") else multiprocessing.get_start_method()


def _version(isolation: str) -> str:
    whose, _, method = isolation.partition("-")
    if whose == "pebble":
        return f"{importlib.metadata.version('pebble')} {method or _start_method(isolation)}"
    if whose == "futures":
        return f"stdlib {method or _start_method(isolation)}"
    return bullpy.__version__


def _end_group() -> None:
    """End this process and the children of its pools, which would wait for work for ever."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)
