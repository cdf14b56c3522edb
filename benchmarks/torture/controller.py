"""One whole run: start everybody, break things, let it settle, and look."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import redis

from benchmarks.harness import ROOT, BenchmarkError
from benchmarks.torture import faults, plan, program, sockets, state
from benchmarks.torture.crew import ProducerProcess, WorkerSlot
from benchmarks.torture.evidence import Evidence
from benchmarks.torture.faults import Deed, Deeds
from benchmarks.torture.ledger import Reader
from benchmarks.torture.plan import Plan
from benchmarks.torture.saboteur import Proxy, Saboteur, watched_lag
from bullpy import EmbeddedServer, Queue

WORKERS = 4
START_TIMEOUT = 30.0
LATE_JOBS = 8
LATE_TIMEOUT = 5.0
ITERATION_TIMEOUT = 8.0
"""Seconds after the last fault until each scheduler must have made an iteration."""

QUIET_TIMEOUT = 5.0
"""Seconds until the last iteration has ended, after its scheduler was removed."""

LONGEST_LAG = 0.3
CONNECTIONS_EVERY = 0.5
POLL = 0.2
"""Seconds between two looks at Redis, which tells nobody that it is quiet."""

_NODE_PRODUCER = ROOT / "tests" / "node" / "torture_producer.mjs"

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is asked to be.

    Attributes:
        seed: For the plan and for the faults.
        seconds: For how long jobs are added and things are broken.
        rate: Entries of the plan a second.
        bad_percent: Bad entries among a hundred.
        settle: Seconds after which it must be quiet.
        folder: For the ledger, the logs, and the server's data.
    """

    seed: int
    seconds: float
    rate: float
    bad_percent: float
    settle: float
    folder: Path


@dataclass(slots=True)
class Result:
    """What a run gave.

    Attributes:
        evidence: For the verdict.
        deeds: The record of what was done.
        settled_after: Seconds from the last fault until it was quiet; None if it never was.
        late_after: Seconds until all late jobs had run; None if they did not.
    """

    evidence: Evidence
    deeds: Deeds
    settled_after: float | None = None
    late_after: float | None = None


async def run(options: Options, tell: Callable[[str], None]) -> Result:
    """Do a whole run. Whatever happens, all processes have ended when it returns.

    Raises:
        BenchmarkError: It did not take place.
    """
    controller = _Controller(options, tell)
    return await controller.run()


class _Controller:
    def __init__(self, options: Options, tell: Callable[[str], None]) -> None:
        self._options = options
        self._tell = tell
        self._folder = options.folder
        self._plan = plan.draw(options.seed, options.seconds, options.rate, options.bad_percent)
        self._ledger = Reader(self._folder / "ledger")
        self._deeds = Deeds(self._log_deed)
        self._result = Result(Evidence(specs=self._plan.jobs()), self._deeds)
        # Appends to the AOF are on the disk before anybody hears of them.
        self._server = EmbeddedServer(
            self._folder / "redis", args=("--appendfsync", "always"), stop_timeout=5.0
        )
        self._proxy: Proxy | None = None
        self._slots: list[WorkerSlot] = []
        self._counted: dict[int, int] = {}

    async def run(self) -> Result:
        async with self._server, Proxy(self._server.port) as proxy:
            self._proxy = proxy
            async with self._workers(proxy.url), self._producers(proxy.url) as producers:
                await self._keep_all_events()
                await self._workers_ready()
                async with self._watched():
                    await self._break_things(proxy, producers)
                    await self._settle()
            # The workers have ended.
            await self._collect()
        return self._result

    # -- phases ----------------------------------------------------------------------------

    async def _break_things(self, proxy: Proxy, producers: Sequence[ProducerProcess]) -> None:
        options = self._options
        schedule = faults.draw(options.seed, int(options.seconds / 0.3) + 10, WORKERS)
        saboteur = Saboteur(self._server, proxy, self._slots, producers, self._ledger, self._deeds)
        self._result.evidence.began = time.time()
        self._tell(f"{options.seconds:g} s of load and faults, seed {options.seed}")
        try:
            for producer in producers:
                await producer.ask("start", 5.0)
            await saboteur.work(schedule, asyncio.get_running_loop().time() + options.seconds)
            await saboteur.mend()
        finally:
            await saboteur.abandon()
        for producer in producers:
            # What it could not add until then is in the verdict.
            await producer.ask("wait", options.settle / 2)

    async def _settle(self) -> None:
        began, evidence = time.time(), self._result.evidence
        self._tell("settling")
        evidence.acked = self._acked()
        evidence.unacknowledged = sorted(set(evidence.specs) - evidence.acked)
        async with self._direct_queue() as queue:
            await queue.resume()
            if await self._until(self._is_done, self._options.settle):
                self._result.settled_after = round(time.time() - began, 2)
            evidence.dead_schedulers = await self._dead_schedulers(began)
            for scheduler_id in plan.SCHEDULERS:
                await queue.removeJobScheduler(scheduler_id)
            await self._until(self._is_quiet, QUIET_TIMEOUT)
            await self._late_jobs(queue)
        await self._until(lambda: not self._deaf(), LATE_TIMEOUT)
        evidence.deaf = self._deaf()
        self._count_connections()

    async def _late_jobs(self, queue: Queue) -> None:
        """Jobs that are added when all is over must run at once."""
        late = plan.late(LATE_JOBS)
        began = time.time()
        for spec in late.entries:
            await queue.add(spec.name, spec.data, {**spec.opts, "jobId": spec.id})
        self._result.evidence.specs |= late.jobs()
        self._result.evidence.acked |= set(late.jobs())
        if await self._until(self._is_quiet, LATE_TIMEOUT):
            self._result.late_after = round(time.time() - began, 3)

    async def _collect(self) -> None:
        evidence = self._result.evidence
        self._ledger.read()
        evidence.runs = self._ledger.runs
        evidence.deeds = self._deeds.all
        evidence.exits = [end for slot in self._slots for end in slot.exits]
        evidence.state = await self._look(lambda client: state.read(client, program.QUEUE))

    # -- looking ---------------------------------------------------------------------------

    def _count_connections(self) -> None:
        most = self._result.evidence.connections
        for slot in self._slots:
            count = sockets.count(slot.pid, self._proxy_port()) if slot.is_alive else None
            if count is not None:
                # One that is being replaced is there twice for a moment; one that leaks stays.
                stayed = min(count, self._counted.get(slot.pid, 0))
                self._counted[slot.pid] = count
                most[slot.pid] = max(stayed, most.get(slot.pid, 0))

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncGenerator[None]:
        """Count connections, and record when the machine stands still, meanwhile."""

        async def count() -> None:
            while True:
                await asyncio.to_thread(self._count_connections)
                await asyncio.sleep(CONNECTIONS_EVERY)

        counting = asyncio.create_task(count())
        try:
            async with watched_lag(self._deeds, LONGEST_LAG):
                yield
        finally:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)

    def _is_done(self) -> bool:
        """Whether every acknowledged job has finished; schedulers go on."""
        return not self._unfinished()[1]

    def _is_quiet(self) -> bool:
        """Whether nothing waits or runs any more."""
        waiting, unfinished = self._unfinished()
        return not waiting and not unfinished

    def _unfinished(self) -> tuple[int, list[str]]:
        acked = self._result.evidence.acked
        return self._look_now(lambda client: state.unfinished(client, program.QUEUE, acked))

    async def _dead_schedulers(self, since: float) -> list[str]:
        def dead() -> list[str]:
            self._ledger.read()
            alive = {
                run.job.split(":")[1]
                for run in self._ledger.runs
                if state.is_iteration(run.job) and run.start > since
            }
            return sorted(set(plan.SCHEDULERS) - alive)

        await self._until(lambda: not dead(), ITERATION_TIMEOUT)
        return dead()

    def _deaf(self) -> list[int]:
        """The workers of which no connection waits for jobs."""
        clients = self._look_now(lambda client: client.client_list())
        waiting = [client["name"] for client in clients if client["cmd"] == "bzpopmin"]
        return [
            slot.pid
            for slot in self._slots
            if not any(name.endswith(f":w:torture-{slot.pid}") for name in waiting)
        ]

    def _acked(self) -> set[str]:
        specs = {spec.id: spec for spec in self._plan.entries}
        acked: set[str] = set()
        for producer in plan.PRODUCERS:
            path = self._folder / f"acked-{producer}"
            for job_id in path.read_text().split() if path.exists() else []:
                acked |= {spec.id for spec in specs[job_id].family()}
        return acked

    def _look_now(self, ask: Callable[[redis.Redis], Answer]) -> Answer:
        with state.connect(self._server.port) as client:
            return ask(client)

    async def _look(self, ask: Callable[[redis.Redis], Answer]) -> Answer:
        return await asyncio.to_thread(self._look_now, ask)

    async def _until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Ask again and again, in a thread, until it holds."""
        deadline = time.monotonic() + timeout
        while not (holds := await asyncio.to_thread(condition)):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL)
        return holds

    # -- processes -------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _workers(self, url: str) -> AsyncGenerator[None]:
        self._slots = [WorkerSlot(n, self._folder, url, self._deeds) for n in range(WORKERS)]
        try:
            for slot in self._slots:
                await slot.start()
            yield
            await asyncio.gather(*(slot.stop() for slot in self._slots))
        finally:
            for slot in self._slots:
                slot.kill()
            await asyncio.gather(*(slot.stop() for slot in self._slots))

    @contextlib.asynccontextmanager
    async def _producers(self, url: str) -> AsyncGenerator[list[ProducerProcess]]:
        made = [self._producer(name, url) for name in plan.PRODUCERS]
        try:
            for producer in made:
                await producer.start()
            yield made
        finally:
            for producer in made:
                await producer.stop()

    def _producer(self, name: str, url: str) -> ProducerProcess:
        part = Plan([spec for spec in self._plan.entries if spec.producer == name])
        file = self._folder / f"plan-{name}"
        file.write_text("".join(f"{json.dumps(spec.wire())}\n" for spec in part.entries))
        arguments = [url, str(file), str(self._folder / f"acked-{name}")]
        command = [sys.executable, "-m", "benchmarks.torture.producer", *arguments]
        if name == "node":
            command = [_node(), str(_NODE_PRODUCER), *arguments, program.QUEUE]
            mine = {k: v for k, v in plan.SCHEDULERS.items() if v["producer"] == "node"}
            command.append(json.dumps(mine))
        return ProducerProcess(name, command, self._folder / f"producer-{name}.log")

    async def _workers_ready(self) -> None:
        def ready() -> bool:
            self._ledger.read()
            return all(slot.pid in self._ledger.ready for slot in self._slots)

        if not await self._until(ready, START_TIMEOUT):
            raise BenchmarkError(f"Workers do not start; their logs are in {self._folder}.")

    async def _keep_all_events(self) -> None:
        key = f"bull:{program.QUEUE}:meta"
        await self._look(lambda client: client.hset(key, "opts.maxLenEvents", 10_000_000))

    def _direct_queue(self) -> Queue:
        return Queue(program.QUEUE, redis=self._server.url)

    def _proxy_port(self) -> int:
        assert self._proxy is not None
        return int(self._proxy.url.rpartition(":")[2].partition("/")[0])

    def _log_deed(self, deed: Deed) -> None:
        with (self._folder / "deeds").open("a") as file:
            file.write(json.dumps(asdict(deed)) + "\n")


def _node() -> str:
    found = shutil.which("node")
    if found is None:
        raise BenchmarkError("Node is not installed; the torture test needs Node 20 or newer.")
    if not (_NODE_PRODUCER.parent / "node_modules" / "bullmq6").exists():
        raise BenchmarkError("The Node packages are missing; run: make setup")
    return found
