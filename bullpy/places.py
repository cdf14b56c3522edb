"""What a fetch tells of a queue's global concurrency, and how a place is asked for.

These lines stand around BullMQ's scripts that fetch, on queues with a global concurrency alone.
Their replies get three more parts: the global concurrency, whether a worker of bullpy holds no job
because of it, and whether all of its places were taken. `engine.fairness` says what for.

A fetch has one more argument: `1` for a worker that holds no job, `2` for one that also knocks.
"""

from __future__ import annotations

HUNGRY = "hungry"
"""Last part of the key that says, for two seconds, that a worker of bullpy holds no job because
the global concurrency is used up."""

TURN = "turn"
"""Last part of the key on which workers of bullpy wait for one that gives its place away."""

KNOCK = 9007199254740989
"""What the limiter's key holds while a worker knocks; more jobs than any limiter allows."""

KNOCK_MS = 200
"""How long a knock lasts, in milliseconds."""


def tell(name: str) -> str | None:
    """Lua that runs the script of that name, `theirs()`, and tells; None if it does not fetch.

    It needs `base`, what the queue's keys begin with, and `limit`, its global concurrency.
    """
    if name not in _FETCHES:
        return None
    waits, knocks = _FETCHES[name]
    return _TELL.format(waits=waits, knocks=knocks, hungry=HUNGRY, knock=KNOCK, knocking=_KNOCKING)


# Scripts that fetch: whether they do it for a worker that holds no job, and whether it knocks.
_FETCHES = {
    "moveToActive": ("(ARGV[4] or '') ~= ''", "ARGV[4] == '2'"),
    "moveToFinished": ("false",) * 2,
}

# A rate limit for all, which ends by itself. Only where nobody else set one, nobody who wrote
# Python runs a job (Node's tokens have dashes), and the server knows fields that expire.
_KNOCKING = f"""
local limited = redis.call('HMGET', KEYS[9], 'max', 'duration')
local free = not (limited[1] or limited[2]) and redis.call('EXISTS', limiter) == 0
local more = redis.call('LLEN', base .. 'wait') + redis.call('ZCARD', base .. 'prioritized') > 0
for _, id in ipairs(redis.call('LRANGE', active, 0, -1)) do
    local token = redis.call('GET', base .. id .. ':lock')
    if token and string.match(token, '^%x+:%d+$') then more = false end
end
if more and (knocked or free) then
    redis.call('HSET', KEYS[9], 'max', 1, 'duration', 1)
    local set = redis.pcall('HPEXPIRE', KEYS[9], {KNOCK_MS}, 'FIELDS', 2, 'max', 'duration')
    if set.err then
        redis.call('HDEL', KEYS[9], 'max', 'duration')
    else
        redis.call('SET', limiter, '{KNOCK}', 'PX', {KNOCK_MS})
    end
end
"""

_TELL = """
if limit then
    local active, hungry, limiter = base .. 'active', base .. '{hungry}', base .. 'limiter'
    local running = redis.call('LLEN', active)
    local waits, knocks = {waits}, {knocks}
    local knocked = waits and redis.call('GET', limiter) == '{knock}'
        -- No longer so if somebody has set a rate limit meanwhile.
        and redis.call('HPTTL', KEYS[9], 'FIELDS', 1, 'max')[1] > 0
    if knocked and running < tonumber(limit) then
        redis.call('DEL', limiter)
        redis.call('HDEL', KEYS[9], 'max', 'duration')
    end
    local reply = theirs()
    -- BullMQ's own reply has four parts; without a job the second is 0.
    if type(reply) ~= 'table' or reply.err then return reply end
    local found = reply[2] ~= 0
    local is_full = not found and redis.call('LLEN', active) >= tonumber(limit)
    if waits and found then redis.call('DEL', hungry) end
    if waits and is_full then
        redis.call('SET', hungry, 1, 'PX', 2000)
        if knocked then reply[3] = 0 end
        if knocks and tonumber(limit) > 1 then
            {knocking}
        end
    end
    reply[5], reply[6] = tonumber(limit), redis.call('EXISTS', hungry)
    reply[7] = is_full and 1 or 0
    return reply
end
"""
