"""One HTTP request and its answer, read into a sink.

Built on the standard library's `http.client`, because the socket must go to an address that was
checked (`bullpy.audio.stores.addresses`) while the certificate is checked for the name.
"""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, unquote

from bullpy import __version__
from bullpy.audio.errors import FileGoneError, StoreError, StoreRefusedError
from bullpy.audio.stores import addresses
from bullpy.audio.stores.temporary import Sink
from bullpy.audio.stores.transfer import Abort

REDIRECTS = (301, 302, 303, 307, 308)

_SOCKET_TIMEOUT = 20.0  # seconds without a byte
_CHUNK = 256 * 1024
_PORTS = {"http": 80, "https": 443}
_BUSY = (408, 425, 429)


class TransientError(Exception):
    """This attempt has failed; another one may work.

    Attributes:
        error: What the caller gets when there is no other one.
        retry_after: Seconds that the server asks to wait, if it does.
    """

    def __init__(self, error: StoreError, retry_after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said, its content aside.

    Attributes:
        location: Where else to ask, when it is a redirect.
        etag: The entity tag as sent, if it was.
    """

    location: str | None
    etag: str | None


@dataclass(frozen=True, slots=True)
class Client:
    """How requests are made.

    Attributes:
        allow_private: Whether addresses that are not public may be connected to.
        tls: What certificates are checked with.
        origin: Whose user and password are sent, and to whom alone.
    """

    allow_private: bool
    tls: ssl.SSLContext
    origin: SplitResult

    def ask(self, method: str, url: SplitResult, sink: Sink | None, abort: Abort) -> Answer:
        """Send one request; the content of a success goes to the sink.

        Raises:
            TransientError: It may work next time.
            FileGoneError: There is no such file.
            StoreRefusedError: The server refuses, or must not be asked.
            AudioLimitError: The content is too large.
            StoreError: The sink failed.
        """
        connection = self._connected(url, abort)
        try:
            opened = connection.sock
            with abort.breaking(lambda: _break(opened)):
                return self._exchanged(connection, method, url, sink)
        except (OSError, http.client.HTTPException) as error:
            abort.check()
            raise TransientError(
                StoreError(
                    f"{masked(url)} was cut off ({_reason(error)}).",
                    cause="The server or the network failed in the middle.",
                )
            ) from None  # what http.client quotes may hold a signature
        finally:
            connection.close()

    def _connected(self, url: SplitResult, abort: Abort) -> http.client.HTTPConnection:
        host, port = str(url.hostname), url.port or _PORTS[url.scheme]
        try:
            endpoints = addresses.resolve(host, port, allow_private=self.allow_private)
            opened = addresses.connect(endpoints, host, _SOCKET_TIMEOUT, abort)
        except StoreError as error:
            if error.permanent:
                raise
            raise TransientError(error) from error
        connection = http.client.HTTPConnection(host, port, timeout=_SOCKET_TIMEOUT)
        connection.default_port = _PORTS[url.scheme]  # which the Host header leaves out
        connection.sock = opened if url.scheme == "http" else self._secured(opened, url, abort)
        return connection

    def _secured(self, opened: socket.socket, url: SplitResult, abort: Abort) -> ssl.SSLSocket:
        host = str(url.hostname)
        try:
            with abort.breaking(lambda: _break(opened)):
                return self.tls.wrap_socket(opened, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            opened.close()
            raise StoreRefusedError(
                f"The certificate of {host!r} is not trusted ({error.verify_message}).",
                fix="Set SSL_CERT_FILE to the authority's certificate if it is your own.",
            ) from None
        except OSError as error:
            opened.close()
            abort.check()
            raise TransientError(
                StoreError(f"TLS with {host!r} failed ({_reason(error)}).")
            ) from error
        except BaseException:
            opened.close()
            raise

    def _exchanged(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        url: SplitResult,
        sink: Sink | None,
    ) -> Answer:
        target = url.path + (f"?{url.query}" if url.query else "")
        connection.request(method, target or "/", headers=self._headers(url))
        with connection.getresponse() as response:
            location = response.getheader("Location")
            if response.status in REDIRECTS and location:
                return Answer(location, None)
            _check_status(response, url)
            if sink is not None:
                _receive(response, url, sink)
            return Answer(None, response.getheader("ETag"))

    def _headers(self, url: SplitResult) -> dict[str, str]:
        headers = {
            "Accept-Encoding": "identity",
            "Connection": "close",
            "User-Agent": f"bullpy/{__version__}",
        }
        if self.origin.username is not None and _place(url) == _place(self.origin):
            pair = f"{unquote(self.origin.username)}:{unquote(self.origin.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        return headers


def masked(url: SplitResult) -> str:
    """A URL for messages: without user, password, and a query that may be a signature."""
    host = url.netloc.rpartition("@")[2]
    user = "***@" if "@" in url.netloc else ""
    return f"{url.scheme}://{user}{host}{url.path}" + ("?***" if url.query else "")


def _place(url: SplitResult) -> tuple[str, str | None, int]:
    return url.scheme, url.hostname, url.port or _PORTS[url.scheme]


def _check_status(response: http.client.HTTPResponse, url: SplitResult) -> None:
    status = response.status
    said = f"{masked(url)} answers {status} {response.reason[:100]}".rstrip() + "."
    if status == 200:
        coding = response.getheader("Content-Encoding", "identity").lower()
        if coding != "identity":
            raise StoreRefusedError(
                f"{masked(url)} is sent compressed, which was not asked for.",
                fix="Let the server send audio files as they are.",
            )
        return
    if status in (404, 410):
        raise FileGoneError(said, cause="The file was never there, or it was removed.")
    if status in (401, 403):
        raise StoreRefusedError(
            said,
            cause="The server wants another user or password, or its rules forbid the file.",
            fix="Correct what BULLPY_AUDIO_STORE names, or the server's rules.",
        )
    if status in _BUSY or status >= 500:
        error = StoreError(said, cause="The server is overloaded or broken.")
        raise TransientError(error, _retry_after(response))
    raise StoreRefusedError(said, cause="The server does not answer as one that has files.")


def _receive(response: http.client.HTTPResponse, url: SplitResult, sink: Sink) -> None:
    expected = response.length  # None where the server does not say
    sink.begin(expected)
    # read1 gives what is there: progress moves, and a slow sender does not fill a buffer first.
    while chunk := response.read1(_CHUNK):
        sink.write(chunk)
    if expected is not None and sink.written < expected:
        raise TransientError(
            StoreError(
                f"{masked(url)} ended after {sink.written} of {expected} bytes.",
                cause="The server or the network failed in the middle.",
            )
        )


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    """Seconds that the server asks to wait: a number, or a date (RFC 9110, section 10.2.3)."""
    text = response.getheader("Retry-After", "").strip()
    if text.isdecimal():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a time zone of any size
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.fromtimestamp(time.time(), UTC)).total_seconds())


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came for {_SOCKET_TIMEOUT:g} s"
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _break(opened: socket.socket) -> None:
    try:
        opened.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # closed already
