"""Pool: starts that fail are told to who waits, and do not become a spin."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from bullpy import WorkerSettings, errors
from bullpy.executors.launch import Launched, Spawner
from bullpy.executors.pool import Pool


class BrokenLauncher(Spawner):
    """Fails with what no launcher is known to raise."""

    launches = 0

    async def launch(self, sock: socket.socket, stdout: int, stderr: int, marker: int) -> Launched:
        self.launches += 1
        raise RuntimeError("no launch today")


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_launch_that_fails_reaches_one_who_waits_and_the_next_is_slower() -> None:
    launcher = BrokenLauncher()
    pool = Pool(launcher, {}, WorkerSettings(), lambda: 2, 2)
    before = descriptors()
    pool.start()
    for _ in range(3):
        with pytest.raises(errors.ChildStartError, match="no launch today"):
            async with asyncio.timeout(10):
                await pool.take()
    # Two at once, then after 0.1, 0.2, 0.4 s and so on.
    assert launcher.launches < 12
    await pool.close()
    assert descriptors() == before


async def test_pool_may_be_closed_twice_and_before_its_start() -> None:
    settings: Any = WorkerSettings()
    pool = Pool(Spawner(), {}, settings, lambda: 1, 1)
    await pool.close()
    await pool.close()
    assert pool.pids == []
