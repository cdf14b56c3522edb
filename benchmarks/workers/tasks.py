"""The `def` processors that benchmarks/isolation.py runs, alike in bullpy and in the pools.

A module of its own that imports next to nothing: a child process has to import it. Times are on
the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def noop(job: Any) -> dict[str, int]:
    return {"ok": 1}


def entered(job: Any) -> float:
    """When it was entered, in seconds."""
    return time.monotonic()


def crash(job: Any) -> None:
    """End the process as native code does, after a note of when."""
    Path(job.data["file"]).write_text(repr(time.monotonic()))
    os.abort()


def spin(job: Any) -> None:
    """Keep a core busy for that many seconds."""
    end = time.monotonic() + job.data["seconds"]
    while time.monotonic() < end:
        sum(range(1000))
