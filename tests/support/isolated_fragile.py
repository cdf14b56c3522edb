"""A module that goes wrong when it is imported, as the variable FRAGILE says at that moment."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

if os.environ.get("FRAGILE") == "raise":
    raise RuntimeError("no configuration here")
if os.environ.get("FRAGILE") == "hang":
    ctypes.CDLL(None).pause()
if os.environ.get("FRAGILE") == "crash":
    os.abort()
if os.environ.get("FRAGILE") == "exit":
    raise SystemExit(4)


def fragile(job: Any) -> Any:
    return job.data


def told_by_environment(job: Any) -> str | None:
    return os.environ.get("FRAGILE")


def loaded_modules(job: Any) -> list[str]:
    return [name for name in ("redis", "bullmq") if name in sys.modules]
