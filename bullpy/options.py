"""Job options: from Python's spelling to BullMQ's, and the checks that Node makes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict, cast

from bullpy import errors
from bullpy.types import Backoff, KeepJobs

PRIORITY_LIMIT = 2_097_151
"""The largest priority that BullMQ's scores have room for (Node 6: `PRIORITY_LIMIT`)."""

_EXCLUSIVE = (
    "removeDependencyOnFailure",
    "failParentOnFailure",
    "continueParentOnFailure",
    "ignoreDependencyOnFailure",
)


class JobOptions(TypedDict, total=False):
    """What `queue.add` takes as keywords. Durations are seconds.

    Attributes:
        job_id: An id of your own, so that adding twice adds once; not an integer, no colon.
        delay: Seconds before the job may run.
        priority: 1 (first) to 2,097,151; 0 or absent: before all of them, in order.
        attempts: How often it may run in all before it has failed.
        backoff: A `Backoff`, or seconds for a fixed one.
        lifo: Run it before those that wait already.
        timestamp: When it was created; a datetime, or milliseconds since 1970.
        remove_on_complete: True, a count to keep, or a `KeepJobs`.
        remove_on_fail: The same for jobs that failed.
        keep_logs: How many log lines to keep.
        stack_trace_limit: How many stack traces to keep.
        size_limit: Bytes of JSON that the data may have.
        parent: `{"id": ..., "queue": "prefix:name"}`.
        deduplication: `{"id": ..., "ttl": ms, "extend": ..., "replace": ...}` as BullMQ's.
        fail_parent_on_failure: See BullMQ's flows; only one of these four may be set.
        ignore_dependency_on_failure: See BullMQ's flows.
        remove_dependency_on_failure: See BullMQ's flows.
        continue_parent_on_failure: See BullMQ's flows.
    """

    job_id: str
    delay: float
    priority: int
    attempts: int
    backoff: Backoff | float
    lifo: bool
    timestamp: datetime | int
    remove_on_complete: KeepJobs | bool | int
    remove_on_fail: KeepJobs | bool | int
    keep_logs: int
    stack_trace_limit: int
    size_limit: int
    parent: Mapping[str, str]
    deduplication: Mapping[str, Any]
    fail_parent_on_failure: bool
    ignore_dependency_on_failure: bool
    remove_dependency_on_failure: bool
    continue_parent_on_failure: bool


_EXCLUSIVE_SET = frozenset(_EXCLUSIVE)

_WIRE_NAMES = {
    name: "".join(
        word.capitalize() if place else word for place, word in enumerate(name.split("_"))
    )
    for name in JobOptions.__annotations__
}

_CHECKED = frozenset(
    ["sizeLimit", *_EXCLUSIVE, "jobId", "priority", "deduplication", "debounce", "backoff"]
)
"""What `validate` looks at, in BullMQ's spelling."""


def to_wire(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords as BullMQ's options: camelCase, milliseconds.

    Raises:
        errors.InvalidJobOptionsError: A keyword is unknown, or a value has the wrong type.
    """
    wire: dict[str, Any] = {}
    for name, value in options.items():
        wire_name = _WIRE_NAMES.get(name)
        if wire_name is None:
            raise errors.InvalidJobOptionsError(
                f"There is no job option {name!r}.",
                fix=f"The options are: {', '.join(sorted(_WIRE_NAMES))}.",
            )
        if value is not None:
            wire[wire_name] = _converted(name, value)
    return wire


def validate(name: str, data_json: bytes, opts: Mapping[str, Any], *, has_parent: bool) -> None:
    """Make the checks of Node's `Job.validateOptions`, on BullMQ's spelling.

    Raises:
        errors.InvalidJobOptionsError: With the option, its value and what is allowed.
    """
    if _CHECKED.isdisjoint(opts):
        return
    limit = opts.get("sizeLimit")
    if limit and len(data_json) > limit:
        raise errors.InvalidJobOptionsError(
            f"The data of job {name!r} has {len(data_json)} bytes; sizeLimit is {limit}.",
            fix="Store the data elsewhere and pass a reference, or raise the limit.",
        )
    if not _EXCLUSIVE_SET.isdisjoint(opts):
        _check_exclusive(opts)
    _check_job_id(opts.get("jobId"))
    _check_priority(opts.get("priority"))
    deduplication = opts.get("deduplication")
    if deduplication is not None:
        if not isinstance(deduplication, Mapping) or not cast(
            "Mapping[str, Any]", deduplication
        ).get("id"):
            raise errors.InvalidJobOptionsError(
                "Deduplication id must be provided.", fix='Set deduplication={"id": "..."}.'
            )
        if has_parent:
            raise errors.InvalidJobOptionsError(
                "Deduplication and parent options cannot be used together.",
                fix="Leave one of them out.",
            )
    if "debounce" in opts:
        raise errors.InvalidJobOptionsError(
            "The option debounce was removed from BullMQ.", fix="Use deduplication instead."
        )
    backoff = opts.get("backoff")
    jitter = cast("Mapping[str, Any]", backoff).get("jitter") if isinstance(backoff, Mapping) else 0
    if isinstance(jitter, int | float) and not 0 <= jitter <= 1:
        raise errors.InvalidJobOptionsError(
            f"The backoff's jitter is {jitter}.", fix="Give a number from 0 to 1."
        )


def _check_exclusive(opts: Mapping[str, Any]) -> None:
    exclusive = [option for option in _EXCLUSIVE if opts.get(option)]
    if len(exclusive) > 1:
        raise errors.InvalidJobOptionsError(
            f"The following options cannot be used together: {', '.join(exclusive)}",
            fix="Keep one of them.",
        )


def _check_job_id(job_id: object) -> None:
    if not job_id:
        return
    if not isinstance(job_id, str):
        raise errors.InvalidJobOptionsError(
            f"The job id {job_id!r} is not text.", fix="Give a string."
        )
    if re.fullmatch(r"0|-?[1-9][0-9]*", job_id):
        raise errors.InvalidJobOptionsError(
            f"The job id {job_id!r} is an integer.",
            cause="BullMQ numbers jobs itself, so such an id would collide.",
            fix="Put a letter in front, such as 'order-" + job_id + "'.",
        )
    if ":" in job_id and job_id.count(":") != 2:
        raise errors.InvalidJobOptionsError(
            f"The job id {job_id!r} contains a colon.",
            cause="BullMQ joins key parts with colons.",
            fix="Use another separator, such as a dash.",
        )


def _check_priority(priority: object) -> None:
    if not priority:
        return
    if not isinstance(priority, int | float) or priority != int(priority):
        raise errors.InvalidJobOptionsError(
            f"The priority is {priority!r}.", fix="Give a whole number."
        )
    if not 0 <= priority <= PRIORITY_LIMIT:
        raise errors.InvalidJobOptionsError(
            f"The priority is {priority}.", fix=f"Give a number from 0 to {PRIORITY_LIMIT}."
        )


def _converted(name: str, value: Any) -> Any:
    if name == "delay":
        return milliseconds(name, value)
    if name == "backoff":
        return (value if isinstance(value, Backoff) else Backoff.fixed(value)).to_wire()
    if name in ("remove_on_complete", "remove_on_fail") and isinstance(value, KeepJobs):
        return value.to_wire()
    if name == "timestamp" and isinstance(value, datetime):
        return int(value.timestamp() * 1000)
    return value


def milliseconds(name: str, seconds: object) -> int:
    """Seconds as whole milliseconds.

    Raises:
        errors.InvalidJobOptionsError: Not a number, negative, or not finite.
    """
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not math.isfinite(seconds)
        or seconds < 0
    ):
        raise errors.InvalidJobOptionsError(
            f"The option {name} is {seconds!r}.", fix="Give seconds, 0 or more."
        )
    return round(seconds * 1000)
