"""What several checks need to know of a queue before they judge it. No checks here."""

from __future__ import annotations

from bullpy.doctor.clients import Client
from bullpy.doctor.look import Job, QueueLook, Sample

WAITS = frozenset({"bzpopmin", "brpoplpush", "blmove"})
"""Commands in which workers wait for jobs: BullMQ 5 and later, BullMQ up to 4 and Bull."""

OLD_WAITS = frozenset({"brpoplpush", "blmove"})
"""Those of BullMQ up to 4, and of Bull."""

REFUSALS = (
    "NOPERM",
    "READONLY",
    "CROSSSLOT",
    "OOM",
    "MISCONF",
    "CLUSTERDOWN",
    "MASTERDOWN",
)
"""Errors after which a worker does not fetch, though nothing is wrong with the worker."""


def is_held(queue: QueueLook) -> bool:
    """Whether a pause, a limit or a full concurrency explains that nothing is fetched."""
    return any(_is_held(sample) for sample in queue.samples)


def _is_held(sample: Sample) -> bool:
    concurrency = sample.number("concurrency")
    is_full = concurrency is not None and sample.counts["active"] >= concurrency
    return sample.is_paused or sample.limiter_ttl > 0 or is_full


def is_refused(queue: QueueLook) -> bool:
    """Whether the server refused commands meanwhile, which keeps workers from fetching."""
    return any(queue.look.growth(error) > 0 for error in REFUSALS)


def locked(sample: Sample) -> list[Job]:
    """The active jobs that were looked at and that a living worker holds."""
    return [job for job in sample.active if job.lock]


def owner(job: Job) -> str:
    """Who holds a job's lock: tokens are `<worker's uuid>:<number>`."""
    lock = job.lock or ""
    head, colon, _ = lock.rpartition(":")
    return head if colon else lock


def worker_name(client: Client) -> str:
    """The worker's own name in its connection's; empty without one."""
    return next((each.worker for each in client.listeners if each.worker), "")


def host(client: Client) -> str:
    """The address without port."""
    return client.addr.rpartition(":")[0]
