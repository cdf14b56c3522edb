"""Files from a web server: what arrives, what is tried again, and what is never followed."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from audio.webserver import (
    Answer,
    WebServer,
    content,
    cut_off,
    cut_off_chunks,
    endless,
    in_turn,
    status,
    stuck_at_once,
    stuck_in_body,
    web_server,
)

from bullpy import errors
from bullpy.audio import (
    AudioLimitError,
    FileGoneError,
    FileKeyError,
    FileMissingError,
    StoreError,
    StoreRefusedError,
)
from bullpy.audio.stores import addresses, http
from bullpy.audio.stores.base import Watch
from bullpy.audio.stores.http import HttpStore
from bullpy.audio.stores.temporary import Downloads


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[Downloads]:
    """A folder for downloads, in which nothing may be left."""
    made = Downloads(tmp_path)
    yield made
    if made.folder.exists():
        assert [path.name for path in made.folder.iterdir()] == [".lock"]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.001)


StoreAt = Callable[..., HttpStore]


@pytest.fixture
def store_at(downloads: Downloads) -> StoreAt:
    def make(base: str, **options: Any) -> HttpStore:
        options = {"max_bytes": 10_000_000, "allow_private": True, "timeout": 20.0, **options}
        return HttpStore(base, downloads=downloads, **options)

    return make


def test_a_file_arrives_whole_and_is_removed(web: WebServer, store_at: StoreAt) -> None:
    body = os.urandom(3_000_000)
    web.answers["/audio/2024/take.wav"] = content(body)
    shares: list[float] = []
    watch = Watch(on_share=shares.append)
    with store_at(web.url("/audio")).fetch("2024/take.wav", watch) as path:
        assert path.read_bytes() == body
        assert path.name == "take.wav"
        assert path.parent.stat().st_mode & 0o077 == 0
    assert not path.parent.exists()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_key_is_a_path_and_never_a_query_or_an_escape(web: WebServer, store_at: StoreAt) -> None:
    sent = "/audio/a%20b/%C3%A4%3Fx%3D1%23y%252e%252e%2F.wav".replace("%2F", "/")
    web.answers[sent] = content(b"found")
    with store_at(web.url("/audio/")).fetch("a b/ä?x=1#y%2e%2e/.wav") as path:
        assert path.read_bytes() == b"found"


@pytest.mark.parametrize(
    "key",
    ["", "../x.wav", "a/../../x", "/etc/passwd", "http://evil.example/x", "file:///x", "a\r\nb"],
)
def test_a_key_that_leads_elsewhere_is_refused(web: WebServer, store_at: StoreAt, key: str) -> None:
    store = store_at(web.url("/audio/"))
    with pytest.raises(FileKeyError), store.fetch(key):
        pass
    with pytest.raises(FileKeyError):
        store.version(key)
    assert web.asked == []


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.0.8"),
        *("::1", "::", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
        *("2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    ],
)
def test_an_address_inside_is_not_public(address: str) -> None:
    assert not addresses.public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_an_address_outside_is_public(address: str) -> None:
    assert addresses.public(ip_address(address))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1"])
def test_a_private_address_is_never_connected_to(
    web: WebServer, store_at: StoreAt, host: str
) -> None:
    store = store_at(web.url("/", host), allow_private=False)
    with pytest.raises(StoreRefusedError, match="BULLPY_AUDIO_ALLOW_PRIVATE"), store.fetch("a"):
        pass
    assert web.asked == []


def test_one_private_address_among_public_ones_is_enough(
    store_at: StoreAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("8.8.8.8", "10.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: found)
    store = store_at("http://audio.example/", allow_private=False)
    with pytest.raises(StoreRefusedError, match=r"10\.0\.0\.1"), store.fetch("a"):
        pass


def test_a_name_is_looked_up_once_so_that_its_answer_cannot_change(
    web: WebServer, store_at: StoreAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def rebinding(host: str, port: int, **_options: object) -> list[Any]:
        asked.append(host)
        ip = "127.0.0.1" if len(asked) == 1 else "127.0.0.9"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    web.answers["/a"] = content(b"first")
    with store_at(web.url("/", "audio.example")).fetch("a") as path:
        assert path.read_bytes() == b"first"
    assert asked == ["audio.example"]
    assert web.asked[0].headers["host"] == f"audio.example:{web.server_port}"


def test_a_redirect_to_a_private_address_is_refused(
    web: WebServer, store_at: StoreAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two addresses of the loopback: one plays the internet, the other the private network.
    monkeypatch.setattr(addresses, "public", lambda address: str(address) == "127.0.0.2")
    web.answers["/secret"] = content(b"secret")
    with web_server("127.0.0.2") as outside:
        outside.answers["/here"] = status(302, Location="/a")
        outside.answers["/a"] = content(b"public")
        outside.answers["/there"] = status(302, Location=web.url("/secret"))
        store = store_at(outside.url(), allow_private=False)
        with store.fetch("here") as path:
            assert path.read_bytes() == b"public"
        with pytest.raises(StoreRefusedError, match=r"127\.0\.0\.1"), store.fetch("there"):
            pass
    assert web.asked == []


@pytest.mark.parametrize(
    "location",
    ["ftp://127.0.0.1/a", "file:///etc/passwd", "gopher://x/", "http://:80/a", "http://[::1/"],
)
def test_a_redirect_to_another_scheme_is_refused(
    web: WebServer, store_at: StoreAt, location: str
) -> None:
    web.answers["/a"] = status(301, Location=location)
    with pytest.raises(StoreRefusedError, match="not followed"), store_at(web.url()).fetch("a"):
        pass


def test_redirects_are_bounded(web: WebServer, store_at: StoreAt) -> None:
    web.answers["/a"] = status(307, Location="/a")
    with (
        pytest.raises(StoreRefusedError, match="more than 5 times"),
        store_at(web.url()).fetch("a"),
    ):
        pass
    assert len(web.asked) == 6


def test_the_password_goes_to_its_own_host_and_into_no_message(
    web: WebServer, store_at: StoreAt
) -> None:
    with web_server("127.0.0.2") as other:
        other.answers["/signed?X-Amz-Signature=s3cret"] = status(403)
        web.answers["/a"] = status(302, Location=other.url("/signed?X-Amz-Signature=s3cret"))
        store = store_at(web.url(user="me:pa%20ss@"))
        with pytest.raises(StoreRefusedError) as caught, store.fetch("a"):
            pass
        assert web.asked[0].headers["authorization"] == "Basic bWU6cGEgc3M="
        assert "authorization" not in other.asked[0].headers
        assert other.asked[0].path.endswith("s3cret")
    with pytest.raises(FileGoneError) as gone, store.fetch("none"):
        pass
    for text in (str(caught.value), str(gone.value), repr(store)):
        assert not any(secret in text for secret in ("pa ss", "pa%20ss", "s3cret"))


@pytest.mark.parametrize(
    "base", ["https://u:hidden@", "http://u:hidden@h:x/", "http://h/?t=hidden"]
)
def test_a_wrong_url_is_not_shown(store_at: StoreAt, base: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        store_at(base)
    assert "hidden" not in str(caught.value)


def test_a_file_that_is_too_large_is_refused_by_its_announcement(
    web: WebServer, store_at: StoreAt
) -> None:
    web.answers["/a"] = content(bytes(2000))
    with (
        pytest.raises(AudioLimitError, match="2000 bytes"),
        store_at(web.url(), max_bytes=1999).fetch("a"),
    ):
        pass
    with store_at(web.url(), max_bytes=2000).fetch("a") as path:
        assert path.stat().st_size == 2000


def test_a_file_without_a_length_is_cut_at_the_limit(web: WebServer, store_at: StoreAt) -> None:
    web.answers["/a"] = endless
    with (
        pytest.raises(AudioLimitError, match="BULLPY_AUDIO_MAX_BYTES"),
        store_at(web.url(), max_bytes=1_000_000).fetch("a"),
    ):
        pass


@pytest.mark.parametrize("slow", [stuck_in_body, stuck_at_once])
def test_a_slow_server_ends_at_the_time_limit(
    web: WebServer, store_at: StoreAt, slow: Answer
) -> None:
    web.answers["/a"] = slow
    before = time.monotonic()
    with (
        pytest.raises(StoreError, match=r"longer than 0\.3 s") as caught,
        store_at(web.url(), timeout=0.3).fetch("a"),
    ):
        pass
    assert time.monotonic() - before < 1.5
    assert not caught.value.permanent


@pytest.mark.parametrize("stuck", [stuck_in_body, stuck_at_once, "pause"])
def test_a_download_is_cancelled_within_a_tenth_of_a_second(
    web: WebServer, store_at: StoreAt, stuck: Answer | str
) -> None:

    def busy(handler: Any) -> None:
        status(503, Retry_After="20")(handler)
        web.waiting.set()

    web.answers["/a"] = busy if isinstance(stuck, str) else stuck
    told: list[float] = []

    def should_stop() -> bool:
        if web.waiting.is_set():
            told.append(time.monotonic())
        return bool(told)

    with (
        pytest.raises(errors.JobCancelledError),
        store_at(web.url()).fetch("a", Watch(should_stop)),
    ):
        pass
    assert time.monotonic() - told[0] < 0.1


@pytest.mark.parametrize(
    "bad",
    [cut_off, cut_off_chunks, status(500), status(503), status(429), status(408)],
    ids=["body", "chunks", "500", "503", "429", "408"],
)
def test_what_may_pass_is_tried_again_from_the_start(
    web: WebServer, store_at: StoreAt, bad: Answer
) -> None:
    web.answers["/a"] = in_turn(bad, bad, content(b"whole"))
    with store_at(web.url()).fetch("a") as path:
        assert path.read_bytes() == b"whole"
    assert len(web.asked) == 3
    web.answers["/a"] = bad
    with pytest.raises(StoreError) as caught, store_at(web.url()).fetch("a"):
        pass
    assert not caught.value.permanent
    assert len(web.asked) == 3 + http.ATTEMPTS


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, StoreRefusedError),
        (401, StoreRefusedError),
        (403, StoreRefusedError),
        (404, FileGoneError),
        (410, FileGoneError),
        (206, StoreRefusedError),
    ],
)
def test_what_cannot_pass_is_asked_for_once(
    web: WebServer, store_at: StoreAt, code: int, error: type[StoreError]
) -> None:
    web.answers["/a"] = status(code)
    with pytest.raises(error, match=str(code)) as caught, store_at(web.url()).fetch("a"):
        pass
    assert caught.value.permanent
    assert isinstance(caught.value, FileMissingError) == (code in (404, 410))
    assert len(web.asked) == 1


def test_the_server_says_when_to_come_again(web: WebServer, store_at: StoreAt) -> None:
    web.answers["/a"] = in_turn(status(503, Retry_After="1"), content(b"now"))
    with store_at(web.url()).fetch("a"):
        pass
    assert 1 <= web.asked[1].at - web.asked[0].at < 3


FAR_ZONE = "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"


@pytest.mark.parametrize(
    "wanted", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT", "9" * 400, "soon", FAR_ZONE]
)
def test_nobody_can_ask_for_an_hour(
    web: WebServer, store_at: StoreAt, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setattr(http, "MAX_RETRY_AFTER", 0.1)
    web.answers["/a"] = in_turn(status(429, Retry_After=wanted), content(b"now"))
    with store_at(web.url()).fetch("a"):
        pass
    assert web.asked[1].at - web.asked[0].at < 2


def test_a_server_that_is_away_may_come_back(store_at: StoreAt) -> None:
    with web_server() as server:
        url = server.url()
    with (
        pytest.raises(StoreError, match="cannot be connected to") as caught,
        store_at(url).fetch("a"),
    ):
        pass
    assert not caught.value.permanent


def test_compressed_content_is_refused(web: WebServer, store_at: StoreAt) -> None:
    web.answers["/a"] = content(b"zip", Content_Encoding="gzip")
    with pytest.raises(StoreRefusedError, match="compressed"), store_at(web.url()).fetch("a"):
        pass


def test_a_version_is_a_strong_etag(web: WebServer, store_at: StoreAt) -> None:
    web.answers["/a"] = content(b"1", ETag='"one"')
    web.answers["/weak"] = content(b"1", ETag='W/"one"')
    web.answers["/none"] = content(b"1")
    store = store_at(web.url())
    assert [store.version(key) for key in ("a", "weak", "none")] == ['"one"', None, None]
    assert {asked.method for asked in web.asked} == {"HEAD"}


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


def test_the_certificate_is_checked_for_the_name(
    web: WebServer,
    store_at: StoreAt,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    with web_server(tls=tls) as secure:
        secure.answers["/a"] = content(b"secret")
        secure.answers["/down"] = status(302, Location=web.url("/a"))
        with (
            pytest.raises(StoreRefusedError, match="not trusted"),
            store_at(secure.url(host="localhost")).fetch("a"),
        ):
            pass
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        with store_at(secure.url(host="localhost")).fetch("a") as path:
            assert path.read_bytes() == b"secret"
        with (
            pytest.raises(StoreRefusedError, match="not trusted"),
            store_at(secure.url(host="127.0.0.1")).fetch("a"),
        ):
            pass
        with (
            pytest.raises(StoreRefusedError, match="https to http"),
            store_at(secure.url(host="localhost")).fetch("down"),
        ):
            pass
    assert web.asked == []
