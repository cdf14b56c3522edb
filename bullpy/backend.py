"""What upstream's classes talk to instead of a connection of their own.

A `Backend` is upstream's `RedisBackend` whose client is the shared one of the process. It is
bound to an event loop on first use, so queues and workers may be created before any loop runs.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bullmq.backends.redis_backend import RedisBackend
from bullmq.queue_keys import QueueKeys
from bullmq.redis_connection import RedisConnection

from bullpy import errors, placing
from bullpy.adding import AddCommand
from bullpy.connection.client import PipeliningClient, pack, run_packed
from bullpy.connection.clients import options_of
from bullpy.connection.factory import SharedRedis, share
from bullpy.connection.probe import classify
from bullpy.connection.resolve import Target
from bullpy.scripts import Commands, Scripts
from bullpy.settings import RedisSettings

if TYPE_CHECKING:
    from bullpy.producing import Producer


class BackendConnection(RedisConnection):
    """Upstream's `RedisConnection`, holding a user's share in the process's connection."""

    # bullpy refuses servers older than 6.2, and every server since 6.0 takes fractions of a
    # second; 7.0.8 and later also 1 ms. The worker blocks on a connection of its own.
    capabilities = {"canBlockFor1Ms": True, "canDoubleTimeout": True}

    def __init__(self, settings: RedisSettings, key: str | None = None) -> None:
        # Not super().__init__(): it would create a client of its own.
        self.settings = settings
        self.key = key
        self.target = Target.of(settings, key)
        self.version = None
        self.skipVersionCheck = False
        self.commands = Commands(lambda: self.shared)
        self.is_closed = False
        self._shared: SharedRedis | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def shared(self) -> SharedRedis:
        """The shared connection of the running event loop.

        Raises:
            errors.WorkerStateError: No event loop is running.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            if self._shared is not None:
                # A forked child is inside the parent's coroutine, but no loop runs in it.
                self._shared.pipeliner.check_process()
            raise errors.WorkerStateError(
                "Redis can be used only from a running event loop.",
                fix="Call it from an async function, for example under asyncio.run().",
            ) from None
        if self._shared is None or self._loop is not loop:
            self._shared = share(self.settings, key=self.key)
            self._loop = loop
        return self._shared

    @property
    def conn(self) -> PipeliningClient:
        """redis-py's interface to the shared connection."""
        return self.shared.client

    async def getRedisVersion(self) -> str | None:
        """The server's version as upstream compares it."""
        identity = await self.shared.whoami()
        return ".".join(str(part) for part in identity.version) if identity.version else None

    async def close(self) -> None:
        """Give the share back. Closing twice is fine."""
        self.is_closed = True
        shared, self._shared = self._shared, None
        if shared is not None and self._loop is asyncio.get_running_loop():
            await shared.release()

    async def set_client_name(self, name: str) -> None:
        """Nothing: the shared connection has a name of its own, workers name their blocking one."""


class Backend(RedisBackend):
    """Upstream's datastore operations for one queue, on the shared connection."""

    def __init__(
        self,
        name: str,
        connection: BackendConnection,
        prefix: str = "bull",
        *,
        owns_connection: bool = True,
    ) -> None:
        self.name = name
        self.prefix = prefix
        self.connection = connection
        self.blocking_connection = None
        self.owns_connection = owns_connection
        self.producer: Producer | None = None
        self.scripts = Scripts(prefix, name, connection)

    @property
    def shared(self) -> SharedRedis:
        """The process's connection to this Redis."""
        return self.connection.shared

    async def ask(self, *command: str | bytes | float) -> Any:
        """Send a command, and give its reply with strings as bytes.

        Raises:
            errors.RedisError: Redis could not be asked, or refused.
        """
        return await self.shared.ask(*command)

    def clientName(self, suffix: str | None = None) -> str:
        """The name that marks a worker's connection, as Node's `clientName` makes it.

        The queue's name is in base64: CLIENT SETNAME refuses spaces and non-ASCII.
        """
        encoded = base64.b64encode(self.name.encode()).decode()
        return f"{self.prefix}:{encoded}{suffix or ''}"

    def forQueue(self, queue_name: str, prefix: str | None = None) -> Backend:
        """The same connection, another queue.

        Raises:
            errors.ConfigurationError: In a cluster, a queue whose keys are on another node.
        """
        made = Backend(queue_name, self.connection, prefix or self.prefix, owns_connection=False)
        if Target.of(self.connection.settings, made.keys[""]) != self.connection.target:
            raise errors.ConfigurationError(
                f"The queues with prefix {made.prefix!r} and {self.prefix!r} may be on different "
                "nodes of the cluster.",
                cause="A flow is added in one transaction, which runs on one node.",
                fix="Use the same prefix in braces for all queues of a flow.",
            )
        return made

    async def addJob(self, job: Any) -> str:
        """Add one job.

        Returns:
            Its id.

        Raises:
            errors.ReplyLostError: The job may or may not have been added. Does not happen
                with a custom job id: then the command is repeated, which is harmless.
            errors.JobNotFoundError: The parent given in the options does not exist.
        """
        await self._stamp(job)
        command = self.scripts.adder.command(job)
        try:
            result = await self._run(command)
        except errors.ReplyLostError:
            if not job.id:
                raise
            result = await self._run(command)
        self.scripts.check_added(result, job)
        if self.producer is not None:
            self.producer.note(1)
        return result

    async def _stamp(self, *jobs: Any) -> None:
        """Let jobs that do not say when they were made begin now by Redis's clock.

        Their delays count from then.
        """
        clock = self.shared.clock
        for job in jobs:
            if "timestamp" in job.opts:
                continue
            if job.opts.get("delay"):
                await clock.refresh()
            job.timestamp = clock.milliseconds()

    async def _run(self, command: AddCommand) -> Any:
        shared = self.shared
        reply = await run_packed(
            shared.pipeliner, command.by_hash(), command.with_source, raw=False
        )
        if isinstance(reply, Exception):
            raise classify(reply, shared.settings) from reply
        return reply

    async def addJobs(self, jobs: list[Any]) -> list[str]:
        """Add jobs in one transaction: all or none."""
        added = await self._transaction([(self.scripts, job, False) for job in jobs])
        if self.producer is not None and added:
            self.producer.note(len(added))
        return added

    async def addFlow(self, entries: list[dict[str, Any]]) -> list[Any]:
        """Add a flow in one transaction: the whole tree, or nothing when Redis cannot be reached.

        Raises:
            errors.JobNotFoundError: The parent given for the root does not exist.
            errors.JobStateError: A job with that id has another parent. In both cases the jobs
                that were not refused are there.
        """
        results = await self._transaction(
            [
                (entry["job"].queue.backend.scripts, entry["job"], bool(entry.get("is_parent")))
                for entry in entries
            ]
        )
        for entry, result in zip(entries, results, strict=True):
            self.scripts.check_added(result, entry["job"])
        return results

    async def _transaction(self, entries: Sequence[tuple[Scripts, Any, bool]]) -> list[Any]:
        if not entries:
            return []
        await self._stamp(*(job for _, job, _ in entries))
        repeatable = all(job.id for _, job, _ in entries)
        try:
            results = await self._run_transaction(entries)
        except errors.ReplyLostError:
            if not repeatable:
                raise
            results = await self._run_transaction(entries)
        for (_, job, _), result in zip(entries, results, strict=True):
            if isinstance(result, str):
                job.id = result
        return results

    async def _run_transaction(self, entries: Sequence[tuple[Scripts, Any, bool]]) -> list[Any]:
        packed: list[bytes] = []
        places: list[int] = []
        sent: set[str] = set()
        for scripts, job, is_parent in entries:
            places.append(len(packed))
            command = scripts.adder.command(job, is_parent=is_parent)
            if command.script in sent:
                packed.append(command.by_hash())
            else:
                # The first of each with its text: no SCRIPT FLUSH can come between, after which
                # a transaction would fail in part for lack of its scripts.
                sent.add(command.script)
                packed.append(command.with_source())
            if is_parent:
                # A child that has ended already must not release it before the others exist.
                dependencies = f"{scripts.toKey(job.id)}:dependencies"
                packed.append(pack(("SADD", dependencies, placing.ADDING)))
        for scripts, job, is_parent in entries:
            if is_parent:
                keys = (scripts.toKey(job.id), scripts.keys["meta"])
                packed.append(pack(("EVAL", placing.RELEASE, len(keys), *keys, job.id)))
        replies = await self.conn.transact(packed)
        return [replies[place] for place in places]

    async def retryJobs(self, state: str, count: int, timestamp: int | None) -> Any:
        """Put jobs back that ended before a moment (ms); now by Redis's clock if none is given."""
        if not timestamp:
            await self.shared.clock.refresh()
            timestamp = self.shared.clock.milliseconds()
        return await super().retryJobs(state, count, timestamp)

    async def pause(self, paused: bool = True) -> int:
        """Pause the queue; or resume it, and bring all back that is left in the list `paused`."""
        left = await self.scripts.pause(paused)
        while left:
            left = await self.scripts.pause(paused, tell=False)
        return left

    async def addLog(self, job_id: str, log_row: str, keep_logs: int = 0) -> int:
        """Append a line to a job's log.

        Raises:
            errors.JobNotFoundError: The job is gone.
        """
        return await self.scripts.addLog(job_id, log_row, keep_logs)

    async def remove(self, job_id: str, remove_children: bool) -> int:
        """Remove a job; 0 when a worker holds it.

        Raises:
            errors.JobStateError: The job belongs to a job scheduler.
        """
        result = await self.scripts.remove(job_id, remove_children)
        self.scripts.check(result, job_id, "removeJob")
        return int(result)

    async def close(self, force: bool = False) -> None:
        """Give the connection back."""
        del force
        if self.producer is not None:
            await self.producer.stop()
        if self.owns_connection:
            await self.connection.close()


def backend_for(name: str, connection: object, prefix: str) -> Backend:
    """A backend for a queue.

    Args:
        name: The queue.
        connection: Anything `redis_settings` takes.
        prefix: First part of every key.

    Raises:
        errors.ConfigurationError: The queue's name or the connection is wrong.
    """
    check_queue_name(name)
    key = QueueKeys(prefix).getQueueQualifiedName(name)
    return Backend(name, BackendConnection(redis_settings(connection), key), prefix)


def redis_settings(connection: object) -> RedisSettings:
    """Settings from whatever users have at hand.

    Args:
        connection: Settings, a URL, a mapping in redis-py's or ioredis' spelling, a redis-py
            client (its address is taken, not its sockets), or None for the environment.
    """
    options = options_of(connection)
    if options is not None:
        return RedisSettings.of(options)
    if connection is None or isinstance(connection, RedisSettings | str | dict):
        return RedisSettings.of(connection)  # pyright: ignore[reportUnknownArgumentType]
    raise errors.ConfigurationError(
        f"A {type(connection).__name__} does not say where Redis is.",
        fix="Give a URL, a RedisSettings, a dict of options, or nothing to use REDIS_URL.",
    )


def check_queue_name(name: object) -> None:
    """Raise for a name that BullMQ does not take.

    Raises:
        errors.ConfigurationError: The name is empty, not text, or contains a colon (Node's
            `Queue name cannot contain :`).
    """
    if not isinstance(name, str) or not name.strip():
        raise errors.ConfigurationError(
            f"The queue name is {name!r}.",
            cause="It was not set, or read from an unset variable.",
            fix="Give the name that the producer uses.",
        )
    if ":" in name:
        raise errors.ConfigurationError(
            f"The queue name {name!r} contains a colon.",
            cause="BullMQ joins key parts with colons, and Node refuses such names too.",
            fix="Use another separator, such as a dash; a key prefix belongs into prefix=.",
        )
