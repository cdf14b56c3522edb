"""Queue: add jobs, and look at or steer those that are there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from bullmq import Queue as UpstreamQueue

from bullpy import codec, dialect, errors, options, peers
from bullpy.backend import backend_for
from bullpy.connection.identity import QueueFingerprint
from bullpy.emitter import SafeEmitter
from bullpy.job import Job
from bullpy.options import JobOptions
from bullpy.producing import Producer
from bullpy.schedulers import JobScheduler
from bullpy.types import JobState

if TYPE_CHECKING:
    from bullpy.connection.client import PipeliningClient
    from bullpy.connection.factory import SharedRedis
    from bullpy.connection.identity import ServerIdentity
    from bullpy.events import QueueEvents
    from bullpy.repairs.orphans import RepairReport

log = logging.getLogger("bullpy.queue")

CANCEL_STREAM = "cancel"
"""Last part of the key of the stream that takes requests to cancel running jobs."""

CANCEL_STREAM_LENGTH = 1000
"""How many requests are kept, roughly."""

CANCEL_REASON_LIMIT = 1000
"""Characters that the reason of a request may have."""


class JobSpec(TypedDict, total=False):
    """One job of `add_bulk`: `name`, `data`, and `opts` in BullMQ's own spelling."""

    name: str
    data: Any
    opts: Mapping[str, Any]


class Queue(SafeEmitter, UpstreamQueue):
    """A queue of jobs.

    Everything upstream's `Queue` documents works under its own names; the snake_case methods
    are typed and count in seconds. All queues and workers of a process share one connection.

    ```python
    async with Queue("audio-analyzer") as queue:
        job = await queue.add("process-audio", {"fileKey": "a.wav"}, attempts=3)
    ```

    Args:
        name: The queue, the same word as on the Node side.
        opts: Upstream's options: `connection`, `prefix`, `defaultJobOptions`.
        redis: Where Redis is: a URL, a `RedisSettings`, a dict; None reads `REDIS_URL`.
        prefix: First part of every key.
        default_job_options: Options for every job that does not set them itself.

    Raises:
        errors.ConfigurationError: The name or the connection is wrong.
    """

    EVENTS = frozenset(
        [
            *("waiting", "progress", "removed", "paused", "resumed", "cleaned"),
            *("warning", "error", "closed"),
        ]
    )

    def __init__(
        self,
        name: str,
        opts: Mapping[str, Any] | None = None,
        *,
        redis: object = None,
        prefix: str | None = None,
        default_job_options: JobOptions | None = None,
    ) -> None:
        # Not upstream's __init__: it opens a connection of its own.
        SafeEmitter.__init__(self)
        given = dict(opts or {})
        self.name = name
        self.opts = given
        self.prefix = prefix or given.get("prefix") or "bull"
        self.jobsOpts: dict[str, Any] = {
            **(given.get("defaultJobOptions") or {}),
            **options.to_wire(default_job_options or {}),
        }
        self.backend = backend_for(
            name, redis if redis is not None else given.get("connection"), self.prefix
        )
        self.backend.producer = Producer(self.backend)
        self.redisConnection = self.backend.connection
        self.scripts = self.backend.scripts
        self.keys = self.backend.keys
        self.qualifiedName = self.backend.qualifiedName
        self._job_scheduler = JobScheduler(self)
        self._events: QueueEvents | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def client(self) -> PipeliningClient:
        """redis-py's interface to the process's connection."""
        return self.backend.conn

    @property
    def shared(self) -> SharedRedis:
        """The process's connection to this Redis."""
        return self.backend.shared

    @property
    def events(self) -> QueueEvents:
        """The queue's events as they happen, followed from first use until `close`."""
        if self._events is None:
            from bullpy.events import QueueEvents

            self._events = QueueEvents(
                self.name, redis=self.redisConnection.settings, prefix=self.prefix
            )
        return self._events

    async def whoami(self) -> ServerIdentity:
        """Which Redis this queue is on."""
        return await self.shared.whoami()

    async def fingerprint(self) -> QueueFingerprint:
        """Which queue this is, in a form to compare with other processes.

        Raises:
            errors.RedisError: Redis cannot be reached, or refuses.
        """
        return QueueFingerprint.of(await self.whoami(), self.prefix, self.name)

    # -- adding ----------------------------------------------------------------------------

    async def add(
        self,
        name: str,
        data: Any = None,
        opts: Mapping[str, Any] | None = None,
        **job_options: Unpack[JobOptions],
    ) -> Job[Any]:
        """Add a job.

        Args:
            name: By which workers choose a processor.
            data: Any value with a JSON form.
            opts: Options in BullMQ's spelling (camelCase, milliseconds).
            job_options: Options in Python's spelling (seconds); they win over `opts`.

        Returns:
            The job, with its id.

        Raises:
            errors.InvalidJobOptionsError: An option that BullMQ refuses.
            errors.EncodingError: The data has no JSON form.
            errors.RedisUnavailableError: Redis cannot be reached within `command_timeout`.
            errors.ReplyLostError: The connection ended before the answer; the job may have
                been added. Does not happen with a `job_id` of your own.
        """
        job = self._new_job(name, data, opts, job_options)
        job.id = await self.backend.addJob(job)
        return job

    async def add_bulk(self, jobs: Sequence[JobSpec]) -> list[Job[Any]]:
        """Add many jobs in one transaction: all, or none when Redis cannot be reached.

        Raises:
            errors.JobNotFoundError: A job names a parent that does not exist; the others were
                added.
        """
        made = [
            self._new_job(job.get("name", ""), job.get("data"), job.get("opts"), {}) for job in jobs
        ]
        results = await self.backend.addJobs(made)
        for job, result in zip(made, results, strict=True):
            self.scripts.check_added(result, job)
        return made

    async def addBulk(self, jobs: Sequence[JobSpec]) -> list[Job[Any]]:
        """Upstream's name for `add_bulk`."""
        return await self.add_bulk(jobs)

    def _new_job(
        self,
        name: str,
        data: object,
        opts: Mapping[str, Any] | None,
        job_options: Mapping[str, Any],
    ) -> Job[Any]:
        wire = {**self.jobsOpts, **(opts or {})}
        if job_options:
            wire.update(options.to_wire(job_options))
        # Not Job[Any](...): Python would note the type argument in each job.
        job: Job[Any] = Job(self, name, data, wire)
        encoded = codec.dumps(data) if wire.get("sizeLimit") else b""
        options.validate(name, encoded, wire, has_parent=job.parentKey is not None)
        return job

    async def upsertJobScheduler(self, *args: Any, **kwargs: Any) -> Job[Any] | None:
        """Make or change a job scheduler; arguments as upstream's.

        Returns:
            The next job, None if there is none.
        """
        made = await super().upsertJobScheduler(*args, **kwargs)
        # Upstream makes it of its own class, without the methods that are documented here.
        return await self.get_job(str(made.id)) if made is not None else None

    # -- looking ---------------------------------------------------------------------------

    async def get_job(self, job_id: str) -> Job[Any] | None:
        """The job with that id, None if there is none."""
        raw = await self.backend.getJobData(job_id)
        return Job.fromJSON(self, raw, job_id) if raw else None

    async def getJob(self, job_id: str) -> Job[Any] | None:
        """Upstream's name for `get_job`."""
        return await self.get_job(job_id)

    async def get_jobs(
        self,
        states: Sequence[JobState | str] = (),
        start: int = 0,
        end: int = -1,
        *,
        ascending: bool = False,
    ) -> list[Job[Any]]:
        """Jobs in any of the given states; without states, all jobs.

        Args:
            states: Which; in BullMQ's words.
            start: Index of the first, per state.
            end: Index of the last, -1 for all.
            ascending: Oldest first.
        """
        types = self.sanitizeJobTypes([str(state) for state in states])
        ids = await self.backend.getRanges(types, start, end, ascending)
        found: list[Job[Any]] = []
        for job_id in dict.fromkeys(ids):
            job = await self.get_job(job_id)
            if job is not None:
                found.append(job)
        return found

    async def getJobs(
        self, types: Sequence[str], start: int = 0, end: int = -1, asc: bool = False
    ) -> list[Job[Any]]:
        """Upstream's name for `get_jobs`."""
        return await self.get_jobs(types, start, end, ascending=asc)

    async def get_job_counts(self, *states: JobState | str) -> dict[str, int]:
        """How many jobs are in each state; without states, in every one."""
        return await self.getJobCounts(*[str(state) for state in states])

    async def get_job_state(self, job_id: str) -> JobState:
        """Where the job is now."""
        return JobState.of(await self.getJobState(job_id))

    async def get_job_logs(
        self, job_id: str, start: int = 0, end: int = -1, *, ascending: bool = True
    ) -> list[str]:
        """The job's log lines."""
        return (await self.getJobLogs(job_id, start, end, ascending))["logs"]

    async def count(self) -> int:
        """How many jobs wait: ready, paused, delayed, prioritized and for their children."""
        counts = await self.getJobCounts(
            "waiting", "paused", "delayed", "prioritized", "waiting-children"
        )
        return sum(counts.values())

    async def is_paused(self) -> bool:
        """Whether the queue is paused for all workers."""
        return await self.isPaused()

    # -- steering --------------------------------------------------------------------------

    async def pause(self) -> None:
        """Let no worker of the queue fetch a job until somebody resumes it; running jobs go on.

        Emits `warning`, with a `PeerWarning`, where another version of BullMQ on the queue can
        lose jobs because of it.

        Raises:
            errors.RedisError: Redis could not be asked, or refused.
        """
        await self.backend.pause(True)
        await self._warn_of_peers()

    async def resume(self) -> None:
        """Let workers fetch again, whoever paused the queue; all jobs that wait are found.

        Raises:
            errors.RedisError: Redis could not be asked, or refused.
        """
        # Before: what the versions do to a queue that is paused is what is warned of.
        await self._warn_of_peers()
        await self.backend.pause(False)

    async def repair(self, *, dry_run: bool = False) -> RepairReport:
        """Put jobs back that no worker would ever get.

        Those are jobs that exist and are in no list or set of the queue, as after a resume by
        BullMQ 5 beside version 6, and jobs in a list that nobody reads. Each goes back once,
        where its own fields say: to the front of those that wait, to those with its priority,
        or delayed until it is due. Jobs that have ended, run, or wait for children are left
        alone. Workers may run meanwhile. It reads all keys of the database, in small steps.
        `bullpy.repairs` has further repairs, and the log of what they did.

        Args:
            dry_run: Only tell what would be done.

        Raises:
            errors.RedisError: Redis could not be asked, or refused. What was put back stays;
                repair again.
        """
        from bullpy.repairs import orphans

        await self._warn_of_peers(remember=not dry_run)
        return await orphans.requeue_orphans(self, dry_run=dry_run)

    async def _warn_of_peers(self, *, remember: bool = True) -> None:
        warning = (await peers.look(self.backend, remember=remember)).warning
        if warning is not None:
            log.warning("%s", warning, extra={"queue": self.name, "code": warning.code})
            self.emit("warning", warning)

    async def retry_jobs(self, state: str = "failed", *, count: int = 1000) -> None:
        """Put all failed (or completed) jobs back into the queue, `count` per step."""
        await self.retryJobs({"state": state, "count": count})

    async def promote_jobs(self, *, count: int = 1000) -> None:
        """Make all delayed jobs ready now, `count` per step."""
        await self.promoteJobs({"count": count})

    async def clean(
        self,
        grace: int = 0,
        limit: int = 0,
        type: str = "completed",
    ) -> list[str]:
        """Remove finished or waiting jobs older than `grace` milliseconds.

        Args:
            grace: Milliseconds that a job must have been there.
            limit: How many to remove at most; 0 for all.
            type: Which state, in BullMQ's words.

        Returns:
            The ids of the removed jobs.
        """
        state = "wait" if type == "waiting" else type
        removed = await self.backend.cleanJobsInSet(state, grace, limit)
        self.emit("cleaned", removed, state)
        return removed

    async def cancel(self, job_id: str, reason: str | None = None) -> Job[Any]:
        """Ask the worker that runs a job, wherever it is, to stop it; the job fails for good.

        The worker hears of it within about half a second, if it is one of bullpy. An async
        processor is cancelled; `job.should_stop()` tells a `def`. `wait_until_finished` of the
        returned job tells how it ended.

        Args:
            job_id: A job that runs.
            reason: Becomes part of its `failedReason`; at most 1000 characters.

        Returns:
            The job as it was when asked: `processed_by` names its worker.

        Raises:
            errors.JobNotFoundError: The job is gone.
            errors.JobStateError: The job does not run.
            errors.ConfigurationError: The reason is too long.
            errors.RedisError: Redis could not be asked.
        """
        if reason is not None and len(reason) > CANCEL_REASON_LIMIT:
            raise errors.ConfigurationError(
                f"The reason has {len(reason)} characters; the limit is {CANCEL_REASON_LIMIT}.",
                fix="Give the gist of it.",
            )
        state = await self.get_job_state(job_id)
        # The job after its state: should it have begun anew in between, the new run is meant.
        job = await self.get_job(job_id) if state is JobState.ACTIVE else None
        if state not in (JobState.ACTIVE, JobState.UNKNOWN):
            raise _does_not_run(job_id, state)
        if job is None or job.is_ghost:
            raise errors.JobNotFoundError(
                f"There is no job {job_id} in queue {self.name}.",
                cause="It finished and was removed, or the queue, its prefix or Redis is another.",
                fix="Compare the id, the queue and the prefix with the producer's.",
            )
        await self._place(_request(job, reason))
        return job

    async def _place(self, request: dict[Any, Any]) -> None:
        """Add a request to cancel a job to the stream that workers read."""
        key = self.backend.toKey(CANCEL_STREAM)
        try:
            await self.client.xadd(key, request, maxlen=CANCEL_STREAM_LENGTH)
        except errors.ReplyLostError:
            # Placing it twice is harmless.
            await self.client.xadd(key, request, maxlen=CANCEL_STREAM_LENGTH)

    async def obliterate(self, force: bool = False) -> None:
        """Remove the queue and all its jobs.

        Args:
            force: Even if jobs run.
        """
        from bullpy.repairs import journal

        await super().obliterate(force)
        await self.client.delete(
            self.backend.toKey(CANCEL_STREAM),
            self.backend.toKey(dialect.MAJORS),
            journal.log_key(self.prefix, self.name),
        )

    async def rate_limit(self, seconds: float) -> None:
        """Let no worker of the queue fetch a job for that long."""
        await self.rateLimit(options.milliseconds("rate limit", seconds))

    async def set_global_concurrency(self, concurrency: int) -> None:
        """Let all workers together run at most that many jobs at a time."""
        if concurrency < 1:
            raise errors.ConfigurationError(
                f"The global concurrency is {concurrency}.", fix="Give 1 or more."
            )
        await self.setGlobalConcurrency(concurrency)

    async def get_global_concurrency(self) -> int | None:
        """The limit for all workers together, None if there is none."""
        return await self.getGlobalConcurrency()

    async def remove_global_concurrency(self) -> None:
        """Remove the limit for all workers together."""
        await self.removeGlobalConcurrency()

    async def set_global_rate_limit(self, maximum: int, duration: float) -> None:
        """Let all workers together start at most `maximum` jobs per `duration` seconds."""
        await self.setGlobalRateLimit(maximum, options.milliseconds("duration", duration))

    async def remove_global_rate_limit(self) -> None:
        """Remove the rate limit for all workers together."""
        await self.removeGlobalRateLimit()

    async def close(self) -> None:
        """Give the connection back. Closing twice is fine."""
        events, self._events = self._events, None
        if events is not None:
            await events.close()
        await self.backend.close()
        await self.drain_listeners()

    def __repr__(self) -> str:
        return f"<Queue {self.qualifiedName} at {self.redisConnection.settings.masked_url}>"


def _request(job: Job[Any], reason: str | None) -> dict[Any, Any]:
    """The fields of a request; `ats` and `processedOn` say which run of the job is meant."""
    fields: dict[Any, Any] = {"id": job.id, "ats": job.attemptsStarted}
    if job.processedOn:
        fields["processedOn"] = job.processedOn
    if reason:
        # Lone surrogates have no encoding.
        fields["reason"] = reason.encode("utf-8", "backslashreplace")
    return fields


def _does_not_run(job_id: str, state: JobState) -> errors.JobStateError:
    finished = state in (JobState.COMPLETED, JobState.FAILED)
    return errors.JobStateError(
        f"Job {job_id} is {_WHERE[state]}; only a job that runs can be cancelled.",
        fix="There is nothing left to cancel." if finished else "Remove it: await job.remove().",
    )


_WHERE = {
    JobState.WAIT: "waiting",
    JobState.PRIORITIZED: "waiting, with a priority",
    JobState.PAUSED: "waiting in a paused queue",
    JobState.DELAYED: "delayed",
    JobState.WAITING_CHILDREN: "waiting for its children",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
}
