"""The verdict where Redis cannot be used at all: one cause for each way of not reaching it."""

from __future__ import annotations

from bullpy import errors
from bullpy.connection.probe import ProbeReport
from bullpy.doctor.look import QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict

UNREACHABLE = Cause(
    code="redis-unreachable",
    number=0,
    level=Level.UNREACHABLE,
    title="Redis cannot be reached",
    symptom="Neither the API nor the worker does anything; logs speak of ECONNREFUSED, timeouts or "
    "unknown hosts.",
    why="The connection fails before any question about queues can be asked. The step that failed "
    "(DNS, TCP, TLS, PING) and the error name the reason.",
    fix="Do what the failed step says: start Redis, correct host and port, or open the network.",
)
NOT_CONFIGURED = Cause(
    code="not-configured",
    number=0,
    level=Level.UNREACHABLE,
    title="The settings do not say where Redis is, or are wrong",
    symptom="The process ends at once, and its message names a variable.",
    why="A service does not inherit the variables of another one. bullpy refuses to guess; ioredis "
    "and redis-py would connect to 127.0.0.1:6379.",
    fix="Set REDIS_URL for this service to the URL that the other side uses.",
    certainty=Certainty.STATED,
)
WRONG_SERVER = Cause(
    code="wrong-server",
    number=0,
    level=Level.UNREACHABLE,
    title="What answers is not a Redis that BullMQ can use",
    symptom="The connection is made, and the first command fails.",
    why="Something else listens at that port, TLS is spoken by one side only, or the server is "
    "older than Redis 6.2.",
    fix="Correct the URL, or upgrade the server.",
)
UNREADABLE = Cause(
    code="queue-unreadable",
    number=0,
    level=Level.BLOCKED,
    title="The queue cannot be read with this URL",
    symptom="Redis answers, and every command about the queue is refused.",
    why="The user of the URL may not read the queue's keys, or the keys are on another node of a "
    "cluster. A worker with the same URL has the same trouble.",
    fix="Use the URL of the worker, or give its user the queue's keys and EVAL.",
    rank=95,
)
CHECKS.declare(UNREACHABLE, NOT_CONFIGURED, WRONG_SERVER, UNREADABLE)

_OF_ERRORS = {
    "redis-auth": "auth-refused",
    "read-only": "read-only-replica",
    "not-redis": "wrong-server",
    "redis-tls": "wrong-server",
    "unsupported-server": "wrong-server",
}
"""The cause's code for an error's code."""


def not_configured(error: errors.ConfigurationError) -> Verdict:
    """The verdict where the settings are missing or wrong."""
    code = "localhost-default" if _is_missing(error) else NOT_CONFIGURED.code
    cause = CHECKS.causes.get(code, NOT_CONFIGURED)
    return cause.verdict(
        f"{error.message} {error.cause or ''}".strip(),
        Proof("settings", error.message),
        fix=error.fix,
        level=Level.UNREACHABLE,
        certainty=Certainty.STATED,
    )


def not_reached(report: ProbeReport) -> Verdict:
    """The verdict where a step of connecting failed."""
    step = report.steps[-1]
    error = step.error
    assert error is not None
    cause = CHECKS.causes.get(_code_of(error), UNREACHABLE)
    done = ", ".join(each.name for each in report.steps[:-1])
    return cause.verdict(
        f"{error.message} {error.cause or ''}".strip(),
        Proof(f"{step.name} {report.url}", step.detail),
        fix=error.fix,
        level=Level.UNREACHABLE,
        certainty=Certainty.CERTAIN,
        refutes=(f"a failure of {done}",) if done else (),
    )


def unreadable(queue: QueueLook) -> Verdict:
    """The verdict where a queue could not be read."""
    # Workers have the same URL, as a rule, and so the same user.
    is_denied = "forbids a command or key" in queue.refusal
    cause = CHECKS.causes.get("acl-denied", UNREADABLE) if is_denied else UNREADABLE
    return cause.verdict(
        f"Queue {queue.name} cannot be read: {queue.refusal}",
        Proof(f"EVAL ... {queue.key('meta')}", queue.refusal),
    )


def _is_missing(error: errors.ConfigurationError) -> bool:
    return "Nothing says where" in error.message or "set but empty" in error.message


def _code_of(error: errors.RedisError) -> str:
    text = str(error)
    if "accepts no more clients" in text:
        return "too-many-clients"
    if isinstance(error, errors.RedisAuthError) and "forbids" in text:
        return "acl-denied"
    return _OF_ERRORS.get(error.code, UNREACHABLE.code)
