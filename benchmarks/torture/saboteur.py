"""Does the faults of the schedule, one after the other, and mends what it broke."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any

import redis

from benchmarks.harness import ROOT
from benchmarks.torture import program, state
from benchmarks.torture.crew import LONGEST_STOP, ProducerProcess, WorkerSlot
from benchmarks.torture.faults import Deeds, Fault
from benchmarks.torture.ledger import Reader
from bullpy import EmbeddedServer

# The proxy that the fault tests use.
sys.path.append(str(ROOT / "tests"))

from support.proxy import BLOCKING, COMMAND, LOCKS, Proxy

BLACK_HOLE = 1.5
REDIS_STOP = 2.0
RULE_TIMEOUT = 3.0
"""Seconds until a reply that is to be lost is no longer waited for."""
PRODUCER_TIMEOUT = 20.0
MOST_DISTURBED = 2
"""Workers that are killed or stopped at a time, so that some go on."""


class Saboteur:
    """Everything that can be broken.

    Args:
        server: The Redis.
        proxy: Between it and everybody.
        slots: The workers.
        producers: Who pauses and resumes.
        ledger: Tells which children run jobs.
        deeds: Where it records what it does.
    """

    def __init__(
        self,
        server: EmbeddedServer,
        proxy: Proxy,
        slots: Sequence[WorkerSlot],
        producers: Sequence[ProducerProcess],
        ledger: Reader,
        deeds: Deeds,
    ) -> None:
        self._server = server
        self._proxy = proxy
        self._slots = slots
        self._producers = producers
        self._ledger = ledger
        self._deeds = deeds
        self._paused = False
        self._background: set[asyncio.Task[None]] = set()

    async def work(self, faults: Sequence[Fault], until: float) -> None:
        """Do the faults until that time, on the loop's clock."""
        loop = asyncio.get_running_loop()
        for fault in faults:
            if loop.time() + fault.rest >= until:
                await asyncio.sleep(max(0.0, until - loop.time()))
                return
            await asyncio.sleep(fault.rest)
            name = fault.kind.partition("-")[0] if fault.kind.startswith("half") else fault.kind
            await getattr(self, f"_{name.replace('-', '_')}")(fault)

    async def mend(self) -> None:
        """Wait for what is under way, and leave nothing broken."""
        await asyncio.gather(*self._background)
        self._proxy.heal()

    async def abandon(self) -> None:
        """End what is under way; stopped processes go on."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    # -- workers ---------------------------------------------------------------------------

    async def _worker_kill(self, fault: Fault) -> None:
        slot = self._undisturbed(fault)
        if slot is not None:
            deed = self._deeds.note("worker-kill", worker=slot.pid)
            slot.signal(signal.SIGKILL)
            await slot.ended(deed.worker or 0, 5.0)
            self._deeds.over(deed)

    async def _worker_stop(self, fault: Fault) -> None:
        slot = self._undisturbed(fault)
        if slot is not None:
            self._begin(self._stop_worker(slot, program.LOCK_DURATION + 0.5 + fault.chance))

    async def _worker_term(self, fault: Fault) -> None:
        slot = self._undisturbed(fault)
        if slot is not None:
            self._begin(self._end_worker(slot))

    async def _child_kill(self, fault: Fault) -> None:
        self._ledger.read()
        alive = {slot.pid for slot in self._slots if slot.is_alive and not slot.is_disturbed}
        found = [
            run
            for run in self._ledger.open_runs()
            if run.worker in alive and run.process != run.worker
        ]
        found = [run for run in found if _parent_of(run.process) == run.worker]
        if found:
            run = found[int(fault.chance * len(found))]
            self._deeds.note("child-kill", worker=run.worker, child=run.process, note=run.job)
            with contextlib.suppress(ProcessLookupError):
                os.kill(run.process, signal.SIGKILL)

    async def _stop_worker(self, slot: WorkerSlot, seconds: float) -> None:
        slot.is_disturbed = True
        deed = self._deeds.note("worker-stop", worker=slot.pid)
        try:
            slot.signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
        finally:
            slot.signal(signal.SIGCONT)
            slot.is_disturbed = False
            self._deeds.over(deed)

    async def _end_worker(self, slot: WorkerSlot) -> None:
        slot.is_disturbed = True
        deed = self._deeds.note("worker-term", worker=slot.pid)
        pid = slot.pid
        try:
            slot.signal(signal.SIGTERM)
            if not await slot.ended(pid, LONGEST_STOP + 2.0):
                slot.signal(signal.SIGKILL)
        finally:
            slot.is_disturbed = False
            self._deeds.over(deed)

    # -- connections -----------------------------------------------------------------------

    async def _cut(self, _fault: Fault) -> None:
        self._deeds.note("cut", note=f"{self._proxy.cut()} connections")

    async def _half(self, fault: Fault) -> None:
        kind = {"command": COMMAND, "blocking": BLOCKING, "locks": LOCKS}[fault.kind[10:]]
        links = sorted(
            (link for link in self._proxy.links if link.kind == kind and link.name),
            key=lambda link: link.name,
        )
        if links:
            link = links[int(fault.chance * len(links))]
            link.dead = True
            self._deeds.note(fault.kind, note=link.name)

    async def _lose_fetch(self, fault: Fault) -> None:
        self._begin(self._lose(fault.kind, "moveToActive"))

    async def _lose_finish(self, fault: Fault) -> None:
        self._begin(self._lose(fault.kind, "moveToFinished"))

    async def _lose(self, kind: str, command: str) -> None:
        rule = self._proxy.lose_reply(command)
        try:
            async with asyncio.timeout(RULE_TIMEOUT):
                await rule.hit.wait()
            self._deeds.note(kind)
        except TimeoutError:
            return
        finally:
            self._proxy.remove(rule)

    async def _black_hole(self, _fault: Fault) -> None:
        deed = self._deeds.note("black-hole")
        self._proxy.swallow()
        try:
            await asyncio.sleep(BLACK_HOLE)
        finally:
            self._proxy.swallowing.clear()
            self._deeds.over(deed)

    # -- Redis -----------------------------------------------------------------------------

    async def _client_kill(self, _fault: Fault) -> None:
        killed = await self._redis(lambda client: client.client_kill_filter(_type="normal"))
        self._deeds.note("client-kill", note=f"{killed} connections")

    async def _script_flush(self, _fault: Fault) -> None:
        await self._redis(lambda client: client.script_flush())
        self._deeds.note("script-flush")

    async def _redis_term(self, fault: Fault) -> None:
        await self._restart("redis-term", self._server.stop, fault)

    async def _redis_kill(self, fault: Fault) -> None:
        await self._restart("redis-kill", self._server.kill, fault)

    async def _redis_stop(self, _fault: Fault) -> None:
        pid = self._server.pid
        deed = self._deeds.note("redis-stop")
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(REDIS_STOP)
        finally:
            os.kill(pid, signal.SIGCONT)
            self._deeds.over(deed)

    async def _restart(self, kind: str, end: Callable[[], None], fault: Fault) -> None:
        deed = self._deeds.note(kind)
        await asyncio.to_thread(end)
        await asyncio.sleep(fault.chance * 0.6)
        await asyncio.to_thread(self._server.start)
        self._deeds.over(deed)

    async def _redis(self, ask: Callable[[redis.Redis], object]) -> object:
        def call() -> object:
            with state.connect(self._server.port) as client:
                return ask(client)

        return await asyncio.to_thread(call)

    # -- the queue -------------------------------------------------------------------------

    async def _pause(self, fault: Fault) -> None:
        if not self._paused:
            self._begin(self._pause_for(0.5 + fault.chance, *self._two(fault)))

    def _two(self, fault: Fault) -> tuple[ProducerProcess, ProducerProcess]:
        dice = random.Random(fault.chance)
        return dice.choice(self._producers), dice.choice(self._producers)

    async def _pause_for(
        self, seconds: float, pauses: ProducerProcess, resumes: ProducerProcess
    ) -> None:
        self._paused = True
        deed = self._deeds.note("pause", note=f"by {pauses.name}, resumed by {resumes.name}")
        await pauses.ask("pause", PRODUCER_TIMEOUT)
        await asyncio.sleep(seconds)
        await resumes.ask("resume", PRODUCER_TIMEOUT)
        self._deeds.over(deed)
        self._paused = False

    # -- inside ----------------------------------------------------------------------------

    def _undisturbed(self, fault: Fault) -> WorkerSlot | None:
        """The worker that the fault means, or the next one that is left alone so far."""
        if sum(slot.is_disturbed or not slot.is_alive for slot in self._slots) >= MOST_DISTURBED:
            return None
        for offset in range(len(self._slots)):
            slot = self._slots[(fault.worker + offset) % len(self._slots)]
            if slot.is_alive and not slot.is_disturbed:
                return slot
        return None

    def _begin(self, deed: Coroutine[Any, Any, None]) -> None:
        self._background.add(asyncio.create_task(deed))


@contextlib.asynccontextmanager
async def watched_lag(deeds: Deeds, longest: float) -> AsyncGenerator[None]:
    """Record when the machine, or this process with its proxy, stood still for longer."""

    async def watch() -> None:
        pause = longest / 4
        while True:
            before = time.monotonic()
            await asyncio.sleep(pause)
            late = time.monotonic() - before - pause
            if late > longest:
                deeds.note("lag", lasted=late)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _parent_of(pid: int) -> int:
    """The parent of a process; 0 if it is gone."""
    found = subprocess.run(
        ["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return int(found.stdout.strip() or 0)
