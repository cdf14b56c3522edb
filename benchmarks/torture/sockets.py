"""How many connections a process has, as the system tells it."""

from __future__ import annotations

import contextlib
from pathlib import Path

_ESTABLISHED = "01"


def count(pid: int, port: int) -> int | None:
    """Established connections of a process to that port; None where that cannot be found out."""
    folder = Path(f"/proc/{pid}/fd")
    if not folder.exists():
        return None
    inodes: set[str] = set()
    rows: list[list[str]] = []
    # It may end at any moment.
    with contextlib.suppress(OSError):
        for descriptor in folder.iterdir():
            with contextlib.suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        table = Path(f"/proc/{pid}/net/tcp").read_text()
        rows = [line.split() for line in table.splitlines()[1:]]
    return sum(
        row[9] in inodes and row[3] == _ESTABLISHED and int(row[2].rpartition(":")[2], 16) == port
        for row in rows
    )
