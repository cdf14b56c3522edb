"""The life of a job: what happened to it, when, and by whose clock.

Two sources tell it. The queue's event stream has a step for all that happens, by Redis's clock, as
far back as it is kept. The job's hash has the times that its producer and its worker wrote, by
theirs, and its state now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from bullpy import codec
from bullpy.eventpages import BACKWARDS
from bullpy.jobhash import Reader
from bullpy.joblife import ENDS, PRODUCER, REDIS, WORKER, JobLife, Step
from bullpy.ownscripts import run_on_queue
from bullpy.redaction import redact
from bullpy.types import JobState

if TYPE_CHECKING:
    from bullpy.queue import Queue

WINDOW = 20_000
"""Events of the queue that are searched for those of the job, at most, from the newest on."""

PAGE = 100
"""Events that one script searches, at most."""

LONGEST = 500
"""Bytes of a field of an event that are read."""


async def read(queue: Queue, job_id: str, *, with_data: bool = False) -> JobLife:
    """Read the life of a job.

    Args:
        queue: Its queue.
        job_id: The job; one that is gone is told of as far as events are left.
        with_data: Its data and result too.

    Raises:
        errors.RedisError: Redis could not be asked, or refused.
    """
    life = JobLife(queue.name, job_id)
    # What happens after the newest event that is read here, a follower is told of.
    events = await _events(queue, life)
    raw = await _facts(queue, life, with_data=with_data)
    life.steps = _timed(list(_folded(_complete(_numbered(events, life), raw))))
    return life


async def _events(queue: Queue, life: JobLife) -> list[Step]:
    """The job's events, from the newest to the one that added it, in the order of time."""
    found: list[Step] = []
    end = "+"
    while life.searched < WINDOW:
        looked, newest, oldest, entries, is_all = await run_on_queue(
            queue.backend, _EVENTS, life.job_id, end, PAGE, LONGEST
        )
        if looked:
            if life.searched == 0:
                life.last_id = newest.decode()
            life.searched += int(looked)
            life.oldest_event = int(oldest.partition(b"-")[0])
            end = f"({oldest.decode()}"
        for entry_id, fields in cast("list[Any]", entries):
            step = step_of(entry_id.decode(), _texts(fields))
            found.append(step)
            if step.name == "created":
                life.reaches_back = True
                return found[::-1]
        if is_all:
            # The stream has been read whole: either nothing was dropped, or its beginning.
            break
    return found[::-1]


def _texts(fields: Sequence[bytes]) -> dict[str, str]:
    texts = [each.decode("utf-8", "replace") for each in fields]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def step_of(entry_id: str, fields: Mapping[str, Any]) -> Step:
    """An event as a step.

    Args:
        entry_id: Its id in the stream.
        fields: `event`, and what else it has.
    """
    event, prev = str(fields.get("event", "")), str(fields.get("prev", ""))
    at = int(entry_id.partition("-")[0])
    details: dict[str, str] = {"from": prev} if prev else {}
    name, data = event, ""
    match event:
        case "added":
            name = "created"
            details["job_name"] = str(fields.get("name", ""))
        case "waiting" if prev in ENDS:
            name = "retried"
        case "progress":
            data = _json(fields.get("data", ""))
            # Other values than numbers may hold what the job is about.
            if data.replace(".", "", 1).lstrip("-").isdigit():
                details["progress"] = data
        case "delayed":
            details["due"] = str(fields.get("delay", ""))
        case "completed":
            data = _json(fields.get("returnvalue", ""))
        case "failed":
            details["reason"] = redact(str(fields.get("failedReason", "")))
        case _:
            for key in ("attemptsMade", "deduplicationId", "deduplicatedJobId"):
                if key in fields:
                    details[key] = str(fields[key])
    return Step(name, at, event_id=entry_id, details=details, data=data)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else codec.dumps(value).decode()


async def _facts(queue: Queue, life: JobLife, *, with_data: bool) -> dict[bytes, bytes | str]:
    """Read the job's hash into its life, without its data; the fields."""
    backend = queue.backend
    fields, sizes, lock, lock_ms, children, logs, due = await run_on_queue(
        backend, _FACTS, life.job_id, "1" if with_data else ""
    )
    raw = dict(zip(fields[::2], fields[1::2], strict=True))
    life.exists = bool(raw)
    life.state = JobState.of(str(await backend.getState(life.job_id)))
    life.lock = lock.decode("utf-8", "replace")
    life.lock_for = lock_ms / 1000 if lock and lock_ms >= 0 else None
    life.children, life.logs = int(children), int(logs)
    life.due = int(float(due)) // 0x1000 if due else None
    if not raw:
        return raw
    reader = Reader(life.job_id, raw)
    life.sizes = {"data": int(sizes[0]), "returnvalue": int(sizes[1])}
    if with_data:
        life.data = {name: reader.text(name.encode()) or "" for name in ("data", "returnvalue")}
    life.name = reader.text(b"name") or ""
    life.attempts = int(reader.options().get("attempts") or 1)
    life.attempts_made = reader.number(b"atm") or reader.number(b"attemptsMade")
    life.starts, life.stalls = reader.number(b"ats"), reader.number(b"stc")
    life.worker = reader.text(b"pb") or ""
    life.priority, life.delay = reader.number(b"priority"), reader.number(b"delay") / 1000
    life.parent = reader.text(b"parentKey") or ""
    life.reason = redact(reader.text(b"failedReason") or "")
    life.deferred = redact(reader.text(b"defa") or "")
    return raw


def _numbered(steps: Sequence[Step], life: JobLife) -> list[Step]:
    """The steps, with the number of each start; the last is the one that the hash tells of."""
    starts = [index for index, step in enumerate(steps) if step.name == "active"]
    numbered = list(steps)
    for back, index in enumerate(reversed(starts)):
        number = life.starts - back
        if number > 0:
            details = {**steps[index].details, "attempt": str(number)}
            numbered[index] = replace(steps[index], details=details)
    return numbered


def _complete(steps: list[Step], raw: Mapping[bytes, bytes | str]) -> list[Step]:
    """The steps with what the hash knows of them, and with those that it alone knows."""
    reader = Reader("", raw)
    created, began = reader.number(b"timestamp"), reader.number(b"processedOn")
    ended, worker = reader.number(b"finishedOn"), reader.text(b"pb") or ""
    last_start = _last(steps, "active")
    if last_start is not None:
        details = {**steps[last_start].details, **({"worker": worker} if worker else {})}
        steps[last_start] = replace(steps[last_start], details=details, process_at=began or None)
    elif began:
        details = {"worker": worker} if worker else {}
        # After what was before it by that clock, and in any case after it was created.
        known = sum(step.at <= began for step in steps)
        first = _last(steps, "created")
        place = known if first is None else max(known, first + 1)
        steps.insert(place, Step("active", began, WORKER, details=details))
    last_end = _last(steps, *ENDS)
    if last_end is not None and ended:
        steps[last_end] = replace(steps[last_end], process_at=ended)
    elif ended:
        failed = reader.text(b"failedReason") is not None
        reason = {"reason": redact(reader.text(b"failedReason") or "")} if failed else {}
        known = sum(step.clock != REDIS or step.at <= ended for step in steps)
        step = Step("failed" if failed else "completed", ended, WORKER, details=reason)
        steps.insert(known, step)
    first = _last(steps, "created")
    if first is not None:
        steps[first] = replace(steps[first], process_at=created or None)
    elif created:
        steps.insert(0, Step("created", created, PRODUCER))
    return steps


def _last(steps: Sequence[Step], *names: str) -> int | None:
    return next((at for at in reversed(range(len(steps))) if steps[at].name in names), None)


def _folded(steps: Sequence[Step]) -> Iterator[Step]:
    """The steps, of many reports of progress in a row the last one alone."""
    kept: Step | None = None
    for step in steps:
        if kept is not None and kept.name == step.name == "progress":
            kept = replace(step, times=kept.times + 1)
            continue
        if kept is not None:
            yield kept
        kept = step
    if kept is not None:
        yield kept


def _timed(steps: list[Step]) -> list[Step]:
    """The steps with the time that passed between them, where one clock tells it."""
    timed: list[Step] = []
    for step in steps:
        before = timed[-1] if timed else None
        same = before is not None and before.clock == step.clock
        timed.append(replace(step, after=(step.at - before.at) / 1000) if before and same else step)
    return timed


_EVENTS = (
    BACKWARDS
    + """
-- KEYS[1] the queue's `meta`; ARGV[1] a job's id, ARGV[2] where to begin, from the newest on,
-- ARGV[3] how many events to look at, ARGV[4] bytes of a field. Gives how many there were, the ids
-- of the newest and the oldest, those of the job, and 1 where the stream begins there.
local events = string.sub(KEYS[1], 1, -5) .. 'events'
local id, longest, found = ARGV[1], tonumber(ARGV[4]), {}
-- A longer id would not be known any more once it is cut.
local entries, is_all = backwards(events, ARGV[2], tonumber(ARGV[3]), math.max(longest, #id))
for _, entry in ipairs(entries) do
    local fields, ours = entry[2], false
    for index = 1, #fields, 2 do
        local name = fields[index]
        if (name == 'jobId' or name == 'deduplicatedJobId') and fields[index + 1] == id then
            ours = true
        end
    end
    if ours then found[#found + 1] = entry end
end
local all = is_all and 1 or 0
if #entries == 0 then return { 0, '', '', found, all } end
return { #entries, entries[1][1], entries[#entries][1], found, all }
"""
).encode()

_FACTS = b"""
-- KEYS[1] the queue's `meta`; ARGV[1] a job's id, ARGV[2] '1' for its data too. Gives the fields
-- of its hash, the bytes of its data and its result, its lock and for how long (ms), children that
-- it waits for, lines of its log, and its score in `delayed`.
local base = string.sub(KEYS[1], 1, -5)
local key, found, sizes = base .. ARGV[1], {}, { 0, 0 }
if redis.call('TYPE', key).ok == 'hash' then
    local names = { 'name', 'timestamp', 'processedOn', 'finishedOn', 'ats', 'atm', 'attemptsMade',
        'stc', 'pb', 'failedReason', 'defa', 'priority', 'delay', 'parentKey', 'opts' }
    if ARGV[2] == '1' then names[#names + 1], names[#names + 2] = 'data', 'returnvalue' end
    local values = redis.call('HMGET', key, unpack(names))
    for index, name in ipairs(names) do
        if values[index] then found[#found + 1], found[#found + 2] = name, values[index] end
    end
    sizes = { redis.call('HSTRLEN', key, 'data'), redis.call('HSTRLEN', key, 'returnvalue') }
end
local function ask(command, of, kind, ...)
    return redis.call('TYPE', of).ok == kind and redis.call(command, of, ...)
end
return { found, sizes, ask('GET', key .. ':lock', 'string') or '',
    redis.call('PTTL', key .. ':lock'), ask('SCARD', key .. ':dependencies', 'set') or 0,
    ask('LLEN', key .. ':logs', 'list') or 0,
    ask('ZSCORE', base .. 'delayed', 'zset', ARGV[1]) or '' }
"""
