import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis import exceptions as redis_errors
from redis.asyncio import Redis as AsyncRedis
from support.ha import Server, wait_until

from bullpy import errors
from bullpy.connection.embedded import EmbeddedServer
from bullpy.connection.probe import ProbeReport, classify, probe
from bullpy.settings import RedisSettings


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture(scope="module")
def locked() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(password=True) as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@asynccontextmanager
async def listening(
    greeting: bytes = b"",
    reply: bytes = b"",
    close: bool = False,
    tls: ssl.SSLContext | None = None,
    upstream: int | None = None,
) -> AsyncIterator[int]:
    """A real listener that is not Redis, or a TLS front of one; gives its port."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back = None
        try:
            if upstream is not None:
                front, back = await asyncio.open_connection("127.0.0.1", upstream)
                await asyncio.gather(pump(reader, back), pump(front, writer))
            writer.write(greeting)
            await writer.drain()
            if close:
                return
            while await reader.read(1024):
                writer.write(reply)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for stream in (writer, back):
                if stream is not None:
                    stream.transport.abort()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    return context


async def look(url: str, **more: object) -> ProbeReport:
    settings = RedisSettings.of({"url": url, **more})
    return await probe(settings, deadline=5)


def failure(report: ProbeReport) -> tuple[str, str]:
    assert not report.ok
    assert report.error is not None
    assert report.error.message == report.steps[-1].detail
    return report.steps[-1].name, report.error.code


async def test_healthy_server_passes_every_step(server: EmbeddedServer) -> None:
    report = await look(server.url)
    assert [step.name for step in report.steps] == [
        "dns", "tcp", "ping", "acl", "info", "select",
    ]  # fmt: skip
    assert report.ok
    assert report.identity is not None
    assert report.identity.run_id == server.run_id
    assert report.identity.client_id
    assert report.warnings == ()
    assert all(step.seconds >= 0 for step in report.steps)


async def test_probe_changes_nothing_on_the_server(server: EmbeddedServer) -> None:
    assert (await look(server.url)).ok
    with Redis.from_url(server.url) as client:
        assert client.dbsize() == 0


async def test_server_that_cannot_save_answers_all_the_same() -> None:
    disk = Server("--save", "3600 1")
    try:
        disk.start()
        folder = disk.client.config_get("dir")["dir"]
        disk.client.set("a", 1)
        shutil.rmtree(folder)
        disk.client.bgsave()
        wait_until(lambda: disk.client.info()["rdb_last_bgsave_status"] == "err", 10)
        with pytest.raises(redis_errors.ResponseError, match="MISCONF"):
            disk.client.ping()
        report = await look(f"redis://{disk.node}/0")
    finally:
        disk.stop()
    assert report.ok, report
    assert "refuses writes" in next(step for step in report.steps if step.name == "ping").detail


async def test_unix_socket_passes() -> None:
    with EmbeddedServer(unix_socket=True, password=True) as running:
        report = await look(running.url)
    assert report.ok
    assert [step.name for step in report.steps][:3] == ["socket", "ping", "auth"]


async def test_unknown_host_fails_at_dns() -> None:
    report = await look("redis://no-such-host.invalid")
    assert failure(report) == ("dns", "redis-unavailable")
    assert "no-such-host.invalid" in str(report.error)


async def test_refused_port_fails_at_tcp() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        report = await look(f"redis://:geheim@127.0.0.1:{holder.getsockname()[1]}")
    assert failure(report) == ("tcp", "redis-unavailable")
    assert "refused" in str(report.error)
    assert "geheim" not in str(report.error)


async def test_missing_socket_file_is_named(tmp_path: Path) -> None:
    report = await look(f"unix://{tmp_path}/no.sock")
    assert failure(report) == ("socket", "redis-unavailable")
    assert "no.sock" in str(report.error)


async def test_silent_peer_fails_within_the_deadline() -> None:
    async with listening() as port:
        started = asyncio.get_running_loop().time()
        report = await probe(RedisSettings(host="127.0.0.1", port=port), deadline=0.5)
        assert asyncio.get_running_loop().time() - started < 4
    assert failure(report) == ("ping", "redis-unavailable")


@pytest.mark.parametrize(
    ("greeting", "reply", "word"),
    [
        (b"", b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n", "HTTP"),
        (b"", b"<!DOCTYPE HTML>\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", b"", "SSH"),
        (b"220 mail ESMTP\r\n", b"", "another service"),
        (b"\x4a\x00\x00\x00\x0a8.0\n", b"", "another service"),
        (b"x" * 200_000, b"", "another service"),
    ],
)
async def test_something_else_at_the_port_is_named(
    greeting: bytes, reply: bytes, word: str
) -> None:
    async with listening(greeting, reply) as port:
        report = await look(f"redis://127.0.0.1:{port}")
    assert failure(report) == ("ping", "not-redis")
    assert word in str(report.error)


async def test_peer_that_closes_at_once_is_unavailable() -> None:
    async with listening(close=True) as port:
        report = await look(f"redis://127.0.0.1:{port}")
    assert failure(report)[1] == "redis-unavailable"


async def test_tls_url_on_a_plain_port_is_told(server: EmbeddedServer) -> None:
    report = await look(f"rediss://127.0.0.1:{server.port}")
    assert failure(report) == ("tls", "redis-tls")
    assert "redis://" in str(report.error.fix if report.error else "")


async def test_plain_url_on_a_tls_port_is_told(
    server: EmbeddedServer, certificate: tuple[Path, Path]
) -> None:
    async with listening(tls=server_tls(certificate), upstream=server.port) as port:
        report = await look(f"redis://127.0.0.1:{port}")
    assert failure(report) == ("ping", "redis-tls")
    assert "rediss://" in str(report.error)


async def test_unknown_authority_is_refused_and_a_known_one_accepted(
    server: EmbeddedServer, certificate: tuple[Path, Path]
) -> None:
    async with listening(tls=server_tls(certificate), upstream=server.port) as port:
        url = f"rediss://localhost:{port}?family=4"
        assert failure(await look(url)) == ("tls", "redis-tls")
        assert (await look(url, tls_ca_file=str(certificate[0]))).ok
        assert (await look(url, tls_verify=False)).ok
        other_name = await look(f"rediss://127.0.0.1:{port}", tls_ca_file=str(certificate[0]))
        assert failure(other_name) == ("tls", "redis-tls")
        missing = await look(url, tls_ca_file="/no/such.pem")
        assert failure(missing) == ("tls", "redis-tls")
        assert "/no/such.pem" in str(missing.error)


async def test_missing_password_is_told(locked: EmbeddedServer) -> None:
    report = await look(f"redis://127.0.0.1:{locked.port}")
    assert failure(report) == ("auth", "redis-auth")
    assert "wants a password" in str(report.error)


async def test_wrong_password_is_told_and_not_shown(locked: EmbeddedServer) -> None:
    report = await look(f"redis://:geheim@127.0.0.1:{locked.port}")
    assert failure(report) == ("auth", "redis-auth")
    assert "refuses" in str(report.error)
    assert "geheim" not in str(report.error)


async def test_password_where_none_is_wanted_is_told_and_harmless(server: EmbeddedServer) -> None:
    report = await look(f"redis://:geheim@127.0.0.1:{server.port}")
    assert report.ok
    (auth,) = (step for step in report.steps if step.name == "auth")
    assert "wants no password" in auth.detail


async def test_acl_that_forbids_scripts_fails_and_one_that_forbids_info_does_not() -> None:
    with EmbeddedServer() as running:
        with Redis.from_url(running.url) as client:
            client.execute_command("ACL SETUSER a on >p ~* +@all -eval")
            client.execute_command("ACL SETUSER b on >p ~* +@all -info -client")
        refused = await look(f"redis://a:p@127.0.0.1:{running.port}")
        assert failure(refused) == ("acl", "redis-auth")
        assert "eval" in str(refused.error)
        blind = await look(f"redis://b:p@127.0.0.1:{running.port}")
        assert blind.ok
        assert blind.identity is None


async def test_database_that_does_not_exist_is_told(server: EmbeddedServer) -> None:
    report = await look(f"{server.url[:-1]}99")
    assert failure(report) == ("select", "redis")
    assert "no database 99" in str(report.error)


async def test_replica_is_told(server: EmbeddedServer) -> None:
    with EmbeddedServer(args=("--replicaof", f"127.0.0.1 {server.port}")) as replica:
        report = await look(replica.url)
    assert failure(report) == ("info", "read-only")


async def test_replica_without_primary_is_told() -> None:
    with EmbeddedServer() as running:
        with Redis.from_url(running.url) as client:
            client.config_set("replica-serve-stale-data", "no")
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
        report = await look(running.url)
    assert failure(report)[1] == "redis-unavailable"
    assert "primary" in str(report.error)


async def test_full_server_is_told() -> None:
    with EmbeddedServer(args=("--maxclients", "1")) as running:
        client = Redis.from_url(running.url)
        client.ping()
        report = await look(running.url)
        client.close()
    assert failure(report)[1] == "redis-unavailable"
    assert "no more clients" in str(report.error)


async def test_policy_that_evicts_is_a_warning() -> None:
    with EmbeddedServer(args=("--maxmemory-policy", "allkeys-lru")) as running:
        report = await look(running.url)
    assert report.ok
    assert [warning.code for warning in report.warnings] == ["eviction-policy"]


# -- classify --------------------------------------------------------------------------------

SETTINGS = RedisSettings.from_url("redis://u:geheim@h:6379/5")


async def raised(url: str, *command: str, timeout: float = 5) -> errors.RedisError:
    """What classify makes of what redis-py raises."""
    client = AsyncRedis.from_url(url, socket_timeout=timeout, retry=None)
    try:
        await client.execute_command(*command)
    except Exception as error:
        return classify(error, RedisSettings.from_url(url))
    finally:
        await client.aclose()
    raise AssertionError("nothing was raised")


async def test_redis_py_errors_become_ours(server: EmbeddedServer, locked: EmbeddedServer) -> None:
    host = "redis://127.0.0.1"
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        refused = await raised(f"{host}:{holder.getsockname()[1]}", "PING")
    assert refused.code == "redis-unavailable"
    assert "refused" in str(refused)
    unknown = await raised("redis://no-such-host.invalid", "PING")
    assert unknown.code == "redis-unavailable"
    assert "not known" in str(unknown)
    assert (await raised(f"{host}:{locked.port}", "PING")).code == "redis-auth"
    assert (await raised(f"redis://:x@127.0.0.1:{locked.port}", "PING")).code == "redis-auth"
    assert "no database 99" in str(await raised(f"{host}:{server.port}/99", "PING"))
    assert (await raised(server.url, "NOSUCHCOMMAND")).code == "unsupported-server"
    assert (await raised(server.url, "INCRBY", "k", "x")).code == "redis"
    assert (await raised(server.url, "BLPOP", "no", "5", timeout=0.1)).code == "command-timeout"


async def test_redis_py_on_something_else_is_not_redis(server: EmbeddedServer) -> None:
    async with listening(reply=b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert (await raised(f"redis://127.0.0.1:{port}", "PING")).code == "not-redis"
    async with listening(reply=b"\x15\x03\x01\x00\x02\x02\x46") as port:
        assert (await raised(f"redis://127.0.0.1:{port}", "PING")).code == "redis-tls"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ReplyLostError("lost"), "reply-lost"),
        (ConnectionResetError(104, "reset"), "redis-unavailable"),
        (TimeoutError(), "redis-unavailable"),
        (EOFError(), "redis-unavailable"),
        (OSError(113, "No route to host"), "redis-unavailable"),
        (redis_errors.BusyLoadingError("loading"), "redis-unavailable"),
        (redis_errors.MasterDownError("down"), "redis-unavailable"),
        (redis_errors.ReadOnlyError("x"), "read-only"),
        (redis_errors.NoPermissionError("x"), "redis-auth"),
        (redis_errors.OutOfMemoryError("x"), "redis"),
        (redis_errors.ResponseError("MISCONF Redis is configured"), "redis"),
        (redis_errors.ResponseError("NOAUTH Authentication required."), "redis-auth"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), "redis-tls"),
        (ValueError("odd"), "redis"),
        (KeyboardInterrupt(), "redis"),
    ],
)
def test_every_error_gets_its_class_and_the_masked_url(error: BaseException, code: str) -> None:
    found = classify(error, SETTINGS)
    assert found.code == code
    if found is not error:
        assert "redis://u:***@h:6379/5" in str(found)
        assert "geheim" not in str(found)


def test_classify_never_raises() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    looping = ValueError("a")
    looping.__context__ = ValueError("b")
    looping.__context__.__context__ = looping
    for error in (
        BrokenError(),
        looping,
        Exception(BrokenError()),
        UnicodeDecodeError("x", b"", 0, 1, "y"),
    ):
        assert isinstance(classify(error, SETTINGS), errors.RedisError)
