"""The API and the worker do not meet: another database, prefix, name, or another server."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from bullpy.doctor.look import NO_KEY, Place, QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, some

NEVER_ADDED = Cause(
    code="never-added",
    number=1,
    level=Level.BLOCKED,
    title="No job was ever added to this queue on this Redis",
    symptom="The API says that it adds jobs, the worker waits for jobs, and nothing happens. Redis "
    "holds only `meta` and `stalled-check` of the queue.",
    why="Every `add()` leaves a counter, `id`, and a stream, `events`. They outlive the end and "
    "the removal of jobs and a pause. Where both are missing no job has ever arrived, whatever the "
    "API's log says. The API writes to another server, database, prefix or queue, or its `add()` "
    "never ends. How the two sides connect (pools, options, client ids) plays no part.",
    fix="Compare both sides: run `bullpy doctor --queue NAME` with the REDIS_URL of the API, and "
    "`--peer URL` if the API serves its fingerprint. Then give both the same URL, database, prefix "
    "and queue name. If they agree, look in the API's log for an `add()` that never returns.",
    refutes=("a dead worker", "a paused queue", "stalled jobs", "a wrong job name"),
    rank=20,
    silences=frozenset({"no-adds", "no-worker", "worker-never-fetched"}),
)
OTHER_DB = Cause(
    code="other-db",
    number=2,
    level=Level.BLOCKED,
    title="The API and the worker use different databases of one Redis",
    symptom="Jobs wait and the worker is online, both on the right server.",
    why="One Redis has several databases, 0 to 15 by default, and a queue lives in one of them. "
    "The number is the last part of the URL's path: `redis://host:6379/1`. `?db=1` is understood "
    "by redis-py, and `/1` by both.",
    fix="Put the same database number at the end of both URLs, in the path and not as `?db=`.",
    refutes=("a dead worker", "a wrong queue name", "another server"),
    rank=10,
    silences=frozenset({"never-added", "no-worker", "no-adds", "other-prefix", "other-queue-name"}),
)
OTHER_PREFIX = Cause(
    code="other-prefix",
    number=3,
    level=Level.BLOCKED,
    title="The API and the worker use different prefixes",
    symptom="Jobs wait and the worker is online, in the same database.",
    why="The prefix is the first part of every key, `bull` by default. A queue under `prod` and "
    "one under `bull` have nothing in common, even with the same name.",
    fix="Give the same `prefix` to the queue in the API and to the worker.",
    refutes=("a dead worker", "another database", "another server"),
    rank=11,
    silences=frozenset({"never-added", "no-worker", "no-adds", "other-queue-name"}),
)
OTHER_NAME = Cause(
    code="other-queue-name",
    number=4,
    level=Level.BLOCKED,
    title="The API and the worker use different queue names",
    symptom="Jobs wait in one queue, and a worker is online that listens to a queue with nearly "
    "the same name.",
    why="Queue names must agree letter by letter, case included. A typo, another spelling, or an "
    "ending such as `-prod` on one side makes two queues.",
    fix="Use the same queue name on both sides; best from one variable.",
    refutes=("a dead worker", "another database", "another server"),
    rank=12,
    silences=frozenset({"never-added", "no-worker", "no-adds"}),
)

_ENVIRONMENTS = frozenset(
    {
        "prod",
        "production",
        "stage",
        "staging",
        "dev",
        "develop",
        "development",
        "test",
        "testing",
        "qa",
        "local",
        "preview",
        "live",
        "uat",
        "queue",
    }
)


@CHECKS.queue(NEVER_ADDED)
def never_added(queue: QueueLook) -> Iterator[Verdict]:
    """Nobody has ever added a job here."""
    last = queue.last
    if last.added is not None or last.events or any(last.counts.values()):
        return
    proofs = [
        Proof(f"EXISTS {queue.key('id')} {queue.key('events')}", "0"),
        Proof(f"HGET {queue.key('meta')} version", last.meta.get("version", "(nil)")),
    ]
    where = f"{queue.prefix}:{queue.name} on {_server(queue)}"
    similar = _alike(queue, [place for place in _places(queue) if place.added is not None])
    hint = f" Jobs were added to {some(similar)}." if similar else ""
    if not queue.has_live_worker:
        found = "nothing of it exists" if not last.exists else "no worker is connected either"
        yield NEVER_ADDED.verdict(
            f"No job was ever added to {where}, and {found}.{hint}",
            *proofs,
            level=Level.WARNING,
            refutes=("a paused queue", "stalled jobs", "a wrong job name"),
            fix="Make sure that name, prefix and URL are those that the API and the worker use."
            if not last.exists
            else None,
        )
        return
    if last.stalled_check_ttl != NO_KEY:
        proofs.append(Proof(f"PTTL {queue.key('stalled-check')}", f"{last.stalled_check_ttl} ms"))
    else:
        proofs.append(_who(queue))
    producer = _producer(last.meta.get("version", ""))
    yield NEVER_ADDED.verdict(
        f"No job was ever added to {where}. A worker is alive. {producer}{hint}", *proofs
    )


@CHECKS.queue(OTHER_DB, OTHER_PREFIX, OTHER_NAME)
def elsewhere(queue: QueueLook) -> Iterator[Verdict]:
    """Jobs are here and the worker is elsewhere, or the other way round."""
    last = queue.last
    has_jobs = last.added is not None or last.ready > 0
    if has_jobs == queue.has_live_worker:
        # Both are here, or neither.
        return
    if has_jobs and not last.ready and not last.due:
        return
    places = _places(queue)
    if has_jobs:
        # Where a worker waits and no job ever came. One that has jobs of its own belongs there.
        others = [place for place in places if place.has_worker and place.added is None]
    else:
        others = [place for place in places if place.added is not None and not place.has_worker]
    for place in _alike(queue, others)[:1]:
        yield _apart(queue, place, has_jobs=has_jobs)


def _apart(queue: QueueLook, place: Place, *, has_jobs: bool) -> Verdict:
    here = f"{queue.prefix}:{queue.name} in db {queue.db}"
    ready = queue.last.ready if has_jobs else place.ready
    jobs, worker = (here, str(place)) if has_jobs else (str(place), here)
    if place.queue != queue.name:
        cause, proof = OTHER_NAME, Proof("CLIENT LIST, SCAN ... MATCH *:meta", f"{place.queue}")
    elif place.db != queue.db:
        cause, proof = OTHER_DB, Proof("CLIENT LIST, INFO keyspace", f"db {place.db}")
    else:
        cause, proof = OTHER_PREFIX, Proof("CLIENT LIST, SCAN ... MATCH *:meta", place.prefix)
    added = Proof(
        f"GET {queue.key('id')}", "(nil)" if queue.last.added is None else str(queue.last.added)
    )
    beside = Proof(
        f"in db {place.db}: GET {place.prefix}:{place.queue}:id",
        "(nil)" if place.added is None else str(place.added),
    )
    return cause.verdict(
        f"The jobs are in {jobs} ({many(ready, 'job')} ready, no worker); "
        f"the worker listens to {worker}, where no job was ever added.",
        proof,
        added,
        beside,
        certainty=Certainty.PROBABLE if place.queue != queue.name else None,
    )


def _places(queue: QueueLook) -> list[Place]:
    """Other places: those that were searched, and those that names of connections tell."""
    found = list(queue.elsewhere.places) if queue.elsewhere else []
    known = {(place.db, place.prefix, place.queue): index for index, place in enumerate(found)}
    own = (queue.db, queue.prefix, queue.name)
    for client in queue.look.all_clients():
        for index, each in enumerate(client.listeners):
            key = (client.db, each.prefix, each.queue)
            if each.role != "worker" or key == own:
                continue
            if key in known:
                place = found[known[key]]
                found[known[key]] = Place(*key, place.added, place.ready, has_worker=True)
            elif index == 0 and queue.elsewhere is not None:
                # It was searched for, and nothing was there: a worker without any key.
                known[key] = len(found)
                found.append(Place(*key, None, 0, has_worker=True))
    return [place for place in found if (place.db, place.prefix, place.queue) != own]


def _alike(queue: QueueLook, places: Iterable[Place]) -> list[Place]:
    """Those that may be meant to be this queue, the nearest first."""
    near: list[tuple[tuple[float, ...], Place]] = []
    for place in places:
        distance = _distance(queue.name, place.queue)
        if distance is None:
            continue
        parts = int(place.db != queue.db) + int(place.prefix != queue.prefix)
        near.append(((distance > 0, parts, distance, -place.ready), place))
    return [place for _, place in sorted(near, key=lambda pair: pair[0])]


def _distance(one: str, other: str) -> float | None:
    """How far two names are apart; None if they do not look like the same one."""
    if one == other:
        return 0
    if _core(one) == _core(other):
        return 0.5
    if re.sub(r"\D", "", one) != re.sub(r"\D", "", other):
        # `shard-1` and `shard-2` are no typos.
        return None
    short, long = sorted((one.lower(), other.lower()), key=len)
    allowed = 2 if len(short) >= 6 else 1 if len(short) >= 4 else 0
    edits = _edits(short, long, allowed)
    return edits if edits <= allowed else None


def _core(name: str) -> str:
    """The name without case, separators, and words that name an environment."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower())
    kept = [word for word in words if word not in _ENVIRONMENTS] or words
    # A plural is not another name.
    return "".join(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in kept)


def _edits(one: Sequence[str], other: Sequence[str], most: int) -> int:
    """Letters to change, add, drop or swap with their neighbour; more than `most` if too many."""
    if abs(len(one) - len(other)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        older, before, row = before, row, [i]
        for j, against in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != against))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == against:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return row[-1]


def _producer(version: str) -> str:
    if not version:
        return "No Node producer ever connected to this queue."
    library, _, number = version.partition(":")
    return f"A Node producer ({library} {number}) connected to this queue, and never added to it."


def _server(queue: QueueLook) -> str:
    identity = queue.look.identity
    run_id = f" (run_id {identity.run_id[:8]}...)" if identity and identity.run_id else ""
    return f"this Redis{run_id}, db {queue.db}"


def _who(queue: QueueLook) -> Proof:
    return Proof("CLIENT LIST", f"worker {some(queue.workers())}")
