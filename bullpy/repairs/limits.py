"""Releases a rate limit that would hold a queue for ever, or far too long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bullpy.ownscripts import run_on_queue
from bullpy.repairs import journal
from bullpy.repairs.common import Report

if TYPE_CHECKING:
    from bullpy.backend import Backend
    from bullpy.queue import Queue

SENSIBLE = 60.0
"""Seconds that a call of `rateLimit()` may hold a queue before it counts as stuck."""

_WHY = {
    "unreadable": "its limiter is no number: every fetch fails",
    "no-ttl": "its limiter never ends: it counts for ever, and no longer limits",
    "called": "somebody called rateLimit() with a long time",
    "long": "its limiter lasts longer than asked for",
    "": "its limiter ends by itself",
}


@dataclass(slots=True)
class LimiterReport(Report):
    """What `release_limiter` found and did; with a dry run, what it would do.

    Attributes:
        exists: Whether there is a limiter.
        why: Why it is stuck: `unreadable`, `no-ttl`, `called`, `long`; empty if it is not.
        value: The jobs that it has counted, as Redis holds it; BullMQ's `rateLimit()` writes
            9007199254740991.
        seconds: Until it ends by itself; None if it does not.
        maximum: `max` of the queue's global rate limit; empty without one.
        duration: Its `duration` in ms; empty without one.
    """

    NAME: ClassVar[str] = "limiter"

    exists: bool = False
    why: str = ""
    value: str = ""
    seconds: float | None = None
    maximum: str = ""
    duration: str = ""

    @property
    def changes(self) -> int:
        """1 if a limiter is stuck."""
        return int(bool(self.why))

    def sentences(self) -> Iterator[str]:
        """What was found and done, for people; a line each."""
        if not self.exists:
            yield "the queue is not rate limited"
            return
        until = "without end" if self.seconds is None else f"for another {self.seconds:.1f} s"
        yield f"the queue has a limiter {until}, with the value {self.value or 'of another type'}"
        if self.maximum or self.duration:
            yield f"its global rate limit: {self.maximum} jobs in {self.duration} ms"
        yield _WHY[self.why]
        if self.why:
            done = "would be removed" if self.dry_run else "was removed"
            yield f"the limiter {done}; workers that wait for its end look again within 30 s"
        elif self.seconds is not None:
            yield "to remove it nevertheless: --longer-than SECONDS"


async def release_limiter(
    queue: Queue, *, dry_run: bool = True, longer_than: float | None = None
) -> LimiterReport:
    """Remove a limiter that is stuck.

    That is one without an end, one that is no number, and one that `rateLimit()` made for more
    than a minute. A limiter that counts the jobs of a rate limit is left alone, as what it
    protects may need it.

    Args:
        queue: The queue.
        dry_run: Only tell what would be done.
        longer_than: Seconds; any limiter that lasts longer counts as stuck.

    Raises:
        errors.RedisError: Redis could not be asked, or refused.
    """
    backend = queue.backend
    report = LimiterReport(backend.name, dry_run)
    await _look(backend, report, longer_than, remove=False)
    async with journal.kept(backend, report) as entry:
        if not report.found_nothing and not dry_run:
            await entry.begin()
            await _look(backend, report, longer_than, remove=True)
    return report


async def _look(
    backend: Backend, report: LimiterReport, longer_than: float | None, *, remove: bool
) -> None:
    """Look at the limiter; in the same step remove it, if it is still stuck."""
    called = SENSIBLE if longer_than is None else longer_than
    counted = "" if longer_than is None else round(longer_than * 1000)
    args = ("1" if remove else "", round(called * 1000), counted)
    found: list[Any] = await run_on_queue(backend, _LIMITER, *args)
    exists, why, value, ttl, maximum, duration = found
    report.exists = bool(exists)
    report.why = why.decode()
    report.value = value.decode("utf-8", "backslashreplace")[:50]
    report.seconds = None if ttl < 0 else ttl / 1000
    report.maximum = maximum.decode("utf-8", "backslashreplace")[:50]
    report.duration = duration.decode("utf-8", "backslashreplace")[:50]


# Whoever raises a limit by hand writes Number.MAX_SAFE_INTEGER.
_LIMITER = b"""
-- KEYS[1] the queue's `meta`; ARGV[1] '1' to remove what is stuck, ARGV[2] ms that a call of
-- rateLimit() may last, ARGV[3] the same of any limiter, '' for as long as it likes.
local base = string.sub(KEYS[1], 1, -5)
local key = base .. 'limiter'
local limit = redis.call('HMGET', KEYS[1], 'max', 'duration')
local max, duration = limit[1] or '', limit[2] or ''
local kind = redis.call('TYPE', key).ok
if kind == 'none' then return { 0, '', '', -2, max, duration } end
local value = kind == 'string' and redis.call('GET', key) or ''
local number, ttl = tonumber(value), redis.call('PTTL', key)
local why = ''
if not number or number ~= number then
    why = 'unreadable'
elseif ttl == -1 then
    why = 'no-ttl'
elseif number >= 9007199254740991 and ttl > tonumber(ARGV[2]) then
    why = 'called'
elseif ARGV[3] ~= '' and ttl > tonumber(ARGV[3]) then
    why = 'long'
end
if why ~= '' and ARGV[1] == '1' then
    redis.call('DEL', key)
    local waiting = redis.call('LLEN', base .. 'wait') + redis.call('ZCARD', base .. 'prioritized')
    if waiting > 0 and redis.call('HEXISTS', KEYS[1], 'paused') == 0 then
        redis.call('ZADD', base .. 'marker', 0, '0')
    end
end
return { 1, why, value, ttl, max, duration }
"""
