"""The locks of running jobs, renewed from a thread of their own.

A processor that blocks the event loop, or a loop that is busy, must not lose a job: the
thread has its own connection and needs nothing from the loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar, cast

from bullpy import codec, errors, scripts
from bullpy.backend import Backend
from bullpy.connection.factory import client_name
from bullpy.connection.pipelining import retry_pause
from bullpy.connection.threadclient import ThreadClient
from bullpy.settings import WorkerSettings

RETRY_MIN = 0.1
RETRY_MAX = 1.0
"""Seconds until the next try after a renewal that failed; they double."""

QUIET_FOR = 1.0
"""Seconds for which the event loop may tell of an outage before the lock thread does."""

Told = TypeVar("Told")

log = logging.getLogger("bullpy.locks")


class LockKeeper:
    """Renews the locks of the jobs it is told of.

    Args:
        backend: The queue's keys.
        settings: Lock duration and how often to renew.
        on_lost: Called on the event loop with the ids of jobs whose lock is gone, and its token:
            the job may have been fetched again under another.
        on_renewed: Called on the event loop with the ids of jobs whose lock was renewed.
        on_crash: Called on the event loop when the thread ends although it should not.
        is_told: Whether the log says already that Redis fails; called in the thread.
    """

    def __init__(
        self,
        backend: Backend,
        settings: WorkerSettings,
        *,
        on_lost: Callable[[dict[str, str]], None],
        on_renewed: Callable[[list[str]], None],
        on_crash: Callable[[BaseException], None],
        is_told: Callable[[], bool],
    ) -> None:
        self._prefix = backend.keys[""]
        self._stalled_key = backend.keys["stalled"]
        self._duration_ms = round(settings.lock_duration * 1000)
        self._renew_every = settings.renew_every
        self._on_lost = on_lost
        self._on_renewed = on_renewed
        self._on_crash = on_crash
        self._is_told = is_told
        self._failures = 0
        self._failing_since = 0.0
        self._said = False
        redis = backend.connection.settings
        # A renewal that waits longer than this would come too late anyway.
        timeout = min(redis.command_timeout, settings.lock_duration / 3)
        name = f"{client_name()}:locks"
        self._client = ThreadClient(redis, name, timeout, key=self._stalled_key)
        self._held: dict[str, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def held(self) -> list[str]:
        """The ids of the jobs whose locks are renewed."""
        return list(self._held)

    def start(self) -> None:
        """Start the thread. Starting twice is fine."""
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._stop.clear()
            self._thread = threading.Thread(target=self._work, name="bullpy-locks", daemon=True)
            self._thread.start()

    def track(self, job_id: str, token: str) -> None:
        """Renew this job's lock from now on."""
        self._held[job_id] = (token, time.monotonic())

    def untrack(self, job_id: str, token: str) -> None:
        """Renew this job's lock no more, unless it was taken again under another token."""
        if self._held.get(job_id, ("",))[0] == token:
            del self._held[job_id]

    async def stop(self) -> None:
        """End the thread. Stopping twice, or before the start, is fine."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.join, self._client.timeout + 1)

    def _work(self) -> None:
        # Half the interval: a lock is renewed when it is older than that, so at the latest
        # after one whole interval, as in Node's lock manager.
        tick = self._renew_every / 2
        try:
            pause = tick
            while not self._stop.wait(pause):
                # After an error at once: the time-out may have cost a third of the lock.
                pause = tick
                if not self._renew(tick):
                    pause = min(tick, retry_pause(self._failures, RETRY_MIN, RETRY_MAX))
        except BaseException as error:  # noqa: BLE001 - a thread that dies must be heard of
            self._tell(self._on_crash, error)
        finally:
            self._client.close()

    def _renew(self, older_than: float) -> bool:
        """Renew the locks that are due; False when Redis could not be asked."""
        now = time.monotonic()
        due = {
            job_id: token
            for job_id, (token, since) in list(self._held.items())
            if now - since >= older_than
        }
        if not due:
            return True
        try:
            lost = self._extend(due)
        except errors.RedisError as error:
            self._failed(len(due), error)
            return False
        self._worked()
        for job_id, token in due.items():
            if job_id not in lost and self._held.get(job_id, ("",))[0] == token:
                self._held[job_id] = (token, now)
        renewed = [job_id for job_id in due if job_id not in lost]
        if renewed:
            self._tell(self._on_renewed, renewed)
        if lost:
            self._tell(self._on_lost, {job_id: due[job_id] for job_id in lost})
        return True

    def _failed(self, count: int, error: errors.RedisError) -> None:
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        # Not at once: in an outage the event loop hears of it with its next command.
        quiet = min(QUIET_FOR, self._renew_every / 2)
        if now - self._failing_since >= quiet and not self._said and not self._is_told():
            self._said = True
            log.warning(
                "cannot renew %d locks: %s It is tried again about once a second.",
                count,
                error,
                extra={"code": error.code},
            )

    def _worked(self) -> None:
        self._failures = 0
        if self._said:
            self._said = False
            log.warning("locks are renewed again")

    def _extend(self, due: dict[str, str]) -> list[str]:
        sha, source = scripts.load("extendLocks")
        lost = self._client.run_script(
            sha,
            source,
            1,
            self._stalled_key,
            self._prefix,
            codec.pack_for_lua(list(due.values())),
            codec.pack_for_lua(list(due)),
            self._duration_ms,
        )
        return [job_id.decode() for job_id in cast("list[bytes]", lost or [])]

    def _tell(self, listener: Callable[[Told], None], what: Told) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(listener, what)
