"""Real servers that several make one Redis: a cluster of three, and a primary with sentinels."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError
from support.faults import Ledger

from bullpy import Worker
from bullpy.connection.embedded import find_binary

START_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0
SLOTS = 16384


class Server:
    """One server process on a loopback port; after `kill`, `start` brings it back with its data.

    Args:
        args: Arguments of the server, beside its address and folder.
        sentinel: Lines of a sentinel's configuration; makes it a sentinel.
    """

    def __init__(self, *args: str, sentinel: str | None = None) -> None:
        self.port = free_port()
        self._args = args
        self._sentinel = sentinel
        self._folder = Path(tempfile.mkdtemp(prefix="bullpy-ha-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.client = Redis(port=self.port, socket_timeout=2.0, decode_responses=True)

    @property
    def node(self) -> str:
        """As settings name it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it and wait until it answers."""
        config = self._folder / "server.conf"
        if not config.exists():
            config.write_text(self._sentinel or "")
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    str(find_binary()),
                    str(config),
                    *(["--sentinel"] if self._sentinel is not None else []),
                    *("--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--dir", str(self._folder)),
                    *self._args,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, START_TIMEOUT)
        return self

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it, whatever it does, and remove what it wrote. Stopping twice is fine."""
        self._end(signal.SIGKILL)
        self.client.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def ask(self, *command: Any) -> Any:
        """The reply to a command."""
        return self.client.execute_command(*command)

    @property
    def role(self) -> str:
        """`master` or `slave`; empty while it does not answer."""
        with suppress(RedisError):
            return str(self.ask("ROLE")[0])
        return ""

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the server ended:\n{self.log[-2000:]}")
        with suppress(RedisError):
            return bool(self.client.ping())
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(STOP_TIMEOUT)


class Cluster:
    """Three primaries that share the slots. Every write is on disk before it is answered."""

    def __init__(self, *args: str) -> None:
        self.nodes = [
            Server(
                *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
                *("--cluster-port", str(free_port())),
                *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
                *args,
            )
            for _ in range(3)
        ]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.callback(node.stop)
                node.start()
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """All nodes, as seeds."""
        return f"redis+cluster://{','.join(node.node for node in self.nodes)}"

    def owner(self, key: str) -> Server:
        """The node that owns the key's slot, as all agree."""
        [port] = self.owners(key)
        return next(node for node in self.nodes if node.port == port)

    def owners(self, key: str) -> set[int]:
        """The ports that nodes name as the owner's: several until all have heard of a move."""
        slot = self.slot(key)
        return {
            primary[1]
            for node in self.nodes
            for first, last, primary, *_ in node.ask("CLUSTER", "SLOTS")
            if first <= slot <= last
        }

    def others(self, key: str) -> list[Server]:
        """The nodes that do not own it."""
        owner = self.owner(key)
        return [node for node in self.nodes if node is not owner]

    def slot(self, key: str) -> int:
        """The key's hash slot."""
        return int(self.nodes[0].ask("CLUSTER", "KEYSLOT", key))

    def is_ok(self) -> bool:
        """Whether all nodes think that the cluster works."""
        with suppress(RedisError):
            return all(
                "cluster_state:ok" in str(node.ask("CLUSTER", "INFO")) for node in self.nodes
            )
        return False

    def migrate(self, key: str, target: Server, *, before: Callable[[], Any] | None = None) -> None:
        """Move a slot with all its keys, step by step as `valkey-cli --cluster reshard` does.

        Args:
            key: Any key of the slot.
            target: Its new owner.
            before: Called when half of the keys are there.
        """
        slot, source = self.slot(key), self.owner(key)
        source_id, target_id = (str(node.ask("CLUSTER", "MYID")) for node in (source, target))
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        half = int(source.ask("CLUSTER", "COUNTKEYSINSLOT", slot)) // 2
        moved = 0
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 20):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 2000, "KEYS", *keys)
            moved += len(keys)
            if before is not None and moved >= half:
                before, call = None, before
                call()
        for node in (target, source, *(set(self.nodes) - {target, source})):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    def _join(self) -> None:
        first, *rest = self.nodes
        share = SLOTS // len(self.nodes)
        for index, node in enumerate(self.nodes):
            last = SLOTS - 1 if node is self.nodes[-1] else (index + 1) * share - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", index * share, last)
        for node in rest:
            bus = node.client.config_get("cluster-port")["cluster-port"]
            first.ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_until(self.is_ok, START_TIMEOUT)
        wait_until(
            lambda: all(len(node.ask("CLUSTER", "SLOTS")) == 3 for node in self.nodes),
            START_TIMEOUT,
        )


class Sentinels:
    """A primary, a replica, and three sentinels that promote the replica within seconds."""

    NAME = "mymaster"

    def __init__(self, *, down_after_ms: int = 1000, password: str | None = None) -> None:
        secret = ["--requirepass", password, "--masterauth", password] if password else []
        common = ("--save", "", "--repl-diskless-sync-delay", "0", *secret)
        self._password = password
        self.first = Server(*common)
        self.second = Server(*common, "--replicaof", f"127.0.0.1 {self.first.port}")
        lines = [
            f"sentinel monitor {self.NAME} 127.0.0.1 {self.first.port} 2",
            f"sentinel down-after-milliseconds {self.NAME} {down_after_ms}",
            f"sentinel failover-timeout {self.NAME} 3000",
        ]
        if password:
            lines.append(f"sentinel auth-pass {self.NAME} {password}")
        self.sentinels = [Server(sentinel="\n".join(lines) + "\n") for _ in range(3)]
        for server in (self.first, self.second):
            server.client.connection_pool.connection_kwargs["password"] = password

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in (self.first, self.second, *self.sentinels):
                stack.callback(server.stop)
                server.start()
            wait_until(lambda: all(map(self._is_ready, self.sentinels)), START_TIMEOUT)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        user = f":{self._password}@" if self._password else ""
        nodes = ",".join(sentinel.node for sentinel in self.sentinels)
        return f"redis+sentinel://{user}{nodes}/{self.NAME}/0"

    @property
    def primary(self) -> Server:
        """Whoever says that it is the primary."""
        return next(server for server in (self.first, self.second) if server.role == "master")

    @property
    def is_replicated(self) -> bool:
        """Whether the replica has all that the primary acknowledged."""
        return self.first.ask("WAIT", 1, 1000) >= 1

    def failover(self) -> None:
        """Ask for a failover although the primary is well."""
        self.sentinels[0].ask("SENTINEL", "FAILOVER", self.NAME)

    def names(self, sentinel: Server) -> int:
        """The port that a sentinel calls the primary's."""
        return int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.NAME)[1])

    def _is_ready(self, sentinel: Server) -> bool:
        [raw] = sentinel.client.execute_command("SENTINEL MASTERS").values()
        is_linked = self.second.client.info("replication").get("master_link_status") == "up"
        return raw["num-slaves"] == 1 and raw["num-other-sentinels"] == 2 and is_linked


class Crew:
    """The workers of one test, on its queue.

    Args:
        url: Where they find Redis.
        queue_name: Their queue.
        options: Keywords that all workers get.

    Attributes:
        ledger: What they did.
    """

    def __init__(self, url: str, queue_name: str, **options: Any) -> None:
        self.ledger = Ledger()
        self._queue_name = queue_name
        self._options = {"redis": url, **options}
        self._hired: list[tuple[Worker, asyncio.Task[None]]] = []

    async def hire(self, work: Any = 0.0, *, ready: bool = True, **options: Any) -> Worker:
        """Start a worker whose jobs take `work` seconds, or run the coroutine function `work`."""
        made = Worker(
            self._queue_name,
            self.ledger.processor(work),
            {"autorun": False},
            **{**self._options, **options},
        )
        self.ledger.watch(made)
        self._hired.append((made, asyncio.create_task(made.run())))
        if ready:
            async with asyncio.timeout(15):
                await made.wait_until_ready()
        return made

    async def dismiss(self) -> None:
        for made, task in self._hired:
            await made.close(timeout=3)
            await asyncio.gather(task, return_exceptions=True)


def wait_until(condition: Callable[[], Any], timeout: float) -> None:
    """Ask again and again until the answer is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s")
        time.sleep(0.02)


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
