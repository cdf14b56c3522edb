"""A TCP proxy in front of Redis that breaks things on purpose. Loopback only.

It understands enough of RESP to know which reply answers which command, so it can lose the
reply of one script call, or answer a command itself.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from bullpy import scripts

COMMAND, BLOCKING, LOCKS = "command", "blocking", "locks"
"""The kinds of connection that a bullpy process opens; told apart by their client names."""


@dataclass
class Rule:
    """What to do with some commands.

    Attributes:
        command: Upper-case name of a command, or the name of a BullMQ script.
        times: How often it applies; None is until removed.
        answer: The reply to give without asking the server; None loses the server's reply.
        where: Which replies are lost.
        hit: Set when it has applied at least once.
    """

    command: str
    times: int | None
    answer: bytes | None
    where: Callable[[bytes], bool]
    hit: asyncio.Event = field(default_factory=asyncio.Event)
    hits: int = 0

    def take(self) -> None:
        self.hits += 1
        self.hit.set()

    @property
    def spent(self) -> bool:
        return self.times is not None and self.hits >= self.times


class Proxy:
    """Stands between a client and a Redis on 127.0.0.1.

    Args:
        port: Where Redis listens.
        at: Where it listens itself; 0 for any free port.

    Attributes:
        delay: Seconds that every chunk is held back, each way.
        commands: How often each command or script came.
        chunks: How many times there was something to read from clients: their writes, roughly.
        accepted: How many connections were made.
        swallowing: Kinds of connection whose bytes are dropped, both ways.
    """

    def __init__(self, port: int, *, at: int = 0) -> None:
        self.delay = 0.0
        self.commands: Counter[str] = Counter()
        self.chunks = 0
        self.accepted = 0
        self.swallowing: set[str] = set()
        self.links: set[_Link] = set()
        self._target = port
        self._port = at
        self._server: asyncio.Server | None = None
        self._rules: list[Rule] = []
        self._names = _ScriptNames()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        self.cut()
        # Not cancelled: asyncio's streams log a cancelled connection as an error.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- faults ----------------------------------------------------------------------------

    async def accept(self) -> None:
        """Take connections, at the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections; those that exist go on."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def cut(self, kind: str | None = None) -> int:
        """Reset connections, all or those of one kind; gives how many."""
        chosen = [link for link in self.links if kind is None or link.kind == kind]
        for link in chosen:
            link.reset()
        return len(chosen)

    def swallow(self, *kinds: str) -> None:
        """Drop every byte of such connections, open and new, until `heal`."""
        self.swallowing |= set(kinds or (COMMAND, BLOCKING, LOCKS))

    def swallow_open(self, kind: str) -> int:
        """Drop every byte of such connections that are open now, for ever; gives how many."""
        chosen = [link for link in self.links if link.kind == kind]
        for link in chosen:
            link.dead = True
        return len(chosen)

    def heal(self) -> None:
        """No longer swallow, delay or answer. Connections that lost bytes stay dead."""
        self.swallowing.clear()
        self._rules.clear()
        self.delay = 0.0

    def lose_reply(
        self,
        command: str,
        *,
        times: int | None = 1,
        where: Callable[[bytes], bool] = lambda _: True,
    ) -> Rule:
        """Let the server run the command, then reset the connection in place of the reply."""
        rule = Rule(command, times, None, where)
        self._rules.append(rule)
        return rule

    def answer(self, command: str, line: str, *, times: int | None = 1) -> Rule:
        """Answer the command with this line (`-READONLY ...`); the server never sees it."""
        rule = Rule(command, times, line.encode() + b"\r\n", lambda _: True)
        self._rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """End a rule."""
        self._rules.remove(rule)

    # -- inside ----------------------------------------------------------------------------

    def rule_for(self, name: str, *, answers: bool) -> Rule | None:
        for rule in self._rules:
            if rule.command == name and not rule.spent and (rule.answer is not None) == answers:
                return rule
        return None

    def name_of(self, words: list[bytes]) -> str:
        name = words[0].decode().upper()
        return self._names.of(words[1]) or name if name in ("EVALSHA", "EVAL") else name

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            onward = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        link = _Link(self, writer, onward[1])
        if self._server is None:
            link.reset()
        self.links.add(link)
        try:
            await link.run(reader, onward[0])
        finally:
            self.links.discard(link)
            link.reset()


class _Link:
    """One connection through the proxy."""

    def __init__(
        self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        self.kind = COMMAND
        self.name = ""
        self.dead = False
        self._proxy = proxy
        self._client = client
        self._server = server
        # Per command sent and not yet answered: its name, and the reply if it is ours.
        self._open: deque[tuple[str, bytes | None]] = deque()
        self._frames: deque[bytes] = deque()

    async def run(self, client: asyncio.StreamReader, server: asyncio.StreamReader) -> None:
        ways = {
            asyncio.ensure_future(self._pass(client, self._commands)),
            asyncio.ensure_future(self._pass(server, self._replies)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    def reset(self) -> None:
        _reset(self._client)
        _reset(self._server)

    async def _pass(
        self, reader: asyncio.StreamReader, handle: Callable[[list[bytes]], None]
    ) -> None:
        rest = b""
        while chunk := await reader.read(1 << 18):
            if self._proxy.delay:
                await asyncio.sleep(self._proxy.delay)
            if self.dead or self.kind in self._proxy.swallowing:
                self.dead = True
                continue
            frames, rest = split(rest + chunk)
            handle(frames)

    def _commands(self, frames: list[bytes]) -> None:
        self._proxy.chunks += 1
        for frame in frames:
            words = parse_command(frame)
            self._learn(words)
            if self.kind in self._proxy.swallowing:
                self.dead = True
                return
            name = self._proxy.name_of(words)
            self._proxy.commands[name] += 1
            rule = self._proxy.rule_for(name, answers=True)
            if rule is None:
                self._open.append((name, None))
                self._server.write(frame)
            else:
                self._open.append((name, rule.answer))
                rule.take()
        self._give()

    def _replies(self, frames: list[bytes]) -> None:
        self._frames.extend(frames)
        self._give()

    def _give(self) -> None:
        while self._open:
            name, reply = self._open[0]
            if reply is None:
                if not self._frames:
                    return
                reply = self._frames.popleft()
                rule = self._proxy.rule_for(name, answers=False)
                # NOSCRIPT means that it did not run: the EVAL that follows is the one to lose.
                if rule is not None and not reply.startswith(b"-NOSCRIPT") and rule.where(reply):
                    rule.take()
                    self.reset()
                    return
            self._open.popleft()
            self._client.write(reply)

    def _learn(self, words: list[bytes]) -> None:
        if [word.upper() for word in words[:2]] == [b"CLIENT", b"SETNAME"]:
            self.name = words[2].decode()
            if ":w:" in self.name:
                self.kind = BLOCKING
            elif self.name.endswith(":locks"):
                self.kind = LOCKS


class _ScriptNames:
    """Names of BullMQ scripts by hash and by source."""

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}
        for name in scripts._FILES:
            sha, source = scripts.load(name)
            for key in (sha, source):
                self._known[key if isinstance(key, bytes) else key.encode()] = name

    def of(self, script: bytes) -> str | None:
        return self._known.get(script)


def carries_job(reply: bytes) -> bool:
    """Whether a reply of moveToActive or moveToFinished brings a job."""
    return reply.startswith(b"*4\r\n*")


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole RESP2 frames, and the bytes of the unfinished one."""
    frames: list[bytes] = []
    start = 0
    while (end := _end(data, start)) is not None:
        frames.append(data[start:end])
        start = end
    return frames, data[start:]


def parse_command(frame: bytes) -> list[bytes]:
    """The words of a command, as clients send it: an array of bulk strings."""
    head, _, rest = frame.partition(b"\r\n")
    words: list[bytes] = []
    for _ in range(int(head[1:])):
        size, _, rest = rest.partition(b"\r\n")
        length = int(size[1:])
        words.append(rest[:length])
        rest = rest[length + 2 :]
    return words


def _end(data: bytes, start: int) -> int | None:
    """Where the frame that begins at `start` ends; None while it is not all there."""
    wanted = 1
    while wanted:
        line = data.find(b"\r\n", start)
        if line < 0:
            return None
        kind, number = data[start : start + 1], data[start + 1 : line]
        start = line + 2
        wanted -= 1
        if kind == b"*":
            wanted += max(int(number), 0)
        elif kind == b"$" and int(number) >= 0:
            start += int(number) + 2
            if start > len(data):
                return None
    return start


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a crashed host or a load balancer does."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0 and not writer.transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
