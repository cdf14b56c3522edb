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
from bullpy.connection.factory import BlockingConnection, client_name
from bullpy.connection.probe import classify
from bullpy.emitter import SafeEmitter
from bullpy.outage import Outage

log = logging.getLogger("bullpy.events")

# Fields that the scripts write as JSON.
_JSON_FIELDS = {"progress": "data", "completed": "returnvalue"}
_NUMBER_FIELDS = {"delayed": "delay"}


class QueueEvents(SafeEmitter, UpstreamQueueEvents):
    """The event stream of a queue, over outages and restarts without missing an event.

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
        self._last_id = str(last_event_id or given.get("lastEventId") or "$")
        self._connection = BlockingConnection(
            self.settings, f"{client_name()}:qe", key=self.keys["events"]
        )
        self._failures = 0
        self._outage = Outage(
            log,
            f"the events of {name} cannot be followed",
            f"the events of {name} are followed again",
            "It is tried again about once a second; none will be missed.",
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
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._connection.aclose()
        await self.drain_listeners()
        self.closed = True

    def _start(self) -> None:
        if self._task is None and not self.closing:
            self._task = asyncio.create_task(self.run(), name=f"bullpy events {self.name}")

    async def _follow(self) -> None:
        """Read the stream once; after an error say so, and come back to where it was."""
        try:
            if self._last_id == "$":
                # Fixed once, so that nothing is missed between two reads or over an outage.
                self._last_id = await self._newest_id()
            self._ready.set()
            block = int(self.opts["blockingTimeout"])
            reply = await self._connection.call(
                "XREAD",
                "BLOCK",
                block,
                "STREAMS",
                self.keys["events"],
                self._last_id,
                block=block / 1000,
            )
        except errors.RedisError as error:
            self._say(error)
            return
        except Exception as error:  # noqa: BLE001 - an error reply, such as NOPERM or LOADING
            self._say(classify(error, self.settings))
            await asyncio.sleep(self.settings.retry_max)
            return
        self._failures = 0
        self._outage.worked()
        for _, entries in cast("list[Any]", reply or []):
            for entry_id, fields in entries:
                self._last_id = entry_id.decode()
                self._dispatch_entry(self._last_id, _decoded(fields))

    async def _newest_id(self) -> str:
        reply = await self._connection.call(
            "XREVRANGE",
            self.keys["events"],
            "+",
            "-",
            "COUNT",
            1,
            block=self.settings.command_timeout,
        )
        return cast("bytes", reply[0][0]).decode() if reply else "0-0"

    def _say(self, error: errors.RedisError) -> None:
        self._failures += 1
        # A connection that is back at the next attempt missed nothing.
        if self._failures > 1:
            self._outage.failed(error)
        self.emit("error", error)

    def _dispatch_entry(self, entry_id: str, args: dict[str, Any]) -> None:
        event = str(args.pop("event", ""))
        if not event:
            return
        field = _JSON_FIELDS.get(event)
        if field in args:
            try:
                args[field] = codec.loads(args[field] or "null")
            except ValueError:
                log.debug("event %s of %s: %s is not JSON", entry_id, self.name, field)
        number = _NUMBER_FIELDS.get(event)
        if number in args:
            args[number] = int(float(args[number]))
        if event == "drained":
            self.emit(event, entry_id)
            return
        self.emit(event, args, entry_id)
        if "jobId" in args:
            self.emit(f"{event}:{args['jobId']}", args, entry_id)


def _decoded(fields: list[bytes]) -> dict[str, Any]:
    texts = [field.decode("utf-8", "surrogateescape") for field in fields]
    return dict(zip(texts[::2], texts[1::2], strict=True))
