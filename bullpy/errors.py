"""Every error bullpy raises on purpose, in one tree.

```
BullpyError
├── ConfigurationError          a setting, an argument or an option is wrong      (also ValueError)
│   ├── InvalidJobOptionsError  an option that BullMQ refuses
│   └── MissingExtraError       an optional dependency is not installed           (also ImportError)
├── RedisError                  something about the connection or the server
│   ├── RedisUnavailableError   no server there, or not in time                   (also OSError)
│   │   └── ReplyLostError      the command was sent, its reply never came
│   │       └── CommandTimeoutError   not within command_timeout              (also TimeoutError)
│   ├── CommandRefusedError     the server answered a command with an error
│   ├── RedisAuthError          user, password or ACL refused
│   ├── NotRedisError           something answers there that is not Redis
│   ├── RedisTlsError           TLS on one side only, or a certificate refused
│   ├── UnsupportedServerError  older than 6.2, or lacks a command
│   ├── ReadOnlyServerError     a read-only replica
│   ├── EvictionPolicyError     maxmemory-policy is not noeviction
│   ├── ForkedClientError       a client inherited through fork
│   └── EmbeddedServerError     the embedded server did not start or stop
├── JobError                    one job, never its neighbours
│   ├── JobNotFoundError        the job's hash is gone                            (also TypeError)
│   ├── LockLostError           the lock is gone or is another worker's           (also TypeError)
│   ├── JobStateError           the job is not in the state the call needs        (also TypeError)
│   ├── JobFailedError          raised to who waits for a job that failed
│   ├── UndecodableJobError     what Redis holds for the job is not a job
│   ├── PayloadError            job.data breaks the processor's model
│   ├── EncodingError           job data, progress or a result has no JSON form
│   ├── UnknownJobNameError     no processor for this job name
│   ├── JobCancelledError       the job was cancelled, or its worker is stopping
│   ├── JobLimitError           the processor used more than it may
│   │   ├── JobTimeoutError     more time                                        (also TimeoutError)
│   │   ├── MemoryLimitError    more memory
│   │   └── CpuLimitError       more CPU time
│   ├── ChildCrashedError       the child process ended in the middle of the job
│   ├── ChildStartError         no child process could be started for the job
│   └── RemoteError             what a processor raised in its child process
├── WorkerError                 the worker itself
│   ├── WorkerStateError        run() twice, or a call that needs a running worker
│   ├── WorkerCrashedError      the run loop ended although nobody closed it
│   ├── ProcessorError          a processor target cannot be found or used
│   └── VersionMismatchError    the installed bullmq is not the one we were built against
└── JobSignal                   raised by processors to steer their job; not failures
    ├── Retry                   run again later, using an attempt
    ├── Snooze                  run again later, without using an attempt
    ├── Discard                 fail now, no retries
    ├── WaitForChildren         run again when the children are done
    └── RateLimited             put the job back and stop fetching for a while
```

An error's text says what happened, the likely cause, and what to do. Its `code` is
stable: the documentation refers to it. Three job errors are `TypeError`
too, because that is what upstream's `bullmq` raises in their place.
"""

from __future__ import annotations

from typing import Any, ClassVar


class BullpyError(Exception):
    """Base of every error that bullpy raises on purpose.

    Args:
        message: What happened.
        cause: The likely cause, a full sentence.
        fix: What to do, a full sentence.

    Attributes:
        code: Stable identifier, such as `redis-unavailable`.
    """

    code: ClassVar[str] = "bullpy"

    def __init__(self, message: str, *, cause: str | None = None, fix: str | None = None) -> None:
        super().__init__(" ".join(part for part in (message, cause, fix) if part))
        self.message = message
        self.cause = cause
        self.fix = fix


class ConfigurationError(BullpyError, ValueError):
    """A setting, an argument or an option is wrong."""

    code = "configuration"


class InvalidJobOptionsError(ConfigurationError):
    """An option that BullMQ refuses; the rules are those of Node's `Job.validateOptions`."""

    code = "invalid-job-options"


class MissingExtraError(ConfigurationError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: The module that could not be imported.
        extra: The extra of bullpy that brings it.
    """

    code = "missing-extra"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed.", fix=f'Install it with: pip install "bullpy[{extra}]"'
        )


class RedisError(BullpyError):
    """Something about the connection or the server."""

    code = "redis"


class RedisUnavailableError(RedisError, OSError):
    """No Redis answered at the address, or not in time."""

    code = "redis-unavailable"


class ReplyLostError(RedisUnavailableError):
    """The command was sent, and the connection ended before its reply: it may have run.

    Attributes:
        asked: For a command that fetches a job, the time that it gave, in ms since 1970.
    """

    code = "reply-lost"
    asked: int | None = None


class CommandTimeoutError(ReplyLostError, TimeoutError):
    """The command was sent and got no reply within `command_timeout`: it may have run."""

    code = "command-timeout"


class CommandRefusedError(RedisError):
    """The server answered a command with an error, such as OOM, LOADING or MISCONF.

    Attributes:
        kind: The error's first word as Redis sends it, such as `OOM`.
    """

    code = "command-refused"

    def __init__(
        self, message: str, *, kind: str, cause: str | None = None, fix: str | None = None
    ) -> None:
        super().__init__(message, cause=cause, fix=fix)
        self.kind = kind


class RedisAuthError(RedisError):
    """User, password or ACL refused."""

    code = "redis-auth"


class NotRedisError(RedisError):
    """Something answers at the address that is not Redis."""

    code = "not-redis"


class RedisTlsError(RedisError):
    """TLS on one side only, or a certificate that was refused."""

    code = "redis-tls"


class UnsupportedServerError(RedisError):
    """The server is older than 6.2 or lacks a command that BullMQ needs."""

    code = "unsupported-server"


class ReadOnlyServerError(RedisError):
    """The server is a read-only replica."""

    code = "read-only"


class EvictionPolicyError(RedisError):
    """The server may evict keys: `maxmemory-policy` is not `noeviction`."""

    code = "eviction-policy"


class ForkedClientError(RedisError):
    """A client that belongs to the parent process was used in a forked child."""

    code = "forked-client"


class EmbeddedServerError(RedisError):
    """The embedded Valkey server did not start, or stopped."""

    code = "embedded-server"


class JobError(BullpyError):
    """One job, never its neighbours.

    Attributes:
        trace: For `stacktrace`, where it happened in another process: a traceback, or the last
            lines that the process wrote to stderr.
    """

    code = "job"
    trace: str | None = None


class JobNotFoundError(JobError, TypeError):
    """The job's hash is gone: it was removed, or the queue was emptied."""

    code = "job-not-found"


class LockLostError(JobError, TypeError):
    """The job's lock expired or belongs to another worker."""

    code = "lock-lost"


class JobStateError(JobError, TypeError):
    """The job is not in the state that the call needs."""

    code = "job-state"


class JobFailedError(JobError):
    """Raised to who waits for a job that failed.

    Attributes:
        failed_reason: The job's failedReason.
    """

    code = "job-failed"

    def __init__(self, job_id: str, failed_reason: str) -> None:
        super().__init__(f"Job {job_id} failed: {failed_reason}")
        self.job_id = job_id
        self.failed_reason = failed_reason


class UndecodableJobError(JobError):
    """What Redis holds for the job is not a job."""

    code = "undecodable-job"


class PayloadError(JobError):
    """`job.data` breaks the processor's model. The job fails without retries."""

    code = "payload"


class EncodingError(JobError):
    """A value has no JSON form. A job whose result has none fails once and is not run again."""

    code = "encoding"


class UnknownJobNameError(JobError):
    """The worker has no processor for this job name."""

    code = "unknown-job-name"


class JobCancelledError(JobError):
    """The job was cancelled, or its worker is stopping."""

    code = "cancelled"


class JobLimitError(JobError):
    """The processor used more than it may: the text says which limit, its value, what was used."""

    code = "job-limit"


class JobTimeoutError(JobLimitError, TimeoutError):
    """The processor ran longer than its `timeout`.

    Raised inside a child process too, where the job is to end.
    """

    code = "job-timeout"


class MemoryLimitError(JobLimitError):
    """The child process used more memory than the processor's `memory`."""

    code = "memory-limit"


class CpuLimitError(JobLimitError):
    """The processor used more CPU time than its `cpu`."""

    code = "cpu-limit"


class ChildCrashedError(JobError):
    """The child process ended in the middle of the job: a signal, an exit, a closed connection."""

    code = "child-crashed"


class ChildStartError(JobError):
    """No child process could be started for the job, or it could not load the processor."""

    code = "child-start"


class RemoteError(JobError):
    """What a processor raised in its child process, as `Type: message`.

    Attributes:
        kinds: The names of the exception's class and its bases, in order.
    """

    code = "processor-raised"

    def __init__(self, text: str, *, kinds: tuple[str, ...] = (), trace: str | None = None) -> None:
        super().__init__(text)
        self.kinds = kinds
        self.trace = trace


class WorkerError(BullpyError):
    """The worker itself."""

    code = "worker"


class WorkerStateError(WorkerError):
    """`run()` was called twice, or a call needs a worker in another state."""

    code = "worker-state"


class WorkerCrashedError(WorkerError):
    """The run loop ended although nobody closed the worker."""

    code = "worker-crashed"


class ProcessorError(WorkerError):
    """A processor or worker target cannot be found or used."""

    code = "processor"


class VersionMismatchError(WorkerError):
    """The installed `bullmq` is not the one bullpy was built against."""

    code = "version-mismatch"


class JobSignal(BullpyError):  # noqa: N818 - not an error
    """Raised by a processor to steer its own job; not a failure by itself."""

    code = "signal"


class Retry(JobSignal):
    """Run the job again later, using an attempt; fails it when none remain.

    Args:
        reason: Stored as `failedReason` of this attempt.
        delay: Seconds to wait; None uses the job's backoff.
    """

    code = "retry"

    def __init__(self, reason: str = "retry requested", *, delay: float | None = None) -> None:
        super().__init__(reason)
        self.delay = delay


class Snooze(JobSignal):
    """Run the job again later, without using an attempt.

    Args:
        delay: Seconds to wait.
    """

    code = "snooze"

    def __init__(self, delay: float) -> None:
        super().__init__(f"snoozed for {delay} s")
        self.delay = delay


class Discard(JobSignal):
    """Fail the job now, whatever attempts remain.

    Args:
        reason: Stored as `failedReason`.
    """

    code = "discard"

    def __init__(self, reason: str = "discarded") -> None:
        super().__init__(reason)


class WaitForChildren(JobSignal):
    """Park the job until the children it added are done, then run it again."""

    code = "wait-for-children"

    def __init__(self) -> None:
        super().__init__("waiting for children")


class RateLimited(JobSignal):
    """Put the job back and fetch nothing for a while, in every worker of the queue.

    Args:
        delay: Seconds; None when `queue.rate_limit()` was called already.
    """

    code = "rate-limited"

    def __init__(self, delay: float | None = None) -> None:
        super().__init__("rate limited")
        self.delay = delay


def describe(error: BaseException) -> str:
    """A one-line text for any exception: `Type: message`, never empty, never raising.

    bullpy's own errors and BullMQ's control errors keep their bare message, since it was
    written for the reader of `failedReason`.
    """
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException as broken:  # noqa: BLE001 - a broken __str__ must not hide the failure
        return f"{name}: <its __str__ raised {type(broken).__name__}>"
    if isinstance(error, BullpyError) and text:
        return text
    return f"{name}: {text}" if text else name


def kinds(error: BaseException) -> tuple[str, ...]:
    """The names of the error's class and its bases; those it had in a child process.

    BullMQ matches control errors by name, so that a plugin may bring its own.
    """
    if isinstance(error, RemoteError):
        return error.kinds
    return tuple(kind.__name__ for kind in type(error).__mro__)


def as_dict(error: BaseException) -> dict[str, Any]:
    """The error for machines: `code`, `message`, and where known `cause` and `fix`."""
    if isinstance(error, BullpyError):
        return {
            "code": error.code,
            "message": error.message,
            "cause": error.cause,
            "fix": error.fix,
        }
    return {"code": type(error).__name__, "message": describe(error), "cause": None, "fix": None}
