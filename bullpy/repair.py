"""Finds jobs that no worker would ever get, and puts them back."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from bullpy import errors
from bullpy.backend import Backend
from bullpy.connection.client import run_script
from bullpy.connection.probe import classify
from bullpy.dialect import LISTS
from bullpy.placing import PLACE

log = logging.getLogger("bullpy.repair")

CHUNK = 100
"""Jobs that one script looks at or puts back at most."""

SCANNED = 500
"""Keys that one step of the scan looks at, roughly."""

LISTED = 5000
"""Ids that one command reads from a list."""

SEARCHED = 2_000_000
"""Places in lists that one script looks through at most."""


@dataclass(slots=True)
class RepairReport:
    """What `queue.repair()` found and did; with a dry run, what it would do.

    Attributes:
        queue: The queue's name.
        dry_run: Whether nothing was changed.
        checked: Jobs that were looked at.
        waiting: Ids of lost jobs that wait again, the oldest first.
        prioritized: Ids of lost jobs that wait again with their priority.
        delayed: Ids of lost jobs that are delayed again until they are due.
        merged: Jobs moved out of a list that nobody reads.
        held: Ids of jobs in no list that were left alone: they carry a lock, a result or the
            time of their end, or wait for children.
    """

    queue: str
    dry_run: bool
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
    def found_nothing(self) -> bool:
        """Whether all jobs were where they belong."""
        return not self.restored and not self.merged

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"restored": self.restored}


async def repair(backend: Backend, *, dry_run: bool) -> RepairReport:
    """Put lost jobs of a queue back; see `Queue.repair`.

    Raises:
        errors.RedisError: Redis could not be asked, or refused.
    """
    report = RepairReport(backend.name, dry_run)
    await _merge(backend, report)
    # Read first: a job that is in a list now is not lost, wherever it goes later.
    listed = await _listed(backend)
    suspects: set[tuple[float, int, str]] = set()
    async for ids in _jobs(backend):
        report.checked += len(ids)
        unlisted = [job_id for job_id in ids if job_id not in listed]
        for chunk in _chunks(unlisted):
            lost = await _run(backend, _SUSPECTS, [backend.keys[""]], chunk)
            suspects.update(
                (float(created or 0), len(job_id), cast("bytes", job_id).decode())
                for job_id, created in zip(lost[::2], lost[1::2], strict=True)
            )
    # The newest first: each goes in front of those before it, as they are the oldest jobs.
    ids = [job_id for _, _, job_id in sorted(suspects, reverse=True)]
    for chunk in _chunks(ids, max(1, min(CHUNK, SEARCHED // (len(listed) + 1)))):
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


async def _merge(backend: Backend, report: RepairReport) -> None:
    """Bring the jobs of `wait` and `paused` together where they are read."""
    while True:
        moved = await _run(backend, _MERGE, [backend.keys["meta"]], ["1" if report.dry_run else ""])
        report.merged += int(moved)
        if not moved or report.dry_run:
            return


async def _listed(backend: Backend) -> set[str]:
    found: set[str] = set()
    for name in ("wait", "paused", "active"):
        start = 0
        while ids := await backend.ask("LRANGE", backend.keys[name], start, start + LISTED - 1):
            found.update(cast("bytes", job_id).decode() for job_id in ids)
            start += LISTED
    return found


async def _jobs(backend: Backend) -> AsyncIterator[list[str]]:
    """The ids of what may be jobs: hashes of the queue. Some come twice, as SCAN has it."""
    base = backend.keys[""]
    cursor = b"0"
    while True:
        cursor, keys = await backend.ask(
            *("SCAN", cursor, "MATCH", f"{_literal(base)}*", "COUNT", SCANNED, "TYPE", "hash"),
        )
        # What has colons is a job of a scheduler, or no job; the script tells them apart.
        ids = [cast("bytes", key)[len(base.encode()) :].decode("utf-8", "replace") for key in keys]
        if ids:
            yield ids
        if cursor == b"0":
            return


async def _restore(backend: Backend, ids: list[str], report: RepairReport) -> None:
    where = await _run(
        backend,
        _RESTORE,
        [backend.keys["meta"]],
        ["1" if report.dry_run else "", *ids],
    )
    for job_id, place in zip(ids, where, strict=True):
        match place:
            case b"waiting":
                report.waiting.append(job_id)
            case b"prioritized":
                report.prioritized.append(job_id)
            case b"delayed":
                report.delayed.append(job_id)
            case b"held":
                report.held.append(job_id)
            case _:
                # It was taken up, or removed, meanwhile.
                pass


def _chunks(ids: Sequence[str], size: int = CHUNK) -> Iterator[list[str]]:
    for start in range(0, len(ids), size):
        yield list(ids[start : start + size])


def _literal(text: str) -> str:
    """A pattern of SCAN that matches just this text."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in text)


async def _run(backend: Backend, source: bytes, keys: list[str], args: list[str]) -> Any:
    """Run a script of bullpy's own; again after a lost reply, as each does its work once."""
    shared = backend.shared
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
    call = (len(keys), *keys, *args)
    try:
        reply = await run_script(shared.pipeliner, sha, source, call)
    except errors.ReplyLostError:
        reply = await run_script(shared.pipeliner, sha, source, call)
    if isinstance(reply, Exception):
        raise classify(reply, shared.settings) from reply
    return reply


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
-- KEYS[1] what the queue's keys begin with; ARGV the ids of jobs that are in no list. Gives those
-- that are in no set either, each followed by the time it was added.
local base, found = KEYS[1], {}
for _, id in ipairs(ARGV) do
    local fields = redis.call('HMGET', base .. id, 'name', 'timestamp', 'opts')
    if is_a_job(base, id, fields) and not in_a_set(base, id) then
        found[#found + 1], found[#found + 2] = id, fields[2]
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
