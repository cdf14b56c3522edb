"""Who is connected: the rows of CLIENT LIST, and which of them are workers of which queue."""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from bullpy.redaction import redact


@dataclass(frozen=True, slots=True)
class Listener:
    """What the name of a connection of BullMQ says.

    Attributes:
        prefix: First part of the queue's keys.
        queue: The queue.
        role: `worker`, or `events` for one of QueueEvents.
        worker: The worker's own name; empty without one.
        is_plain: Whether the queue stands there as it is (the Python port), and not in base64.
    """

    prefix: str
    queue: str
    role: str
    worker: str
    is_plain: bool


@dataclass(frozen=True, slots=True)
class Client:
    """One row of CLIENT LIST. Durations in seconds.

    Attributes:
        id: Grows with each connection to the server.
        addr: Address and port of the other end.
        name: What it calls itself; empty without a name.
        db: Database.
        age: Since it connected.
        idle: Since its last command.
        flags: As Redis has them: `b` waits in a blocking command, `N` nothing.
        cmd: Its last command, such as `bzpopmin` or `client|setname`.
        qbuf: Bytes that it has sent and that are not read yet.
        user: ACL user.
        library: `ioredis 5.11.1` and the like; empty before Redis 7.2.
    """

    id: int
    addr: str
    name: str
    db: int
    age: int
    idle: int
    flags: str
    cmd: str
    qbuf: int
    user: str
    library: str

    @classmethod
    def parse(cls, line: str) -> Self:
        """A row as the server writes it."""
        fields = _fields(line)
        library = (fields.get("lib-name", ""), fields.get("lib-ver", ""))
        return cls(
            id=_number(fields, "id"),
            addr=fields.get("addr", ""),
            name=fields.get("name", ""),
            db=_number(fields, "db"),
            age=_number(fields, "age"),
            idle=_number(fields, "idle"),
            flags=fields.get("flags", ""),
            cmd=fields.get("cmd", "").lower(),
            qbuf=_number(fields, "qbuf"),
            user=fields.get("user", ""),
            library=" ".join(part for part in library if part),
        )

    @property
    def is_blocked(self) -> bool:
        """Whether it waits in a blocking command."""
        return "b" in self.flags

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """What its name may mean; empty for a connection that is not one of BullMQ.

        A queue's name can look like base64, so there are sometimes two readings.
        """
        return _readings(self.name)

    def listens(self, prefix: str, queue: str) -> bool:
        """Whether its name is that of a worker of this queue."""
        return self._is(prefix, queue, "worker")

    def follows(self, prefix: str, queue: str) -> bool:
        """Whether its name is that of a QueueEvents of this queue."""
        return self._is(prefix, queue, "events")

    def _is(self, prefix: str, queue: str, role: str) -> bool:
        return any(
            (each.prefix, each.queue, each.role) == (prefix, queue, role) for each in self.listeners
        )

    def __str__(self) -> str:
        worker = next((each.worker for each in self.listeners if each.worker), "")
        return redact(f"{worker} at {self.addr}" if worker else self.addr)


def parse_clients(reply: bytes) -> list[Client]:
    """The rows of a CLIENT LIST reply."""
    text = reply.decode(errors="replace")
    return [Client.parse(line) for line in text.splitlines() if line.startswith("id=")]


def workers_of(clients: Iterable[Client], prefix: str, queue: str) -> list[Client]:
    """The blocking connections of this queue's workers, in whatever database."""
    return [client for client in clients if client.listens(prefix, queue)]


@functools.lru_cache(maxsize=20_000)
def _readings(name: str) -> tuple[Listener, ...]:
    return tuple(_read(name))


def _read(name: str) -> Iterable[Listener]:
    role, worker = "worker", ""
    if name.endswith(":qe"):
        name, role = name[:-3], "events"
    elif ":w:" in name:
        name, _, worker = name.partition(":w:")
    prefix, colon, queue = name.rpartition(":")
    if not colon or not prefix or not queue:
        return
    decoded = _decoded(queue)
    if decoded:
        yield Listener(prefix, decoded, role, worker, is_plain=False)
    yield Listener(prefix, queue, role, worker, is_plain=True)


def _decoded(text: str) -> str:
    """What base64 text means; empty where it is none."""
    try:
        raw = base64.b64decode(text, validate=True)
        decoded = raw.decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
    return decoded if decoded.isprintable() else ""


def _fields(line: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in line.split(" "):
        name, _, value = part.partition("=")
        fields[name] = value
    return fields


def _number(fields: dict[str, str], name: str) -> int:
    text = fields.get(name, "")
    return int(text) if text.lstrip("-").isdecimal() else 0
