"""What a decoder could do to the process it runs in: all but one mutant are measured."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

WHICH = 2
"""The mutant that goes wrong."""

Measured = tuple[str, list[str], float, int]
Measure = Callable[[Path, int, tuple[str, ...]], Measured]


def crash(path: Path, seed: int, engines: tuple[str, ...]) -> Measured:
    """As a segmentation fault ends a process."""
    if seed == WHICH:
        os.kill(os.getpid(), signal.SIGSEGV)
    return "measured", [], 0.0, 0


def leave(path: Path, seed: int, engines: tuple[str, ...]) -> Measured:
    """As a library that calls exit."""
    if seed == WHICH:
        os._exit(3)
    return "measured", [], 0.0, 0


def hang(path: Path, seed: int, engines: tuple[str, ...]) -> Measured:
    """As an endless loop."""
    if seed == WHICH:
        threading.Event().wait()
    return "measured", [], 0.0, 0


def complain(path: Path, seed: int, engines: tuple[str, ...]) -> Measured:
    """As a wrong number."""
    return "measured", ["NaN"] if seed == WHICH else [], 0.0, 0
