import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bullpy import errors
from bullpy.settings import RedisSettings, WorkerSettings
from bullpy.types import Backoff, JobState, KeepJobs, RateLimit


@pytest.fixture(autouse=True)
def _clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("BULLPY_") or name == "REDIS_URL":
            monkeypatch.delenv(name)


def test_nothing_given_is_an_error_that_names_redis_url() -> None:
    with pytest.raises(errors.ConfigurationError, match="REDIS_URL"):
        RedisSettings()


@pytest.mark.parametrize("value", [{}, {"password": "x"}, {"url": None}])
def test_mapping_without_address_is_no_silent_localhost(value: dict[str, object]) -> None:
    with pytest.raises(errors.ConfigurationError, match="Nothing says where Redis is"):
        RedisSettings.of(value)


@pytest.mark.parametrize("name", ["REDIS_URL", "BULLPY_REDIS_URL"])
@pytest.mark.parametrize("value", ["", "  "])
def test_empty_url_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(errors.ConfigurationError, match=f"^{name} is set but empty"):
        RedisSettings()


def test_argument_wins_over_variable_over_url_over_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://u:p@url-host:1111/1?connectTimeout=3000")
    monkeypatch.setenv("BULLPY_REDIS_PORT", "2222")
    monkeypatch.setenv("BULLPY_REDIS_FAMILY", "6")
    settings = RedisSettings(db=9)
    assert settings.masked_url == "redis://u:***@url-host:2222/9"
    assert settings.family == 6
    assert settings.connect_timeout == 3.0
    assert settings.command_timeout == 15.0


def test_bullpy_url_wins_over_redis_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://a")
    monkeypatch.setenv("BULLPY_REDIS_URL", "redis://b")
    assert RedisSettings().host == "b"
    monkeypatch.setenv("BULLPY_REDIS_URL", "")
    assert RedisSettings().host == "a"


def test_password_of_the_environment_url_never_goes_to_another_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "rediss://u:p@prod:1111/1")
    assert RedisSettings(host="h").masked_url == "redis://h:6379/0"
    assert RedisSettings.of({"host": "h"}).masked_url == "redis://h:6379/0"
    monkeypatch.setenv("BULLPY_REDIS_PASSWORD", "q")
    monkeypatch.setenv("BULLPY_REDIS_DB", "7")
    assert RedisSettings.from_url("redis://h").masked_url == "redis://h:6379/0"
    assert RedisSettings.of({"url": "redis://h"}).masked_url == "redis://h:6379/0"


def test_higher_source_decides_between_socket_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://url-host:5")
    monkeypatch.setenv("BULLPY_REDIS_UNIX_SOCKET", "/a.sock")
    assert RedisSettings().masked_url == "unix:///a.sock"
    assert RedisSettings(host="h").masked_url == "redis://h:6379/0"
    monkeypatch.delenv("BULLPY_REDIS_UNIX_SOCKET")
    monkeypatch.setenv("REDIS_URL", "unix:///b.sock")
    monkeypatch.setenv("BULLPY_REDIS_HOST", "env-host")
    assert RedisSettings().host == "env-host"
    assert RedisSettings().unix_socket is None


def test_both_host_and_socket_are_refused() -> None:
    with pytest.raises(errors.ConfigurationError, match="Both"):
        RedisSettings(host="h", unix_socket="/s")


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"port": "x"}, "BULLPY_REDIS_PORT"),
        ({"port": 0}, "port=0"),
        ({"port": True}, "port=True"),
        ({"db": -1}, "db=-1"),
        ({"family": 5}, "family=5"),
        ({"connect_timeout": 0}, "connect_timeout=0"),
        ({"command_timeout": float("nan")}, "command_timeout"),
        ({"retry_min": 2}, "retry_max"),
        ({"hots": "h"}, "hots is not a setting"),
    ],
)
def test_wrong_redis_setting_is_named(values: dict[str, object], part: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        RedisSettings(host="h", **values)
    assert part in str(caught.value)


def test_error_never_shows_a_password() -> None:
    for values in ({"port": "x", "password": "geheim"}, {"password": ["geheim"]}):
        with pytest.raises(errors.ConfigurationError) as caught:
            RedisSettings(host="h", **values)
        assert "geheim" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_settings_mask_the_password_and_keep_the_user() -> None:
    settings = RedisSettings.from_url("redis://us%3Aer:geheim@h:1/2")
    for text in (repr(settings), str(settings), settings.masked_url, f"{settings}"):
        assert "geheim" not in text
        assert "redis://us%3Aer:***@h:1/2" in text
    assert settings.password is not None
    assert settings.password.get_secret_value() == "geheim"


def test_equal_settings_are_one_cache_key() -> None:
    one = RedisSettings.from_url("redis://:p@h/1")
    other = RedisSettings(host="h", db=1, password="p")
    assert one == other
    assert hash(one) == hash(other)
    assert {one: 1}[other] == 1
    assert one != RedisSettings(host="h", db=1, password="q")


def test_settings_are_frozen_and_pickle() -> None:
    settings = RedisSettings(host="h", password="p")
    with pytest.raises(ValueError, match="frozen"):
        settings.host = "x"
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("redis://localhost", True),
        ("redis://127.1.2.3", True),
        ("redis://[::1]", True),
        ("/tmp/s", True),
        ("redis://10.0.0.1", False),
        ("redis://localhost.evil.org", False),
    ],
)
def test_is_local(url: str, local: bool) -> None:
    assert RedisSettings.from_url(url).is_local is local


def test_of_takes_what_the_caller_has(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RedisSettings(host="h")
    assert RedisSettings.of(settings) is settings
    assert RedisSettings.of("redis://h") == settings
    assert RedisSettings.of({"host": "h", "port": "6379"}) == settings
    monkeypatch.setenv("REDIS_URL", "redis://h")
    assert RedisSettings.of(None) == settings


def test_unknown_connection_option_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    RedisSettings.of({"host": "h", "zig": 1, "zag": 2})
    assert [record.getMessage() for record in caplog.records] == [
        "Unknown connection options ignored: zag, zig"
    ]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["host", "port", "db", "url", "tls", "family"]),
        st.one_of(
            st.text(),
            st.integers(),
            st.none(),
            st.booleans(),
            st.floats(),
            st.lists(st.text(), max_size=2),
        ),
    )
)
def test_any_mapping_gives_settings_or_configuration_error(options: dict[str, object]) -> None:
    try:
        RedisSettings.of(options)
    except errors.ConfigurationError:
        pass


# -- sentinels and clusters ------------------------------------------------------------------


def test_sentinels_come_in_every_spelling_and_are_one_cache_key() -> None:
    spelled = [
        RedisSettings(sentinels=["a:1", "b:2"], sentinel_name="m", password="p", db=1),
        RedisSettings(sentinels=[("a", 1), ("b", 2)], sentinel_name="m", password="p", db=1),
        RedisSettings.of("redis+sentinel://:p@a:1,b:2/m/1"),
        RedisSettings.of(
            {
                "sentinels": [{"host": "a", "port": 1}, {"host": "b", "port": 2}],
                "name": "m",
                "password": "p",
                "db": 1,
            }
        ),
    ]
    assert len(set(spelled)) == 1
    assert spelled[0].masked_url == "redis+sentinel://:***@a:1,b:2/m/1"
    assert pickle.loads(pickle.dumps(spelled[0])) == spelled[0]


def test_cluster_comes_in_every_spelling_and_is_one_cache_key() -> None:
    spelled = [
        RedisSettings(cluster=["a:1", "b:2"]),
        RedisSettings(cluster="a:1,b:2"),
        RedisSettings(host="a", port=1, cluster=["b:2"]),
        RedisSettings.of("redis+cluster://a:1,b:2"),
        RedisSettings.of({"nodes": [{"host": "a", "port": 1}, {"host": "b", "port": "2"}]}),
    ]
    assert len(set(spelled)) == 1
    assert spelled[0].masked_url == "redis+cluster://a:1,b:2"
    assert RedisSettings(host="a", port=1, cluster=True) == RedisSettings(cluster=["a:1"])
    assert RedisSettings(host="a", cluster=False) == RedisSettings(host="a")


def test_variables_make_the_servers_of_a_url_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:pw@a:1")
    monkeypatch.setenv("BULLPY_REDIS_CLUSTER", "true")
    assert RedisSettings().masked_url == "redis+cluster://:***@a:1"
    assert RedisSettings(host="h").masked_url == "redis://h:6379/0"
    assert RedisSettings.from_url("redis://h").masked_url == "redis://h:6379/0"
    monkeypatch.setenv("BULLPY_REDIS_CLUSTER", "b:2,c:3")
    assert RedisSettings().masked_url == "redis+cluster://:***@a:1,b:2,c:3"
    monkeypatch.setenv("BULLPY_REDIS_CLUSTER", "false")
    assert RedisSettings().masked_url == "redis://:***@a:1/0"


def test_sentinels_of_the_environment_win_over_the_host_of_its_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:pw@a:1/2")
    monkeypatch.setenv("BULLPY_REDIS_SENTINELS", "s1,s2:7")
    monkeypatch.setenv("BULLPY_REDIS_SENTINEL_NAME", "m")
    monkeypatch.setenv("BULLPY_REDIS_SENTINEL_PASSWORD", "geheim")
    settings = RedisSettings()
    assert settings.masked_url == "redis+sentinel://:***@s1:26379,s2:7/m/2"
    assert settings.sentinel_password is not None
    assert "geheim" not in repr(settings)
    assert RedisSettings(host="h").masked_url == "redis://h:6379/0"
    assert RedisSettings(cluster=["c:1"]).masked_url == "redis+cluster://c:1"


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"cluster": True}, "one of its nodes"),
        ({"cluster": ["a"], "db": 3}, "database 0 alone"),
        ({"cluster": ["a:x"]}, "BULLPY_REDIS_CLUSTER"),
        ({"cluster": ["redis://:geheim@h:1"]}, "has a user"),
        ({"sentinels": ["a"]}, "sentinel_name"),
        ({"sentinels": ["a:0"], "sentinel_name": "m"}, "BULLPY_REDIS_SENTINELS"),
        ({"sentinel_name": "m", "host": "h"}, "without sentinels"),
        ({"sentinels": ["a"], "sentinel_name": "m", "host": "h"}, "Both host and sentinels"),
        ({"sentinels": ["a"], "sentinel_name": "m", "cluster": ["b"]}, "Both"),
        ({"sentinels": ["a"], "sentinel_name": "m", "sentinel_password": ["geheim"]}, "***"),
    ],
)
def test_wrong_sentinel_or_cluster_setting_is_named(values: dict[str, object], part: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        RedisSettings(**values)
    assert part in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "local"),
    [("redis+cluster://127.0.0.1:1,[::1]:2", True), ("redis+sentinel://localhost,h2/m", False)],
)
def test_several_nodes_are_local_if_all_are(url: str, local: bool) -> None:
    assert RedisSettings.from_url(url).is_local is local


# -- workers ---------------------------------------------------------------------------------


def test_worker_defaults() -> None:
    settings = WorkerSettings()
    assert (settings.concurrency, settings.prefix, settings.max_stalled_count) == (1, "bull", 3)
    assert settings.renew_every == 15.0


def test_worker_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULLPY_CONCURRENCY", "4")
    monkeypatch.setenv("BULLPY_LIMITER", "10/1.5")
    monkeypatch.setenv("BULLPY_REMOVE_ON_COMPLETE", "true")
    monkeypatch.setenv("BULLPY_REMOVE_ON_FAIL", '{"age": 60}')
    settings = WorkerSettings()
    assert settings.concurrency == 4
    assert settings.limiter == RateLimit(10, 1.5)
    assert settings.remove_on_complete == KeepJobs(count=0)
    assert settings.remove_on_fail == KeepJobs(age=60)
    assert WorkerSettings(concurrency=2).concurrency == 2


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"concurrency": 0}, "concurrency=0"),
        ({"concurrency": 1.5}, "BULLPY_CONCURRENCY"),
        ({"concurrency": True}, "concurrency=True"),
        ({"prefix": ""}, "prefix"),
        ({"lock_duration": -1}, "BULLPY_LOCK_DURATION"),
        ({"lock_duration": float("inf")}, "lock_duration"),
        ({"lock_renew_time": 31}, "lock_renew_time"),
        ({"max_stalled_count": -1}, "max_stalled_count"),
        ({"drain_delay": 0}, "drain_delay"),
        ({"shutdown_timeout": -1}, "shutdown_timeout"),
        ({"limiter": (0, 1)}, "limiter"),
        ({"limiter": "x"}, "limiter"),
        ({"remove_on_fail": "x"}, "remove_on_fail"),
    ],
)
def test_wrong_worker_setting_is_named(values: dict[str, object], part: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        WorkerSettings(**values)
    assert part in str(caught.value)


def test_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULLPY_CONCURRENCY", "many")
    with pytest.raises(errors.ConfigurationError, match=r"'many'.*BULLPY_CONCURRENCY"):
        WorkerSettings()


def test_bullmq_options_become_worker_settings() -> None:
    settings = WorkerSettings.from_wire(
        {
            "connection": {"host": "h"},
            "autorun": False,
            "concurrency": 5,
            "prefix": "p",
            "name": "w",
            "lockDuration": 10_000,
            "lockRenewTime": 2_000,
            "stalledInterval": 4_000,
            "maxStalledCount": 1,
            "drainDelay": 3,
            "runRetryDelay": 500,
            "limiter": {"max": 2, "duration": 1_500},
            "maximumRateLimitDelay": 7_000,
            "maxStartedAttempts": 4,
            "removeOnComplete": {"count": 5, "age": 60},
            "removeOnFail": False,
        }
    )
    assert settings == WorkerSettings(
        concurrency=5,
        prefix="p",
        name="w",
        lock_duration=10,
        lock_renew_time=2,
        stalled_interval=4,
        max_stalled_count=1,
        drain_delay=3,
        limiter=RateLimit(2, 1.5),
        maximum_rate_limit_delay=7,
        max_started_attempts=4,
        remove_on_complete=KeepJobs(count=5, age=60),
        remove_on_fail=KeepJobs(count=-1),
    )


@pytest.mark.parametrize(
    "opts",
    [
        {"maxStalledCount": -1},
        {"maxStalledCount": "1"},
        {"maxStartedAttempts": -1},
        {"stalledInterval": 0},
        {"drainDelay": 0},
        {"concurrency": 0},
        {"concurrency": "2"},
        {"concurrency": float("inf")},
        {"lockDuration": 0},
        {"limiter": {"max": 1}},
        {"limiter": {"max": 1, "duration": 0}},
    ],
)
def test_options_that_node_refuses_are_refused(opts: dict[str, object]) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        WorkerSettings.from_wire(opts)
    assert next(iter(opts)) in str(caught.value)


def test_options_without_effect_in_bullmq_are_named(caplog: pytest.LogCaptureFixture) -> None:
    settings = WorkerSettings.from_wire({"settings": {"stalledInterval": 5}, "zig": 1})
    assert settings.stalled_interval == 30
    assert "settings.stalledInterval, zig" in caplog.text


# -- value objects ---------------------------------------------------------------------------


def test_backoff_on_the_wire_is_in_milliseconds() -> None:
    assert Backoff.fixed(1.5).to_wire() == {"type": "fixed", "delay": 1500}
    assert Backoff.exponential(2, 0.5).to_wire() == {
        "type": "exponential",
        "delay": 2000,
        "jitter": 0.5,
    }
    assert Backoff.custom("mine").to_wire() == {"type": "mine"}


@pytest.mark.parametrize("wrong", [(-1, 0), (float("nan"), 0), (1, 2), (1, -0.1)])
def test_impossible_backoff_is_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(errors.ConfigurationError):
        Backoff.fixed(*wrong)


def test_keep_jobs_keeps_its_age_in_seconds_on_the_wire() -> None:
    assert KeepJobs(count=5, age=1.2, limit=9).to_wire() == {"count": 5, "age": 2, "limit": 9}
    assert KeepJobs().to_wire() == {}


@pytest.mark.parametrize("value", [object(), "x", {"cuont": 1}, {"count": 1.5}, 1.5, -2])
def test_unclear_keep_jobs_is_refused(value: object) -> None:
    with pytest.raises(errors.ConfigurationError):
        KeepJobs.of(value)


def test_rate_limit_on_the_wire_is_in_milliseconds() -> None:
    assert RateLimit(3, 0.25).to_wire() == {"max": 3, "duration": 250}


def test_job_state_of_bullmqs_words() -> None:
    assert JobState.of("waiting") is JobState.WAIT
    assert JobState.of("waiting-children") is JobState.WAITING_CHILDREN
    assert JobState.of("nonsense") is JobState.UNKNOWN
