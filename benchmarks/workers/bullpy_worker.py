"""bullpy, as `bullpy worker` runs it: under uvloop where that is installed."""

from __future__ import annotations

import asyncio
import sys
import time

from bullpy import Worker
from bullpy.running import _with_fast_loop


async def main(url: str, queue: str, jobs: int, concurrency: int) -> int:
    done = asyncio.Event()
    finished = 0

    async def process(job: object) -> dict[str, int]:
        return {"ok": 1}

    def completed(*_: object) -> None:
        nonlocal finished
        finished += 1
        if finished == jobs:
            done.set()

    worker = Worker(queue, process, {"autorun": False}, redis=url, concurrency=concurrency)
    worker.on("completed", completed)
    await worker.whoami()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    started, cpu = time.perf_counter(), time.process_time()
    running = asyncio.create_task(worker.run())
    await done.wait()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(f'{{"seconds": {seconds}, "cpu": {cpu}}}', flush=True)
    await worker.close()
    await running
    return 0


if __name__ == "__main__":
    url, queue, jobs, concurrency = sys.argv[1:]
    _with_fast_loop(lambda: main(url, queue, int(jobs), int(concurrency)))
