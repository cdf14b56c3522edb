"""The slots of a worker: each runs a job, finishes it and fetches the next in the same call.

While slots are free and the queue is empty, one blocking wait serves them all. A chain is one
slot at work: it begins with a fetched job and ends when a finishing call brings no next one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol, cast

from bullpy import errors
from bullpy.backend import Backend
from bullpy.connection.clock import ServerClock
from bullpy.connection.factory import BlockingConnection
from bullpy.connection.pipelining import retry_pause
from bullpy.engine import apart
from bullpy.engine.calls import Calls
from bullpy.engine.fairness import SOON, Share
from bullpy.engine.fetched import Fetched
from bullpy.engine.locks import LockKeeper
from bullpy.engine.recovery import Recovery
from bullpy.engine.runner import Outcome, Runner, Running
from bullpy.engine.settle import Reporter, Settler
from bullpy.engine.waiting import MarkerWait
from bullpy.job import Job
from bullpy.settings import WorkerSettings
from bullpy.types import StopReason

log = logging.getLogger("bullpy.worker")


UNBLOCK_TRIES = 5
"""How often the server is asked to end a wait before its connection is closed."""

UNBLOCK_WAIT = 0.1
"""Seconds between two of those."""


class Owner(Reporter, Protocol):
    """What the slots ask of their worker."""

    @property
    def concurrency(self) -> int:
        """How many jobs run at a time."""
        ...

    def token(self) -> str:
        """A lock token that no other slot has."""
        ...

    def exit_requested(self, error: BaseException) -> None:
        """A processor raised SystemExit or KeyboardInterrupt."""
        ...


class Slots:
    """Fetches jobs for as many slots as are free, and runs them.

    Attributes:
        running: The jobs held now, by id.
        last_fetch: When Redis last answered a fetch, on the monotonic clock; None before.
        ready: Set after the first fetch has been answered.
    """

    def __init__(
        self,
        owner: Owner,
        backend: Backend,
        settings: WorkerSettings,
        calls: Calls,
        recovery: Recovery,
        runner: Runner,
        settler: Settler,
        locks: LockKeeper,
        blocking: BlockingConnection,
        schedule_next: Callable[[Job[Any]], Awaitable[None]],
    ) -> None:
        self._owner = owner
        self._backend = backend
        self._settings = settings
        self._calls = calls
        self._recovery = recovery
        self._runner = runner
        self._settler = settler
        self._locks = locks
        self._blocking = blocking
        self._wait = MarkerWait(blocking, backend, owner.reports, settings.drain_delay)
        self._schedule_next = schedule_next
        self._share = Share(backend)
        self.running: dict[str, Running] = {}
        self.last_fetch: float | None = None
        self.ready = asyncio.Event()
        self._chains: set[asyncio.Task[None]] = set()
        self._free = asyncio.Event()
        self._free.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._busy = asyncio.Event()
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self._marker: asyncio.Task[float | None] | None = None
        self._cutting: asyncio.Task[None] | None = None
        self._drained = False
        self._due_at = 0.0
        self._limited_until = 0.0
        self._failures = 0
        self._stopping = False
        self._fetching = False
        self._loop_task: asyncio.Task[None] | None = None
        self._unroutable: set[str] = set()
        self._room = apart.room()
        self._waits: Running | None = None

    @property
    def has_room(self) -> bool:
        """Whether a slot is free."""
        return len(self._chains) < self._owner.concurrency

    @property
    def limited_for(self) -> float:
        """Seconds for which the rate limit lets no job through; 0 or less without one."""
        return self._limited_until - time.monotonic()

    @property
    def clock(self) -> ServerClock:
        """Redis's clock."""
        return self._calls.clock

    def pause(self) -> None:
        """Fetch no more until `resume`; chains end after their job."""
        self._unpaused.clear()
        if self._marker is not None and self._cutting is None:
            self._cutting = asyncio.create_task(self._cut(self._marker))

    def resume(self) -> None:
        """Fetch again."""
        # The wait that `pause` cut off may have taken the marker with it.
        self._drained = False
        self._unpaused.set()

    def stop(self) -> None:
        """Fetch no more; chains end after their job."""
        self._stopping = True
        if self._waits is not None:
            self._waits.stop(StopReason.SHUTDOWN, "the worker is stopping")
        task = self._loop_task
        if task is not None and not (
            self._fetching and self._backend.shared.pipeliner.is_connected
        ):
            # A fetch that is under way must not be cut: its job would be nobody's.
            task.cancel()

    def wake(self) -> None:
        """Look again at how many slots are free."""
        self._update()

    def lost(self, running: Running) -> None:
        """Take a job for gone whose lock is lost, even if its processor goes on."""
        running.stop(StopReason.LOCK_LOST, "lock lost")
        self._locks.untrack(running.job.id, running.job.token or "")
        # Nobody has to wait for what is another worker's.
        self._room.leave(running)

    def abandon(self) -> None:
        """Leave the jobs that are still held to themselves; their locks expire."""
        for chain in self._chains:
            chain.cancel()

    async def idle(self) -> None:
        """Wait until no job is held, and none is on its way."""
        await self._empty.wait()

    async def busy(self) -> None:
        """Wait until a job is held."""
        await self._busy.wait()

    async def run(self) -> None:
        """Fetch and start jobs until `stop`."""
        self._loop_task = asyncio.current_task()
        try:
            await self.clock.measure()
            while not self._stopping:
                await self._unpaused.wait()
                await self._free.wait()
                await self._room.opened()
                if self._stopping or not self._unpaused.is_set():
                    continue
                if await self._there_may_be_work():
                    if self._room.is_open:
                        await self._fetch()
                    else:
                        # What led here may have been the only sign of that work.
                        self._drained = False
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            self._loop_task = None
            try:
                await self._end_marker()
            finally:
                await self._blocking.aclose()

    # -- waiting ---------------------------------------------------------------------------

    async def _there_may_be_work(self) -> bool:
        """Wait for a reason to fetch; False when the state has to be looked at first."""
        limited = self._limited_until - time.monotonic()
        if limited > 0:
            await self._end_marker()
            await asyncio.sleep(min(limited, self._settings.maximum_rate_limit_delay))
            return True
        if not self._drained:
            if not self._share.holds_back(len(self._chains)):
                return True
            self._due_at = time.time() + SOON
        if self._marker is None:
            self._marker = asyncio.create_task(self._next_marker())
        # The server's own timer is up to 100 ms late, so the due time is watched here, while
        # the blocking wait goes on.
        due = self._due_at - time.time() if self._due_at else None
        await asyncio.wait({self._marker}, timeout=None if due is None else max(due, 0.0))
        if not self._marker.done():
            self._due_at = 0.0
            return True
        marker, self._marker = self._marker, None
        if marker.cancelled() or not self._unpaused.is_set():
            # It may have taken the marker with it, so ask the queue itself next.
            self._drained = False
            return False
        score = marker.result()
        if not score:
            return True
        due_at = self._calls.clock.to_local(score / 1000)
        if due_at <= time.time():
            return True
        # The marker of a delayed job: nothing to fetch until it is due.
        self._due_at = min(self._due_at or due_at, due_at)
        return False

    async def _next_marker(self) -> float | None:
        """Block until the queue's marker appears; its score, or None after a while or an error.

        The score is 0 when a job is ready, else when the next delayed job is due, in ms.
        """
        reply = await self._wait.once(self._share.keys)
        if reply is None:
            return None
        is_wanted = self.has_room and self._room.is_open and self._unpaused.is_set()
        if not is_wanted or self._stopping:
            # Taken for a slot that is busy again, or for nobody: leave it to another worker.
            try:
                await self._backend.conn.zadd(cast("bytes", reply[0]).decode(), {"0": 0})
            except errors.RedisError as error:
                # Other workers look for themselves after their drain_delay. What Redis refuses
                # here it refuses to the next fetch too, which tells it.
                self._owner.reports.report(error, told=True)
        return float(reply[2])

    async def _end_marker(self) -> None:
        marker, self._marker = self._marker, None
        cutting, self._cutting = self._cutting, None
        if cutting is not None:
            await asyncio.gather(cutting, return_exceptions=True)
        if marker is not None:
            await self._cut(marker)

    async def _cut(self, marker: asyncio.Task[float | None]) -> None:
        """End the blocking wait.

        Closing its socket would not do: the server can hand it the queue's marker before it
        sees the end, and the other workers would sleep over the next job.
        """
        for _ in range(UNBLOCK_TRIES):
            await self._blocking.unblock(self._backend.conn)
            # The wait may be on its way to the server still, so once is not enough.
            done, _pending = await asyncio.wait({marker}, timeout=UNBLOCK_WAIT)
            if done:
                break
        marker.cancel()
        await asyncio.gather(marker, return_exceptions=True)
        self._cutting = None

    # -- fetching --------------------------------------------------------------------------

    async def _fetch(self) -> None:
        token = self._owner.token()
        try:
            with self._under_way():
                try:
                    appetite = self._share.appetite(len(self._chains))
                    fetched = await self._calls.fetch(token, appetite)
                except errors.ReplyLostError as error:
                    self._owner.report(error)
                    fetched = await self._adopt(token, error.asked)
                self._failures = 0
                self._owner.reports.works("fetch")
                self.ready.set()
                self._note(fetched)
                if fetched.job is not None:
                    self._start(fetched.job)
        except errors.RedisError as error:
            # The marker that led here is gone: fetch next, do not wait for another.
            self._drained = False
            self._owner.reports.failing("fetch", error)
            await self._wait_for_redis(error)

    @contextmanager
    def _under_way(self) -> Generator[None]:
        """While a fetch is under way, the worker is not idle: a job may be on its way."""
        self._fetching = True
        self._update()
        try:
            yield
        finally:
            self._fetching = False
            self._update()

    async def _adopt(self, token: str, asked: int | None) -> Fetched:
        while True:
            try:
                return await self._recovery.adopt(token, () if asked is None else (asked,))
            except errors.RedisError as error:
                self._owner.reports.failing("fetch", error)
                await self._wait_for_redis(error)

    async def _wait_for_redis(self, error: errors.RedisError) -> None:
        """After an error: wait for the connection, or a pause that grows."""
        pipeliner = self._backend.shared.pipeliner
        if isinstance(error, errors.RedisUnavailableError) or not pipeliner.is_connected:
            await pipeliner.ready()
        self._failures += 1
        await asyncio.sleep(retry_pause(self._failures, 0.05, 1.0))

    def _note(self, fetched: Fetched) -> None:
        """Remember what the reply said about what comes next."""
        self._share.note(fetched)
        if fetched.asked:
            self.last_fetch = time.monotonic()
        if fetched.job is not None or not fetched.asked:
            self._drained = False
            return
        if fetched.limited_for:
            self._limited_until = time.monotonic() + fetched.limited_for
            self._drained = False
            return
        self._due_at = self._share.look_again(fetched.due_at, len(self._chains))
        if not self._drained:
            self._drained = True
            self._owner.emit("drained")

    # -- running ---------------------------------------------------------------------------

    def _start(self, job: Job[Any]) -> None:
        chain = asyncio.create_task(self._chain(self._take(job)))
        self._chains.add(chain)
        self._update()

        def ended(task: asyncio.Task[None]) -> None:
            self._chains.discard(task)
            self._update()
            if not task.cancelled() and (error := task.exception()) is not None:
                self._owner.report(errors.WorkerCrashedError(f"A slot ended: {error!r}"))

        chain.add_done_callback(ended)

    def _update(self) -> None:
        if self.has_room:
            self._free.set()
        else:
            self._free.clear()
        if self._chains:
            self._busy.set()
        else:
            self._busy.clear()
        if self._chains or self._fetching:
            self._empty.clear()
        else:
            self._empty.set()

    def _take(self, job: Job[Any]) -> Running:
        """Hold a job that was just fetched: its lock is renewed from now on.

        At once, not with its first step: until then another job may block the event loop.
        """
        earlier = self.running.get(job.id)
        if earlier is not None and not earlier.settling:
            # Its lock ran out, and the stalled check gave the job back: to this worker.
            self.lost(earlier)
        running = self.running[job.id] = Running(job)
        self._room.enter(running)
        self._locks.track(job.id, job.token or "")
        return running

    async def _chain(self, running: Running) -> None:
        """Run this job, and those that its finishing call and the ones after it bring."""
        following: Running | None = running
        while following is not None:
            fetched = await self._one(following)
            self._note(fetched)
            following = None if fetched.job is None else self._take(fetched.job)

    async def _one(self, running: Running) -> Fetched:
        job = running.job
        try:
            outcome = await self._run(running)
            if running.released:
                return Fetched()
            if isinstance(outcome, Fetched):
                return outcome
            return await self._settle(running, outcome)
        finally:
            self._room.leave(running)
            self._locks.untrack(job.id, job.token or "")
            if self.running.get(job.id) is running:
                del self.running[job.id]

    async def _settle(self, running: Running, outcome: Outcome) -> Fetched:
        """Store the outcome; then fetch the next job, or let another worker have the place."""
        goes_on = self._goes_on()
        offer = self._share.gives_way(len(self._chains)) if goes_on else None
        fetched = await self._settler.settle(running, outcome, fetch_next=goes_on and offer is None)
        if offer is not None:
            try:
                await self._share.offer(offer)
            except errors.RedisError as error:
                self._owner.report(error)
        return fetched

    async def _run(self, running: Running) -> Outcome | Fetched:
        """The processor's outcome; or what came next, where the job was settled unrun."""
        job = running.job
        if self._stopping:
            # Fetched while the worker was told to stop: it goes back untouched.
            running.settling = True
            await self._settler.release(running)
            return Fetched()
        if not self._room.is_open:
            # Fetched while another job began to wait for being alone.
            running.settling = True
            await self._settler.release(running)
            return Fetched()
        if job.is_ghost:
            running.settling = True
            return await self._settler.drop_ghost(running)
        if job.decode_error is not None:
            return Outcome(error=job.decode_error)
        if job.deferredFailure:
            return Outcome(error=errors.Discard(job.deferredFailure))
        processor = self._runner.find(job)
        if processor is None:
            self._complain_of_name(job)
            return await self._settler.unroutable(running)
        is_suspect = apart.is_suspect(running, processor)
        if is_suspect:
            self._room.close(running)
            self._waits = running
        if job.repeatJobKey:
            await self._schedule_next(job)
        if is_suspect:
            await self._room.alone(running)
            self._waits = None
        if not job.should_stop():
            self._owner.emit("active", job, "waiting")
        outcome = await self._runner.run(running, processor)
        if isinstance(outcome.error, SystemExit | KeyboardInterrupt):
            self._owner.exit_requested(outcome.error)
        return outcome

    def _goes_on(self) -> bool:
        return (
            not self._stopping
            and self._room.is_open
            and self._unpaused.is_set()
            and len(self._chains) <= self._owner.concurrency
        )

    def _complain_of_name(self, job: Job[Any]) -> None:
        if job.name not in self._unroutable:
            self._unroutable.add(job.name)
            self._owner.report(
                errors.UnknownJobNameError(
                    f"There is no processor for jobs named {job.name!r}; job {job.id} goes back "
                    "into the queue.",
                    cause="The producer uses another name, or this worker is out of date.",
                    fix="Register one with @worker.processor(name), or one without a name.",
                )
            )
