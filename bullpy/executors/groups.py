"""Process groups: a child and all that it started end together."""

from __future__ import annotations

import os
import signal

CAN_LOOK = hasattr(os, "waitid")
"""Whether the system can tell of an end without taking the process away; macOS cannot."""


def kill(pid: int) -> None:
    """Kill a child and its group; it must not have been waited for yet."""
    # The child itself too: it may have left its group.
    for send in (os.killpg, os.kill):
        try:
            send(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # all gone; macOS gives EPERM for a group of zombies


def has_ended(pid: int) -> bool:
    """Whether a child of this process has ended; it stays a zombie, and its id its own.

    Where the system `CAN_LOOK` only.
    """
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True  # somebody else in this process has waited for it
