"""One job: what it carries, and what can be done with it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from bullmq.backoffs import Backoffs
from bullmq.job import Job as UpstreamJob

from bullpy import codec, errors, lookup, steps
from bullpy.connection.pipelining import retry_pause
from bullpy.ending import Ending
from bullpy.jobfields import JobFields
from bullpy.jobhash import CRASHES_FIELD, DEATHS_FIELD, LATER_FIELDS, Raw, Reader
from bullpy.options import milliseconds
from bullpy.ownscripts import STORE_STEP
from bullpy.types import JobSnapshot, JobState

if TYPE_CHECKING:
    from bullmq.abort_controller import AbortSignal

    from bullpy.events import QueueEvents

_log = logging.getLogger("bullpy.worker")

_OF_A_CHILD = {
    "failParentOnFailure": "fpof",
    "removeDependencyOnFailure": "rdof",
    "ignoreDependencyOnFailure": "idof",
    "continueParentOnFailure": "cpof",
}
"""Options of a job that are stored with its parent's name too."""

T = TypeVar("T")
Result = TypeVar("Result")


class Job(JobFields[T], UpstreamJob):
    """A job of a queue; `T` is the type of its data.

    Upstream's attributes and methods work under their own names; the snake_case ones are
    typed and count in seconds.

    In an `async def` processor, `update_progress`, `log` and `update_data` are awaited. In a
    `def` processor they are plain calls that return when Redis has answered.

    Attributes:
        id: The job's id.
        name: Its name, by which workers choose a processor.
        data: What the producer sent; in a processor with a pydantic annotation, the model.
        opts: BullMQ's options (camelCase, milliseconds).
        queue: The queue or worker through which it was read.
        signal: Upstream's `AbortSignal`, for processors that take it as third argument.
        decode_error: Why what Redis holds cannot be run, None for a sound job.
        raw_data: The data as Redis holds it (JSON); None for a job that was not read to be run.
    """

    # On the class, because most jobs are read when none of it has happened.
    decode_error: errors.UndecodableJobError | None = None
    signal: AbortSignal | None = None
    deduplication_id: str | None = None
    deferredFailure: str | None = None
    discarded: bool = False
    raw_data: bytes | str | None = None
    _raw: Raw | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(
        self,
        queue: Any,
        name: str,
        data: T,
        opts: Mapping[str, Any] | None = None,
        job_id: str | None = None,
    ) -> None:
        # Not upstream's __init__: half of what it sets is on the class, and it is on the path
        # of every job that is added.
        given = opts or {}
        self.queue = queue
        self.backend = queue.backend
        self.queueQualifiedName = queue.qualifiedName
        self.name = name
        self.id = cast("str", given.get("jobId") or job_id)
        self.data = data
        self.opts = {"attempts": 0, "delay": 0, **given}
        self.opts["backoff"] = Backoffs.normalize(given.get("backoff"))
        self.timestamp = given["timestamp"] if "timestamp" in given else round(time.time() * 1000)
        self.delay = given.get("delay", 0)
        self.priority = given.get("priority", 0)
        self.attempts = given.get("attempts", 1)
        self.removeOnComplete = given.get("removeOnComplete", True)
        self.removeOnFail = given.get("removeOnFail", False)
        self.stacktrace = []
        if parent := given.get("parent"):
            self.parentKey = f"{parent.get('queue')}:{parent.get('id')}"
            self.parent = {"id": parent.get("id"), "queueKey": parent.get("queue")}
            for option, short in _OF_A_CHILD.items():
                if given.get(option):
                    self.parent[short] = True
        deduplication = given.get("deduplication")
        if isinstance(deduplication, dict):
            self.deduplication_id = cast("dict[str, Any]", deduplication).get("id")

    # -- reading ---------------------------------------------------------------------------

    @staticmethod
    def fromJSON(queue: Any, rawData: Mapping[str, str], jobId: str | None = None) -> Job[Any]:
        """A job from the fields of its hash, as tolerant as Node's `Job.fromJSON`."""
        raw = {name.encode(): value for name, value in rawData.items()}
        return Job.from_raw(queue, raw, jobId or rawData.get("id", ""))

    @classmethod
    def from_raw(cls, queue: Any, raw: Raw, job_id: str, token: str | None = None) -> Job[Any]:
        """A job from the undecoded fields of its hash.

        Never raises: what cannot be read is told by `decode_error`, so that the job can be
        listed, and failed instead of looping.
        """
        job = cast("Job[Any]", cls.__new__(cls))
        job.queue = queue
        job.backend = queue.backend
        job.queueQualifiedName = queue.qualifiedName
        job.id = job_id
        job.token = token
        reader = Reader(job_id, raw)
        job.name = reader.text(b"name") or ""
        if token is not None:
            job.raw_data = raw.get(b"data") or b"{}"
            job._raw = raw
        job.data = reader.json(b"data", empty={})
        opts = job.opts = reader.options()
        job.attempts = opts["attempts"]
        job.removeOnComplete = opts.get("removeOnComplete", True)
        job.removeOnFail = opts.get("removeOnFail", False)
        field = raw.get
        try:
            job.timestamp = int(field(b"timestamp") or 0)
            job.delay = int(field(b"delay") or 0)
            job.priority = int(field(b"priority") or 0)
            job.attemptsStarted = int(field(b"ats") or 0)
            job.processedOn = int(field(b"processedOn") or 0)
        except ValueError:
            job._read_odd_numbers(reader)
        job.processedBy = reader.text(b"pb")
        job.stacktrace = []
        if not LATER_FIELDS.isdisjoint(raw):
            job._read_later_fields(reader)
        if not job.name:
            reader.complain("name", "missing: the job's hash is gone")
        job.decode_error = reader.error
        return job

    def _read_odd_numbers(self, reader: Reader) -> None:
        """Read the numbers of which at least one is not whole, or none at all."""
        self.timestamp = reader.number(b"timestamp")
        self.delay = reader.number(b"delay")
        self.priority = reader.number(b"priority")
        self.attemptsStarted = reader.number(b"ats")
        self.processedOn = reader.number(b"processedOn")

    def _read_later_fields(self, reader: Reader) -> None:
        """Read what a job gets after its first start, or as part of a flow or scheduler."""
        self.attemptsMade = reader.number(b"atm") or reader.number(b"attemptsMade")
        self.stalledCounter = reader.number(b"stc")
        self.finishedOn = reader.number(b"finishedOn")
        self.repeatJobKey = reader.text(b"rjk")
        self.deferredFailure = reader.text(b"defa")
        self.failedReason = reader.text(b"failedReason")
        self.deduplicationId = self.deduplication_id = reader.text(b"deid")
        self.progress = reader.json(b"progress", empty=0, or_text=True)
        self.returnvalue = reader.json(b"returnvalue", empty=None, or_text=True)
        self.stacktrace = reader.traces()
        self.parentKey = reader.text(b"parentKey")
        self.parent = reader.json(b"parent", empty=None)
        self.crashes = reader.number(CRASHES_FIELD)
        self.deaths = reader.number(DEATHS_FIELD)

    @property
    def is_ghost(self) -> bool:
        """Whether only the id is left: the job was removed while it waited."""
        return not self.name

    # -- inside a processor ----------------------------------------------------------------

    def update_progress(self, progress: object) -> Awaitable[None]:
        """Store the job's progress, any JSON value, and tell those who follow the queue.

        Raises:
            errors.JobNotFoundError: The job was removed.
            errors.EncodingError: The value has no JSON form.
        """
        return self._do(self._store_progress(progress))

    async def _store_progress(self, progress: object) -> None:
        self.progress = cast("Any", progress)
        await self.backend.updateProgress(self.id, progress)
        self.queue.emit("progress", self, progress)

    def updateProgress(self, progress: object) -> Awaitable[None]:
        """Upstream's name for `update_progress`."""
        return self.update_progress(progress)

    def log(self, logRow: str) -> Awaitable[int]:
        """Append a line to the job's log, kept in Redis.

        Returns:
            The number of lines now kept.

        Raises:
            errors.JobNotFoundError: The job was removed.
        """
        return self._do(self.backend.addLog(self.id, str(logRow), self.opts.get("keepLogs", 0)))

    def update_data(self, data: object) -> Awaitable[None]:
        """Replace the job's data.

        Raises:
            errors.JobNotFoundError: The job was removed.
            errors.EncodingError: The value has no JSON form.
        """
        self.data = cast("T", data)
        self.raw_data = None
        return self._do(self.backend.updateData(self.id, data))

    def updateData(self, data: object) -> Awaitable[None]:
        """Upstream's name for `update_data`."""
        return self.update_data(data)

    def find_jobs(self, value: str, field: str | None = None) -> Awaitable[list[JobSnapshot]]:
        """Look for other jobs of the queue, for example for one whose result is needed.

        Args:
            value: The job's id; with `field`, what its data has there.
            field: A field of the data, by which the producer knows the job. At most the last
                1000 jobs of each state are looked at.

        Returns:
            What was found: nothing when it was removed, which `removeOnComplete` does to
            results.

        Raises:
            errors.RedisError: Redis could not be asked.
        """
        return self._do(lookup.find_jobs(self.backend, value, field))

    def once(self, step: str, function: Callable[[], Any]) -> Any:
        """Do a step of the job, unless an earlier run has done it: then give that one's result.

        ```python
        receipt = await job.once("charge", lambda: charge(order, key=job.id))
        ```

        In an `async def` processor the call is awaited, and the function may be sync or async; in a
        `def` processor both are plain calls. The result is stored in the job's hash as JSON, and
        comes back as JSON gives it, on the first run too. It stays through retries, also those of a
        failed job by hand, and is removed with the job.

        The function may run again when the process dies after it ran and before its result is
        stored, or when the lock was lost by then.

        Args:
            step: The step's name, the same one on each run; at most 200 characters.
            function: What to do; takes nothing.

        Returns:
            The function's result; in an `async def` processor an awaitable of it.

        Raises:
            errors.EncodingError: The result has no JSON form, or more than 64 KiB of it. The job
                fails without further attempts.
            errors.LockLostError: The job is another worker's by now.
            errors.WorkerStateError: The job is not being processed.
        """
        if self._raw is None or self.token is None:
            raise errors.WorkerStateError(
                f"Job {self.id} is not being processed here.", fix="Call once() in its processor."
            )
        steps.field_of(step)
        if _loop_runs():
            return self._once_awaited(step, function)
        encoded = self._known_step(step)
        if encoded is None:
            encoded = steps.encode(step, function())
            self._do(self.store_step(step, encoded))
        return steps.decode(encoded)

    async def _once_awaited(self, step: str, function: Callable[[], Any]) -> Any:
        encoded = self._known_step(step)
        if encoded is None:
            result = function()
            encoded = steps.encode(step, await result if inspect.isawaitable(result) else result)
            await self.store_step(step, encoded)
        return steps.decode(encoded)

    def _known_step(self, step: str) -> str | bytes | None:
        """The step's result as JSON, from what was read when the job was fetched."""
        assert self._raw is not None
        return self._raw.get(steps.field_of(step).encode())

    async def step_result(self, step: str) -> str | None:
        """For `once` in a child process: the step's result as JSON, None if it was not done."""
        known = self._known_step(step)
        return known.decode() if isinstance(known, bytes) else known

    async def store_step(self, step: str, encoded: str) -> None:
        """For `once`: store a step's result, for as long as it takes to reach Redis.

        Raises:
            errors.JobNotFoundError: The job was removed.
            errors.LockLostError: It is another worker's by now.
        """
        field = steps.field_of(step)
        failures = 0
        while True:
            try:
                await STORE_STEP(self.backend, self.id, self.token or "", field, encoded)
                break
            except errors.RedisError as error:
                # The step is done: an outage must not make the job do it again.
                if not failures:
                    message = "the result of step %s is held until Redis takes it: %s"
                    _log.warning(message, step, error, extra={"code": error.code})
                await asyncio.sleep(max(0.02, retry_pause(failures, 0.05, 1.0)))
                failures += 1
        self._raw = {**(self._raw or {}), field.encode(): encoded}

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell the job which loop serves its calls when it runs in a thread."""
        self._loop = loop

    def _do(self, call: Coroutine[Any, Any, Result]) -> Awaitable[Result]:
        """Give the coroutine to who can await it; in a thread, run it and give the result."""
        if _loop_runs():
            return call
        if self._loop is None:
            call.close()
            raise errors.WorkerStateError("This job can be used only from a running event loop.")
        return cast(
            "Awaitable[Result]", asyncio.run_coroutine_threadsafe(call, self._loop).result()
        )

    # -- from outside ----------------------------------------------------------------------

    async def get_state(self) -> JobState:
        """Where the job is now."""
        return JobState.of(await self.getState())

    async def change_priority(self, priority: int, *, lifo: bool = False) -> None:
        """Give the job another priority.

        Raises:
            errors.JobNotFoundError: The job is gone.
        """
        await self.changePriority({"priority": priority, "lifo": lifo})

    async def get_children_values(self) -> dict[str, Any]:
        """The results of the job's children, by their keys."""
        values = await self.backend.getProcessedChildrenValues(self.id)
        return {key: codec.loads(value) for key, value in values.items()}

    async def getChildrenValues(self) -> dict[str, Any]:
        """Upstream's name for `get_children_values`."""
        return await self.get_children_values()

    async def move_to_delayed(self, delay: float, token: str | None = None) -> None:
        """Put the running job into the delayed set; raise `Snooze` instead where you can.

        Args:
            delay: Seconds from now.
            token: The lock's token; the job's own by default.
        """
        now = round(time.time() * 1000)
        wait = milliseconds("delay", delay)
        await self.moveToDelayed(now + wait, token or self.token or "")

    async def wait_until_finished(
        self, timeout: float | None = None, *, events: QueueEvents | None = None
    ) -> Any:
        """Wait for the job's result.

        An event that is lost to an outage, or dropped from a full stream, costs no more than a
        look at the job itself.

        Args:
            timeout: Seconds; None waits for ever.
            events: Events of the job's queue to listen on; by default the queue's own.

        Returns:
            What the processor returned.

        Raises:
            errors.JobFailedError: The job failed; its `failed_reason` says why.
            errors.JobNotFoundError: The job is gone, and its result with it.
            errors.WorkerStateError: The queue was closed meanwhile.
            TimeoutError: It did not finish in time.
        """
        async with asyncio.timeout(timeout):
            with Ending(self.backend, self.id, events or self.queue.events) as ending:
                return await ending.result()

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.name!r} of {self.queueQualifiedName}>"


def _loop_runs() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
