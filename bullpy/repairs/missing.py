"""Drops ids from the lists and sets of a queue that have no job any more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

from bullpy.ownscripts import run_on_queue
from bullpy.repairs import journal
from bullpy.repairs.common import PAGE, Report, some, text

if TYPE_CHECKING:
    from bullpy.backend import Backend
    from bullpy.queue import Queue

LISTS = ("wait", "paused", "active")
SETS = ("prioritized", "delayed", "waiting-children", "completed", "failed")

WITHOUT_DATA = """
-- Whether there is nothing to run for an id: no hash, or one that only a fetch has made.
local function without_data(base, id)
    local kind = redis.call('TYPE', base .. id).ok
    if kind ~= 'hash' then return true end
    local fields = redis.call('HMGET', base .. id, 'name', 'data')
    return not fields[1] and not fields[2]
end
"""
"""Lua of bullpy's own: `without_data(base, id)`."""


@dataclass(slots=True)
class IdsReport(Report):
    """What `drop_ids` found and did; with a dry run, what it would do.

    Attributes:
        checked: Ids that were looked at.
        dropped: The ids without data, by list or set.
        held: Ids without data that were left alone in `active`: a worker holds them.
    """

    NAME: ClassVar[str] = "ids"

    checked: int = 0
    dropped: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    held: list[str] = field(default_factory=list[str])

    @property
    def changes(self) -> int:
        """Ids that were dropped."""
        return sum(map(len, self.dropped.values()))

    def for_log(self) -> dict[str, Any]:
        """What the log of repairs keeps of it: the ids as lists of their own, to be shortened."""
        # Not super(): a dataclass with slots is another class than the one written here.
        kept = Report.for_log(self)
        del kept["dropped"]
        return kept | {f"dropped from {name}": ids for name, ids in self.dropped.items()}

    def sentences(self) -> Iterator[str]:
        """What was found and done, for people; a line each."""
        yield f"{self.checked} ids looked at"
        verb = "would be dropped" if self.dry_run else "were dropped"
        for name, ids in self.dropped.items():
            yield f"{len(ids)} ids without data {verb} from `{name}`: {some(ids)}"
        if self.held:
            yield f"{len(self.held)} are held by a worker, and were left alone: {some(self.held)}"
        if self.found_nothing and not self.held:
            yield "every id has its data"


async def drop_ids(queue: Queue, *, dry_run: bool = True) -> IdsReport:
    """Drop ids that have no data from all lists and sets of a queue; workers may run meanwhile.

    An id in `active` is left alone while a worker holds its lock. What a fetch has left of such a
    job, counters and times, is removed too. `removed` is told to those who follow the events.

    Args:
        queue: The queue.
        dry_run: Only tell what would be done.

    Raises:
        errors.RedisError: Redis could not be asked, or refused. What was dropped stays dropped;
            repair again.
    """
    backend = queue.backend
    report = IdsReport(backend.name, dry_run)
    async with journal.kept(backend, report) as entry:
        for name in (*LISTS, *SETS):
            await _through(backend, name, report, entry)
    return report


async def _through(backend: Backend, name: str, report: IdsReport, entry: journal.Entry) -> None:
    """Go through one list or set, a page at a time."""
    kind = "list" if name in LISTS else "set"
    seen: set[bytes] = set()
    cursor = b"0"
    while True:
        # A page is looked at first, as the log is written before something is dropped.
        page = await run_on_queue(backend, _PAGE, "1", name, kind, cursor, PAGE)
        if not report.dry_run and cast("list[bytes]", page[2]):
            await entry.begin()
            page = await run_on_queue(backend, _PAGE, "", name, kind, cursor, PAGE)
        cursor, checked, missing, held = page
        report.checked += int(checked)
        # A page may show again what the one before showed, when jobs were added in between.
        fresh = [job_id for job_id in dict.fromkeys(missing) if job_id not in seen]
        seen.update(fresh)
        if fresh:
            report.dropped.setdefault(name, []).extend(map(text, fresh))
        report.held.extend(map(text, held))
        if not cursor:
            return


_PAGE = (
    WITHOUT_DATA
    + """
-- KEYS[1] the queue's `meta`; ARGV[1] '1' for a dry run, ARGV[2] the list or set, ARGV[3] which of
-- the two it is, ARGV[4] where to go on, ARGV[5] how many ids. Gives where to go on ('' at the
-- end), how many ids were looked at, those without data, and of them those that a worker holds.
local base, dry, name = string.sub(KEYS[1], 1, -5), ARGV[1] == '1', ARGV[2]
local key, count = base .. name, tonumber(ARGV[5])
local is_list = ARGV[3] == 'list'

-- What a fetch writes for an id that has no job; the queue's own hashes have other fields.
local LEFT = { ats = 1, atm = 1, stc = 1, processedOn = 1, finishedOn = 1, failedReason = 1,
    stacktrace = 1, returnvalue = 1, pb = 1, defa = 1, progress = 1, delay = 1, priority = 1 }
local function is_left_over(job)
    if redis.call('TYPE', job).ok ~= 'hash' or redis.call('HLEN', job) > 20 then return false end
    for _, field in ipairs(redis.call('HKEYS', job)) do
        if not LEFT[field] and string.sub(field, 1, 7) ~= 'bullpy:' then return false end
    end
    return true
end

local ids, following = {}, ''
if is_list then
    local first = tonumber(ARGV[4])
    ids = redis.call('LRANGE', key, first, first + count - 1)
    if #ids == count then following = first + count end
else
    local reply = redis.call('ZSCAN', key, ARGV[4], 'COUNT', count)
    if reply[1] ~= '0' then following = reply[1] end
    for index = 1, #reply[2], 2 do ids[#ids + 1] = reply[2][index] end
end

local missing, held, places = {}, {}, {}
for index, id in ipairs(ids) do
    -- What begins so is a marker of BullMQ 4 and no job.
    if string.sub(id, 1, 2) ~= '0:' and without_data(base, id) then
        if name == 'active' and redis.call('EXISTS', base .. id .. ':lock') == 1 then
            held[#held + 1] = id
        else
            missing[#missing + 1], places[#places + 1] = id, index
        end
    end
end
if dry or #missing == 0 then return { tostring(following), #ids, missing, held } end

if is_list then
    -- Marked by their places and removed at once: the search ends with this page.
    local first = tonumber(ARGV[4])
    for _, place in ipairs(places) do
        redis.call('LSET', key, first + place - 1, 'bullpy:dropped')
    end
    redis.call('LREM', key, #places, 'bullpy:dropped')
    if following ~= '' then following = following - #places end
else
    for _, id in ipairs(missing) do redis.call('ZREM', key, id) end
end
for _, id in ipairs(missing) do
    if is_left_over(base .. id) then redis.call('DEL', base .. id) end
    if name == 'active' then redis.call('SREM', base .. 'stalled', id) end
    redis.call('XADD', base .. 'events', '*', 'event', 'removed', 'jobId', id, 'prev', name)
end
if name == 'active' and redis.call('HEXISTS', KEYS[1], 'paused') == 0
    and redis.call('LLEN', base .. 'wait') + redis.call('ZCARD', base .. 'prioritized') > 0 then
    -- There is room again under a global concurrency.
    redis.call('ZADD', base .. 'marker', 0, '0')
end
return { tostring(following), #ids, missing, held }
"""
).encode()
