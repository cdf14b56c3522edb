"""bullpy measuring files with its audio processor, as users run it: a child process per slot."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import bullpy
from benchmarks.workers.common import Control, Stopwatch, say, say_ready, task


def main() -> None:
    todo = task()
    # Each slot has a core, so a file gets one thread, and numpy's matrix library none beside it.
    os.environ |= {
        "BULLPY_AUDIO_ROOT": str(todo.scratch),
        "BULLPY_AUDIO_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    from bullpy.audio import process_audio

    watch = Stopwatch(todo.jobs)
    worker = bullpy.Worker(todo.queue, redis=todo.url, concurrency=todo.concurrency)
    worker.processor("process-audio")(process_audio)

    @worker.lifespan
    async def gate(worker: bullpy.Worker) -> AsyncIterator[None]:
        """Connected, but before the first fetch: a lifespan starts there."""
        control = Control()
        await worker.whoami()
        say_ready(bullpy.__version__)
        await control.go()
        watch.start()
        yield None

    worker.on("completed", lambda job, result: watch.one_more())
    worker.on("failed", lambda job, error: say("failed", error=str(error)))
    bullpy.run(worker)


if __name__ == "__main__":
    main()
