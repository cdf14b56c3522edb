"""QueueEvents: follow what happens to a queue's jobs, from whatever worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, cast

from bullmq import QueueEvents as UpstreamQueueEvents
from bullmq.queue_keys import QueueKeys

from bullpy import codec, errors
from bullpy.backend import check_queue_name, redis_settings
from bullpy.connection import sockets
from bullpy.connection.factory import BlockingConnection, client_name
from bullpy.connection.probe import classify
from bullpy.emitter import SafeEmitter
from bullpy.outage import Outage

log = logging.getLogger("bullpy.events")

# Fields that the scripts write as JSON.
_JSON_FIELDS = {"progress": "data", "completed": "returnvalue"}
_NUMBER_FIELDS = {"delayed": "delay"}

_NEVER = (1 << 64, 0)
"""Later than every id."""


class QueueEvents(SafeEmitter, UpstreamQueueEvents):
    """The event stream of a queue, over outages and restarts, without missing what is kept.

    `on("completed", listener)` calls `listener(args, event_id)` for every job;
    `on("completed:<job id>", ...)` for one. Every event of BullMQ exists, and `error`.

    ```python
    async with QueueEvents("audio-analyzer") as events:

        @events.on("failed")
        def failed(args, event_id): ...
    ```

    Args:
        name: The queue.
        opts: Upstream's options: `connection`, `prefix`, `lastEventId`, `blockingTimeout`
            (ms), `autorun`.
        redis: Where Redis is: a URL, a `RedisSettings`, a dict; None reads `REDIS_URL`.
        prefix: First part of every key.
        last_event_id: Where to begin: `$` for what comes from now on, `0-0` for all that is
            kept, or the id of the last event seen.

    Attributes:
        last_id: The id of the last event that listeners were told of.
        doubters: Set when events may have been missed, by an outage longer than the stream's
            memory for example, and when it is closed: for those who wait for one.
    """

    def __init__(
        self,
        name: str,
        opts: Mapping[str, Any] | None = None,
        *,
        redis: object = None,
        prefix: str | None = None,
        last_event_id: str | None = None,
    ) -> None:
        # Not upstream's __init__: it opens a connection of its own.
        SafeEmitter.__init__(self)
        check_queue_name(name)
        given = dict(opts or {})
        given.setdefault("blockingTimeout", 10000)
        given.setdefault("autorun", True)
        self.name = name
        self.opts = given
        self.prefix = prefix or given.get("prefix") or "bull"
        self.settings = redis_settings(redis if redis is not None else given.get("connection"))
        keys = QueueKeys(self.prefix)
        self.keys = keys.getKeys(name)
        self.qualifiedName = keys.getQueueQualifiedName(name)
        self.running = False
        self.closing = False
        self.closed = False
        self.doubters: set[asyncio.Event] = set()
        self.last_id = str(last_event_id or given.get("lastEventId") or "$")
        self._connection = BlockingConnection(
            self.settings, f"{client_name()}:qe", key=self.keys["events"]
        )
        self._failures = 0
        self._reopened = False
        self._outage = Outage(
            log,
            f"the events of {name} cannot be followed",
            f"the events of {name} are followed again",
            "It is tried again about once a second; none that Redis still keeps will be missed.",
            {"queue": name, "redis": str(self.settings.masked_url)},
        )
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Event = asyncio.Event()
        if given["autorun"]:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return
            self._start()

    async def __aenter__(self) -> Self:
        await self.wait_until_ready()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def wait_until_ready(self) -> None:
        """Wait until every event from now on will be seen."""
        self._start()
        await self._ready.wait()

    async def run(self) -> None:
        """Follow the stream until `close`; reconnects for as long as it takes.

        Raises:
            errors.WorkerStateError: It runs already.
        """
        if self.running:
            raise errors.WorkerStateError("QueueEvents is already running.")
        if self._task is None:
            self._task = asyncio.current_task()
        self.running = True
        try:
            while not self.closing:
                await self._follow()
        finally:
            self.running = False
            await self._connection.aclose()

    async def close(self) -> None:
        """Stop following. Closing twice is fine."""
        if self.closing:
            return
        self.closing = True
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            await sockets.end(task)
        await self._connection.aclose()
        # Who waits for it to be ready would wait for ever.
        self._ready.set()
        self._doubt()
        await self.drain_listeners()
        self.closed = True

    def _start(self) -> None:
        if self._task is None and not self.closing:
            self._task = asyncio.create_task(self.run(), name=f"bullpy events {self.name}")

    async def _follow(self) -> None:
        """Read the stream once; after an error say so, and come back to where it was."""
        try:
            if await self._connection.ready() and self._ready.is_set():
                self._reopened = True
            if self.last_id == "$":
                # Fixed once, so that nothing is missed between two reads or over an outage.
                self.last_id = await self._newest_id()
            self._ready.set()
            seen = self.last_id
            entries = await self._read()
            # Without a first entry that was seen, others may have been dropped before these.
            may_miss = bool(self.doubters and entries) and await self._first_id() > _order(seen)
        except errors.RedisError as error:
            self._say(error)
            return
        except Exception as error:  # noqa: BLE001 - an error reply, such as NOPERM or LOADING
            self._say(classify(error, self.settings))
            await asyncio.sleep(self.settings.retry_max)
            return
        self._failures = 0
        self._outage.worked()
        for entry_id, fields in entries:
            self.last_id = entry_id.decode()
            self._dispatch_entry(self.last_id, fields)
        # Those who wait look for themselves after they were told what is left.
        if may_miss or self._reopened:
            self._reopened = False
            self._doubt()

    async def _read(self) -> list[Any]:
        """What is new in the stream, after a wait; after a reconnect only what is there."""
        block = int(self.opts["blockingTimeout"])
        waits = () if self._reopened else ("BLOCK", block)
        reply = await self._connection.call(
            "XREAD", *waits, "STREAMS", self.keys["events"], self.last_id, block=block / 1000
        )
        return [entry for _, entries in cast("list[Any]", reply or []) for entry in entries]

    async def _first_id(self) -> tuple[int, int]:
        """The order of the oldest event that is still kept."""
        reply = await self._range("XRANGE", "-", "+")
        return _order(reply[0][0].decode()) if reply else _NEVER

    async def _newest_id(self) -> str:
        reply = await self._range("XREVRANGE", "+", "-")
        return cast("bytes", reply[0][0]).decode() if reply else "0-0"

    async def _range(self, command: str, start: str, end: str) -> list[Any]:
        """One entry of the stream, from its end or its beginning."""
        patience = self.settings.command_timeout
        reply = await self._connection.call(
            command, self.keys["events"], start, end, "COUNT", 1, block=patience
        )
        return cast("list[Any]", reply)

    def _doubt(self) -> None:
        for doubter in self.doubters:
            doubter.set()

    def _say(self, error: errors.RedisError) -> None:
        self._failures += 1
        # A connection that is back at the next attempt missed nothing.
        if self._failures > 1:
            self._outage.failed(error)
        self.emit("error", error)

    def _dispatch_entry(self, entry_id: str, fields: list[bytes]) -> None:
        event, args = self.parsed(fields)
        if not event:
            return
        if event == "drained":
            self.emit(event, entry_id)
            return
        self.emit(event, args, entry_id)
        if "jobId" in args:
            self.emit(f"{event}:{args['jobId']}", args, entry_id)

    def parsed(self, fields: list[bytes]) -> tuple[str, dict[str, Any]]:
        """The name of an event and what listeners get of it, from its entry in the stream."""
        texts = [field.decode("utf-8", "surrogateescape") for field in fields]
        args: dict[str, Any] = dict(zip(texts[::2], texts[1::2], strict=True))
        event = str(args.pop("event", ""))
        field = _JSON_FIELDS.get(event)
        if field in args:
            try:
                args[field] = codec.loads(args[field] or "null")
            except ValueError:
                log.debug("an event %s of %s: %s is not JSON", event, self.name, field)
        number = _NUMBER_FIELDS.get(event)
        if number in args:
            args[number] = int(float(args[number]))
        return event, args


def _order(entry_id: str) -> tuple[int, int]:
    """The id of an entry as Redis orders them: by milliseconds, then by number."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)
