"""What tests of repairs share: all that Redis holds of a queue, byte by byte, and broken queues."""

from __future__ import annotations

from typing import Any

from bullpy import Job, Queue


async def everything(queue: Queue) -> dict[bytes, bytes]:
    """Each key with the queue's name in it, and its content as DUMP gives it.

    But for the records of processes: that of the test itself comes whenever it is due.
    """
    found: dict[bytes, bytes] = {}
    cursor: Any = b"0"
    while True:
        cursor, keys = await queue.backend.ask("SCAN", cursor, "COUNT", 10_000)
        for key in keys:
            if queue.name.encode() in key and b":proc" not in key:
                found[key] = await queue.backend.ask("DUMP", key)
        if cursor == b"0":
            return found


async def abandoned(queue: Queue, **options: Any) -> Job[Any]:
    """A job that is active although no worker holds it, as one leaves it that was killed."""
    job = await queue.add("abandoned", {"n": 1}, **options)
    for name in ("wait", "paused"):
        await queue.client.lrem(queue.keys[name], 0, job.id)
    await queue.client.zrem(queue.keys["prioritized"], job.id)
    await queue.client.lpush(queue.keys["active"], job.id)
    started = {"processedOn": job.timestamp + 5, "ats": 1, "pb": "gone"}
    await queue.client.hset(queue.backend.toKey(job.id), mapping=started)
    return job


async def ids_in(queue: Queue, name: str) -> list[str]:
    """The ids in a list or set."""
    key = queue.keys[name]
    if name in ("wait", "paused", "active"):
        return await queue.client.lrange(key, 0, -1)
    return await queue.client.zrange(key, 0, -1)
