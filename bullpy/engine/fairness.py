"""How a worker shares a queue's global concurrency with others.

The call that finishes a job fetches the next one, so that a place never gets free, and whoever
has the places keeps them for as long as jobs wait. So a worker of bullpy gives a place away:

- to a worker of bullpy that holds no job at all, after each job, whatever it holds itself. It
  finishes without fetching, and then lets the worker go ahead that has waited longest at the key
  `turn`. Workers of Node know nothing of that key and do not come in between.
- to anybody, Node's workers too, while it has more than half of the places to itself: through
  BullMQ's marker, on which every idle worker waits. It keeps half of them, because a worker of
  Node never gives one back.

Workers of Node that have all the places keep them: their script finishes and fetches in one, and
there is no moment in between. A worker of bullpy that has been without a job for half a
second therefore knocks, unless another program in Python runs one: for a fifth of a second it sets
BullMQ's own global rate limit, which makes Node finish without fetching, and takes the place that
gets free. The limit ends with that, or by itself. It needs a server with fields that expire
(Redis 7.4, Valkey 9), and a global concurrency of 2 or more.
"""

from __future__ import annotations

import time

from bullpy.backend import Backend
from bullpy.engine.fetched import Appetite, Fetched, GlobalLimit
from bullpy.places import TURN

SOON = 0.05
"""Seconds after which a worker that let others go first looks for itself."""

SELDOM = 1.0
"""Seconds between two looks of a worker that has long been without a job, at most; and for which
it gives nothing away after nobody wanted it."""

PATIENCE = 0.5
"""Seconds for which a worker is without a job before it knocks."""

UNWANTED = 0.25
"""Seconds for which places have to come back before that; longer than a knock."""


class Share:
    """One worker's part of the global concurrency.

    Args:
        backend: The queue's keys and connection.

    Attributes:
        keys: What an idle worker waits on: BullMQ's marker, and its turn.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._marker = backend.keys["marker"]
        self._turn = backend.toKey(TURN)
        self.keys = (self._marker, self._turn)
        self._limit: GlobalLimit | None = None
        self._pause = SOON
        self._hungry_since: float | None = None
        self._is_last = False
        self._unwanted_since: float | None = None
        self._gives_from = 0.0

    def appetite(self, held: int) -> Appetite:
        """How much a worker that holds that many jobs needs one, so that others give way."""
        if self._limit is None or held:
            return Appetite.NONE
        since = self._hungry_since
        starves = since is not None and time.monotonic() - since >= PATIENCE
        return Appetite.STARVES if starves else Appetite.WAITS

    def holds_back(self, held: int) -> bool:
        """Whether it should wait for a sign before it fetches more, as others may come first."""
        limit = self._limit
        if self._is_last:
            return True
        return limit is not None and held * 2 >= limit.concurrency and self._is_generous()

    def gives_way(self, held: int) -> str | None:
        """Where to offer the place of the job that ends now; None to keep it."""
        limit = self._limit
        if limit is None:
            return None
        if limit.others_wait:
            return self._turn
        has_most = held > 1 and held * 2 > limit.concurrency
        return self._marker if has_most and self._is_generous() else None

    async def offer(self, key: str) -> None:
        """Let the longest waiting worker go ahead.

        Raises:
            errors.RedisError: Redis could not be asked; others look for themselves after a while.
        """
        self._is_last = True
        async with self._backend.conn.pipeline(transaction=False) as pipe:
            pipe.zadd(key, {"0": 0})
            if key == self._turn:
                pipe.pexpire(key, round(SELDOM * 2000))
            await pipe.execute()

    def note(self, fetched: Fetched) -> None:
        """Remember what a reply told."""
        if not fetched.asked:
            return
        self._limit = fetched.limit
        if fetched.job is not None:
            self._pause, self._hungry_since = SOON, None
        if not self._is_last:
            return
        self._is_last = False
        now = time.monotonic()
        if fetched.job is None:
            self._unwanted_since = None
        elif self._unwanted_since is None:
            self._unwanted_since = now
        elif now - self._unwanted_since >= UNWANTED:
            self._unwanted_since = None
            self._gives_from = now + SELDOM

    def look_again(self, due_at: float, held: int) -> float:
        """When to fetch again, seconds since 1970; 0 for when there is a sign.

        Args:
            due_at: When the next delayed job is due, 0 if there is none.
            held: How many jobs the worker holds.
        """
        if self._limit is None or not self._limit.is_full or held:
            self._hungry_since = None
            return due_at
        if self._hungry_since is None:
            self._hungry_since = time.monotonic()
        pause, self._pause = self._pause, min(self._pause * 2, SELDOM)
        at = time.time() + (SOON if self.appetite(held) is Appetite.STARVES else pause)
        return min(due_at, at) if due_at else at

    def _is_generous(self) -> bool:
        return time.monotonic() >= self._gives_from
