"""The upstream port, with the socket time-out that its idle wait needs under redis-py 8."""

from __future__ import annotations

import asyncio
import sys
import time
from urllib.parse import urlsplit

from bullmq import Worker


async def main(url: str, queue: str, jobs: int, concurrency: int) -> None:
    done = asyncio.Event()
    finished = 0

    async def process(job: object, token: str) -> dict[str, int]:
        return {"ok": 1}

    def completed(*_: object) -> None:
        nonlocal finished
        finished += 1
        if finished == jobs:
            done.set()

    where = urlsplit(url)
    connection = {"host": where.hostname, "port": where.port, "socket_timeout": 30}
    options = {"connection": connection, "concurrency": concurrency, "autorun": False}
    worker = Worker(queue, process, options)
    worker.on("completed", completed)
    await worker.client.ping()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    started, cpu = time.perf_counter(), time.process_time()
    running = asyncio.create_task(worker.run())
    await done.wait()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(f'{{"seconds": {seconds}, "cpu": {cpu}}}', flush=True)
    await worker.close(force=True)
    running.cancel()


if __name__ == "__main__":
    url, queue, jobs, concurrency = sys.argv[1:]
    asyncio.run(main(url, queue, int(jobs), int(concurrency)))
