from collections.abc import Iterator

import pytest
from redis import Redis

from bullpy import errors
from bullpy.connection.embedded import EmbeddedServer
from bullpy.connection.identity import (
    ServerIdentity,
    check_server,
    fingerprint,
    identity_from,
    parse_info,
)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


def ask(url: str, db: int = 0, queue: str | None = None) -> ServerIdentity:
    with Redis.from_url(url) as client:
        info = client.info()
    assert isinstance(info, dict)
    return identity_from(info, url=url, db=db, prefix="bull" if queue else None, queue=queue)


def of(**fields: str) -> ServerIdentity:
    return identity_from(fields, url="redis://h:6379/0", db=0)


def test_valkey_is_told_by_its_own_version(server: EmbeddedServer) -> None:
    identity = ask(server.url)
    assert identity.kind == "valkey"
    assert identity.version >= (9,)
    assert identity.redis_version >= (7, 2)
    assert identity.run_id == server.run_id
    assert identity.maxmemory_policy == "noeviction"
    assert identity.fingerprint in str(identity)
    assert check_server(identity) == []


def test_fingerprint_is_of_the_server_not_of_the_url(server: EmbeddedServer) -> None:
    one = ask(f"redis://127.0.0.1:{server.port}/0")
    other = ask(f"redis://localhost:{server.port}/0?socket_timeout=3")
    assert one.fingerprint == other.fingerprint
    with EmbeddedServer() as second:
        assert ask(second.url).fingerprint != one.fingerprint


def test_fingerprint_differs_by_db_prefix_and_queue(server: EmbeddedServer) -> None:
    marks = {
        ask(server.url).fingerprint,
        ask(server.url, db=1).fingerprint,
        ask(server.url, queue="a").fingerprint,
        ask(server.url, queue="b").fingerprint,
    }
    assert len(marks) == 4


def test_servers_that_tell_nothing_have_no_fingerprint() -> None:
    assert of().fingerprint == ""
    assert fingerprint("", 0) == ""
    assert of().kind == "unknown"
    assert check_server(of()) == []


def test_replica_refuses_a_worker_and_warns_a_producer(server: EmbeddedServer) -> None:
    with EmbeddedServer(args=("--replicaof", f"127.0.0.1 {server.port}")) as replica:
        identity = ask(replica.url)
    assert identity.read_only
    with pytest.raises(errors.ReadOnlyServerError):
        check_server(identity)
    warnings = check_server(identity, producer=True)
    assert [warning.code for warning in warnings] == ["read-only"]


def test_eviction_is_a_warning_that_names_policy_and_fix() -> None:
    with EmbeddedServer(args=("--maxmemory-policy", "allkeys-lru")) as evicting:
        (warning,) = check_server(ask(evicting.url))
    assert isinstance(warning, errors.EvictionPolicyError)
    assert "allkeys-lru" in str(warning)
    assert "noeviction" in str(warning)


@pytest.mark.parametrize(
    ("fields", "kind", "version"),
    [
        ({"redis_version": "7.0.15"}, "redis", (7, 0, 15)),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, "valkey", (9, 1, 2)),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.24.0"}, "dragonfly", (1, 24, 0)),
        ({"redis_version": "6.3.4", "executable": "/usr/bin/keydb-server"}, "keydb", (6, 3, 4)),
        ({"redis_version": "unstable"}, "redis", ()),
    ],
)
def test_kinds_of_servers(fields: dict[str, str], kind: str, version: tuple[int, ...]) -> None:
    identity = of(**fields)
    assert (identity.kind, identity.version) == (kind, version)


@pytest.mark.parametrize(("version", "fits"), [("6.0.16", False), ("6.2.0", True), ("10.0", True)])
def test_servers_older_than_6_2_are_refused(version: str, fits: bool) -> None:
    if fits:
        assert check_server(of(redis_version=version)) == []
    else:
        with pytest.raises(errors.UnsupportedServerError, match=version):
            check_server(of(redis_version=version))


def test_info_reply_in_any_form_gives_the_same_fields() -> None:
    text = "# Server\r\nrun_id:abc\r\nexecutable:/a:b\r\n\r\n"
    expected = {"run_id": "abc", "executable": "/a:b"}
    assert parse_info(text) == parse_info(text.encode()) == parse_info(expected) == expected
