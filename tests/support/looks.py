"""What the doctor sees, built by hand: a quiet queue with defaults, to be changed where it matters.

```python
seen = queue_look(sample(wait=3, added=9), clients=[worker_row(flags="N", idle=40)])
assert codes(seen) == {"worker-frozen"}
```
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bullpy.connection.identity import identity_from
from bullpy.doctor.checks import CHECKS
from bullpy.doctor.clients import Client
from bullpy.doctor.look import NO_KEY, Event, Job, Look, QueueLook, Sample, Server
from bullpy.doctor.reading import COUNTS
from bullpy.doctor.verdicts import Verdict, ordered
from bullpy.settings import RedisSettings

NOW = 1_764_000_000_000
"""When all looks end, ms since 1970 by Redis's clock."""

NODE = {"version": "bullmq:5.61.2", "opts.maxLenEvents": "10000"}
"""The `meta` that a Node producer leaves."""

GAP = 6.0
"""Seconds between the first and the last look."""


def sample(**fields: Any) -> Sample:
    """A look at a quiet queue: jobs were added, none is left, and a worker lives.

    Args:
        fields: Those of `Sample`, and in place of `counts` each count by its name, with `_` for
            `-`; jobs where they matter. `NO_KEY` as `stalled_check_ttl` takes the worker away.
    """
    counts: dict[str, Any] = {name: fields.pop(name.replace("-", "_"), 0) for name in COUNTS}
    # `active`, `failed`, ... are counts as numbers, and jobs as sequences.
    jobs: dict[str, Any] = {}
    for name in ("active", "prioritized", "delayed", "failed", "completed"):
        if not isinstance(counts[name], int):
            jobs[name] = tuple(counts[name])
            counts[name] = len(jobs[name])
    defaults: dict[str, Any] = {
        "at": NOW,
        "added": 1,
        "meta": NODE,
        "counts": counts,
        "marker": False,
        "stalled_check_ttl": 20_000,
        "limiter": None,
        "limiter_ttl": NO_KEY,
        "events": (),
        "active": (),
        "next": (),
        "prioritized": (),
        "delayed": (),
        "due": 0,
        "parents": (),
        "failed": (),
        "completed": (),
        "checked": 0,
        "without_data": (),
        "places": {},
        "deduplicated": {},
    }
    values: dict[str, Any] = defaults | jobs | fields
    return Sample(**values)


def job(job_id: str = "1", **fields: Any) -> Job:
    """A job with a hash; fields are those of `Job`."""
    defaults: dict[str, Any] = {"name": "a", "timestamp": NOW - 60_000, "data_is_json": True}
    return Job(job_id, exists=True, **(defaults | fields))


def event(name: str, job_id: str = "1", *, ago: float = 0.0, **fields: str) -> Event:
    """An event of so many seconds before `NOW`."""
    return Event(NOW - round(ago * 1000), name, job_id, fields)


def worker_name(
    queue: str = "audio", *, prefix: str = "bull", name: str = "", plain: bool = False
) -> str:
    """What a worker calls its connection: as Node does, or `plain` as the Python port does."""
    shown = queue if plain else base64.b64encode(queue.encode()).decode()
    return f"{prefix}:{shown}" + (f":w:{name}" if name else "")


def row(**fields: Any) -> Client:
    """A connection without a name, that asked for something just now."""
    defaults: dict[str, Any] = {
        "id": 10,
        "addr": "10.0.0.1:5000",
        "name": "",
        "db": 0,
        "age": 600,
        "idle": 0,
        "flags": "N",
        "cmd": "info",
        "qbuf": 0,
        "user": "default",
        "library": "",
    }
    return Client(**(defaults | fields))


def worker_row(queue: str = "audio", **fields: Any) -> Client:
    """The blocking connection of a worker that waits for jobs, 2 s in its wait.

    Args:
        queue: Its queue.
        fields: Those of `Client`; `prefix`, `worker` (its own name) and `plain` make its name.
    """
    naming = {
        "prefix": fields.pop("prefix", "bull"),
        "name": fields.pop("worker", ""),
        "plain": fields.pop("plain", False),
    }
    defaults = {"name": worker_name(queue, **naming), "flags": "b", "cmd": "bzpopmin", "idle": 2}
    return row(**(defaults | fields))


def server(**fields: Any) -> Server:
    """A look at a server without troubles; fields are those of `Server`."""
    defaults: dict[str, Any] = {
        "at": 100.0,
        "info": {"redis_version": "7.2.4", "role": "master", "run_id": "a" * 40},
        "commands": {},
        "errors": {},
        "acl_log": (),
        "slow": (),
        "skew": 0.0,
    }
    return Server(**(defaults | fields))


def look(
    *,
    clients: Sequence[Client] | Sequence[Sequence[Client]] | None = (),
    servers: Sequence[Server] = (),
    settings: RedisSettings | None = None,
    **fields: Any,
) -> Look:
    """What was seen of a server.

    Args:
        clients: One CLIENT LIST for first and last look, or one for each look, `GAP` seconds apart
            in all; None where it is forbidden.
        servers: First and last look; without them a server without troubles.
        settings: Where; database 0 without them.
        fields: Further ones of `Look`.
    """
    settings = settings or RedisSettings(host="redis.example")
    seen = list(servers) or [server()]
    if len(seen) == 1:
        seen = [replace(seen[0], at=seen[0].at - GAP), seen[0]]
    made = Look(
        settings,
        identity=identity_from(seen[-1].info, url="redis://redis.example:6379", db=settings.db),
        servers=seen,
        **fields,
    )
    if clients is None:
        made.forbidden["CLIENT LIST"] = "NOPERM this user has no permissions to run client|list"
        return made
    lists = [[each] if isinstance(each, Client) else list(each) for each in clients]
    if all(isinstance(each, Client) for each in clients):
        same = [each for one in lists for each in one]
        lists = [same, same]
    step = GAP / max(1, len(lists) - 1)
    made.clients = [(100.0 - GAP + index * step, each) for index, each in enumerate(lists)]
    return made


def queue_look(
    *samples: Sample,
    name: str = "audio",
    prefix: str = "bull",
    of: Look | None = None,
    clients: Sequence[Client] | Sequence[Sequence[Client]] | None = (),
    **fields: Any,
) -> QueueLook:
    """What was seen of one queue, inside a look at its server.

    Args:
        samples: In order. A single one is taken as seen at the first look too, `GAP` earlier.
        name: The queue.
        prefix: First part of its keys.
        of: The look at its server; without it, one with these clients.
        clients: As for `look`.
        fields: Further ones of `QueueLook`.
    """
    taken = list(samples)
    if len(taken) == 1:
        taken.insert(0, replace(taken[0], at=taken[0].at - round(GAP * 1000)))
    whole = of or look(clients=clients)
    made = QueueLook(whole, prefix, name, taken, **fields)
    whole.queues.append(made)
    return made


def verdicts(seen: QueueLook | Look, *codes_wanted: str) -> list[Verdict]:
    """What all checks say of a queue, or of a server; of these codes alone where some are given."""
    if isinstance(seen, QueueLook):
        found = [verdict for check in CHECKS.of_queue for verdict in check(seen)]
    else:
        found = [verdict for check in CHECKS.of_server for verdict in check(seen)]
    return [each for each in ordered(found) if not codes_wanted or each.code in codes_wanted]


def codes(seen: QueueLook | Look) -> set[str]:
    """The codes of all verdicts about a queue, or a server."""
    return {verdict.code for verdict in verdicts(seen)}


def only(seen: QueueLook | Look, code: str) -> Verdict:
    """The verdict of this code; fails unless there is exactly one."""
    found = verdicts(seen, code)
    assert len(found) == 1, [verdict.code for verdict in verdicts(seen)]
    return found[0]
