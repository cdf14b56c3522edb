"""The two ways in which BullMQ keeps the jobs of a paused queue, spoken as the peers need it.

BullMQ 5 keeps them in the list `paused`, and its resume renames that list to `wait`: what was in
`wait` meanwhile is in no list any more. BullMQ 6, and so the scripts of the installed `bullmq`,
leave them in `wait`; their resume also takes what is in `paused`. So on a paused queue `paused`
is the place where every resume finds a job, and the one that bullpy keeps to, unless a peer of
version 6 is the only one that was ever seen.

The scripts are not changed for that. `speak` puts a few lines of bullpy's around a script of the
installed package: on a queue that is paused they rename `paused` to `wait` before the script runs
and back afterwards, so that it meets the queue it was written for. All of it is one script for the
server: nobody sees the moment in between, no command is added, and nothing has to be remembered
that could be out of date. On a queue that is not paused it costs one HMGET inside the script.

On a queue with a global concurrency, a fetch also tells what `places` says.
"""

from __future__ import annotations

from bullpy import places

MERGE_LIMIT = 5000
"""Jobs that one call moves at most when both lists hold some; the next call goes on."""

MAJORS = "majors"
"""Last part of the key of the hash that keeps which major versions of BullMQ were seen: the
number, and the version that was seen last."""

# Where each script that adds to `wait`, or changes what is there, takes the key of `meta`.
_META_KEY = {
    "addJobScheduler": 5,
    "addStandardJob": 3,
    "changePriority": 3,
    "moveJobFromActiveToWait": 5,
    "moveJobsToWait": 6,
    "moveStalledJobsToWait": 5,
    "moveToActive": 9,
    "moveToDelayed": 7,
    "moveToFinished": 9,
    "pause": 3,
    "promote": 4,
    "reprocessJob": 5,
    "retryJob": 5,
    "updateJobScheduler": 5,
}

# What may release a parent, whose queue can be another one, and when: Lua, cheap for most jobs.
_ADDED_TO_A_PARENT = "string.find(ARGV[1], ':dependencies', 1, true)"
_RELEASES_PARENT = {
    "addDelayedJob": _ADDED_TO_A_PARENT,
    "addParentJob": _ADDED_TO_A_PARENT,
    "addPrioritizedJob": _ADDED_TO_A_PARENT,
    "addStandardJob": _ADDED_TO_A_PARENT,
    "moveToFinished": "redis.call('HEXISTS', KEYS[12], 'parentKey') == 1",
    "addJobScheduler": "true",
    "cleanJobsInSet": "true",
    "drain": "true",
    "obliterate": "true",
    "removeChildDependency": "true",
    "removeJob": "true",
    "removeUnprocessedChildren": "true",
}

LISTS = f"""
-- Whether the jobs of this queue, which begins its keys with `base`, belong into `paused` now.
local function keeps_paused(base)
    local meta = redis.call('HMGET', base .. 'meta', 'paused', 'version')
    if not meta[1] then return false end
    local major = tonumber(string.match(meta[2] or '', '^bullmq:(%d+)%.'))
    return not major or major < 6
        or redis.call('EXISTS', base .. 'paused') == 1
        or redis.call('HEXISTS', base .. '{MAJORS}', '5') == 1
end

-- Brings the jobs of `wait` and `paused` together in one of them; gives how many were moved.
-- Those of `paused` are the older ones, and come first: jobs are taken from the right.
local function gather(base, into)
    local wait, paused = base .. 'wait', base .. 'paused'
    local waiting, pausing = redis.call('LLEN', wait), redis.call('LLEN', paused)
    local left = math.min(waiting, pausing, {MERGE_LIMIT})
    local moved = 0
    while moved < left do
        local count = math.min(left - moved, 1000)
        if pausing <= waiting then
            local jobs = redis.call('LRANGE', paused, 0, count - 1)
            redis.call('RPUSH', wait, unpack(jobs))
            redis.call('LTRIM', paused, count, -1)
        else
            local jobs, turned = redis.call('LRANGE', wait, -count, -1), {{}}
            for index = 1, count do turned[index] = jobs[count + 1 - index] end
            redis.call('LPUSH', paused, unpack(turned))
            redis.call('LTRIM', wait, 0, -count - 1)
        end
        moved = moved + count
    end
    local from = into == 'wait' and paused or wait
    if redis.call('EXISTS', from) == 1 and redis.call('EXISTS', base .. into) == 0 then
        moved = math.max(moved, redis.call('LLEN', from))
        redis.call('RENAME', from, base .. into)
    end
    return moved
end
"""
"""Lua of bullpy's own: `keeps_paused(base)` and `gather(base, 'wait' or 'paused')`."""

_REDIRECT = """
-- A parent is pushed to the list of its own queue, whichever that is.
local call, own = redis.call, {own}
redis = setmetatable({{call = function(...)
    local command, key = ...
    if command == 'RPUSH' and string.sub(key, -5) == ':wait' and key ~= own then
        local base = string.sub(key, 1, -5)
        if keeps_paused(base) then return call(command, base .. 'paused', select(3, ...)) end
    end
    return call(...)
end}}, {{__index = redis}})
"""

_OWN_QUEUE = """
local base = string.sub(KEYS[{meta}], 1, -5)
if is_paused and keeps_paused(base) then
    gather(base, 'wait')
    local done, reply = pcall(theirs)
    if redis.call('HEXISTS', KEYS[{meta}], 'paused') == 1 then gather(base, 'paused') end
    if done or type(reply) == 'table' then return reply end
    return redis.error_reply(reply)
end
"""

_PAUSE = """
local reply = theirs()
if keeps_paused(base) then gather(base, 'paused') end
return reply
"""


def speak(name: str, source: bytes) -> bytes:
    """BullMQ's script of that name, made safe for peers of both major versions.

    Args:
        name: The script.
        source: Its text in the installed package.

    Returns:
        The same text with bullpy's lines around it; as it was, where it cannot touch a job that
        waits.
    """
    meta, releases = _META_KEY.get(name), _RELEASES_PARENT.get(name)
    if meta is None and releases is None:
        return source
    told = places.tell(name)
    parts = ["local redis = redis\nlocal function theirs()", source.decode(), "end"]
    if meta is not None:
        parts.append(f"local meta = redis.call('HMGET', KEYS[{meta}], 'paused', 'concurrency')")
    parts.append(
        f"local is_paused, limit, releases = {'meta[1]' if meta else 'false'}, "
        f"{'meta[2]' if told else 'false'}, {releases or 'false'}"
    )
    if name != "pause":
        parts.append("if not is_paused and not limit and not releases then return theirs() end")
    parts.append(LISTS)
    if releases is not None:
        own = f"string.sub(KEYS[{meta}], 1, -5) .. 'wait'" if meta else "nil"
        parts.append(f"if releases then {_REDIRECT.format(own=own)} end")
    if meta is not None:
        parts.append(_OWN_QUEUE.format(meta=meta))
    if told is not None:
        parts.append(told)
    parts.append(_PAUSE if name == "pause" else "return theirs()")
    return "\n".join(parts).encode()
