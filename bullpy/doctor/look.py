"""What the doctor has seen: samples of queues, of clients and of the server. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bullpy.connection.identity import ServerIdentity
from bullpy.doctor.clients import Client, workers_of
from bullpy.registry import Registry
from bullpy.settings import RedisSettings

NO_TTL = -1
NO_KEY = -2
"""What PTTL answers."""


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of the queue's event stream.

    Attributes:
        at: When, ms since 1970 by Redis's clock.
        name: added, waiting, active, completed, failed, stalled, delayed, ...
        job_id: Empty for events of the queue.
        fields: Further fields, shortened: `prev`, `failedReason`, `deduplicationId`, ...
    """

    at: int
    name: str
    job_id: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Job:
    """What a job's hash says, without its data. Times in ms since 1970.

    Attributes:
        id: The job's id.
        exists: Whether there is a hash; all else is empty without one.
        name: Its name; None where the hash has none.
        timestamp: When it was added, by the producer's clock.
        processed_on: When its last run began, by the worker's clock.
        finished_on: When it ended, by the worker's clock.
        starts: How often it was started (`ats`).
        attempts: How many attempts have ended (`atm`).
        stalls: How often it lost its worker (`stc`).
        worker: The name of the worker that ran it (`pb`).
        failed_reason: The error's text, shortened.
        delay: ms that it was to be delayed.
        priority: 0 without one.
        deferred_failure: A failure that the next worker is to record (`defa`).
        progress: Shortened JSON.
        lock: The token that holds it; None without lock.
        lock_ttl: ms until the lock ends, or `NO_TTL` or `NO_KEY`.
        data_is_json: None where it was not looked at.
        due: For a delayed job, when it is due, by Redis's clock; else 0.
        children: For a job that waits for children, keys of some of them.
    """

    id: str
    exists: bool
    name: str | None = None
    timestamp: int = 0
    processed_on: int = 0
    finished_on: int = 0
    starts: int = 0
    attempts: int = 0
    stalls: int = 0
    worker: str = ""
    failed_reason: str = ""
    delay: int = 0
    priority: int = 0
    deferred_failure: str = ""
    progress: str = ""
    lock: str | None = None
    lock_ttl: int = NO_KEY
    data_is_json: bool | None = None
    due: int = 0
    children: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a queue, taken by one script: nothing moved meanwhile.

    Attributes:
        at: ms since 1970 by Redis's clock.
        added: The counter of adds; None if no job was ever added.
        meta: The queue's `meta` hash.
        counts: Jobs by list or set: wait, paused, active, prioritized, delayed,
            waiting-children, completed, failed.
        marker: Whether there is a marker, which wakes a waiting worker.
        stalled_check_ttl: ms until the key that a living worker renews ends; `NO_KEY` if it has.
        limiter: Jobs that a rate limit has counted; None without limiter.
        limiter_ttl: ms until it ends, or `NO_TTL` or `NO_KEY`.
        events: The newest ones, newest first.
        active: Some active jobs, with their locks.
        next: Those that wait longest, next first, without those with a priority.
        prioritized: The next ones with a priority.
        delayed: The next ones that are due.
        due: How many delayed jobs are due already.
        parents: Some jobs that wait for children.
        failed: The newest failed jobs, newest first.
        completed: The newest completed jobs, newest first.
        checked: Of how many waiting ids it was looked whether they have a hash.
        without_data: Those that have none.
        places: Where ids are that were asked for, and those of events about duplicates: a name of
            a list or set, `nowhere` for a hash in none of them, `gone` without a hash, `unknown`
            where a list is too long to be searched.
        deduplicated: ms until the deduplication keys of the newest events end, by their id;
            `NO_TTL`, `NO_KEY`.
    """

    at: int
    added: int | None
    meta: Mapping[str, str]
    counts: Mapping[str, int]
    marker: bool
    stalled_check_ttl: int
    limiter: int | None
    limiter_ttl: int
    events: tuple[Event, ...]
    active: tuple[Job, ...]
    next: tuple[Job, ...]
    prioritized: tuple[Job, ...]
    delayed: tuple[Job, ...]
    due: int
    parents: tuple[Job, ...]
    failed: tuple[Job, ...]
    completed: tuple[Job, ...]
    checked: int
    without_data: tuple[str, ...]
    places: Mapping[str, str]
    deduplicated: Mapping[str, int]

    @property
    def exists(self) -> bool:
        """Whether the queue has left anything here."""
        return (
            self.added is not None
            or bool(self.meta)
            or self.stalled_check_ttl != NO_KEY
            or any(self.counts.values())
        )

    @property
    def ready(self) -> int:
        """Jobs that a worker could take now, pause and limits aside."""
        return self.counts["wait"] + self.counts["paused"] + self.counts["prioritized"]

    @property
    def is_paused(self) -> bool:
        """Whether it is paused for all workers."""
        return "paused" in self.meta

    @property
    def version(self) -> tuple[int, ...]:
        """The BullMQ version of the Node producer that connected last; empty if unknown."""
        _, _, text = self.meta.get("version", "").partition(":")
        parts = text.split("-")[0].split(".")
        return tuple(int(part[:9]) for part in parts if part.isdecimal())

    def number(self, field_name: str) -> int | None:
        """A number of `meta`, such as `concurrency`, `max`, `duration`; None without it."""
        try:
            return int(float(self.meta[field_name]))
        except (KeyError, ValueError, OverflowError):
            return None

    def newest(self, *names: str) -> Event | None:
        """The newest event of these names."""
        return next((event for event in self.events if event.name in names), None)


@dataclass(frozen=True, slots=True)
class Place:
    """A queue that was found somewhere.

    Attributes:
        db: Database.
        prefix: First part of its keys.
        queue: Its name.
        added: Its counter of adds; None if no job was ever added.
        ready: Jobs that wait there.
        has_worker: Whether a living worker's `stalled-check` is there.
    """

    db: int
    prefix: str
    queue: str
    added: int | None
    ready: int
    has_worker: bool

    def __str__(self) -> str:
        return f"{self.prefix}:{self.queue} in db {self.db}"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What was found on the same server outside the queue that was asked about.

    Attributes:
        places: Queues that were found, those with the same name first.
        searched: Keys that were looked through.
        keys: Keys that there are.
    """

    places: tuple[Place, ...] = ()
    searched: int = 0
    keys: int = 0


@dataclass(frozen=True, slots=True)
class Server:
    """One look at the server.

    Attributes:
        at: Seconds of this machine's monotonic clock.
        info: Fields of INFO; empty where it is forbidden.
        commands: Per command its `cmdstat_...` text, without that head.
        errors: How often the server answered with an error, by its first word.
        acl_log: Entries of ACL LOG, newest first, as maps.
        slow: Entries of SLOWLOG: microseconds, the command's first words, address.
        skew: Seconds by which Redis's clock is ahead of this machine's.
    """

    at: float
    info: Mapping[str, str]
    commands: Mapping[str, str]
    errors: Mapping[str, int]
    acl_log: tuple[Mapping[str, str], ...]
    slow: tuple[tuple[int, str, str], ...]
    skew: float

    def number(self, name: str) -> int:
        """A number of INFO; 0 without it."""
        text = self.info.get(name, "")
        return int(text) if text.lstrip("-").isdecimal() else 0

    def calls(self, command: str) -> int:
        """How often a command was called since the server started; 0 if unknown."""
        for part in self.commands.get(command, "").split(","):
            name, _, value = part.partition("=")
            if name == "calls" and value.isdecimal():
                return int(value)
        return 0


@dataclass(slots=True)
class QueueLook:
    """All that was seen of one queue.

    Attributes:
        look: What was seen of its server.
        prefix: First part of its keys.
        name: Its name.
        samples: Looks at it, first and last at least; empty where it cannot be read.
        elsewhere: What was searched for on the same server, where that was needed.
        children: The queues that its parents wait for, by prefix and name.
        refusal: Why it could not be read; empty if it could.
    """

    look: Look
    prefix: str
    name: str
    samples: list[Sample] = field(default_factory=list[Sample])
    elsewhere: Elsewhere | None = None
    children: dict[tuple[str, str], Sample] = field(default_factory=dict[tuple[str, str], Sample])
    refusal: str = ""

    @property
    def first(self) -> Sample:
        """The first sample."""
        return self.samples[0]

    @property
    def last(self) -> Sample:
        """The last sample."""
        return self.samples[-1]

    @property
    def seconds(self) -> float:
        """Between the first and the last sample, by Redis's clock."""
        return (self.last.at - self.first.at) / 1000

    @property
    def db(self) -> int:
        """The database that it was looked for in."""
        return self.look.settings.db

    def key(self, last: str) -> str:
        """A key of the queue."""
        return f"{self.prefix}:{self.name}:{last}"

    @property
    def moves(self) -> bool:
        """Whether jobs were started or ended between the samples."""
        return any(
            event.at > self.first.at and event.name in ("active", "completed", "failed")
            for event in self.last.events
        )

    def workers(self) -> list[Client]:
        """Connections of its workers in its own database, as of the last look."""
        named = workers_of(self.look.all_clients(), self.prefix, self.name)
        return [client for client in named if client.db == self.db]

    def workers_in_other_dbs(self) -> list[Client]:
        """Connections of workers of a queue of this name in other databases."""
        named = workers_of(self.look.all_clients(), self.prefix, self.name)
        return [client for client in named if client.db != self.db]

    def worker_history(self) -> Iterator[tuple[float, list[Client]]]:
        """Connections of its workers in its own database, at each look at the clients."""
        for at, clients in self.look.clients:
            named = workers_of(clients, self.prefix, self.name)
            yield at, [client for client in named if client.db == self.db]

    @property
    def has_live_worker(self) -> bool:
        """Whether a worker lives, by the key that it renews or by its connection."""
        return self.last.stalled_check_ttl != NO_KEY or bool(self.workers())


@dataclass(slots=True)
class Look:
    """All that was seen of a server and of the queues that were asked about.

    Attributes:
        settings: Where it was looked.
        url: The URL's text as it was given, secrets and all: for checks, never to be shown.
        url_source: What named it: `--redis`, `REDIS_URL`, ...
        identity: The server.
        queues: The queues that were asked about.
        servers: Looks at the server, first and last.
        clients: Looks at CLIENT LIST in order, each with the moment of this machine's monotonic
            clock; empty where it is forbidden.
        forbidden: What was not allowed, by command: `CLIENT LIST`, `INFO`, `ACL LOG`, `SLOWLOG`.
        registry: What bullpy's processes say about themselves; None where it was not read.
    """

    settings: RedisSettings
    url: str | None = field(default=None, repr=False)
    url_source: str = ""
    identity: ServerIdentity | None = None
    queues: list[QueueLook] = field(default_factory=list[QueueLook])
    servers: list[Server] = field(default_factory=list[Server])
    clients: list[tuple[float, list[Client]]] = field(
        default_factory=list[tuple[float, list[Client]]]
    )
    forbidden: dict[str, str] = field(default_factory=dict[str, str])
    registry: Registry | None = None

    @property
    def server(self) -> Server:
        """The last look at the server."""
        return self.servers[-1]

    @property
    def seconds(self) -> float:
        """Between the first and the last look at the server."""
        return self.servers[-1].at - self.servers[0].at

    @property
    def knows_clients(self) -> bool:
        """Whether CLIENT LIST could be read."""
        return bool(self.clients)

    @property
    def is_cluster(self) -> bool:
        """Whether the server is a node of a cluster."""
        return self.server.info.get("cluster_enabled") == "1"

    def all_clients(self) -> list[Client]:
        """The clients of the last look; empty where CLIENT LIST is forbidden."""
        return self.clients[-1][1] if self.clients else []

    def growth(self, error: str) -> int:
        """How often the server answered with that error between the first and the last look."""
        return self.servers[-1].errors.get(error, 0) - self.servers[0].errors.get(error, 0)
