"""Finds jobs that no worker would ever get, and puts them back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

from bullpy.backend import Backend
from bullpy.dialect import LISTS
from bullpy.ownscripts import run_on_queue
from bullpy.placing import PLACE
from bullpy.repairs import journal
from bullpy.repairs.common import Report, chunk_for, chunks, some, text

if TYPE_CHECKING:
    from bullpy.queue import Queue

log = logging.getLogger("bullpy.repair")

SCANNED = 500
"""Keys that one step of the scan looks at, roughly."""

LISTED = 5000
"""Ids that one command reads from a list."""


@dataclass(slots=True)
class RepairReport(Report):
    """What `queue.repair()` found and did; with a dry run, what it would do.

    Attributes:
        checked: Jobs that were looked at.
        waiting: Ids of lost jobs that wait again, the oldest first.
        prioritized: Ids of lost jobs that wait again with their priority.
        delayed: Ids of lost jobs that are delayed again until they are due.
        merged: Jobs moved out of a list that nobody reads.
        held: Ids of jobs in no list that were left alone: they carry a lock, a result or the
            time of their end, or wait for children.
    """

    NAME: ClassVar[str] = "orphans"

    checked: int = 0
    waiting: list[str] = field(default_factory=list[str])
    prioritized: list[str] = field(default_factory=list[str])
    delayed: list[str] = field(default_factory=list[str])
    merged: int = 0
    held: list[str] = field(default_factory=list[str])

    @property
    def restored(self) -> int:
        """How many lost jobs were put back."""
        return len(self.waiting) + len(self.prioritized) + len(self.delayed)

    @property
    def changes(self) -> int:
        """Lost jobs that were put back, and jobs that were moved."""
        return self.restored + self.merged

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        # Not super(): a dataclass with slots is another class than the one written here.
        return Report.as_dict(self) | {"restored": self.restored}

    def sentences(self) -> Iterator[str]:
        """What was found and done, for people; a line each."""
        verb = "would go" if self.dry_run else "went"
        yield f"{self.checked} jobs looked at"
        kinds = {
            f"{verb} back to those that wait": self.waiting,
            f"{verb} back to those with a priority": self.prioritized,
            f"{verb} back to those that are delayed": self.delayed,
            "have ended, are locked or wait for children, and were left alone": self.held,
        }
        for what, ids in kinds.items():
            if ids:
                yield f"{len(ids)} lost jobs {what}: {some(ids)}"
        if self.merged:
            moved = "would be moved" if self.dry_run else "were moved"
            yield f"{self.merged} jobs {moved} out of a list that nobody reads"
        if self.found_nothing:
            yield "no job is lost"


async def requeue_orphans(queue: Queue, *, dry_run: bool = True) -> RepairReport:
    """Put lost jobs of a queue back; see `Queue.repair`.

    Args:
        queue: The queue.
        dry_run: Only tell what would be done.

    Raises:
        errors.RedisError: Redis could not be asked, or refused. What was put back stays;
            repair again.
    """
    backend = queue.backend
    report = RepairReport(backend.name, dry_run)
    async with journal.kept(backend, report) as entry:
        await _merge(backend, report, entry)
        # Read first: a job that is in a list now is not lost, wherever it goes later.
        listed = await _listed(backend)
        suspects = await _suspects(backend, listed, report)
        if suspects:
            await entry.begin()
        for chunk in chunks(suspects, chunk_for(len(listed))):
            await _restore(backend, chunk, report)
        for found in (report.waiting, report.prioritized, report.delayed, report.held):
            found.reverse()
    log.info(
        "queue %s: %s%d lost jobs put back, %d moved out of an unread list",
        backend.name,
        "dry run, " if dry_run else "",
        report.restored,
        report.merged,
        extra={"queue": backend.name},
    )
    return report


async def _merge(backend: Backend, report: RepairReport, entry: journal.Entry) -> None:
    """Bring the jobs of `wait` and `paused` together where they are read."""
    unread = int(await run_on_queue(backend, _MERGE, "1"))
    if report.dry_run:
        report.merged = unread
        return
    while unread:
        await entry.begin()
        unread = int(await run_on_queue(backend, _MERGE, ""))
        report.merged += unread


async def _listed(backend: Backend) -> set[bytes]:
    found: set[bytes] = set()
    for name in ("wait", "paused", "active"):
        start = 0
        while ids := await backend.ask("LRANGE", backend.keys[name], start, start + LISTED - 1):
            found.update(cast("list[bytes]", ids))
            start += LISTED
    return found


async def _suspects(backend: Backend, listed: set[bytes], report: RepairReport) -> list[bytes]:
    """Jobs in no list or set. The newest first: each goes in front of those before it."""
    suspects: set[tuple[int, int, bytes]] = set()
    async for ids in _jobs(backend):
        report.checked += len(ids)
        unlisted = [job_id for job_id in ids if job_id not in listed]
        for chunk in chunks(unlisted):
            lost = cast("list[Any]", await run_on_queue(backend, _SUSPECTS, *chunk))
            suspects.update(
                (created, len(job_id), job_id)
                for job_id, created in zip(lost[::2], lost[1::2], strict=True)
            )
    return [job_id for _, _, job_id in sorted(suspects, reverse=True)]


async def _jobs(backend: Backend) -> AsyncIterator[list[bytes]]:
    """The ids of what may be jobs: hashes of the queue. Some come twice, as SCAN has it."""
    base = backend.keys[""]
    cursor = b"0"
    while True:
        cursor, keys = await backend.ask(
            *("SCAN", cursor, "MATCH", f"{_literal(base)}*", "COUNT", SCANNED, "TYPE", "hash"),
        )
        # What has colons is a job of a scheduler, or no job; the script tells them apart.
        ids = [cast("bytes", key)[len(base.encode()) :] for key in keys]
        if ids:
            yield ids
        if cursor == b"0":
            return


async def _restore(backend: Backend, ids: list[bytes], report: RepairReport) -> None:
    places = await run_on_queue(backend, _RESTORE, "1" if report.dry_run else "", *ids)
    found = {
        b"waiting": report.waiting,
        b"prioritized": report.prioritized,
        b"delayed": report.delayed,
        b"held": report.held,
    }
    for job_id, place in zip(ids, places, strict=True):
        # In none of them: it was taken up, or removed, meanwhile.
        if place in found:
            found[place].append(text(job_id))


def _literal(literal: str) -> str:
    """A pattern of SCAN that matches just this text."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in literal)


_MERGE = (
    LISTS
    + """
-- KEYS[1] the queue's `meta`; ARGV[1] '1' for a dry run. Gives how many jobs it moves.
local base = string.sub(KEYS[1], 1, -5)
local into = keeps_paused(base) and 'paused' or 'wait'
-- On a queue that is paused in the way of version 6, `keeps_paused` sees that `paused` is empty.
local unread = redis.call('LLEN', base .. (into == 'wait' and 'paused' or 'wait'))
if ARGV[1] == '1' or unread == 0 then return unread end
local before = unread
gather(base, into)
if redis.call('HEXISTS', KEYS[1], 'paused') == 0 then
    redis.call('ZADD', base .. 'marker', 0, '0')
end
return before - redis.call('LLEN', base .. (into == 'wait' and 'paused' or 'wait'))
"""
).encode()

_IS_A_JOB = """
-- A job's hash, and not that of a scheduler, of a flow, or of another queue.
local function is_a_job(base, id, fields)
    if not fields[1] or not fields[2] or not fields[3] then return false end
    local queue = string.match(id, '^(.*):[^:]*$')
    return not queue or redis.call('EXISTS', base .. queue .. ':meta') == 0
end

local SETS = { 'delayed', 'prioritized', 'waiting-children', 'completed', 'failed' }
local function in_a_set(base, id)
    for _, name in ipairs(SETS) do
        if redis.call('ZSCORE', base .. name, id) then return true end
    end
    return false
end
"""

_SUSPECTS = (
    _IS_A_JOB
    + """
-- KEYS[1] the queue's `meta`; ARGV the ids of jobs that are in no list. Gives those that are in no
-- set either, each followed by the time it was added.
local base, found = string.sub(KEYS[1], 1, -5), {}
for _, id in ipairs(ARGV) do
    local fields = redis.call('HMGET', base .. id, 'name', 'timestamp', 'opts')
    if is_a_job(base, id, fields) and not in_a_set(base, id) then
        found[#found + 1], found[#found + 2] = id, tonumber(fields[2]) or 0
    end
end
return found
"""
).encode()

_RESTORE = (
    PLACE
    + _IS_A_JOB
    + """
-- KEYS[1] the queue's `meta`; ARGV[1] '1' for a dry run, then ids. Gives where each goes:
-- 'waiting', 'prioritized', 'delayed', 'held' where it must not be touched, '' if it is not lost.
local base, dry = string.sub(KEYS[1], 1, -5), ARGV[1] == '1'

local function is_listed(id)
    for _, name in ipairs({ 'wait', 'paused', 'active' }) do
        if redis.call('LPOS', base .. name, id) then return true end
    end
    return false
end

local function is_held(key, fields)
    return fields[4] or fields[5] or redis.call('EXISTS', key .. ':lock') == 1
        or redis.call('SCARD', key .. ':dependencies') > 0
end

local places = {}
for index = 2, #ARGV do
    local id = ARGV[index]
    local key = base .. id
    local fields = redis.call('HMGET', key, 'name', 'timestamp', 'opts', 'finishedOn',
        'returnvalue', 'priority', 'delay', 'processedOn')
    local where = ''
    if is_a_job(base, id, fields) and not in_a_set(base, id) and not is_listed(id) then
        if is_held(key, fields) then
            where = 'held'
        else
            local priority, delay = tonumber(fields[6]) or 0, tonumber(fields[7]) or 0
            local due = 0
            if delay > 0 then due = (tonumber(fields[8]) or tonumber(fields[2]) or 0) + delay end
            where = due > now and 'delayed' or priority > 0 and 'prioritized' or 'waiting'
            if not dry then place(base, id, priority, due, now) end
        end
    end
    places[#places + 1] = where
end
return places
"""
).encode()
