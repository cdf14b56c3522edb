"""bullpy's own Lua scripts, for what BullMQ's do not do.

Those that change a job touch fields named `bullpy:*` alone, and only while the job's lock carries
the caller's token, so that a worker that has lost a job changes nothing of it any more. `RETAKE` is
the exception: it locks a job again that nobody has. What looks at or repairs a whole queue brings
its own script to `run_on_queue`.
"""

from __future__ import annotations

import hashlib
from typing import Any

from bullpy import errors
from bullpy.backend import Backend
from bullpy.connection.client import run_script
from bullpy.connection.probe import classify

_MINE = """
-- KEYS[1] the job's hash, KEYS[2] its lock; ARGV[1] the token.
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local lock = redis.call('GET', KEYS[2])
if lock ~= ARGV[1] then return lock and -6 or -2 end
"""


class OwnScript:
    """A script that changes one job under its lock.

    Args:
        name: For messages.
        body: What it does once it is sure of the lock. Negative results are BullMQ's codes.
        guard: What makes sure of it.
    """

    def __init__(self, name: str, body: str, guard: str = _MINE) -> None:
        self.name = name
        self.source = (guard + body).encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()

    async def __call__(
        self, backend: Backend, job_id: str, token: str, *args: Any, keys: tuple[str, ...] = ()
    ) -> int:
        """Run it, with more `keys` after those of the job's hash and lock.

        Raises:
            errors.JobNotFoundError: The job was removed.
            errors.LockLostError: The lock is gone, or carries another token.
            errors.RedisError: Redis could not be asked, or refused.
        """
        key = backend.toKey(job_id)
        shared = backend.shared
        reply = await run_script(
            shared.pipeliner,
            self.sha,
            self.source,
            (2 + len(keys), key, f"{key}:lock", *keys, token, *args),
        )
        if isinstance(reply, errors.BullpyError):
            raise reply
        if isinstance(reply, Exception):
            raise classify(reply, shared.settings) from reply
        backend.scripts.check(reply, job_id, self.name)
        return int(reply)


async def run_on_queue(backend: Backend, source: bytes, *args: str | bytes | float) -> Any:
    """Run a script of bullpy's own; again after a lost reply, as each does its work once.

    Its only key is the queue's `meta`, all others are made of it: they are on one node.

    Raises:
        errors.RedisError: Redis could not be asked, or refused.
    """
    shared = backend.shared
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
    call = (1, backend.keys["meta"], *args)
    try:
        reply = await run_script(shared.pipeliner, sha, source, call)
    except errors.ReplyLostError:
        reply = await run_script(shared.pipeliner, sha, source, call)
    if isinstance(reply, Exception):
        raise classify(reply, shared.settings) from reply
    return reply


COUNT_DEATH = OwnScript(
    "countDeath",
    """
-- ARGV[2] the field that counts, ARGV[3] how often a job may lose its worker, ARGV[4] the reason.
local counted = ARGV[2] .. ':last'
if redis.call('HGET', KEYS[1], counted) == ARGV[1] then
    -- This death was counted before its reply was lost.
    return tonumber(redis.call('HGET', KEYS[1], ARGV[2]))
end
redis.call('HSET', KEYS[1], counted, ARGV[1])
local deaths = redis.call('HINCRBY', KEYS[1], ARGV[2], 1)
local stalls = tonumber(redis.call('HGET', KEYS[1], 'stc')) or 0
-- As BullMQ with stalls: jobs of a scheduler never fail so, or it would end.
if deaths + stalls > tonumber(ARGV[3]) and redis.call('HEXISTS', KEYS[1], 'rjk') == 0 then
    redis.call('HSET', KEYS[1], 'defa', ARGV[4])
end
return deaths
""",
)
"""Counts a death of the job's worker process. Beyond the limit the job's next worker fails it, as
BullMQ does with jobs that stall too often."""

STORE_STEP = OwnScript(
    "storeStep",
    """
-- ARGV[2] the field, ARGV[3] the result as JSON.
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 0
""",
)
"""Stores the result of a step of the job."""

RETAKE = OwnScript(
    "retake",
    """
-- KEYS[3] active, KEYS[4] stalled; ARGV[2] the job's id, ARGV[3] the lock's duration in ms.
local lock = redis.call('GET', KEYS[2])
if lock then return lock == ARGV[1] and 1 or 0 end
if not redis.call('LPOS', KEYS[3], ARGV[2]) then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
redis.call('SREM', KEYS[4], ARGV[2])
return 1
""",
    guard="",
)
"""Locks a job again whose lock ran out while it stayed active: nobody has taken it meanwhile."""
