"""The worker process: `python -m benchmarks.torture.program`, settings in the environment."""

from __future__ import annotations

import logging
import os
import sys
import threading

from benchmarks.torture import ledger, work
from bullpy import Worker, run

QUEUE = "torture"
LOCK_DURATION = 3.0
STALLED_INTERVAL = 1.5
SHUTDOWN_TIMEOUT = 2.0
STOP_GRACE = 0.5
CONCURRENCY = 6


def build() -> Worker:
    """The worker, with all processors."""
    worker = Worker(
        QUEUE,
        redis=os.environ["TORTURE_URL"],
        worker_name=f"torture-{os.getpid()}",
        concurrency=CONCURRENCY,
        lock_duration=LOCK_DURATION,
        stalled_interval=STALLED_INTERVAL,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
    )
    for function in (work.plain, work.gather, work.isolated, work.crunch, work.gather_isolated):
        worker.processor(function.__name__)(function)
    worker.processor("segfault")(work.segfault)
    worker.processor("hang", timeout=work.HANG_TIMEOUT)(work.hang)
    worker.processor("hang_on_loop", timeout=work.HANG_TIMEOUT)(work.hang_on_loop)
    worker.on("ready", lambda *_: ledger.note("ready"))
    return worker


def die_with_parent() -> None:
    """End when the parent is gone, which holds the other end of stdin."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(9)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    os.environ[ledger.WORKER_VARIABLE] = str(os.getpid())
    os.environ["BULLPY_STOP_GRACE"] = str(STOP_GRACE)
    die_with_parent()
    run(build())
