"""Processors in child processes: whatever they do, one job is affected."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from bullpy import codec, cpus, errors
from bullpy.codec import Encoded
from bullpy.executors.frames import Kind
from bullpy.executors.handle import ChildEndedError, Exit, Handle
from bullpy.executors.ladder import Ladder
from bullpy.executors.launch import LOST, ForkServer, Launcher, Spawner
from bullpy.executors.pool import Pool
from bullpy.executors.wire import error_from_wire, error_to_wire
from bullpy.job import Job
from bullpy.limits import shown_bytes
from bullpy.processors import Processor
from bullpy.settings import WorkerSettings

CALLS = frozenset(
    [
        *("update_progress", "log", "update_data", "get_children_values"),
        *("find_jobs", "step_result", "store_step"),
    ]
)
"""What a job in a child may ask for."""

_FIELDS = (
    *("id", "name", "opts", "token", "timestamp", "delay", "priority", "processedOn"),
    *("attemptsStarted", "queueQualifiedName", "processedBy", "attemptsMade", "stalledCounter"),
    *("progress", "failedReason", "deduplicationId", "repeatJobKey", "parentKey", "parent"),
    *("crashes", "deaths"),
)
"""What a job in a child knows of itself."""

TRIES = 3
"""Children that a job is given before it begins in one; then the job is what they die of."""

_ADDRESS_SPACE = 2**30
"""Bytes that a job may map beyond twice its memory limit; see `child._limit_memory`."""


class ProcessExecutor:
    """Runs each job in a child process of its own, one child per slot.

    Args:
        processors: Those that run in children.
        settings: When children are exchanged, how they end, what they preload.
        size: How many jobs may run at a time now.
        queue_name: For the log.
        keep_raw: Whether a job's data is what was read from Redis, so that it need not be
            encoded again.
    """

    def __init__(
        self,
        processors: Sequence[Processor],
        settings: WorkerSettings,
        size: Callable[[], int],
        queue_name: str,
        *,
        keep_raw: bool,
    ) -> None:
        self._numbers = {id(processor): n for n, processor in enumerate(processors)}
        self._settings = settings
        self._queue_name = queue_name
        self._keep_raw = keep_raw
        surroundings = {
            "path": sys.path,
            "argv": sys.argv,
            "pythonpath": os.environ.get("PYTHONPATH"),
        }
        self._launcher: Launcher = (
            ForkServer(surroundings, settings.preload, settings.child_start_timeout)
            if settings.preload
            else Spawner()
        )
        init = {
            **surroundings,
            "log_level": logging.getLogger().getEffectiveLevel(),
            "processors": [processor.wire() for processor in processors],
        }
        early = min(size(), 2 * cpus.available())
        self._pool = Pool(self._launcher, init, settings, size, early)

    @property
    def pids(self) -> list[int]:
        """The process ids of the children."""
        return self._pool.pids

    async def start(self) -> None:
        """Start children before there is work.

        Raises:
            errors.ProcessorError: A module of `preload` cannot be imported.
        """
        await self._launcher.start()
        self._pool.start()

    async def ready(self) -> None:
        """Wait until a child can be given a job, or starting one has failed."""
        await self._pool.ready()

    async def run(self, processor: Processor, job: Job[Any], args: tuple[Any, ...]) -> Any:
        """Run the job in a free child; gives its result as JSON.

        Raises:
            errors.JobLimitError: It used more than the processor's limits.
            errors.ChildCrashedError: The child ended in the middle of the job.
            errors.ChildStartError: No child could be started, or none could load the processor.
            errors.BullpyError: What the processor raised.
        """
        del args
        tries = 0
        while True:
            tries += 1
            child = await self._pool.take()
            try:
                return await self._run_in(child, processor, job, may_repeat=tries < TRIES)
            except _NotBegunError:
                # The child had died while it was idle; the job takes no blame for it.
                continue
            except errors.ChildCrashedError as error:
                crash = error
            except asyncio.CancelledError:
                # Whoever waited for the job is gone, so nothing may go on for it.
                child.kill_now()
                raise
            finally:
                self._pool.give_back(child)
            # Only now: the next child need not wait for Redis.
            await _tell_log(job, crash, self._settings.stack_limit)
            raise crash

    async def close(self) -> None:
        """End all children."""
        await self._pool.close()
        await self._launcher.close()

    async def _run_in(
        self, child: Handle, processor: Processor, job: Job[Any], *, may_repeat: bool
    ) -> Encoded:
        memory = processor.limits.memory
        order = {
            "run": child.jobs + 1,
            "processor": self._numbers[id(processor)],
            "fields": {name: getattr(job, name) for name in _FIELDS},
            "address_space": None if memory is None else 2 * memory + _ADDRESS_SPACE,
        }
        data = job.raw_data if self._keep_raw and isinstance(job.raw_data, bytes) else None
        context = {"queue": self._queue_name, "job_id": job.id, "job_name": job.name}
        ladder = Ladder(child, job, processor.limits, self._settings.stop_grace)
        try:
            kind, body = await child.run(
                codec.dumps(order),
                data if data is not None else codec.dumps(job.data),
                lambda method, args: _answer(job, method, args),
                context,
            )
        except ChildEndedError as ended:
            if may_repeat and not ended.exit.had_begun and job.stop_reason is None:
                raise _NotBegunError from None
            error = ladder.exceeded or _ended_error(job, ended.exit, killed=child.was_killed)
            error.trace = _trace(error, ended.exit.tail)
            raise error from None
        finally:
            ladder.close()
        error = ladder.exceeded
        if kind == Kind.RESULT and error is None:
            return Encoded(body)
        raised = None if kind == Kind.RESULT else self._raised(processor, job, codec.loads(body))
        if error is None:
            assert raised is not None
            raise raised
        error.trace = getattr(raised, "trace", None)
        raise error

    def _raised(
        self, processor: Processor, job: Job[Any], wire: dict[str, Any]
    ) -> errors.BullpyError:
        if wire.get("load") is not None:
            failure = errors.ChildStartError(
                f"{processor.name} could not be loaded in a child process: {wire['load']['text']}",
                cause="Its module cannot be imported there, although it can in the worker.",
                fix="Look at the traceback.",
            )
            failure.trace = wire["load"]["trace"]
            return failure
        error = error_from_wire(wire)
        memory = processor.limits.memory
        if memory is not None and "MemoryError" in errors.kinds(error):
            refused = errors.MemoryLimitError(
                f"The job asked for far more than its memory limit of {shown_bytes(memory)}, "
                "and was refused.",
                fix="Raise the processor's memory, or let the job hold less at a time.",
            )
            refused.trace = getattr(error, "trace", None)
            return refused
        return error


class _NotBegunError(Exception):
    """The child ended before it began the job."""


async def _answer(job: Job[Any], method: str, args: list[Any]) -> dict[str, Any]:
    """Call a method of the job for its processor in a child."""
    try:
        if method not in CALLS:
            raise errors.JobStateError(f"A job in a child process has no {method}().")
        return {"value": await getattr(job, method)(*args)}
    except Exception as error:  # noqa: BLE001 - raised where it was called
        return {"error": error_to_wire(error)}


def _ended_error(job: Job[Any], ended: Exit, *, killed: bool) -> errors.JobError:
    if ended.code == LOST:
        # No crash of the job's own: it does not count as one.
        return errors.JobError(
            f"The child process of job {job.id} ended together with its fork server.",
            cause="A module of preload crashed the server, or something killed it.",
            fix="Look for its last lines in the worker's stderr; leave the module out of preload.",
        )
    if killed and job.stop_reason is not None:
        return errors.JobCancelledError(
            f"The job was stopped: {job.stop_reason}.",
            cause="It did not end by itself, so its child process was killed.",
        )
    what, cause = _how(ended)
    return errors.ChildCrashedError(
        f"The child process {what} while it ran job {job.id}.",
        cause=cause,
        fix="The last lines of its stderr stand in the job's stacktrace.",
    )


def _how(ended: Exit) -> tuple[str, str]:
    """How a child ended, and the likely cause."""
    code = ended.code
    if ended.hung_up:
        return (
            "closed its connection",
            "The processor closed, or wrote to, file descriptors that are not its own.",
        )
    if code is None:
        return "ended", "How it ended could not be found out."
    if code >= 0:
        return (
            f"ended with exit code {code}",
            "The processor, or a library that it uses, called os._exit() or exit().",
        )
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}", _CAUSES.get(name, "Something sent it that signal.")


_CAUSES = {
    "SIGKILL": "It was probably out of memory: the kernel, or the container's limit, killed it.",
    "SIGSEGV": "Native code accessed memory that is not its own.",
    "SIGBUS": "Native code read a mapped file that was truncated, or the disk failed.",
    "SIGABRT": "Native code gave up (abort): a failed assertion, or a corrupt heap.",
    "SIGFPE": "Native code divided by zero.",
    "SIGILL": "Native code was built for another processor.",
    "SIGXCPU": "The system's own limit of CPU time (ulimit -t) is reached.",
}


def _trace(error: errors.BullpyError, tail: str) -> str | None:
    return f"{error}\n\nThe last lines of the child's stderr:\n{tail}" if tail else None


async def _tell_log(job: Job[Any], error: errors.ChildCrashedError, limit: int) -> None:
    """Leave what the child said last in the job's log too."""
    if error.trace is None:
        return
    with contextlib.suppress(errors.BullpyError):
        await job.log(error.trace[-limit:])
