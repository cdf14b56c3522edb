"""Reads what the doctor looks at: one script per queue and look, and some commands per server.

Everything is bounded, nothing is written, and job data stays on the server.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from bullpy.connection.asking import Asker, refused
from bullpy.connection.identity import parse_info
from bullpy.doctor.clients import Client, parse_clients
from bullpy.doctor.look import NO_KEY, Event, Job, Sample, Server
from bullpy.eventpages import BACKWARDS

EVENTS = 200
"""Events that are read of each queue; fewer where they are large."""

JOBS = 10
"""Jobs that are looked at in each list."""

CHECKED = 50
"""Waiting ids of which it is looked whether they have a hash."""

SEARCHED = 5000
"""Places that one search in a list goes through."""

SHOWN = 300
"""Characters that are read of a text."""

MOST_CLIENTS = 5000
"""Connections above which CLIENT LIST is read only at the first and the last look."""

COUNTS = (
    "wait",
    "paused",
    "active",
    "prioritized",
    "delayed",
    "waiting-children",
    "completed",
    "failed",
)

_FIELDS = (
    "name",
    "timestamp",
    "processedOn",
    "finishedOn",
    "ats",
    "atm",
    "stc",
    "pb",
    "failedReason",
    "delay",
    "priority",
    "defa",
    "progress",
)

_EVENT_FIELDS = (
    "prev",
    "delay",
    "name",
    "failedReason",
    "deduplicationId",
    "deduplicatedJobId",
    "debounceId",
)


async def read_queue(asker: Asker, prefix: str, queue: str, ids: Sequence[str] = ()) -> Sample:
    """One look at a queue.

    Args:
        asker: Where to ask.
        prefix: First part of its keys.
        queue: Its name.
        ids: Jobs of which it is looked in which list they are.

    Raises:
        errors.RedisError: Redis cannot be asked, or refuses.
    """
    meta = f"{prefix}:{queue}:meta"
    limits = (EVENTS, JOBS, CHECKED, SEARCHED, SHOWN)
    reply = await asker.one("EVAL", _SAMPLE, 1, meta, *limits, *ids)
    if refused(reply):
        raise reply
    return _sample(cast("list[Any]", reply))


async def read_clients(asker: Asker, forbidden: dict[str, str]) -> list[Client] | None:
    """Who is connected, without the doctor itself; None where that is forbidden."""
    if "CLIENT LIST" in forbidden:
        return None
    reply = await asker.one("CLIENT", "LIST")
    if refused(reply):
        forbidden["CLIENT LIST"] = reply.message
        return None
    return [client for client in parse_clients(reply) if client.name != CLIENT_NAME]


CLIENT_NAME = "bullpy:doctor"
"""What the doctor calls its own connection."""


async def read_server(asker: Asker, forbidden: dict[str, str]) -> Server:
    """One look at the server; what is not allowed is put into `forbidden`, by command.

    Raises:
        errors.RedisUnavailableError: Redis cannot be asked.
    """
    before = time.time()
    info, stats, acl, slow, now = await asker.ask(
        ("INFO",),
        ("INFO", "commandstats"),
        ("ACL", "LOG", 20),
        ("SLOWLOG", "GET", 20),
        ("TIME",),
    )
    middle = (before + time.time()) / 2
    replies = {"INFO": info, "ACL LOG": acl, "SLOWLOG": slow}
    for name, reply in replies.items():
        if refused(reply):
            forbidden[name] = reply.message
    fields = {} if refused(info) else parse_info(info)
    commands = {} if refused(stats) else parse_info(stats)
    return Server(
        at=time.monotonic(),
        info=fields,
        commands={
            name.removeprefix("cmdstat_"): text
            for name, text in commands.items()
            if name.startswith("cmdstat_")
        },
        errors={
            name.removeprefix("errorstat_"): _number(text.rpartition("=")[2]) or 0
            for name, text in fields.items()
            if name.startswith("errorstat_")
        },
        acl_log=() if refused(acl) else tuple(_as_map(entry) for entry in acl),
        slow=() if refused(slow) else tuple(_slow(slow)),
        skew=0.0 if refused(now) else int(now[0]) + int(now[1]) / 1e6 - middle,
    )


def _as_map(entry: Any) -> dict[str, str]:
    """An entry of ACL LOG: names and values in turn."""
    texts = [_text(part) for part in entry]
    return dict(zip(texts[::2], texts[1::2], strict=False))


def _slow(entries: Iterable[Any]) -> Iterator[tuple[int, str, str]]:
    for entry in entries:
        # Only the words: arguments of a command may be anybody's data.
        words = " ".join(_text(part)[:60] for part in entry[3][:2])
        yield int(entry[2]), words, _text(entry[4]) if len(entry) > 4 else ""


def _text(part: Any) -> str:
    return part.decode(errors="replace") if isinstance(part, bytes) else str(part)


def _sample(reply: list[Any]) -> Sample:
    (
        now,
        added,
        meta,
        counts,
        marker,
        stalled_check,
        limiter,
        limiter_ttl,
        events,
        lists,
        due,
        checked,
        without_data,
        places,
        deduplicated,
    ) = reply
    active, waiting, prioritized, delayed, parents, failed, completed = (
        tuple(_job(each) for each in jobs) for jobs in lists
    )
    return Sample(
        at=int(now[0]) * 1000 + int(now[1]) // 1000,
        added=_number(added),
        meta=_pairs(meta),
        counts=dict(zip(COUNTS, map(int, counts), strict=True)),
        marker=bool(marker),
        stalled_check_ttl=int(stalled_check),
        limiter=_number(limiter),
        limiter_ttl=int(limiter_ttl),
        events=tuple(_event(each) for each in events),
        active=active,
        next=waiting,
        prioritized=prioritized,
        delayed=delayed,
        due=int(due),
        parents=parents,
        failed=failed,
        completed=completed,
        checked=int(checked),
        without_data=tuple(map(_text, without_data)),
        places=_pairs(places),
        deduplicated={name: int(ttl) for name, ttl in _pairs(deduplicated).items()},
    )


def _event(reply: list[Any]) -> Event:
    entry, fields = _text(reply[0]), _pairs(reply[1])
    job_id, name = fields.pop("jobId", ""), fields.pop("event", "")
    return Event(int(entry.partition("-")[0]), name, job_id, fields)


def _job(reply: list[Any]) -> Job:
    job_id, exists, lock, lock_ttl, data, due, children, *values = reply
    fields = {
        name: "" if value is None else _text(value)
        for name, value in zip(_FIELDS, values, strict=True)
    }
    return Job(
        id=_text(job_id),
        exists=bool(exists),
        name=None if values[0] is None else fields["name"],
        timestamp=_number(fields["timestamp"]) or 0,
        processed_on=_number(fields["processedOn"]) or 0,
        finished_on=_number(fields["finishedOn"]) or 0,
        starts=_number(fields["ats"]) or 0,
        attempts=_number(fields["atm"]) or 0,
        stalls=_number(fields["stc"]) or 0,
        worker=fields["pb"],
        failed_reason=fields["failedReason"],
        delay=_number(fields["delay"]) or 0,
        priority=_number(fields["priority"]) or 0,
        deferred_failure=fields["defa"],
        progress=fields["progress"],
        lock=None if lock is None else _text(lock),
        lock_ttl=int(lock_ttl) if lock_ttl is not None else NO_KEY,
        data_is_json=None if data is None else bool(data),
        due=_number(due) or 0,
        children=tuple(map(_text, children or ())),
    )


def _pairs(reply: Iterable[Any] | Mapping[Any, Any]) -> dict[str, str]:
    texts = [_text(part) for part in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _number(value: Any) -> int | None:
    """A number that may be written as text, with a fraction, or be no number at all."""
    if value is None:
        return None
    try:
        return int(float(_text(value)))
    except (ValueError, OverflowError):
        return None


_SAMPLE = f"""{BACKWARDS}
-- KEYS[1] the queue's `meta`. ARGV: events, jobs per list, ids checked, places searched, characters
-- shown; then ids to look for. Reads only. A key of another type than BullMQ's counts as absent.
local base = string.sub(KEYS[1], 1, -5)
local events, jobs, checked = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local searched, shown = tonumber(ARGV[4]), tonumber(ARGV[5])

local function ask(...)
    local reply = redis.pcall(...)
    if type(reply) == 'table' and reply.err then return false end
    return reply
end
local function list(...) return ask(...) or {{}} end
local function cut(text)
    if type(text) == 'string' then return string.sub(text, 1, shown) end
    return text
end
local function set(...)
    local found = {{}}
    for _, name in ipairs({{...}}) do found[name] = true end
    return found
end

local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)

-- All of the jobs together: decoding a megabyte takes longer than others should wait.
local decodable = 131072
local function is_json(key)
    local length = ask('HSTRLEN', key, 'data') or 0
    if length > decodable then return false end
    local data = ask('HGET', key, 'data')
    if not data then return false end
    decodable = decodable - length
    local decoded, reason = pcall(cjson.decode, data)
    if decoded then return 1 end
    -- What it refuses and JSON.parse takes: half of a pair of surrogates, and deep nesting.
    if string.find(reason, 'unicode', 1, true) or string.find(reason, 'nested', 1, true) then
        return false
    end
    return 0
end
-- Texts that may be of any length are not even read where they are long.
local TEXTS = set('name', 'pb', 'failedReason', 'defa', 'progress')
local function texts(key, names)
    local short = {{}}
    for index, name in ipairs(names) do
        local length = TEXTS[name] and ask('HSTRLEN', key, name) or 0
        short[index] = length <= 65536 and name or ''
    end
    local values = list('HMGET', key, unpack(short))
    for index, name in ipairs(short) do
        if name == '' then values[index] = '(over 64 KiB)' end
        values[index] = cut(values[index])
    end
    return values
end

local FIELDS = {{{", ".join(f"'{name}'" for name in _FIELDS)}}}
local function job(id, more)
    local key = base .. id
    local row = {{
        cut(id), ask('EXISTS', key) or 0, more.lock and ask('GET', key .. ':lock') or false,
        more.lock and ask('PTTL', key .. ':lock') or false, more.data and is_json(key) or false,
        more.score and math.floor(more.score / 4096) or 0,
        more.children and list('SRANDMEMBER', key .. ':dependencies', 5) or {{}},
    }}
    local values = texts(key, FIELDS)
    for index = 1, #FIELDS do row[#row + 1] = values[index] or false end
    return row
end
local function rows(ids, more)
    local found = {{}}
    for _, id in ipairs(ids) do
        -- BullMQ 4 keeps its markers, `0:...`, among the ids.
        if string.sub(id, 1, 2) ~= '0:' then found[#found + 1] = job(id, more or {{}}) end
    end
    return found
end
local function scored(name)
    local found, reply = {{}}, list('ZRANGE', base .. name, 0, jobs - 1, 'WITHSCORES')
    for index = 1, #reply, 2 do
        found[#found + 1] = job(reply[index], {{ score = tonumber(reply[index + 1]) }})
    end
    return found
end
local function reversed(ids)
    local found = {{}}
    for index = #ids, 1, -1 do found[#found + 1] = ids[index] end
    return found
end

local LISTS = {{ 'wait', 'paused', 'active' }}
local SETS = {{ 'prioritized', 'delayed', 'waiting-children', 'completed', 'failed' }}
local counts = {{}}
for _, name in ipairs({{ {", ".join(f"'{name}'" for name in COUNTS)} }}) do
    local is_list = name == 'wait' or name == 'paused' or name == 'active'
    counts[#counts + 1] = ask(is_list and 'LLEN' or 'ZCARD', base .. name) or 0
end

local function place(id)
    local is_long = false
    for _, name in ipairs(SETS) do
        if ask('ZSCORE', base .. name, id) then return name end
    end
    for _, name in ipairs(LISTS) do
        if ask('LPOS', base .. name, id, 'MAXLEN', searched) then return name end
        is_long = is_long or (ask('LLEN', base .. name) or 0) > searched
    end
    if ask('EXISTS', base .. id) == 0 then return 'gone' end
    return is_long and 'unknown' or 'nowhere'
end
local places, placed = {{}}, {{}}
local function look_for(id)
    if id and not placed[id] then
        placed[id] = true
        places[#places + 1], places[#places + 2] = id, place(id)
    end
end
for index = 6, #ARGV do look_for(ARGV[index]) end

local SEEN = set('event', 'jobId', {", ".join(f"'{name}'" for name in _EVENT_FIELDS)})
local stream, deduplicated, repeats = {{}}, {{}}, 0
for _, entry in ipairs((backwards(base .. 'events', '+', events, shown))) do
    local fields, by_name = {{}}, {{}}
    for index = 1, #entry[2], 2 do
        local name, value = entry[2][index], entry[2][index + 1]
        if SEEN[name] then
            fields[#fields + 1], fields[#fields + 2] = name, value
            by_name[name] = value
        end
    end
    stream[#stream + 1] = {{ entry[1], fields }}
    if repeats < 5 and set('duplicated', 'deduplicated', 'debounced')[by_name.event] then
        repeats = repeats + 1
        look_for(by_name.jobId)
        local id = by_name.deduplicationId or by_name.debounceId
        if id then
            deduplicated[#deduplicated + 1] = id
            deduplicated[#deduplicated + 1] = ask('PTTL', base .. 'de:' .. id) or -2
        end
    end
end

local waiting, without = list('LRANGE', base .. 'wait', -checked, -1), {{}}
if #waiting == 0 then waiting = list('LRANGE', base .. 'paused', -checked, -1) end
for _, id in ipairs(waiting) do
    if string.sub(id, 1, 2) ~= '0:' and ask('EXISTS', base .. id) == 0 then
        without[#without + 1] = id
    end
end
local last = {{}}
for index = math.max(1, #waiting - jobs + 1), #waiting do last[#last + 1] = waiting[index] end

return {{
    now, ask('GET', base .. 'id'), list('HGETALL', KEYS[1]), counts,
    (ask('ZCARD', base .. 'marker') or 0) > 0 and 1 or 0,
    ask('PTTL', base .. 'stalled-check') or -2,
    ask('GET', base .. 'limiter'), ask('PTTL', base .. 'limiter') or -2,
    stream,
    {{
        rows(list('LRANGE', base .. 'active', 0, jobs - 1), {{ lock = true, data = true }}),
        rows(reversed(last)),
        rows(list('ZRANGE', base .. 'prioritized', 0, jobs - 1)),
        scored('delayed'),
        rows(list('ZRANGE', base .. 'waiting-children', 0, jobs - 1), {{ children = true }}),
        rows(list('ZREVRANGE', base .. 'failed', 0, jobs - 1)),
        rows(list('ZREVRANGE', base .. 'completed', 0, jobs - 1)),
    }},
    ask('ZCOUNT', base .. 'delayed', '-inf', (ms + 1) * 4096 - 1) or 0,
    #waiting, without, places, deduplicated,
}}
"""
"""Gives the parts of a `Sample`, in its order."""
