"""FlowProducer: add a tree of jobs in which parents wait for their children."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import uuid4

from bullmq import FlowProducer as UpstreamFlowProducer

from bullpy import codec, options
from bullpy.backend import Backend, backend_for, check_queue_name
from bullpy.emitter import SafeEmitter
from bullpy.job import Job

if TYPE_CHECKING:
    from bullpy.events import QueueEvents


class FlowProducer(SafeEmitter, UpstreamFlowProducer):
    """Adds flows: trees of jobs, each added whole or not at all.

    A node is `{"name", "queueName", "data", "opts", "prefix", "children": [...]}`, as in Node.

    Args:
        redisOpts: Upstream's first argument: where Redis is.
        opts: Upstream's options: `connection`, `prefix`.
        redis: Where Redis is: a URL, a `RedisSettings`, a dict; None reads `REDIS_URL`.
        prefix: First part of every key, unless a node has its own.
    """

    def __init__(
        self,
        redisOpts: object = None,
        opts: Mapping[str, Any] | None = None,
        *,
        redis: object = None,
        prefix: str | None = None,
    ) -> None:
        # Not upstream's __init__: it opens a connection of its own.
        SafeEmitter.__init__(self)
        where: object = redisOpts
        if opts is None and isinstance(redisOpts, dict):
            given = cast("dict[str, Any]", redisOpts)
            where = given
            if {"prefix", "connection"} & set(given):
                opts, where = given, None
        self.opts = dict(opts or {})
        self.prefix = prefix or self.opts.get("prefix") or "bull"
        where = redis if redis is not None else where
        self.backend = backend_for(
            "flows", where if where is not None else self.opts.get("connection"), self.prefix
        )
        self.closing = False
        self._events: dict[str, QueueEvents] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def add_bulk(self, flows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """Add several flows in one transaction.

        Raises:
            errors.JobNotFoundError: The parent given for a root does not exist.
            errors.JobStateError: A job with the id of one of the children has another parent.
                In both cases the jobs that were not refused are there; so it is with `add`.
        """
        return await self.addBulk(flows)

    def events_of(self, backend: Backend) -> QueueEvents:
        """The events of a queue as they happen, followed from first use until `close`."""
        found = self._events.get(backend.qualifiedName)
        if found is None:
            from bullpy.events import QueueEvents

            found = self._events[backend.qualifiedName] = QueueEvents(
                backend.name, redis=backend.connection.settings, prefix=backend.prefix
            )
        return found

    async def addNode(
        self,
        node: dict[str, Any],
        parent: Mapping[str, Any],
        queues_opts: Mapping[str, Any] | None,
        entries: list[dict[str, Any]],
    ) -> dict[str, Any]:
        """Build the job of one node, checked as `Queue.add` does, and those of its children."""
        name = str(node.get("queueName", ""))
        check_queue_name(name)
        queue = _NodeQueue(self.backend.forQueue(name, node.get("prefix") or self.prefix), self)
        queue_opts: Mapping[str, Any] = (queues_opts or {}).get(name) or {}
        defaults: Mapping[str, Any] = queue_opts.get("defaultJobOptions") or {}
        opts: dict[str, Any] = {
            **defaults,
            **(node.get("opts") or {}),
            "parent": parent.get("parentOpts"),
        }
        job_id: str = opts.get("jobId") or uuid4().hex
        job = Job[Any](queue, str(node.get("name", "")), node.get("data"), opts, job_id)
        encoded = codec.dumps(node.get("data")) if opts.get("sizeLimit") else b""
        options.validate(job.name, encoded, opts, has_parent=job.parentKey is not None)
        children = cast("list[dict[str, Any]]", node.get("children") or [])
        entries.append({"job": job, "is_parent": bool(children)})
        if not children:
            return {"job": job}
        own = {"parentOpts": {"id": job_id, "queue": queue.qualifiedName}}
        return {
            "job": job,
            "children": [
                await self.addNode(child, own, queues_opts, entries) for child in children
            ],
        }

    async def close(self) -> None:
        """Give the connection back. Closing twice is fine."""
        self.closing = True
        while self._events:
            await self._events.popitem()[1].close()
        await self.backend.close()
        await self.drain_listeners()


class _NodeQueue:
    """What a job needs of its queue: identity, datastore, and events both ways."""

    def __init__(self, backend: Backend, producer: FlowProducer) -> None:
        self.name = backend.name
        self.prefix = backend.prefix
        self.opts = {"prefix": backend.prefix}
        self.backend = backend
        self.qualifiedName = backend.qualifiedName
        self.emit = producer.emit
        self._producer = producer

    @property
    def events(self) -> QueueEvents:
        """The queue's events as they happen; the producer ends it."""
        return self._producer.events_of(self.backend)
