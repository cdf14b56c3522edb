"""Stores how a job ended. A Redis error is never the job's failure."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeGuard, cast

from bullpy import codec, errors
from bullpy.codec import Encoded
from bullpy.connection.pipelining import retry_pause
from bullpy.engine.calls import Calls
from bullpy.engine.eventstream import EventStream
from bullpy.engine.fetched import Fetched
from bullpy.engine.patience import Patience
from bullpy.engine.recovery import Recovery
from bullpy.engine.reports import Reports
from bullpy.engine.runner import Outcome, Running
from bullpy.engine.tally import Tally
from bullpy.job import Job
from bullpy.limits import shown_bytes
from bullpy.options import milliseconds
from bullpy.settings import WorkerSettings
from bullpy.types import StopReason

UNROUTABLE_DELAY = 10.0
"""Seconds after which a job comes back for whose name the worker has no processor."""

BackoffStrategy = Callable[[int, str, BaseException, Job[Any]], "float | Awaitable[float]"]
"""`(attempts made, backoff type, error, job)` gives milliseconds; -1 fails the job."""

# Upstream's control errors by name, as Node matches them: a plugin may bring its own.
_MOVED_BY_PROCESSOR = {"DelayedError", "WaitingChildrenError", "WaitingError"}
_UNRECOVERABLE = (
    errors.Discard,
    errors.PayloadError,
    errors.UndecodableJobError,
    errors.EncodingError,
    # Somebody wants it to end, not to begin again.
    errors.JobCancelledError,
)

log = logging.getLogger("bullpy.worker")


class Reporter(Protocol):
    """What settling tells the worker."""

    def emit(self, event_name: str, *args: object) -> None:
        """Emit a worker event."""
        ...

    def listener_count(self, event_name: str) -> int:
        """How many listeners a worker event has."""
        ...

    def report(self, error: Exception) -> None:
        """Log and emit an error that is not a job's failure."""
        ...

    @property
    def reports(self) -> Reports:
        """For what is tried until Redis does it."""
        ...


class Settler:
    """Moves a job to where its outcome sends it, and holds the outcome until Redis took it.

    Args:
        calls: The queue's script calls.
        recovery: For replies that are lost.
        settings: Limits of results, error texts, attempts.
        events: Counts what results add to the event stream.
        reporter: The worker.
        backoff_strategy: For backoff types that are not built in.

    Attributes:
        tally: Counts what it settled.
    """

    def __init__(
        self,
        calls: Calls,
        recovery: Recovery,
        settings: WorkerSettings,
        events: EventStream,
        reporter: Reporter,
        backoff_strategy: BackoffStrategy | None,
    ) -> None:
        self._calls = calls
        self._recovery = recovery
        self._settings = settings
        self._events = events
        self._large: set[str] = set()
        self._reporter = reporter
        self._backoff_strategy = backoff_strategy
        self._patience = Patience()
        self.tally = Tally()

    def settle(
        self, running: Running, outcome: Outcome, *, fetch_next: bool
    ) -> Coroutine[Any, Any, Fetched]:
        """Store the outcome, and give the next job where the script fetched one."""
        if outcome.error is None:
            return self._complete(running, outcome.result, fetch_next)
        return self._settle_error(running, outcome.error, fetch_next)

    async def _settle_error(
        self, running: Running, error: BaseException, fetch_next: bool
    ) -> Fetched:
        if running.job.stop_reason is StopReason.SHUTDOWN:
            # Whatever the processor made of its cancellation, it is not the job's failure.
            await self.release(running)
            return Fetched()
        if running.job.stop_reason is StopReason.LOCK_LOST:
            # It is another run's by now, and that one's outcome counts.
            return Fetched()
        if isinstance(error, errors.JobSignal) and not isinstance(
            error, errors.Retry | errors.Discard
        ):
            return await self._steer(running, error, fetch_next)
        names = set(errors.kinds(error))
        if names & _MOVED_BY_PROCESSOR:
            return Fetched()
        if "RateLimitError" in names:
            return await self._steer(running, errors.RateLimited(), fetch_next)
        fatal = isinstance(error, _UNRECOVERABLE) or "UnrecoverableError" in names
        return await self.fail(running, error, fatal=fatal, fetch_next=fetch_next)

    async def fail(
        self, running: Running, error: BaseException, *, fatal: bool, fetch_next: bool
    ) -> Fetched:
        """Count a failed attempt: run again as the job's options say, or move it to failed."""
        job = running.job
        reason = errors.describe(error)
        if isinstance(error, errors.ChildCrashedError):
            job.crashes += 1
            if job.crashes >= self._settings.max_crashes:
                fatal = True
                reason += f" It has crashed {job.crashes} times, so it is not run again."
        reason = _limited(reason, self._settings.error_limit)
        delay, reason = await self._delay_before_retry(job, error, reason, fatal=fatal)
        job.failedReason = reason
        self._remember_trace(job, error)
        if delay is None:
            fetched = await self._persist(
                running, lambda: self._calls.fail(job, reason, fetch_next=fetch_next)
            )
        else:
            await self._persist(
                running,
                lambda: (
                    self._calls.delay(job, delay, reason=reason, attempt=True)
                    if delay
                    else self._calls.retry(job, reason)
                ),
            )
            fetched = Fetched()
        if fetched is None:
            return Fetched()
        self._events.note(len(reason))
        self.tally.fail(job.id, reason)
        job.attemptsMade += 1
        self._reporter.emit("failed", job, error)
        return fetched

    async def drop_ghost(self, running: Running) -> Fetched:
        """Forget a job of which only the id is left."""
        job = running.job
        error = cast("Exception", job.decode_error)
        await self._persist(running, lambda: self._calls.drop(job, errors.describe(error)))
        self._reporter.emit("failed", job, error)
        return Fetched()

    async def unroutable(self, running: Running) -> Fetched:
        """Put a job back for which there is no processor, without counting an attempt."""
        job = running.job
        await self._persist(
            running,
            lambda: self._calls.delay(
                job, milliseconds("delay", UNROUTABLE_DELAY), reason=None, attempt=False
            ),
        )
        return Fetched()

    async def release(self, running: Running) -> None:
        """Hand the job back to the front of the queue, without counting an attempt."""
        await self._persist(running, lambda: self._calls.release(running.job))

    async def _complete(self, running: Running, result: object, fetch_next: bool) -> Fetched:
        job = running.job
        try:
            encoded = result.json if isinstance(result, Encoded) else codec.dumps(result)
            self._check_size(job, encoded)
        except errors.EncodingError as error:
            # The work is done: running it again would give the same.
            return await self.fail(running, error, fatal=True, fetch_next=fetch_next)
        fetched = await self._persist(
            running, lambda: self._calls.complete(job, encoded, fetch_next=fetch_next)
        )
        if fetched is None:
            return Fetched()
        self._events.note(len(encoded))
        self.tally.complete(job.id)
        job.attemptsMade += 1
        if not isinstance(result, Encoded) or self._reporter.listener_count("completed"):
            # Decoded only where somebody looks: a large result would block the loop.
            value = result.value if isinstance(result, Encoded) else result
            job.returnvalue = value
            self._reporter.emit("completed", job, value)
        return fetched

    def _check_size(self, job: Job[Any], encoded: bytes) -> None:
        size, limit = len(encoded), self._settings.result_limit
        if limit and size > limit:
            raise errors.EncodingError(
                f"The result of job {job.id} has {size} bytes; the limit is {limit}.",
                cause="BullMQ stores a result twice, and a third time for a parent, in memory.",
                fix="Store the result elsewhere and return a reference, or raise result_limit.",
            )
        advised = self._settings.result_warning
        if advised and size > advised and job.name not in self._large:
            self._large.add(job.name)
            log.warning(
                "the result of job %s has %s: BullMQ stores it twice in Redis's memory, and sends "
                "it to all who follow the queue. Store it elsewhere and return a reference. "
                "Further ones of jobs named %r are not told.",
                job.id,
                shown_bytes(size),
                job.name,
                extra={"queue": job.queue.name, "job_id": job.id},
            )

    async def _steer(self, running: Running, signal: errors.JobSignal, fetch_next: bool) -> Fetched:
        """Do what the processor asked for its job; none of it is a failure."""
        job = running.job
        if isinstance(signal, errors.Snooze):
            try:
                wait = milliseconds("Snooze delay", signal.delay)
            except errors.InvalidJobOptionsError as wrong:
                return await self.fail(running, wrong, fatal=True, fetch_next=fetch_next)
            await self._persist(
                running, lambda: self._calls.delay(job, wait, reason=None, attempt=False)
            )
            return Fetched()
        if isinstance(signal, errors.WaitForChildren):
            waits = await self._persist(running, lambda: self._calls.wait_for_children(job))
            if waits is False:
                # The children are done already: run the job again now.
                await self.release(running)
            return Fetched()
        delay = signal.delay if isinstance(signal, errors.RateLimited) else None
        if delay is not None:
            await self._persist(running, lambda: self._calls.limit(delay))
        limited = await self._persist(running, lambda: self._calls.release(job))
        # After a lost reply it is not known for how long the limit holds: the next fetch tells.
        return Fetched(True, None, limited) if limited and isinstance(limited, float) else Fetched()

    # -- attempts --------------------------------------------------------------------------

    async def _delay_before_retry(
        self, job: Job[Any], error: BaseException, reason: str, *, fatal: bool
    ) -> tuple[int | None, str]:
        """Milliseconds until the next attempt, None if there is none; and the reason to store."""
        started = self._settings.max_started_attempts
        exhausted = job.attemptsMade + 1 >= int(job.opts.get("attempts") or 0)
        if fatal or job.discarded or exhausted or (started and job.attemptsStarted >= started):
            return None, reason
        backoff = cast("dict[str, Any] | None", job.opts.get("backoff"))
        try:
            if isinstance(error, errors.Retry) and error.delay is not None:
                return milliseconds("Retry delay", error.delay), reason
            if not backoff:
                return 0, reason
            delay = await self._backoff(backoff, job, error)
            return (None if delay < 0 else round(delay)), reason
        except Exception as broken:  # noqa: BLE001 - the strategy is the user's
            # The attempt cannot be scheduled; failing the job keeps it from looping for ever.
            return None, f"{reason} (no retry: {errors.describe(broken)})"

    async def _backoff(self, backoff: dict[str, Any], job: Job[Any], error: BaseException) -> float:
        kind = str(backoff.get("type"))
        base = float(backoff.get("delay") or 0)
        attempts = job.attemptsMade + 1
        if kind == "exponential":
            base *= 2 ** (attempts - 1)
        if kind in ("fixed", "exponential"):
            jitter = float(backoff.get("jitter") or 0)
            # As Node's backoffs.js: a random part of the delay, at least (1 - jitter) of it.
            return base * (1 - jitter * random.random()) if jitter else base
        if self._backoff_strategy is None:
            raise errors.ConfigurationError(
                f"Unknown backoff strategy {kind}.",
                cause="The worker has no backoff_strategy.",
                fix="Give the worker one, or use fixed or exponential.",
            )
        given = self._backoff_strategy(attempts, kind, error, job)
        return float(await given if inspect.isawaitable(given) else given)

    def _remember_trace(self, job: Job[Any], error: BaseException) -> None:
        limit = job.opts.get("stackTraceLimit")
        told = getattr(error, "trace", None)
        if isinstance(told, str):
            # Where it happened is another process.
            text = told
        elif error.__traceback__ is None and error.__cause__ is None:
            text = errors.describe(error)
        else:
            text = "".join(traceback.format_exception(error))
        job.stacktrace.append(_limited(text, self._settings.stack_limit))
        if limit is not None:
            job.stacktrace = job.stacktrace[-limit:] if limit else []

    # -- holding on ------------------------------------------------------------------------

    async def _persist(self, running: Running, call: Callable[[], Awaitable[Any]]) -> Any:
        """Repeat the call until Redis took it; a lock that ran out meanwhile is taken again.

        Returns:
            Its reply; after a lost reply that had done its work, the job that came with it;
            None when the lock is gone, so that another worker owns the job now.
        """
        job = running.job
        ambiguous = False
        asked: list[int] = []
        expired: errors.LockLostError | None = None
        failures = 0
        while True:
            try:
                if ambiguous and await self._recovery.was_settled(job):
                    stored = await self._recovery.adopt(job.token or "", asked)
                    break
                if expired and not await self._calls.retake(job.id, job.token or ""):
                    raise expired
                stored = await call()
                self._patience.worked()
                break
            except errors.JobError as gone:
                if expired is None and _ran_out(gone, running):
                    expired = gone
                    continue
                if not running.released:
                    self._reporter.report(_discarded(job, gone))
                stored = None
                break
            except errors.ReplyLostError as unknown:
                ambiguous = True
                if unknown.asked is not None:
                    asked.append(unknown.asked)
                await asyncio.sleep(max(0.02, retry_pause(failures, 0.05, 1.0)))
            except errors.RedisError as error:
                self._reporter.reports.failing(f"store {job.id}", error)
                await self._patience.wait(failures)
            failures += 1
        if failures:
            self._reporter.reports.works(f"store {job.id}")
        return stored


def _ran_out(gone: errors.JobError, running: Running) -> TypeGuard[errors.LockLostError]:
    """Whether the lock may just have run out: nobody has said that the job is another run's."""
    is_held = not running.released and running.job.stop_reason is not StopReason.LOCK_LOST
    return is_held and isinstance(gone, errors.LockLostError)


def _discarded(job: Job[Any], gone: errors.JobError) -> errors.JobError:
    return type(gone)(
        f"The outcome of job {job.id} was discarded. {gone.message}",
        cause="Its lock expired, or it was removed while it ran; another worker may run it.",
        fix="If it was not removed: raise lock_duration, or look for what starved this process.",
    )


def _limited(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit - 40]}... ({len(text)} characters in all)"
