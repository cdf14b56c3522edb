"""Failures of one kind have one reason: their texts without numbers, ids, paths and the like."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from bullpy.redaction import redact
from bullpy.terminal import printable

LENGTH = 300
"""Characters of a reason that are looked at."""

_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>|)\]]+", re.IGNORECASE)
_EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
_DATE = re.compile(
    r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"
)
_PATH = re.compile(r"(?:\b[A-Z]:)?(?:[\\/][\w.@%+~-]+){2,}[\\/]?|~(?:/[\w.@%+~-]+)+")
# Eight digits of hexadecimal or more are an id, if there is a figure among them.
_HEX = re.compile(r"\b(?:0x)?(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", re.IGNORECASE)
# Words of letters and figures, as ids of other systems are: job_8f3k2, A12B9.
_ID = re.compile(r"\b(?=[\w-]*\d[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{6,}\b")
_NUMBER = re.compile(r"(?<![A-Za-z])[-+]?\d+(?:[.,:]\d+)*")


@functools.lru_cache(maxsize=4096)
def normalised(reason: str) -> str:
    """What is common to failures of one kind: `timeout after <n> ms for <path>`.

    Secrets are taken out too.
    """
    told = redact(reason)
    for pattern, stand_in in (
        (_URL, "<url>"),
        (_EMAIL, "<email>"),
        (_UUID, "<uuid>"),
        (_DATE, "<time>"),
        (_PATH, "<path>"),
        (_HEX, "<hex>"),
        (_ID, "<id>"),
        (_NUMBER, "<n>"),
    ):
        told = pattern.sub(stand_in, told)
    # Cut last of all: the same failure with a longer path must not end elsewhere.
    return printable(" ".join(told.split()), LENGTH)


def code_of(reason: str) -> str:
    """A short name of a normalised reason, the same at each look."""
    return hashlib.sha1(reason.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:6]


@dataclass(slots=True)
class FailureGroup:
    """Failed jobs with one reason.

    Attributes:
        code: A short name of the reason, the same at each look.
        reason: The normalised reason.
        example: The reason of the newest one, without secrets.
        count: How many there are.
        first: When the oldest one failed, in ms since 1970.
        last: When the newest one failed.
        ids: Ids of some of them, the newest first.
    """

    code: str
    reason: str
    example: str
    count: int = 0
    first: int = 0
    last: int = 0
    ids: list[str] = field(default_factory=list[str])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
