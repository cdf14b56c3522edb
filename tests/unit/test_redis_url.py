from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bullpy import errors, redis_url
from bullpy.settings import RedisSettings

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", {"host": "h"}),
        ("redis://h:7000", {"host": "h", "port": 7000}),
        ("redis://h:7000/", {"host": "h", "port": 7000}),
        ("redis://h/3", {"host": "h", "db": 3}),
        ("redis://h/3?db=5", {"host": "h", "db": 3}),
        ("redis://h/?db=5", {"host": "h", "db": 5}),
        ("redis://:pw@h", {"host": "h", "password": "pw"}),
        ("redis://u:p%40w@h", {"host": "h", "username": "u", "password": "p@w"}),
        ("redis://u@h", {"host": "h", "username": "u"}),
        ("rediss://h", {"host": "h", "tls": True}),
        ("REDISS://h", {"host": "h", "tls": True}),
        ("redis://h?tls=true", {"host": "h", "tls": True}),
        ("redis://h?family=0", {"host": "h", "family": 0}),
        ("redis://h?family=6", {"host": "h", "family": 6}),
        ("redis://[::1]:7000/1", {"host": "::1", "port": 7000, "db": 1}),
        ("redis://[2001:db8::1]", {"host": "2001:db8::1"}),
        ("//h:7000/1", {"host": "h", "port": 7000, "db": 1}),
        ("h:7000", {"host": "h", "port": 7000}),
        ("u:p@h:7000", {"host": "h", "port": 7000, "username": "u", "password": "p"}),
        ("6380", {"host": "localhost", "port": 6380}),
        ("/tmp/redis.sock", {"unix_socket": "/tmp/redis.sock"}),
        ("/tmp/redis.sock?db=2", {"unix_socket": "/tmp/redis.sock", "db": 2}),
        ("unix:///tmp/r.sock?db=1", {"unix_socket": "/tmp/r.sock", "db": 1}),
        ("redis+unix:///tmp/r%20s.sock", {"unix_socket": "/tmp/r s.sock"}),
        ("unix://u:p@/r.sock", {"unix_socket": "/r.sock", "username": "u", "password": "p"}),
        ("redis://h?connectTimeout=1500", {"host": "h", "connect_timeout": 1.5}),
        ("redis://h?commandTimeout=100", {"host": "h", "command_timeout": 0.1}),
        ("redis://h?keepAlive=30000", {"host": "h", "keepalive": 30.0}),
        ("redis://?host=h&port=7", {"host": "h", "port": 7}),
        ("  redis://h\n", {"host": "h"}),
        ("redis://h?db=", {"host": "h"}),
        ("redis://h?cluster=true", {"host": "h", "cluster": True}),
        (
            "redis+sentinel://u:p%40w@h1:1,h2/my%20master/3",
            {
                "username": "u",
                "password": "p@w",
                "sentinels": ("h1:1", "h2:26379"),
                "sentinel_name": "my master",
                "db": 3,
            },
        ),
        (
            "rediss+sentinel://[::1]:7,h2:8/m?sentinelPassword=s&sentinel_username=t",
            {
                "tls": True,
                "sentinels": ("[::1]:7", "h2:8"),
                "sentinel_name": "m",
                "sentinel_username": "t",
                "sentinel_password": "s",
            },
        ),
        ("redis+cluster://h1,h2:7001", {"cluster": ("h1:6379", "h2:7001")}),
        (
            "rediss+cluster://:pw@h1:1/0?family=4",
            {"tls": True, "password": "pw", "cluster": ("h1:1",), "db": 0, "family": 4},
        ),
    ],
)
def test_url_reads_as_ioredis_reads_it(url: str, expected: dict[str, object]) -> None:
    assert redis_url.parse(url).values() == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "  ",
        "redis://",
        "redis:///1",
        "redis://:6379",
        "redis://:pw@",
        "redis://h:port",
        "redis://h:0",
        "redis://h:65536",
        "redis://h:99999999999999999999",
        "redis://h/abc",
        "redis://h/-1",
        "redis://h?db=x",
        "redis://h?family=5",
        "redis://h?connectTimeout=soon",
        "redis://u:p%zz@h",
        "redis://u:%ff@h",
        "redis://u:pa/ss@h",
        "redis://u:pa#ss@h",
        "redis://::1:6379",
        "redis://[::1",
        "redis://[::1]x",
        "redis://h h",
        "http://h",
        "h/1",
        '"redis://h"',
        "redis://h\x00",
        "unix://relative.sock",
        "redis+sentinel://h1,h2",
        "redis+sentinel:///mymaster",
        "redis+sentinel://h1:x/mymaster",
        "redis+sentinel://h1/mymaster/x",
        "redis+cluster://",
        "redis+cluster://h1:99999",
        "redis+cluster://u:pa/ss@h1",
        "redis+other://h1",
        "redis://h?" + "&".join(f"a{n}=1" for n in range(200)),
    ],
)
def test_wrong_url_is_refused_with_a_fix(url: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        redis_url.parse(url, source="REDIS_URL")
    assert "REDIS_URL" in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:sec/ret@h",
        "redis://u:sec#ret@h",
        "redis://u:sec@ret@h:x",
        "redis://u:sec%zzret@h",
        "redis://h:secret",
        "redis://:secret",
        "redis://h:x?password=secret",
        "redis+sentinel://:secret@h:x/m",
        "redis+sentinel://h:x/m?sentinel_password=secret",
        "redis+cluster://h:1,u:secret",
        "http://u:secret@h",
        '"redis://u:secret@h"',
    ],
)
def test_error_never_shows_the_password(url: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        redis_url.parse(url)
    assert "sec" not in str(caught.value)
    assert "ret" not in str(caught.value)


def test_unknown_options_are_named_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    assert redis_url.parse("redis://h?zig=1&zag=2&lazyConnect=true").values() == {"host": "h"}
    assert [record.getMessage() for record in caplog.records] == [
        "The Redis URL: unknown option ignored: zag, zig"
    ]


@given(TEXT, TEXT)
@example("a:b", "p@ss/w?o#r%d :")
def test_user_and_password_survive_percent_encoding(user: str, password: str) -> None:
    url = f"redis://{quote(user, safe='')}:{quote(password, safe='')}@host:1/2"
    parsed = redis_url.parse(url)
    assert (parsed.username, parsed.password, parsed.host, parsed.db) == (user, password, "host", 2)


@given(TEXT, TEXT, st.integers(1, 65535), st.integers(0, 99), st.booleans())
def test_built_url_reads_back_the_same(
    user: str, password: str, port: int, db: int, tls: bool
) -> None:
    url = redis_url.build(
        host="::1",
        port=port,
        db=db,
        username=user,
        password=password,
        unix_socket=None,
        tls=tls,
    )
    parsed = redis_url.parse(url)
    assert parsed == redis_url.Url("::1", port, db, user, password, None, tls or None)


@given(st.one_of(st.text(), st.text("redis:/@?#[]%=&.0123456789abf\\ ")))
@example("redis://[")
@example("redis://h:²")
@example("²")
@example("redis://h/٣")
@example("unix://%00")
@example("//")
@example("?")
@example("/?")
@example("redis://\ud800@h")
def test_parsing_raises_nothing_but_configuration_error(text: str) -> None:
    several = (f"redis+sentinel://{text}", f"redis+cluster://{text}")
    for url in (text, f"redis://{text}", f"redis://h?{text}", f"unix:///{text}", *several):
        try:
            redis_url.parse(url)
        except errors.ConfigurationError:
            pass
        redis_url.mask(url)


@given(st.text(st.characters(exclude_categories=("Cs", "Z", "Cc")), min_size=6, max_size=40))
def test_redaction_hides_any_password_without_spaces(password: str) -> None:
    secret = "s3cr3t" + quote(password, safe="/#?:'\"")
    text = redis_url.redact(f"cannot reach redis://user:{secret}@host:6379/0 today")
    assert text == "cannot reach redis://user:***@host:6379/0 today"


def test_redaction_hides_several_urls_and_leaves_the_rest() -> None:
    text = redis_url.redact("redis://:a@h1 and rediss://u:b@h2, me@x.org, http://ok.org:80/path")
    assert text == "redis://:***@h1 and rediss://u:***@h2, me@x.org, http://ok.org:80/path"


def test_password_whose_colon_was_forgotten_is_masked() -> None:
    url = "redis://hunter2@10.0.0.7:6379/0"
    assert redis_url.mask(url) == "redis://***@10.0.0.7:6379/0"
    settings = RedisSettings.from_url(url)
    assert settings.username == "hunter2"
    assert "hunter2" not in settings.masked_url + repr(settings)
    assert redis_url.mask("redis://ana:hunter2@h") == "redis://ana:***@h"


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://u:***@h1:1,[::1]:2/my%2Fmaster/3",
        "rediss+sentinel://h1:1/m/0",
        "redis+cluster://:***@h1:1,h2:2",
    ],
)
def test_url_of_several_nodes_is_built_and_masked_as_it_is_read(url: str) -> None:
    said = redis_url.parse(url)
    assert not isinstance(said.cluster, bool)
    built = redis_url.build(
        host="",
        port=6379,
        db=said.db or 0,
        username=said.username,
        password=said.password,
        unix_socket=None,
        tls=bool(said.tls),
        sentinels=said.sentinels or (),
        sentinel_name=said.sentinel_name,
        cluster=said.cluster or (),
    )
    assert built == redis_url.mask(url) == url
