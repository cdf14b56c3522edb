"""Objects from a real server that speaks S3's protocol, and from one that misbehaves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from audio.objectserver import BUCKET, CREDENTIALS, ObjectServer, object_server
from audio.webserver import Handler, content, stuck_at_once, web_server
from obstore.store import S3Store as Bucket

from bullpy import errors
from bullpy.audio import (
    AudioLimitError,
    FileGoneError,
    FileKeyError,
    FileMissingError,
    StoreError,
    StoreRefusedError,
)
from bullpy.audio.stores.base import Watch
from bullpy.audio.stores.s3 import S3Store
from bullpy.audio.stores.temporary import Downloads

MODIFIED = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with object_server() as started:
        yield started


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(server: ObjectServer) -> Bucket:
    return Bucket(
        BUCKET,
        config={"endpoint": server.endpoint, "region": "us-east-1"},
        client_options={"allow_http": True},
    )


StoreAt = Callable[..., S3Store]


@pytest.fixture
def store_at(tmp_path: Path) -> Iterator[StoreAt]:
    downloads = Downloads(tmp_path)

    def make(url: str, **options: Any) -> S3Store:
        return S3Store(
            url, downloads=downloads, **{"max_bytes": 10_000_000, "timeout": 20.0, **options}
        )

    yield make
    if downloads.folder.exists():
        assert [path.name for path in downloads.folder.iterdir()] == [".lock"]


@pytest.mark.parametrize("prefix", ["", "user 1/up", "/user%201/up/"])
def test_an_object_arrives_whole_and_is_removed(
    server: ObjectServer, bucket: Bucket, store_at: StoreAt, prefix: str
) -> None:
    body = os.urandom(3_000_000)
    name = "user 1/up/2024/täke 1.wav" if prefix else "2024/täke 1.wav"
    obstore.put(bucket, name, body)
    shares: list[float] = []
    watch = Watch(on_share=shares.append)
    with store_at(server.url(prefix)).fetch("2024/täke 1.wav", watch) as path:
        assert path.read_bytes() == body
        assert path.name == "täke 1.wav"
    assert not path.parent.exists()
    assert shares[-1] == 1.0


@pytest.mark.parametrize("key", ["", "../x", "a/../x", "/x", "s3://other/x", "a//b", "a/./b"])
def test_a_key_that_leads_elsewhere_is_refused(
    server: ObjectServer, store_at: StoreAt, key: str
) -> None:
    store = store_at(server.url("up"))
    with pytest.raises(FileKeyError), store.fetch(key):
        pass
    with pytest.raises(FileKeyError):
        store.version(key)


def test_a_missing_object_may_still_come(server: ObjectServer, store_at: StoreAt) -> None:
    store = store_at(server.url("up"))
    with pytest.raises(FileMissingError) as caught, store.fetch("none.wav"):
        pass
    assert not isinstance(caught.value, FileGoneError)
    assert not caught.value.permanent
    with pytest.raises(FileMissingError):
        store.version("none.wav")


def test_a_missing_bucket_never_comes(server: ObjectServer, store_at: StoreAt) -> None:
    with (
        pytest.raises(StoreRefusedError, match="no bucket 'none'"),
        store_at(server.url(bucket="none")).fetch("a"),
    ):
        pass


def test_refused_credentials_are_in_no_message(
    server: ObjectServer, store_at: StoreAt, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    obstore.put(bucket, "a", b"x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAHIDDEN")
    with (
        pytest.raises(StoreRefusedError, match="HTTP 403") as caught,
        store_at(server.url()).fetch("a"),
    ):
        pass
    assert "HIDDEN" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_an_object_that_is_too_large_is_refused(
    server: ObjectServer, bucket: Bucket, store_at: StoreAt
) -> None:
    obstore.put(bucket, "large", bytes(2000))
    with (
        pytest.raises(AudioLimitError, match="2000 bytes"),
        store_at(server.url(), max_bytes=1999).fetch("large"),
    ):
        pass
    with store_at(server.url(), max_bytes=2000).fetch("large") as path:
        assert path.stat().st_size == 2000


def test_a_version_changes_with_the_object(
    server: ObjectServer, bucket: Bucket, store_at: StoreAt
) -> None:
    store = store_at(server.url())
    obstore.put(bucket, "v", b"1")
    first = store.version("v")
    assert first == store.version("v") is not None
    obstore.put(bucket, "v", b"2")
    assert store.version("v") != first


def test_a_version_that_is_none_is_told_by_the_tag(store_at: StoreAt) -> None:
    """A bucket whose versions are suspended calls each of them null."""
    told: list[str | None] = []
    with web_server() as web:
        store = store_at(f"s3://{BUCKET}?endpoint={web.url('')}&region=x")
        for tag in ('"1"', '"2"'):
            web.answers[f"/{BUCKET}/a"] = content(
                b"x", ETag=tag, x_amz_version_id="null", Last_Modified=MODIFIED
            )
            told.append(store.version("a"))
    assert told[0] != told[1]
    assert None not in told


def test_a_server_that_is_away_may_come_back(store_at: StoreAt) -> None:
    url = f"s3://{BUCKET}/?endpoint=http://127.0.0.1:1&region=x"
    with pytest.raises(StoreError) as caught, store_at(url).fetch("a"):
        pass
    assert not caught.value.permanent


def stuck_object(handler: Handler) -> None:
    """A beginning of an object, and then nothing."""
    handler.send_response(200)
    for name, value in (
        ("Content-Length", "1000000"),
        ("ETag", '"x"'),
        ("Last-Modified", MODIFIED),
    ):
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(bytes(500_000))
    handler.server.waiting.set()
    handler.server.released.wait(30)


@pytest.mark.parametrize("stuck", [stuck_at_once, stuck_object])
def test_a_stuck_download_is_cancelled_at_once_and_ends_at_the_time_limit(
    store_at: StoreAt, stuck: Callable[[Handler], None]
) -> None:
    with web_server() as web:
        web.answers[f"/{BUCKET}/a"] = stuck
        url = f"s3://{BUCKET}?endpoint={web.url('')}&region=x"
        told: list[float] = []

        def should_stop() -> bool:
            if web.waiting.is_set():
                told.append(time.monotonic())
            return bool(told)

        with pytest.raises(errors.JobCancelledError), store_at(url).fetch("a", Watch(should_stop)):
            pass
        assert time.monotonic() - told[0] < 0.1
        with pytest.raises(StoreError), store_at(url, timeout=0.3).fetch("a"):
            pass


@pytest.mark.parametrize(
    "url",
    [
        *("s3://", "s3:///x", "s3://key:hidden@bucket/", "s3://bucket/../x", "s3://bucket/#x"),
        *("s3://bucket/?secret_access_key=hidden", "s3://bucket/?endpoint=ftp://h/"),
        "s3://bucket/?endpoint=http://me:hidden@h/",
    ],
)
def test_a_wrong_url_is_not_shown(store_at: StoreAt, url: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        store_at(url)
    assert "hidden" not in str(caught.value)
