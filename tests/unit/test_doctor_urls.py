"""What the text of a URL tells, by itself and beside what Redis shows."""

from __future__ import annotations

from typing import Any

import pytest

from bullpy.doctor.checks import urls
from bullpy.doctor.look import NO_KEY, Elsewhere, Place, QueueLook, Sample
from bullpy.doctor.verdicts import Certainty, Level
from bullpy.settings import RedisSettings
from tests.support.looks import codes, look, only, queue_look, sample, verdicts, worker_row

SECRET = "hunter2Kx9qZ"
TWO = f"redis://u:{SECRET}@redis.internal:6379/1?db=3"
OURS = {"url-read-differently", "localhost-default", "url-parameters"}


def seen(url: str, *samples: Sample, clients: Any = (), **fields: Any) -> QueueLook:
    settings = RedisSettings.from_url(url)
    of = look(clients=clients, settings=settings, url=url, url_source="REDIS_URL")
    return queue_look(*samples, of=of, **fields)


@pytest.mark.parametrize(
    ("url", "databases"),
    [
        ("redis://h/1?db=3", ("1", "3")),
        ("rediss://u:p%2F@h:6379/0?family=4&db=2#x", ("0", "2")),
        ("redis://h/1?db=1", None),
        ("redis://h/01?db=1", None),
        ("redis://h?db=3", None),
        ("redis://h/?db=3", None),
        ("h:6379/1?db=3", None),
        ("redis://h/one?db=3", None),
        ("", None),
    ],
)
def test_two_databases_are_read_out_of_a_url(url: str, databases: tuple[str, str] | None) -> None:
    assert urls.two_databases(url) == databases


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("redis://h/1?family=0&tls=true&db=1", ["family", "tls"]),
        ("redis://h?commandTimeout=1&socket_timeout=30", ["commandTimeout"]),
        ("redis://h?ssl_cert_reqs=none&health_check_interval=10", []),
        (f"redis://h?{SECRET}=1&a b=2", []),
        ("redis://h", []),
    ],
)
def test_options_that_redis_py_refuses(url: str, names: list[str]) -> None:
    assert urls.foreign_options(url) == names


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("redis://u:p@localhost:6379/0", "localhost"),
        ("redis://[::1]:6379", "::1"),
        ("127.0.0.1:6379", "127.0.0.1"),
        ("redis://redis.internal", "redis.internal"),
        ("redis:///1", ""),
    ],
)
def test_the_host_of_a_url(url: str, host: str) -> None:
    assert urls.host_of(url) == host


def test_two_databases_in_one_url_are_a_warning() -> None:
    verdict = only(seen(TWO, sample(), clients=[worker_row(db=1)]), "url-read-differently")
    assert (verdict.level, verdict.certainty) == (Level.WARNING, Certainty.STATED)
    assert "ioredis takes 1, redis-py takes 3" in verdict.message


def test_a_queue_in_both_databases_of_one_url_comes_first() -> None:
    elsewhere = Elsewhere((Place(3, "bull", "audio", None, 0, has_worker=True),))
    clients = [worker_row(db=3, plain=True)]
    waiting = sample(added=4, wait=3, stalled_check_ttl=NO_KEY)
    found = verdicts(seen(TWO, waiting, clients=clients, elsewhere=elsewhere))
    assert found[0].code == "url-read-differently"
    assert (found[0].level, found[0].certainty) == (Level.BLOCKED, Certainty.CERTAIN)
    assert len(found[0].proofs) == 3
    assert SECRET not in repr(found)


def test_options_matter_where_no_worker_lives() -> None:
    url = f"redis://:{SECRET}@redis.internal:6379/0?family=0"
    waiting = sample(added=4, wait=3, stalled_check_ttl=NO_KEY)
    found = verdicts(seen(url, waiting))
    assert found[0].code == "url-parameters"
    assert found[0].level is Level.BLOCKED
    assert "no-worker" not in {each.code for each in found}, "it is explained"
    assert SECRET not in repr(found)
    assert "url-parameters" not in codes(seen(url, waiting, clients=[worker_row()]))
    assert "url-parameters" not in codes(seen(url, sample(added=4)))
    assert "url-parameters" not in codes(seen(url, waiting, clients=None))


def test_an_empty_redis_on_this_machine_is_told() -> None:
    nothing = sample(added=None, meta={}, stalled_check_ttl=NO_KEY)
    verdict = only(seen("redis://localhost:6379", nothing), "localhost-default")
    assert (verdict.level, verdict.certainty) == (Level.WARNING, Certainty.PROBABLE)
    assert not codes(seen("redis://redis.internal:6379", nothing)) & OURS
    assert not codes(seen("redis://localhost:6379", sample(), clients=[worker_row()])) & OURS


def test_a_plain_url_gives_nothing() -> None:
    assert not codes(seen("redis://u:p@redis.internal:6379/0", sample())) & OURS
