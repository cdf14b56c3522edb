"""What a process uses: memory and CPU time, as the operating system counts them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_HAS_PROC = (_PROC / "self" / "stat").exists()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process uses.

    Attributes:
        memory: Bytes of its resident set.
        cpu: Seconds of CPU time since its start, over all its threads.
    """

    memory: int
    cpu: float


def usage_of(pid: int) -> Usage | None:
    """What a process uses now, None when it is gone."""
    return _from_proc(pid) if _HAS_PROC else from_ps(pid)


def _from_proc(pid: int) -> Usage | None:
    """From `/proc/PID/stat`, proc(5): utime and stime are fields 14 and 15, rss is 24."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The second field is the name in parentheses, which may hold anything.
    fields = text[text.rindex(b")") + 2 :].split()
    ticks = int(fields[11]) + int(fields[12])
    return Usage(int(fields[21]) * os.sysconf("SC_PAGESIZE"), ticks / os.sysconf("SC_CLK_TCK"))


def from_ps(pid: int) -> Usage | None:
    """From `ps`, which every Unix has; it takes some milliseconds."""
    done = subprocess.run(
        ["ps", "-o", "rss=,time=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    fields = done.stdout.split()
    if len(fields) != 2:
        return None
    return Usage(int(fields[0]) * 1024, _seconds(fields[1]))


def _seconds(clock: str) -> float:
    """Seconds from `[days-][hours:]minutes:seconds`; macOS adds hundredths."""
    days, _, time = clock.rpartition("-")
    seconds = 0.0
    for part in time.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + int(days or 0) * 86400
