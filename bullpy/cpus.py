"""How many CPUs this process may really use: affinity, and the limits of its control groups.

In a container `os.cpu_count()` is the host's count. Limits are read from
`/proc/self/cgroup` and `/proc/self/mountinfo` (proc(5), cgroups(7)), for cgroup v2 from `cpu.max`,
for v1 from `cpu.cfs_quota_us` and `cpu.cfs_period_us`. A limit holds for all groups below, so the
smallest one from the own group up to the top counts.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path("/")


def available(root: Path = ROOT) -> int:
    """The CPUs that this process may use, at least 1.

    A share of a CPU counts as one: with a limit of 1.5 CPUs, one process leaves half a CPU idle,
    and two leave none.

    Args:
        root: The folder that holds `proc` and `sys`.
    """
    allowed, limit = _allowed(), quota(root)
    return max(1, allowed if limit is None else min(allowed, math.ceil(limit)))


def quota(root: Path = ROOT) -> float | None:
    """The CPUs that control groups grant, such as 1.5; None where nothing limits them.

    Args:
        root: The folder that holds `proc` and `sys`.
    """
    return min(_limits(root), default=None)


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _limits(root: Path) -> Iterator[float]:
    groups = dict(_groups(root))
    for mount in _mounts(root):
        group = groups.get(mount.version)
        if group is None:
            continue
        top = root / mount.point.lstrip("/")
        own = top / _below(group, mount.group)
        for folder in (own, *own.parents):
            limit = _v2(folder) if mount.version == 2 else _v1(folder)
            if limit is not None:
                yield limit
            if folder == top:
                break


class _Mount(NamedTuple):
    version: int
    group: str
    """Which group is mounted there: `/`, or the container's own one."""
    point: str


def _groups(root: Path) -> Iterator[tuple[int, str]]:
    """The group that this process is in: (2, path), (1, path of the cpu controller), or both."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            yield 2, path
        elif "cpu" in controllers.split(","):
            yield 1, path


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in _lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if len(fields) < 6 or len(kind) < 3:
            continue
        group, point = _unescaped(fields[3]), _unescaped(fields[4])
        if kind[0] == "cgroup2":
            yield _Mount(2, group, point)
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            yield _Mount(1, group, point)


def _below(group: str, mounted: str) -> PurePosixPath:
    """Where the group is under the mount; what the mount does not show is looked for at its top.

    A group outside of the own namespace is shown as `/../name`.
    """
    path = PurePosixPath(group)
    if ".." in path.parts or not path.is_relative_to(mounted):
        return PurePosixPath()
    return path.relative_to(mounted)


def _v2(folder: Path) -> float | None:
    quota_and_period = " ".join(_lines(folder / "cpu.max")).split()
    return _share(*quota_and_period) if len(quota_and_period) == 2 else None


def _v1(folder: Path) -> float | None:
    quota_us = "".join(_lines(folder / "cpu.cfs_quota_us"))
    return _share(quota_us, "".join(_lines(folder / "cpu.cfs_period_us")))


def _share(quota_us: str, period_us: str) -> float | None:
    """No limit is `max` in v2 and -1 in v1."""
    try:
        limit, period = int(quota_us), int(period_us)
    except ValueError:
        return None
    return limit / period if limit > 0 and period > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        # Not Linux, a group without this controller, or one that the mount does not show.
        return []


def _unescaped(text: str) -> str:
    r"""Space, tab, newline and backslash are written as `\040` and so on in mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text)
