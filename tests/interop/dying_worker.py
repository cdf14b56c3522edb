"""A Python worker whose process ends in the middle of its first job: `URL QUEUE`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from bullpy import Job, Worker, run

worker = Worker(sys.argv[2], redis=sys.argv[1], lock_duration=1.0, stalled_interval=0.5)


@worker.processor()
async def die(_job: Job[Any]) -> None:
    """End as the kernel ends a process: at once, with no chance to tidy up."""
    os.kill(os.getpid(), signal.SIGKILL)


run(worker)
