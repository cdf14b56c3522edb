"""What scenes are made of: servers, Node and Python processes, and their ends."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import signal
import string
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

from redis.asyncio import Redis
from support.node import NodeWorker, Peer, PeerError
from support.processes import ROOT, Process

from bullpy import EmbeddedServer, Queue, Worker
from bullpy.settings import RedisSettings

CLOSING = 4.0
"""Seconds for one thing to end; it may stand in front of a server that is gone."""

_numbers = itertools.count(1)


class World:
    """What scenes share: a server, and one Node process of each generation."""

    def __init__(self) -> None:
        self.server = EmbeddedServer()
        self._peers: dict[str, asyncio.Task[Peer]] = {}

    async def peer(self, generation: str) -> Peer:
        """The shared Node process of a generation, started on first use."""
        if generation not in self._peers:
            self._peers[generation] = asyncio.create_task(self._start(generation))
        return await asyncio.shield(self._peers[generation])

    async def _start(self, generation: str) -> Peer:
        peer = Peer(generation, self.server.url)
        await asyncio.to_thread(peer.start)
        return peer

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.server.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        peers = await asyncio.gather(*self._peers.values(), return_exceptions=True)
        for peer in peers:
            if isinstance(peer, Peer):
                await asyncio.to_thread(peer.stop)
        await asyncio.to_thread(self.server.stop)


class Stage:
    """One scene's own things: all of them end with it, the last one first.

    Args:
        world: What it shares with others.
        name: Of the scene; its queue's name comes from it.

    Attributes:
        queue: Its queue; names of different scenes do not resemble each other.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.queue = "".join(random.Random(name).choices(string.ascii_lowercase, k=12))
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """Of the server that scenes share."""
        return self.world.server.url

    def key(self, last: str, prefix: str = "bull") -> str:
        """A key of the scene's queue."""
        return f"{prefix}:{self.queue}:{last}"

    # -- servers ---------------------------------------------------------------------------

    async def server(self, *args: str, **options: Any) -> EmbeddedServer:
        """A server of its own; see `EmbeddedServer`."""
        started = EmbeddedServer(args=args, **options)
        return await self._stack.enter_async_context(started)

    async def enter(self, manager: Any) -> Any:
        """Start what has a `with` that blocks, such as those of `support.ha`."""
        started = await asyncio.to_thread(manager.__enter__)
        self._stack.push_async_callback(asyncio.to_thread, manager.__exit__, None, None, None)
        return started

    def redis(self, url: str | None = None) -> Redis:
        """A client, to look at what there is."""
        client = Redis.from_url(url or self.url, decode_responses=True)
        self._stack.push_async_callback(client.aclose)
        return client

    # -- processes -------------------------------------------------------------------------

    async def node(
        self, generation: str, url: str | None = None, *, prefix: str = "bull", **connection: Any
    ) -> Side:
        """Node's side of the queue, in the process that scenes share."""
        peer = await self.world.peer(generation)
        side = Side(peer, self.queue, prefix, connection_of(url or self.url, **connection))
        self._stack.push_async_callback(side.close)
        return side

    async def lone(
        self, generation: str, url: str | None = None, *, queue: str | None = None, **asked: Any
    ) -> Program:
        """A Node worker in a process of its own; see `lone.mjs`."""
        connection = connection_of(url or self.url, **asked.pop("connection", {}))
        said = {"queue": queue or self.queue, "connection": connection, **asked}
        return await self._program("node", NODE / "lone.mjs", generation, json.dumps(said))

    async def bull(self, **asked: Any) -> Program:
        """The legacy package; see `bull.mjs`."""
        said = {"queue": self.queue, "url": self.url, **asked}
        return await self._program("node", NODE / "bull.mjs", json.dumps(said))

    async def port(self, url: str | None = None, **worker: Any) -> Program:
        """A worker of the upstream Python port; see `upstream_port.py`."""
        said = [{"queue": self.queue, "url": url or self.url, **worker}]
        started = await self._program(sys.executable, "-P", PORT, json.dumps(said))
        await started.says("^waiting")
        return started

    async def _program(self, *command: str | Path, env: dict[str, str] | None = None) -> Program:
        started = Program(await asyncio.to_thread(lambda: Process(*command, env=env)))
        self._stack.push_async_callback(started.kill)
        return started

    # -- bullpy ------------------------------------------------------------------------------

    async def worker(
        self, processor: Callable[..., Any] | None = None, url: str | None = None, **options: Any
    ) -> Worker:
        """A worker of bullpy, ready; by default its jobs take no time."""
        options.setdefault("redis", url or self.url)
        made = Worker(
            options.pop("queue", self.queue), processor or _echo, {"autorun": False}, **options
        )
        task = asyncio.create_task(made.run())

        async def end() -> None:
            await made.close(timeout=CLOSING)
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(end)
        async with asyncio.timeout(15):
            await made.wait_until_ready()
        return made

    async def producer(self, url: str | None = None, **options: Any) -> Queue:
        """A queue of bullpy."""
        name = options.pop("queue", self.queue)
        opened = Queue(name, redis=url or self.url, **options)
        return await self._stack.enter_async_context(opened)

    def background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let something go on while the doctor looks."""
        self._tasks.append(asyncio.create_task(work))

    async def cleanly(self, undo: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Do this at the end."""
        self._stack.push_async_callback(undo, *args)


class Side:
    """Node `bullmq` of one generation, on one server, as one party of a scene.

    Durations that go to Node are milliseconds.

    Args:
        peer: The process.
        queue: The queue that methods mean when they are given none.
        prefix: First part of its keys.
        connection: Options of ioredis.
    """

    def __init__(self, peer: Peer, queue: str, prefix: str, connection: dict[str, Any]) -> None:
        self.peer = peer
        self._queue = queue
        self._prefix = prefix
        self._connection = connection
        self._queues: set[str] = set()
        self._workers: list[NodeWorker] = []

    async def call(self, method: str, *args: Any, queue: str | None = None) -> Any:
        """Call a method, or read a getter, of Node's Queue; opening it is what makes it known."""
        self._queues.add(queue or self._queue)
        return await self.peer.ask(f"queue.{method}", args=list(args), **self._where(queue))

    async def add(
        self, name: str = "work", data: Any = None, *, queue: str | None = None, **opts: Any
    ) -> str:
        """Add a job; its id."""
        job = await self.call("add", name, {} if data is None else data, opts, queue=queue)
        return str(job["id"])

    async def add_many(self, count: int, name: str = "work", data: Any = None, **opts: Any) -> None:
        """Add jobs that are alike."""
        for start in range(0, count, 500):
            size = min(500, count - start)
            await self.call("addBulk", [{"name": name, "data": data or {}, "opts": opts}] * size)

    async def flow(self, tree: dict[str, Any]) -> None:
        """Add a flow."""
        fields = {"prefix": self._prefix, "options": {"connection": self._connection}}
        await self.peer.ask("flow.add", args=[tree], **fields)

    async def worker(
        self, behaviour: str = "echo", *, queue: str | None = None, params: Any = None, **opts: Any
    ) -> NodeWorker:
        """Start a worker; see `behaviours.mjs`. `opts` are bullmq's."""
        worker = NodeWorker(self.peer, f"scene-{next(_numbers)}")
        where = self._where(queue)
        where["options"] = {"drainDelay": 1, **opts, "connection": self._connection}
        fields = {"worker": worker.name, "behaviour": behaviour, "params": params or {}, **where}
        await self.peer.ask("worker.start", **fields)
        self._workers.append(worker)
        return worker

    async def close(self) -> None:
        """End all that was started here, also in front of a server that is gone."""
        for worker in self._workers:
            await _in_time(worker.stop(force=True))
        for queue in self._queues:
            await _in_time(self.peer.ask("queue.close", **self._where(queue)))

    def _where(self, queue: str | None) -> dict[str, Any]:
        options = {"connection": self._connection}
        return {"queue": queue or self._queue, "prefix": self._prefix, "options": options}


class Program:
    """A process of one scene."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self._process.output

    async def says(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """Wait until it prints a line that matches."""
        return await asyncio.to_thread(self._process.wait_for, pattern, timeout)

    def send(self, number: signal.Signals) -> None:
        self._process.send(number)

    async def ended(self, timeout: float = 20.0) -> int:
        """Wait until it ends by itself; its exit code."""
        return await asyncio.to_thread(self._process.end, timeout)

    async def kill(self) -> None:
        """End it at once, stopped or not. Killing twice is fine."""
        await asyncio.to_thread(self._process.__exit__, None, None, None)


NODE = ROOT / "tests" / "node"
PORT = ROOT / "tests" / "support" / "upstream_port.py"


def connection_of(url: str, /, **more: Any) -> dict[str, Any]:
    """The options of ioredis for a URL; generations 3 and 4 know none for the URL itself."""
    settings = RedisSettings.from_url(url)
    password = settings.password.get_secret_value() if settings.password else None
    options = {
        "host": settings.host,
        "port": settings.port,
        "db": settings.db,
        "username": settings.username,
        "password": password,
    }
    given = {name: value for name, value in options.items() if value is not None}
    return {**given, "maxRetriesPerRequest": None, **more}


def database(url: str, number: int) -> str:
    """The URL with another database."""
    return re.sub(r"/\d+$", f"/{number}", url)


async def until(
    ask: Callable[[], Awaitable[Any]], wanted: Any = None, timeout: float = 15.0
) -> Any:
    """Ask until the answer is true, or what is wanted; that answer."""
    answer: Any = None
    try:
        async with asyncio.timeout(timeout):
            while not ((answer := await ask()) if wanted is None else answer == wanted):
                await asyncio.sleep(0.05)
                answer = answer if wanted is None else await ask()
    except TimeoutError:
        raise AssertionError(f"the scene is not real: {answer!r}, not {wanted or 'true'}") from None
    return answer


async def blocking(redis: Redis, queue: str, prefix: str = "bull") -> list[dict[str, str]]:
    """The rows of CLIENT LIST whose names are those of workers of this queue."""
    from bullpy.doctor.clients import Client

    rows: Sequence[dict[str, str]] = await redis.client_list()
    names = (Client.parse(f"id=1 name={row['name']}") for row in rows)
    pairs = zip(rows, names, strict=True)
    return [row for row, client in pairs if client.listens(prefix, queue)]


async def make_older(redis: Redis, queue: str, hours: int, *jobs: str) -> None:
    """Move what happened in a queue into the past, for what nobody can wait for."""
    back = hours * 3_600_000
    key = f"bull:{queue}:events"
    events = await redis.xrange(key)
    await redis.delete(key)
    for entry, fields in events:
        at, _, number = entry.partition("-")
        await redis.xadd(key, fields, id=f"{int(at) - back}-{number}")
    for job in jobs:
        for field in ("timestamp", "processedOn", "finishedOn"):
            if await redis.hexists(f"bull:{queue}:{job}", field):
                await redis.hincrby(f"bull:{queue}:{job}", field, -back)


async def _echo(job: Any) -> Any:
    return {"echo": job.id}


async def _in_time(ending: Awaitable[Any]) -> None:
    with suppress(TimeoutError, AssertionError, PeerError):
        async with asyncio.timeout(CLOSING):
            await ending
