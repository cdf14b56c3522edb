"""Steps of a job: what is done once and not again when the job runs again; see `Job.once`.

A step's result is a field of the job's hash, `bullpy:once:<step>`, as JSON. BullMQ knows nothing of
it, keeps it through retries, and removes it with the job.
"""

from __future__ import annotations

import inspect
from typing import Any

from bullpy import codec, errors

PREFIX = "bullpy:once:"
"""What the name of the field begins with; the step's name follows."""

NAME_LIMIT = 200
"""Characters that a step's name may have."""

RESULT_LIMIT = 64 * 1024
"""Bytes of JSON that a step's result may have: it is read each time that the job is fetched."""


def field_of(step: str) -> str:
    """The field that holds the step's result.

    Raises:
        errors.ConfigurationError: That is no name for a step.
    """
    if not isinstance(step, str) or not 0 < len(step) <= NAME_LIMIT:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise errors.ConfigurationError(
            f"{step!r:.100} is no name for a step.",
            fix=f"Give text of 1 to {NAME_LIMIT} characters, the same one on each run.",
        )
    return PREFIX + step


def encode(step: str, result: object) -> str:
    """A step's result as it is stored.

    Raises:
        errors.EncodingError: It has no JSON form, or is too large. The step has been done then,
            and doing it again would give the same, so the job fails without further attempts.
        errors.ProcessorError: It is to be awaited, and nobody can.
    """
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise errors.ProcessorError(
            f"The function of step {step!r} is async, and this processor is not.",
            fix="Make the processor an async def, or the function a plain def.",
        )
    encoded = codec.dumps(result)
    if len(encoded) > RESULT_LIMIT:
        raise errors.EncodingError(
            f"The result of step {step!r} has {len(encoded)} bytes of JSON; the limit is "
            f"{RESULT_LIMIT}.",
            fix="Store it elsewhere and return a reference.",
        )
    return encoded.decode()


def decode(encoded: str | bytes) -> Any:
    """A step's result, the same way on each run."""
    return codec.loads(encoded)
