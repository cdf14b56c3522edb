"""Lua of bullpy's own that lets a job wait which is in no list: after a repair, or in a flow."""

from __future__ import annotations

from bullpy.dialect import LISTS

PLACE = (
    LISTS
    + """
-- Lets a job wait that is in no list: until it is due (ms), with its priority, or in front.
local function place(base, id, priority, due, now, prev)
    local told = { 'jobId', id }
    if prev then told = { 'jobId', id, 'prev', prev } end
    if due > now then
        redis.call('ZADD', base .. 'delayed', due * 0x1000, id)
        local first = redis.call('ZRANGE', base .. 'delayed', 0, 0, 'WITHSCORES')
        redis.call('ZADD', base .. 'marker', first[2] / 0x1000, '1')
        redis.call('XADD', base .. 'events', '*', 'event', 'delayed', 'delay', due, unpack(told))
        return
    end
    redis.call('HSET', base .. id, 'delay', 0)
    if priority > 0 then
        local count = redis.call('INCR', base .. 'pc')
        local score = priority * 0x100000000 + count % 0x100000000
        redis.call('ZADD', base .. 'prioritized', score, id)
    else
        redis.call('RPUSH', base .. (keeps_paused(base) and 'paused' or 'wait'), id)
    end
    redis.call('XADD', base .. 'events', '*', 'event', 'waiting', unpack(told))
    if redis.call('HEXISTS', base .. 'meta', 'paused') == 0 then
        redis.call('ZADD', base .. 'marker', 0, '0')
    end
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""
)
"""`LISTS`, and more Lua of bullpy's own: `place(base, id, priority, due, now, prev)` and `now`."""

ADDING = "bullpy:adding"
"""Stands among a parent's dependencies while its children are added, so that none of them that
has ended already releases it."""

RELEASE = (
    PLACE
    + f"""
-- KEYS[1] the parent's key, KEYS[2] its queue's `meta`; ARGV[1] its id. All its children are there.
redis.call('SREM', KEYS[1] .. ':dependencies', '{ADDING}')
local base = string.sub(KEYS[2], 1, -5)
if redis.call('SCARD', KEYS[1] .. ':dependencies') > 0
    or redis.call('ZREM', base .. 'waiting-children', ARGV[1]) == 0 then return 0 end
local fields = redis.call('HMGET', KEYS[1], 'priority', 'delay')
local delay = tonumber(fields[2]) or 0
place(base, ARGV[1], tonumber(fields[1]) or 0, delay > 0 and now + delay or 0, now,
    'waiting-children')
return 1
"""
)
"""The end of a flow: lets a parent run whose children had all ended before it was added."""
