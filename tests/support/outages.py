"""Real faults of a real server, each with a beginning and an end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from support.faults import eventually
from support.proxy import Proxy

from bullpy import EmbeddedServer, Queue


class Scene:
    """The server of a test, and a way to it past the proxy.

    Args:
        server: With its data on disk.
        proxy: What workers go through.
        admin: A queue on the server itself.
    """

    def __init__(self, server: EmbeddedServer, proxy: Proxy, admin: Queue) -> None:
        self.server = server
        self.proxy = proxy
        self.admin = admin
        self._starting: asyncio.Task[EmbeddedServer] | None = None

    async def ask(self, *words: Any) -> Any:
        return await self.admin.client.execute_command(*words)

    async def config(self, name: str, value: object) -> None:
        await self.admin.client.config_set(name, value)

    async def disconnect_workers(self) -> None:
        await self.ask("CLIENT", "KILL", "TYPE", "normal")

    # -- the server's process ----------------------------------------------------------------

    async def stop(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def fill(self, keys: int) -> None:
        """Give it something to load."""
        async with self.admin.client.pipeline(transaction=False) as pipe:
            for number in range(keys):
                pipe.set(f"filler:{number}", number)
            await pipe.execute()

    async def restart_slowly(self) -> None:
        """While it loads its data, it answers LOADING."""
        await self.stop()
        self._starting = asyncio.create_task(asyncio.to_thread(self.server.start))

    async def loaded(self) -> None:
        assert self._starting is not None
        await self._starting

    # -- what it answers -----------------------------------------------------------------------

    async def fill_memory(self) -> None:
        await self.config("maxmemory", 1)

    async def free_memory(self) -> None:
        await self.config("maxmemory", 0)

    async def demote(self) -> None:
        """A replica of a primary that does not exist: read-only, and the data stays."""
        await self.ask("REPLICAOF", "127.0.0.1", "1")

    async def demote_strictly(self) -> None:
        """A replica that does not even let its data be read while its primary is away."""
        await self.config("replica-serve-stale-data", "no")
        await self.demote()

    async def promote(self) -> None:
        await self.ask("REPLICAOF", "NO", "ONE")

    async def set_password(self) -> None:
        await self.config("requirepass", "not-the-workers")
        await self.disconnect_workers()

    async def remove_password(self) -> None:
        await self.config("requirepass", "")

    async def fill_clients(self) -> None:
        """The connection that says so is the only one that is left."""
        await self.config("maxclients", 1)
        await self.disconnect_workers()

    async def free_clients(self) -> None:
        await self.config("maxclients", 1000)

    async def break_disk(self) -> None:
        """Snapshots fail: a folder stands where the file would go."""
        (self.server.folder / "dump.rdb").mkdir()
        await self.config("save", "3600 1000000")
        await self._save("err")

    async def mend_disk(self) -> None:
        (self.server.folder / "dump.rdb").rmdir()
        await self._save("ok")

    async def _save(self, outcome: str) -> None:
        await self.ask("BGSAVE")

        async def is_saved() -> bool:
            info = await self.admin.client.info("persistence")
            return not info["rdb_bgsave_in_progress"] and info["rdb_last_bgsave_status"] == outcome

        await eventually(is_saved, 5.0)


@dataclass(frozen=True)
class Fault:
    """One way in which Redis fails.

    Attributes:
        name: For the test's name.
        begin: Makes it fail.
        end: Mends it; when this returns, Redis is back.
        says: A pattern in an error that the worker tells meanwhile.
        lasts: Seconds in between.
        lock: The worker's lock_duration.
        keys: How many keys the server has from the beginning.
        args: More arguments for the server.
    """

    name: str
    begin: Callable[[Scene], Awaitable[None]]
    end: Callable[[Scene], Awaitable[None]]
    says: str
    lasts: float = 2.5
    lock: float = 4.0
    keys: int = 0
    args: tuple[str, ...] = ()

    def is_told(self, error: BaseException) -> bool:
        return re.search(self.says, str(error)) is not None


# A key takes 0.1 ms and more to load. After 1024 of them the server looks at its clients.
SLOW_LOADING: dict[str, Any] = {"keys": 25_000, "args": ("--key-load-delay", "100")}

FAULTS = [
    # With the default lock of 30 s, which runs out in the meantime.
    Fault("stopped for 60 s", Scene.stop, Scene.start, "ended|refused", lasts=60.0, lock=30.0),
    Fault("killed", Scene.kill, Scene.start, "ended|refused"),
    Fault("loading", Scene.restart_slowly, Scene.loaded, "is loading", **SLOW_LOADING),
    # Jobs go on to their end for 1.5 s of it, and their commands count.
    Fault("out of memory", Scene.fill_memory, Scene.free_memory, "is out of memory", lasts=4.0),
    Fault("read-only", Scene.demote, Scene.promote, "is a read-only replica"),
    Fault("without primary", Scene.demote_strictly, Scene.promote, "lost its primary"),
    Fault("disk full", Scene.break_disk, Scene.mend_disk, "saving to disk fails"),
    Fault("password set", Scene.set_password, Scene.remove_password, "wants a password"),
    Fault("too many clients", Scene.fill_clients, Scene.free_clients, "no more clients"),
]
