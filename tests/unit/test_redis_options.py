import pytest

from bullpy import redis_options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"host": "h", "port": 7, "db": 1}, {"host": "h", "port": 7, "db": 1}),
        ({"host": "h", "ssl": True}, {"host": "h", "tls": True}),
        ({"host": "h", "tls": {}}, {"host": "h", "tls": True}),
        (
            {"host": "h", "tls": {"rejectUnauthorized": False}},
            {"host": "h", "tls": True, "tls_verify": False},
        ),
        ({"path": "/s"}, {"unix_socket": "/s"}),
        ({"unix_socket_path": "/s"}, {"unix_socket": "/s"}),
        ({"host": "h", "connectTimeout": 500}, {"host": "h", "connect_timeout": 0.5}),
        ({"host": "h", "socket_timeout": 5}, {"host": "h", "command_timeout": 5}),
        ({"host": "h", "password": None, "maxRetriesPerRequest": None}, {"host": "h"}),
        (
            {"url": "redis://h", "db": 2, "host": "other"},
            {"host": "h", "db": 2, redis_options.HAS_URL: True},
        ),
        (
            {"sentinels": [{"host": "h", "port": 1}], "name": "m", "sentinelPassword": "s"},
            {
                "sentinels": [{"host": "h", "port": 1}],
                "sentinel_name": "m",
                "sentinel_password": "s",
            },
        ),
        ({"host": "h", "name": "a connection's name"}, {"host": "h"}),
        (
            {"nodes": [{"host": "h"}], "redisOptions": {"password": "p", "tls": {}}},
            {"cluster": [{"host": "h"}], "password": "p", "tls": True},
        ),
        (
            {"url": "redis+cluster://h1,h2", "host": "h"},
            {"cluster": ("h1:6379", "h2:6379"), redis_options.HAS_URL: True},
        ),
        ({"url": "redis://h/1", "db": 2}, {"host": "h", "db": 1, redis_options.HAS_URL: True}),
    ],
)
def test_connection_options_of_other_libraries_are_understood(
    options: dict[str, object], expected: dict[str, object]
) -> None:
    assert redis_options.connection_from(options) == expected
