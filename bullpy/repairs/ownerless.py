"""Recovers active jobs whose worker is gone, where no worker looks for such jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, cast

from bullpy import errors
from bullpy.dialect import LISTS
from bullpy.ownscripts import run_on_queue
from bullpy.repairs import journal
from bullpy.repairs.common import PAGE, Report, chunk_for, chunks, some, text
from bullpy.repairs.missing import WITHOUT_DATA

if TYPE_CHECKING:
    from bullpy.backend import Backend
    from bullpy.queue import Queue

APART = 10.0
"""Seconds between the two looks: a worker that has lost a lock may take it again meanwhile."""


class _Run(NamedTuple):
    """One run of a job: should it end and the job run anew, that is another one."""

    job_id: bytes
    starts: bytes
    began: bytes


@dataclass(slots=True)
class ActiveReport(Report):
    """What `recover_active` found and did; with a dry run, what it would do.

    Attributes:
        active: Jobs that are active.
        apart: Seconds between the two looks.
        waiting: Ids of jobs without owner that wait again.
        failing: Ids of those of them that have stalled too often: the worker that gets one
            fails it.
        without_data: Active ids without owner that have no data; `drop_ids` drops them.
        taken: How many had no lock at the first look, and had one or were gone at the second.
    """

    NAME: ClassVar[str] = "active"

    active: int = 0
    apart: float = 0.0
    waiting: list[str] = field(default_factory=list[str])
    failing: list[str] = field(default_factory=list[str])
    without_data: list[str] = field(default_factory=list[str])
    taken: int = 0

    @property
    def changes(self) -> int:
        """Jobs that were recovered."""
        return len(self.waiting) + len(self.failing)

    def sentences(self) -> Iterator[str]:
        """What was found and done, for people; a line each."""
        yield f"{self.active} jobs active"
        verb = "would wait" if self.dry_run else "wait"
        if self.waiting:
            yield (
                f"{len(self.waiting)} had no owner in two looks {self.apart:g} s apart, and "
                f"{verb} again, in front: {some(self.waiting)}"
            )
        if self.failing:
            yield (
                f"{len(self.failing)} more had none and have stalled too often; they {verb} too, "
                f"and the worker that gets one fails it: {some(self.failing)}"
            )
        if self.taken:
            yield f"{self.taken} had no lock at first, and were taken or ended meanwhile"
        if self.without_data:
            yield (
                f"{len(self.without_data)} ids have neither owner nor data (bullpy repair ids): "
                f"{some(self.without_data)}"
            )
        if self.found_nothing:
            yield "every active job has an owner" if not self.without_data else "no job was lost"


async def recover_active(
    queue: Queue, *, dry_run: bool = True, apart: float = APART, max_stalled_count: int = 1
) -> ActiveReport:
    """Let active jobs wait again that no worker holds; workers may run meanwhile.

    It does what the stalled check of a worker does, for queues where no worker does it: a job
    goes in front of those that wait, `stalled` is told, its counter of stalls grows and its
    attempts do not. One that has stalled more often than `max_stalled_count`, and is of no job
    scheduler, is marked as BullMQ does it, and its next worker fails it.

    A job counts as without owner if it has no lock in two looks at the same run of it, and none at
    the moment when it is moved.

    Args:
        queue: The queue.
        dry_run: Only tell what would be done.
        apart: Seconds between the two looks.
        max_stalled_count: How often a job may stall; as the workers' option of that name.

    Raises:
        errors.ConfigurationError: A number is negative.
        errors.RedisError: Redis could not be asked, or refused. What was recovered stays so;
            repair again.
    """
    if not apart >= 0 or max_stalled_count < 0:
        raise errors.ConfigurationError(
            f"The looks are {apart} s apart, and a job may stall {max_stalled_count} times.",
            fix="Give numbers of 0 or more.",
        )
    backend = queue.backend
    report = ActiveReport(backend.name, dry_run, apart=apart)
    first = await _ownerless(backend, report)
    if not first:
        return report
    await asyncio.sleep(apart)
    report.without_data.clear()
    second = await _ownerless(backend, report)
    both = [found for found in second if found in first]
    report.taken = len(first) - len(both)
    async with journal.kept(backend, report) as entry:
        if both:
            await entry.begin()
        # The longest in `active` is the last: it is moved last, and so comes first.
        for chunk in chunks(both, chunk_for(report.active)):
            await _recover(backend, chunk, report, max_stalled_count)
    report.waiting.reverse()
    report.failing.reverse()
    return report


async def _ownerless(backend: Backend, report: ActiveReport) -> dict[_Run, None]:
    """The active jobs that have no lock now."""
    found: dict[_Run, None] = {}
    start = report.active = 0
    while True:
        looked, jobs, empty = await run_on_queue(backend, _LOOK, start, PAGE)
        report.active += int(looked)
        texts = cast("list[bytes]", jobs)
        for three in zip(texts[::3], texts[1::3], texts[2::3], strict=True):
            found[_Run(*three)] = None
        report.without_data.extend(map(text, empty))
        if looked < PAGE:
            return found
        start += PAGE


async def _recover(
    backend: Backend, runs: list[_Run], report: ActiveReport, max_stalled_count: int
) -> None:
    args = [part for each in runs for part in each]
    dry = "1" if report.dry_run else ""
    outcomes = await run_on_queue(backend, _RECOVER, dry, max_stalled_count, *args)
    for each, outcome in zip(runs, outcomes, strict=True):
        if outcome == b"waiting":
            report.waiting.append(text(each.job_id))
        elif outcome == b"failing":
            report.failing.append(text(each.job_id))
        else:
            report.taken += 1


_OWNERLESS = (
    WITHOUT_DATA
    + """
local base = string.sub(KEYS[1], 1, -5)
-- Markers of BullMQ 4 are no jobs.
local function has_owner(id)
    return string.sub(id, 1, 2) == '0:' or redis.call('EXISTS', base .. id .. ':lock') == 1
end
-- Which run of a job it is.
local function run_of(id)
    local fields = redis.call('HMGET', base .. id, 'ats', 'processedOn')
    return fields[1] or '', fields[2] or ''
end
"""
)

_LOOK = (
    _OWNERLESS
    + """
-- KEYS[1] the queue's `meta`; ARGV[1] where to begin, ARGV[2] how many. Gives how many ids there
-- were, of jobs without lock their id and run, and the ids without lock that have no data.
local jobs, empty = {}, {}
local ids = redis.call('LRANGE', base .. 'active', ARGV[1], ARGV[1] + ARGV[2] - 1)
for _, id in ipairs(ids) do
    if has_owner(id) then
        -- It runs.
    elseif without_data(base, id) then
        empty[#empty + 1] = id
    else
        local starts, began = run_of(id)
        jobs[#jobs + 1], jobs[#jobs + 2], jobs[#jobs + 3] = id, starts, began
    end
end
return { #ids, jobs, empty }
"""
).encode()

_RECOVER = (
    LISTS
    + _OWNERLESS
    + """
-- KEYS[1] the queue's `meta`; ARGV[1] '1' for a dry run, ARGV[2] how often a job may stall, then
-- ids, each with its run. Gives for each 'waiting', 'failing', or '' if it is not without owner.
local function is_scheduled(id)
    local scheduler = redis.call('HGET', base .. id, 'rjk')
    return scheduler and (redis.call('EXISTS', base .. 'repeat:' .. scheduler) == 1
        or redis.call('ZSCORE', base .. 'repeat', scheduler))
end

local outcomes, moved = {}, false
for index = 3, #ARGV, 3 do
    local id, outcome = ARGV[index], ''
    local starts, began = ARGV[index + 1], ARGV[index + 2]
    if not has_owner(id) and not without_data(base, id)
        and redis.call('LPOS', base .. 'active', id) then
        local now_starts, now_began = run_of(id)
        if now_starts == starts and now_began == began then
            local stalls = (tonumber(redis.call('HGET', base .. id, 'stc')) or 0) + 1
            local fails = stalls > tonumber(ARGV[2]) and not is_scheduled(id)
            outcome = fails and 'failing' or 'waiting'
            if ARGV[1] ~= '1' then
                moved = true
                redis.call('LREM', base .. 'active', 0, id)
                redis.call('SREM', base .. 'stalled', id)
                redis.call('HSET', base .. id, 'stc', stalls)
                if fails then
                    redis.call('HSET', base .. id, 'defa', 'job stalled more than allowable limit')
                end
                redis.call('RPUSH', base .. (keeps_paused(base) and 'paused' or 'wait'), id)
                redis.call('XADD', base .. 'events', '*', 'event', 'waiting', 'jobId', id,
                    'prev', 'active')
                redis.call('XADD', base .. 'events', '*', 'event', 'stalled', 'jobId', id)
            end
        end
    end
    outcomes[#outcomes + 1] = outcome
end
if moved and redis.call('HEXISTS', KEYS[1], 'paused') == 0 then
    redis.call('ZADD', base .. 'marker', 0, '0')
end
return outcomes
"""
).encode()
