"""What `bullpy.Worker`, `bullpy.Job` and `bullpy.run` are in a child process.

A child imports the module that holds its processor, and that module mostly makes a worker and
may end with `run(worker)`. Here both do nothing, so that loading it starts nothing, and loads
neither redis nor bullmq.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from bullpy import errors
from bullpy.executors.childjob import ChildJob


class Worker:
    """A worker that never runs; its decorators give the function back."""

    def __init__(self, name: str = "", *_args: object, **_options: object) -> None:
        self.name = name

    def processor(self, *_args: object, **_options: object) -> Callable[..., Any]:
        """Decorate nothing."""
        return _unchanged

    def on(self, _event: str, function: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """Subscribe to nothing."""
        return _unchanged if function is None else function

    once = on

    def lifespan(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate nothing."""
        return function

    middleware = lifespan

    def off(self, *_args: object) -> None:
        """End no subscription."""

    def add_plugin(self, *_args: object, **_options: object) -> None:
        """Add nothing."""

    @property
    def state(self) -> NoReturn:
        """Belongs to the worker's own process."""
        raise errors.WorkerStateError(
            "worker.state is not available in a child process.",
            cause="The lifespan runs in the worker's process; this processor runs in a child.",
            fix="Open it on first use in the processor's module, or say isolation='thread'.",
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise errors.WorkerStateError(
            f"worker.{name} is not available in a child process.",
            cause="The worker runs in the parent process; here only its processors do.",
            fix="Use the job that the processor was given. What starts the worker belongs under "
            'if __name__ == "__main__":',
        )


def run(*_workers: object) -> None:
    """Run nothing."""


def install() -> None:
    """Put the stand-ins where modules look for the real ones."""
    import bullpy

    for name, value in (("Worker", Worker), ("Job", ChildJob), ("run", run)):
        setattr(bullpy, name, value)
    for name, values in (
        ("bullpy.worker", {"Worker": Worker}),
        ("bullpy.running", {"run": run}),
    ):
        module = ModuleType(name, __doc__)
        vars(module).update(values)
        sys.modules[name] = module


def forbid_starting(file: str) -> Callable[[], None]:
    """Let a script that starts an event loop when it is loaded fail with advice.

    A script is loaded a second time, in the child, where its `asyncio.run(main())` would add
    its jobs again.

    Args:
        file: The script.

    Returns:
        Ends it; to be called when the script is loaded.
    """
    if b"asyncio" not in Path(file).read_bytes():
        return lambda: None
    import asyncio

    original = asyncio.run

    def refuse(main: Any, **_options: object) -> NoReturn:
        main.close()
        raise errors.ProcessorError(
            f"{file} runs its program when it is loaded.",
            cause="Its processors run in child processes, which load the file for themselves.",
            fix='Put what starts it under if __name__ == "__main__":, or say isolation="thread".',
        )

    def end() -> None:
        asyncio.run = original

    asyncio.run = refuse
    return end


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
