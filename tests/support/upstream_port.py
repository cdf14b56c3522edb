"""Workers of the upstream Python port in a process of its own, as its documentation starts them.

`python -P upstream_port.py '[{"queue": ..., "url": ..., "behaviour": ..., "options": {...}}]'`

A worker's `options` are those of upstream, `ms` is how long a job takes. It prints `waiting` once
all are made, whether or not their tasks live, and `processing <id>` for each job.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import bullmq


def processor(behaviour: str, ms: float) -> Any:
    """A processor as people write them, for better or worse."""

    async def sleep(job: Any, _token: str) -> dict[str, Any]:
        print("processing", job.id, flush=True)
        await asyncio.sleep(ms / 1000)
        return {"slept": ms}

    async def block(job: Any, _token: str) -> dict[str, Any]:
        print("processing", job.id, flush=True)
        time.sleep(ms / 1000)  # noqa: ASYNC251 - holds the loop, as CPU-bound work does
        return {"blocked": ms}

    def plain(job: Any, _token: str) -> dict[str, Any]:
        print("processing", job.id, flush=True)
        return {"done": True}

    async def unwritable(job: Any, _token: str) -> Any:
        print("processing", job.id, flush=True)
        return {"found": {1, 2}}

    return {"sleep": sleep, "block": block, "plain": plain, "unwritable": unwritable}[behaviour]


async def main(workers: list[dict[str, Any]]) -> None:
    kept = [
        bullmq.Worker(
            each["queue"],
            processor(each.get("behaviour", "sleep"), each.get("ms", 100)),
            {"connection": each["url"], **each.get("options", {})},
        )
        for each in workers
    ]
    print("waiting", flush=True)
    await asyncio.Event().wait()
    del kept


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
