"""Real Node `bullmq` for interop tests: a process of it, and one test's view of that process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import subprocess
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

PEER = Path(__file__).parents[1] / "node" / "peer.mjs"
START_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0
REPLY_MARGIN = 5.0

UNDEFINED: dict[str, Any] = {"$undefined": True}
"""JavaScript's `undefined`, anywhere in what is sent."""

VERSIONS = {"5": "5.61.2", "6": "6.7.0"}
"""The generations of `bullmq` that are tested, and their versions."""

_names = itertools.count(1)


class PeerError(Exception):
    """What a request made Node throw.

    Attributes:
        name: The name of the JavaScript error.
        message: Its message.
        code: Its `code`, if it has one.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        self.name: str = error.get("name", "")
        self.message: str = error.get("message", "")
        self.code = error.get("code")
        super().__init__(f"{self.name}: {self.message}")


class Peer:
    """A Node process that runs `bullmq`.

    Requests may come from any event loop: a thread reads the replies, so that one process
    serves tests that each have a loop of their own.

    Args:
        generation: "5" or "6".
        url: Of the Redis server.
    """

    def __init__(self, generation: str, url: str) -> None:
        self.generation = generation
        self.url = url
        self.version = ""
        self.unasked: deque[dict[str, Any]] = deque(maxlen=50)
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]]] = {}
        self._stderr: deque[str] = deque(maxlen=50)
        self._ready = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        self._process = subprocess.Popen(
            ["node", str(PEER), self.generation, self.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            bufsize=1,
        )
        self._readers = [
            threading.Thread(target=read, args=(self._process,), daemon=True)
            for read in (self._read_replies, self._read_stderr)
        ]
        for reader in self._readers:
            reader.start()
        if not self._ready.wait(START_TIMEOUT) or not self.version:
            self.stop()
            raise AssertionError(f"the Node peer did not start: {self.troubles}")

    def stop(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT)
        for reader in self._readers:
            reader.join(STOP_TIMEOUT)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()

    async def ask(self, op: str, **fields: Any) -> Any:
        """Send a request and wait for its result; raises as `request`."""
        return await self.request(op, fields)

    async def request(self, op: str, fields: dict[str, Any], timeout: float = 15.0) -> Any:
        """Send a request and wait for its result.

        Raises:
            PeerError: Node threw.
            AssertionError: It did not answer in time, or the process ended.
        """
        process = self._process
        assert process is not None, "the Node peer is not running"
        assert process.stdin is not None
        number = next(self._ids)
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        self._waiting[number] = (loop, reply)
        try:
            process.stdin.write(json.dumps({"id": number, "op": op, **_encoded(fields)}) + "\n")
            async with asyncio.timeout(timeout):
                return await reply
        except (TimeoutError, BrokenPipeError) as error:
            raise AssertionError(
                f"Node {self.version} did not answer {op} in {timeout} s: {self.troubles}"
            ) from error
        finally:
            self._waiting.pop(number, None)

    async def ended(self, timeout: float = 10.0) -> int:
        """Wait for the process to end; its exit code, negative for a signal."""
        process = self._process
        assert process is not None
        return await asyncio.to_thread(process.wait, timeout)

    @property
    def troubles(self) -> str:
        """What the process wrote to stderr, and the errors that nobody asked for."""
        return "\n".join([*self._stderr, *map(str, self.unasked)]) or "(it said nothing)"

    def _read_replies(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            if "ready" in message:
                self.version = message["version"]
                self._ready.set()
            elif message.get("id") in self._waiting:
                loop, reply = self._waiting[message["id"]]
                with contextlib.suppress(RuntimeError):  # the loop of a test that is over
                    loop.call_soon_threadsafe(_settle, reply, message)
            else:
                self.unasked.append(message)
        self._ready.set()
        gone = {"ok": False, "error": {"name": "PeerGone", "message": "the Node peer ended"}}
        for loop, reply in list(self._waiting.values()):
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, reply, gone)

    def _read_stderr(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self._stderr.extend(line.rstrip() for line in process.stderr)


class Node:
    """One test's view of a peer: its queue by default, and everything it started is ended.

    Durations that go to Node are milliseconds, as in its own API; timeouts are seconds.

    Args:
        peer: The process.
        queue: The queue that methods mean when they are given none.
    """

    def __init__(self, peer: Peer, queue: str) -> None:
        self.peer = peer
        self.queue_name = queue
        self._workers: list[NodeWorker] = []
        self._queues: set[tuple[str, str]] = set()

    @property
    def generation(self) -> str:
        """ "5" or "6"."""
        return self.peer.generation

    async def queue(
        self, method: str, *args: Any, queue: str | None = None, prefix: str = "bull"
    ) -> Any:
        """Call a method, or read a getter, of Node's Queue."""
        return await self.peer.ask(f"queue.{method}", args=list(args), **self._where(queue, prefix))

    async def add(
        self,
        name: str,
        data: Any = None,
        opts: dict[str, Any] | None = None,
        *,
        queue: str | None = None,
        prefix: str = "bull",
    ) -> str:
        """Add a job; its id."""
        job = await self.queue("add", name, data, opts or {}, queue=queue, prefix=prefix)
        return str(job["id"])

    async def job(self, job_id: str, method: str = "get", *args: Any, **where: str) -> Any:
        """Call a method, or read a getter, of Node's Job; without one, the job as Node reads it."""
        return await self.peer.ask(
            f"job.{method}", jobId=job_id, args=list(args), **self._where(**where)
        )

    async def flow(self, method: str, *args: Any) -> Any:
        """Call a method of Node's FlowProducer."""
        return await self.peer.ask(f"flow.{method}", args=list(args))

    async def follow(self, **where: str) -> None:
        """Follow the queue's events; nothing that happens afterwards is missed."""
        await self.peer.ask("events.start", **self._where(**where))

    async def event(
        self,
        event: str,
        job_id: str | None = None,
        *,
        count: int = 1,
        timeout: float = 10.0,
        **where: str,
    ) -> dict[str, Any]:
        """The `count`-th such event since `follow`, as Node's QueueEvents gives it."""
        asked: dict[str, Any] = {"event": event, "count": count, "timeout": round(timeout * 1000)}
        if job_id is not None:
            asked["jobId"] = job_id
        return await self._patient("events.waitFor", timeout, asked, where)

    async def events(self, job_id: str | None = None, **where: str) -> list[dict[str, Any]]:
        """The events since `follow`, of one job or of all."""
        wanted = {} if job_id is None else {"jobId": job_id}
        return await self.peer.ask("events.log", **wanted, **self._where(**where))

    async def wait(self, job_id: str, timeout: float = 10.0, **where: str) -> Any:
        """Node's `job.waitUntilFinished`: the result, or `PeerError` with the job's error."""
        asked = {"jobId": job_id, "ttl": round(timeout * 1000)}
        return await self._patient("wait", timeout, asked, where)

    async def redis(self, *command: str | int) -> Any:
        """One Redis command."""
        return await self.peer.ask("redis", args=list(command))

    async def start_worker(
        self,
        behaviour: str = "echo",
        options: dict[str, Any] | None = None,
        *,
        queue: str | None = None,
        prefix: str = "bull",
        **params: Any,
    ) -> NodeWorker:
        """Start a Node worker; see `behaviours.mjs` for what it can do with its jobs."""
        name = f"w{next(_names)}"
        worker = NodeWorker(self.peer, name)
        await self.peer.ask(
            "worker.start",
            worker=name,
            behaviour=behaviour,
            params=params,
            options={"drainDelay": 1, **(options or {})},
            **self._where(queue, prefix),
        )
        self._workers.append(worker)
        return worker

    async def close(self) -> None:
        """End what this test started."""
        for worker in self._workers:
            await worker.stop(force=True)
        for queue, prefix in self._queues:
            where = {"queue": queue, "prefix": prefix}
            await self.peer.ask("events.stop", **where)
            await self.peer.ask("queue.obliterate", args=[{"force": True}], **where)
            await self.peer.ask("queue.close", **where)

    async def _patient(
        self, op: str, timeout: float, asked: dict[str, Any], where: dict[str, str]
    ) -> Any:
        """A request that Node itself ends in time, so that its own message is seen."""
        fields = {**asked, **self._where(**where)}
        return await self.peer.request(op, fields, timeout + REPLY_MARGIN)

    def _where(self, queue: str | None = None, prefix: str = "bull") -> dict[str, str]:
        name = queue or self.queue_name
        self._queues.add((name, prefix))
        return {"queue": name, "prefix": prefix}


class NodeWorker:
    """A worker inside a peer."""

    def __init__(self, peer: Peer, name: str) -> None:
        self._peer = peer
        self.name = name
        self._stopped = False

    async def event(
        self, event: str, job_id: str | None = None, *, count: int = 1, timeout: float = 10.0
    ) -> dict[str, Any]:
        """The `count`-th such event of the worker; `processing` is the call of its processor."""
        asked: dict[str, Any] = {"worker": self.name, "event": event, "count": count}
        if job_id is not None:
            asked["jobId"] = job_id
        asked["timeout"] = round(timeout * 1000)
        return await self._peer.request("worker.waitFor", asked, timeout + REPLY_MARGIN)

    async def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """What has happened so far, in order."""
        wanted = {} if event is None else {"event": event}
        return await self._peer.ask("worker.log", worker=self.name, **wanted)

    async def processed(self) -> list[dict[str, Any]]:
        """The calls of its processor: `jobId`, `name`, `attemptsMade`, `data`, `at` (ms)."""
        return await self.events("processing")

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method of Node's Worker."""
        return await self._peer.ask("worker.call", worker=self.name, method=method, args=list(args))

    async def release(self) -> None:
        """Let the jobs of behaviour `hold` finish."""
        await self._peer.ask("worker.release", worker=self.name)

    async def stop(self, *, force: bool = False) -> None:
        """Close it; stopping twice is fine."""
        if not self._stopped:
            self._stopped = True
            await self._peer.ask("worker.stop", worker=self.name, force=force)


async def eventually(ask: Callable[[], Awaitable[Any]], timeout: float = 10.0) -> Any:
    """Ask until the answer is truthy, for states that no event tells of; that answer.

    Raises:
        TimeoutError: It never was.
    """
    async with asyncio.timeout(timeout):
        while not (answer := await ask()):  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.02)
    return answer


def _settle(reply: asyncio.Future[Any], message: dict[str, Any]) -> None:
    if reply.done():
        return
    if message["ok"]:
        reply.set_result(_decoded(message.get("result")))
    else:
        reply.set_exception(PeerError(message["error"]))


def _encoded(value: Any) -> Any:
    """Python values as `wire.mjs` reads them."""
    if isinstance(value, float):
        if math.isnan(value):
            return {"$nan": True}
        if math.isinf(value):
            return {"$infinity": 1 if value > 0 else -1}
        if value == 0 and math.copysign(1, value) < 0:
            return {"$negativeZero": True}
    if isinstance(value, dict):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    return value


def _decoded(value: Any) -> Any:
    """What `wire.mjs` wrote, as Python values; `undefined` stays `UNDEFINED`."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        if "$nan" in value:
            return math.nan
        if "$infinity" in value:
            return math.inf * value["$infinity"]
        if "$negativeZero" in value:
            return -0.0
        if "$bigint" in value:
            return int(value["$bigint"])
    return {key: _decoded(item) for key, item in value.items()}
