"""Exceptions as JSON, so that they cross the border between a worker and its children."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from bullpy import errors

LONGEST_TEXT = 2**20
"""Characters of a message or a traceback that cross the border; the worker stores less."""

_OURS = errors.BullpyError.__module__


def error_to_wire(error: BaseException) -> dict[str, Any]:
    """An exception as JSON: its text, its kinds, its traceback, and what bullpy's own carry."""
    ours = next((kind for kind in type(error).__mro__ if kind.__module__ == _OURS), None)
    wire: dict[str, Any] = {
        "text": errors.describe(error)[:LONGEST_TEXT],
        "kinds": list(errors.kinds(error)),
        "trace": _trace(error),
    }
    if (
        ours is not None
        and isinstance(error, errors.BullpyError)
        and ours is not errors.RemoteError
    ):
        wire["ours"] = ours.__name__
        wire["parts"] = [error.message, error.cause, error.fix]
        wire["extra"] = {
            name: value
            for name, value in vars(error).items()
            if name not in ("message", "cause", "fix")
            and (value is None or isinstance(value, str | int | float))
        }
    return wire


def error_from_wire(wire: dict[str, Any]) -> errors.BullpyError:
    """The exception again: one of bullpy's own as it was, any other as a RemoteError."""
    kind = getattr(errors, str(wire.get("ours")), None)
    if not (isinstance(kind, type) and issubclass(kind, errors.BullpyError)):
        return errors.RemoteError(wire["text"], kinds=tuple(wire["kinds"]), trace=wire.get("trace"))
    error = kind.__new__(kind)
    message, cause, fix = wire["parts"]
    # Not its own __init__: the signals take other arguments and make the text from them.
    errors.BullpyError.__init__(error, message, cause=cause, fix=fix)
    vars(error).update(wire.get("extra", {}), trace=wire.get("trace"))
    return error


def _trace(error: BaseException) -> str | None:
    """The traceback as text, without the frames that lead to the processor and back."""
    if error.__traceback__ is None and error.__cause__ is None:
        return error.trace if isinstance(error, errors.JobError) else None
    whole = traceback.TracebackException.from_exception(error)
    ours = str(Path(__file__).parent)
    frames = [frame for frame in whole.stack if not frame.filename.startswith(ours)]
    whole.stack = traceback.StackSummary.from_list(frames)
    text = "".join(whole.format())
    if isinstance(error, errors.RemoteError) and error.trace is not None:
        # It has crossed the border before.
        text = f"{error.trace}\nThe above happened in the worker, for this call:\n\n{text}"
    return text[:LONGEST_TEXT]
