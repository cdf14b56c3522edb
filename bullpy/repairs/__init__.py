"""Repairs of a queue, each asked for by name: they tell first, and change only when asked to.

```python
from bullpy import Queue, repairs

async with Queue("orders") as queue:
    report = await repairs.recover_active(queue)  # tells
    for sentence in report.sentences():
        print(sentence)
    await repairs.recover_active(queue, dry_run=False)  # does it
```

Each works in small steps, may run beside workers, and may run twice. What was done stands in a log
beside the queue: `read_log`.
"""

from __future__ import annotations

from bullpy.repairs.common import Report
from bullpy.repairs.failures import RetryReport, retry_failed
from bullpy.repairs.journal import LogEntry, read_log
from bullpy.repairs.limits import LimiterReport, release_limiter
from bullpy.repairs.missing import IdsReport, drop_ids
from bullpy.repairs.orphans import RepairReport, requeue_orphans
from bullpy.repairs.ownerless import ActiveReport, recover_active
from bullpy.repairs.pausing import ResumeReport, resume
from bullpy.repairs.reasons import FailureGroup

__all__ = [
    "NAMES",
    "ActiveReport",
    "FailureGroup",
    "IdsReport",
    "LimiterReport",
    "LogEntry",
    "RepairReport",
    "Report",
    "ResumeReport",
    "RetryReport",
    "drop_ids",
    "read_log",
    "recover_active",
    "release_limiter",
    "requeue_orphans",
    "resume",
    "retry_failed",
]

NAMES = {
    "resume": "resume a paused queue; no job of BullMQ 5 or 6 is lost",
    "orphans": "put jobs back that are in no list, or in one that nobody reads",
    "active": "let active jobs wait again whose worker is gone",
    "ids": "drop ids that have no data",
    "limiter": "remove a rate limit that does not end",
    "retry-failed": "let failed jobs wait again, by the reason of their failure",
}
"""The repairs by name, and what each does."""
