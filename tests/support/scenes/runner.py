"""Plays scenes side by side: each takes seconds of waiting, and hardly any work."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Self

from support.scenes.scene import Report, Scene
from support.scenes.stage import Stage, World

SIDE_BY_SIDE = 16
"""Scenes at a time."""

WITHIN = 75.0
"""Seconds for one scene, once it has begun."""

THREADS = 40
"""For what blocks: starting servers, reading what processes print."""


@dataclass(slots=True)
class Outcome:
    """How a scene went.

    Attributes:
        scene: Which one.
        report: What the doctor said; None if it did not come to that.
        trouble: Why not: a traceback; empty if it did.
        seconds: How long the scene took, its set-up and end included.
    """

    scene: Scene
    report: Report | None = None
    trouble: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Runner:
    """Plays scenes in a thread with an event loop of its own; tests wait for their outcomes.

    Attributes:
        scenes: The scenes.
        outcomes: Those that are there already, in the order in which they came.
    """

    scenes: Sequence[Scene]
    outcomes: list[Outcome] = field(default_factory=list)
    _futures: dict[Scene, Future[Outcome]] = field(default_factory=dict)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._futures = {scene: Future() for scene in self.scenes}
        self._thread = threading.Thread(target=self._play, name="scenes", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        self._thread.join(WITHIN)

    def outcome(self, scene: Scene) -> Outcome:
        """Wait for a scene's outcome."""
        return self._futures[scene].result()

    def _play(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            for future in self._futures.values():
                if not future.done():
                    future.set_exception(error)

    async def _main(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "scenes"))
        places, alone = asyncio.Semaphore(SIDE_BY_SIDE), asyncio.Semaphore(1)
        # The longest first, so that none of them is left over at the end.
        in_order = sorted(self.scenes, key=lambda scene: not (scene.is_long or scene.is_heavy))
        async with World() as world, asyncio.TaskGroup() as tasks:
            for scene in in_order:
                gates = (alone, places) if scene.is_heavy else (places,)
                tasks.create_task(self._one(world, scene, *gates))

    async def _one(self, world: World, scene: Scene, *gates: asyncio.Semaphore) -> None:
        async with AsyncExitStack() as stack:
            for gate in gates:
                await stack.enter_async_context(gate)
            outcome = await _played(world, scene)
        self.outcomes.append(outcome)
        self._futures[scene].set_result(outcome)


async def _played(world: World, scene: Scene) -> Outcome:
    outcome = Outcome(scene)
    began = time.monotonic()
    try:
        async with asyncio.timeout(WITHIN), Stage(world, scene.name) as stage:
            call = await scene.build(stage)
            outcome.report = await call.make()
    except Exception:
        outcome.trouble = traceback.format_exc()
    outcome.seconds = time.monotonic() - began
    return outcome
