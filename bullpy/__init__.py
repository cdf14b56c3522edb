"""bullpy runs Python workers on BullMQ queues in production.

```python
from bullpy import Worker, run

worker = Worker("audio-analyzer", concurrency=4)  # REDIS_URL says where Redis is


@worker.processor("process-audio")
def analyze(job):
    job.update_progress(10)
    return {"ok": True}


run(worker)
```

Names load on first use, so `import bullpy` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bullmq.custom_errors import DelayedError, UnrecoverableError, WaitingChildrenError

    from bullpy.connection.embedded import EmbeddedServer
    from bullpy.connection.identity import ServerIdentity
    from bullpy.errors import (
        BullpyError,
        Discard,
        RateLimited,
        Retry,
        Snooze,
        WaitForChildren,
    )
    from bullpy.errors import RateLimited as RateLimitError
    from bullpy.events import QueueEvents
    from bullpy.flows import FlowProducer
    from bullpy.job import Job
    from bullpy.queue import Queue
    from bullpy.repairs.orphans import RepairReport
    from bullpy.running import run
    from bullpy.settings import RedisSettings, WorkerSettings
    from bullpy.types import (
        Backoff,
        Isolation,
        JobSnapshot,
        JobState,
        KeepJobs,
        RateLimit,
        StopReason,
    )
    from bullpy.worker import Worker

_HOMES = {
    "Backoff": "bullpy.types",
    "BullpyError": "bullpy.errors",
    "DelayedError": "bullmq.custom_errors",
    "Discard": "bullpy.errors",
    "EmbeddedServer": "bullpy.connection.embedded",
    "FlowProducer": "bullpy.flows",
    "Isolation": "bullpy.types",
    "Job": "bullpy.job",
    "JobSnapshot": "bullpy.types",
    "JobState": "bullpy.types",
    "KeepJobs": "bullpy.types",
    "Queue": "bullpy.queue",
    "QueueEvents": "bullpy.events",
    "RateLimit": "bullpy.types",
    "RateLimitError": "bullpy.errors:RateLimited",
    "RateLimited": "bullpy.errors",
    "RedisSettings": "bullpy.settings",
    "RepairReport": "bullpy.repairs.orphans",
    "Retry": "bullpy.errors",
    "ServerIdentity": "bullpy.connection.identity",
    "Snooze": "bullpy.errors",
    "StopReason": "bullpy.types",
    "UnrecoverableError": "bullmq.custom_errors",
    "WaitForChildren": "bullpy.errors",
    "WaitingChildrenError": "bullmq.custom_errors",
    "Worker": "bullpy.worker",
    "WorkerSettings": "bullpy.settings",
    "run": "bullpy.running",
}

__all__ = [
    "Backoff",
    "BullpyError",
    "DelayedError",
    "Discard",
    "EmbeddedServer",
    "FlowProducer",
    "Isolation",
    "Job",
    "JobSnapshot",
    "JobState",
    "KeepJobs",
    "Queue",
    "QueueEvents",
    "RateLimit",
    "RateLimitError",
    "RateLimited",
    "RedisSettings",
    "RepairReport",
    "Retry",
    "ServerIdentity",
    "Snooze",
    "StopReason",
    "UnrecoverableError",
    "WaitForChildren",
    "WaitingChildrenError",
    "Worker",
    "WorkerSettings",
    "__version__",
    "run",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'bullpy' has no attribute {name!r}")
    module, _, attribute = home.partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
