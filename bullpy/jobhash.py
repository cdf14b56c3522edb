"""A job as Redis holds it: the fields of its hash, and what can be wrong with them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from bullmq.backoffs import Backoffs
from bullmq.job import optsFromJSON

from bullpy import codec, errors

Raw = Mapping[bytes, bytes | str]
"""The fields by their names, undecoded."""

CRASHES_FIELD = b"bullpy:crashes"
"""The field of a job's hash that counts the children it crashed; BullMQ leaves it alone."""

DEATHS_FIELD = b"bullpy:deaths"
"""The field that counts the worker processes that died while they ran the job."""

LATER_FIELDS = frozenset(
    [
        *(b"atm", b"attemptsMade", b"stc", b"finishedOn", b"rjk", b"defa", b"failedReason"),
        *(b"deid", b"progress", b"returnvalue", b"stacktrace", b"parentKey", b"parent"),
        *(CRASHES_FIELD, DEATHS_FIELD),
    ]
)
"""What a job gets after its first start, or as part of a flow or scheduler."""


class Reader:
    """Reads the fields of a job's hash and remembers what was wrong first.

    Args:
        job_id: The job's id, for messages.
        raw: The fields.

    Attributes:
        error: Why the job cannot be run, None for a sound one.
    """

    def __init__(self, job_id: str, raw: Raw) -> None:
        self._job_id = job_id
        self._raw = raw
        self.error: errors.UndecodableJobError | None = None

    def text(self, name: bytes) -> str | None:
        """Text, None where the field is missing."""
        value = self._raw.get(name)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return value

    def number(self, name: bytes) -> int:
        """A whole number; Node also stores fractions (`Date.now() + 0.5`)."""
        value = self._raw.get(name)
        if not value:
            return 0
        try:
            return int(value)
        except ValueError:
            pass
        try:
            return int(float(value))
        except (ValueError, OverflowError):
            self.complain(name.decode(), f"not a number: {value!r:.60}")
            return 0

    def json(self, name: bytes, *, empty: object, or_text: bool = False) -> Any:
        """JSON; an empty field is what Node takes it for (`updateData(undefined)`)."""
        value = self._raw.get(name)
        if not value:
            return empty
        try:
            return codec.loads(value)
        except (ValueError, RecursionError) as error:
            if or_text:
                return self.text(name)
            self.complain(name.decode(), f"not JSON ({error})")
            return empty

    def options(self) -> dict[str, Any]:
        """The job's options, decoded; a worker's jobs mostly have the same, so some are kept."""
        value = self._raw.get(b"opts")
        try:
            kept = _options(value or b"{}")
        except (ValueError, RecursionError) as error:
            self.complain("opts", f"not JSON ({error})")
            kept = _options(b"{}")
        if kept is None:
            self.complain("opts", "not an object")
            kept = _options(b"{}")
        assert kept is not None
        opts = dict(kept.opts)
        for name in kept.nested:
            # What could be changed through one job and seen by another.
            opts[name] = dict(opts[name])
        return opts

    def traces(self) -> list[str]:
        """The stack traces; a text that is not a JSON list is taken for one trace."""
        value = self.json(b"stacktrace", empty=[], or_text=True)
        return cast("list[str]", value) if isinstance(value, list) else [str(value)]

    def complain(self, field: str, problem: str) -> None:
        """Take the job for one that cannot be run."""
        if self.error is None:
            self.error = errors.UndecodableJobError(
                f"Job {self._job_id} cannot be run: its {field} is {problem}.",
                cause="It was not written by BullMQ, or was damaged afterwards.",
                fix="Inspect the job's hash; remove the job, or repair the field and retry it.",
            )


class _Options(NamedTuple):
    """Decoded options, and the names of those that are objects."""

    opts: dict[str, Any]
    nested: tuple[str, ...]


def _options(text: bytes | str) -> _Options | None:
    """BullMQ's options from JSON, None if it is no object."""
    # Long options hold something that differs from job to job; they would fill the memory.
    return _decode_options(text) if len(text) > 256 else _kept_options(text)


def _decode_options(text: bytes | str) -> _Options | None:
    decoded = codec.loads(text)
    if not isinstance(decoded, dict):
        return None
    opts = optsFromJSON(cast("dict[str, Any]", decoded))
    opts.setdefault("attempts", 0)
    opts["backoff"] = Backoffs.normalize(opts.get("backoff"))
    return _Options(opts, tuple(name for name, value in opts.items() if isinstance(value, dict)))


_kept_options = functools.lru_cache(maxsize=128)(_decode_options)


def stacktrace_json(traces: list[str]) -> str:
    """A job's stack traces as BullMQ stores them: JSON, lone surrogates escaped."""
    return json.dumps(traces, ensure_ascii=True, separators=(",", ":"))
