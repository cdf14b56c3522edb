"""One GET of a small JSON document, bounded in time and size, without leaving the host."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import socket
import ssl
import time
from typing import cast
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

LARGEST = 64_000
"""Bytes that an answer may have, with its headers."""

REDIRECTS = 3
"""Redirects that are followed."""

_PORTS = {"http": 80, "https": 443}
_MOVED = (301, 302, 303, 307, 308)


class UnreadableError(Exception):
    """There is no answer that can be read; says why in words, without secrets."""


def address_of(url: str, *, path: str) -> SplitResult:
    """The parts of a URL of http or https.

    Args:
        url: The URL; http where it names no scheme.
        path: Taken where it has none.

    Raises:
        UnreadableError: It is no such URL.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        is_right = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_right = False
        parts = SplitResult("", "", "", "", "")
    if not is_right or any(ord(char) <= 32 or ord(char) == 127 for char in url):
        raise UnreadableError("it is no URL of http or https")
    return parts._replace(path=path) if parts.path in ("", "/") else parts


def shown(address: SplitResult) -> str:
    """The URL without what may be secret: user, password, query."""
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"


async def get(address: SplitResult, *, timeout: float) -> tuple[int, bytes]:
    """Status and body of the answer.

    A redirect is followed on the same host alone: nobody may make us ask somebody else, or tell
    them our password.

    Args:
        address: What `address_of` gave.
        timeout: Seconds for all of it.

    Raises:
        UnreadableError: There is none.
    """
    ends = time.monotonic() + timeout
    for _ in range(REDIRECTS + 1):
        status, location, body = _parsed(await _exchange(address, ends))
        if status not in _MOVED:
            return status, body
        address = _followed(address, location)
    raise UnreadableError("it redirects again and again")


def _followed(address: SplitResult, location: str) -> SplitResult:
    try:
        joined = urljoin(address.geturl(), location)
    except ValueError:
        # Such as `http://[`: what it is joined from is said below.
        joined = location
    target = address_of(joined, path="/")
    is_worse = (address.scheme, target.scheme) == ("https", "http")
    if target.hostname != address.hostname or is_worse:
        raise UnreadableError(f"it redirects to {shown(target)}; ask there, if that is right")
    user, at, _ = address.netloc.rpartition("@")
    # Another port may be another service; the step up to https is none.
    stays = _port(target) == _port(address) or (_port(address), _port(target)) == (80, 443)
    netloc = target.netloc.rpartition("@")[2]
    return target._replace(netloc=f"{user}{at}{netloc}" if stays else netloc)


async def _exchange(address: SplitResult, ends: float) -> bytes:
    """Ask, and give all that comes back until the other side closes or the time is up."""
    host = cast("str", address.hostname)
    received = bytearray()
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(max(0.0, ends - time.monotonic())):
            reader, writer = await asyncio.open_connection(
                host,
                _port(address),
                ssl=ssl.create_default_context() if address.scheme == "https" else None,
            )
            writer.write(_request(address))
            while part := await reader.read(65536):
                received += part
                if len(received) > LARGEST:
                    raise UnreadableError(f"its answer has more than {LARGEST} bytes")
    except TimeoutError:
        # It may have said all, and not closed the connection.
        if not received:
            raise UnreadableError("it does not answer in time") from None
    except ssl.SSLCertVerificationError as error:
        raise UnreadableError(f"its certificate is refused: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise UnreadableError(f"TLS fails: {error.reason}") from None
    except socket.gaierror:
        raise UnreadableError(f"there is no host {host}") from None
    except (OSError, UnicodeError) as error:
        raise UnreadableError(f"it cannot be reached: {error}") from None
    finally:
        if writer is not None:
            writer.transport.abort()
    return bytes(received)


def _request(address: SplitResult) -> bytes:
    lines = [
        f"GET {address.path}{'?' if address.query else ''}{address.query} HTTP/1.1",
        f"Host: {address.netloc.rpartition('@')[2]}",
        "Accept: application/json",
        "User-Agent: bullpy-doctor",
        "Connection: close",
    ]
    if address.username is not None:
        secret = f"{unquote(address.username)}:{unquote(address.password or '')}"
        lines.append(f"Authorization: Basic {base64.b64encode(secret.encode()).decode()}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")


class _Received:
    """What `http.client` takes for a socket."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._received)


def _parsed(received: bytes) -> tuple[int, str, bytes]:
    """Status, target of a redirect, and body."""
    response = http.client.HTTPResponse(cast("socket.socket", _Received(received)))
    try:
        response.begin()
        return response.status, response.getheader("Location") or "", response.read()
    except http.client.IncompleteRead:
        raise UnreadableError("its answer is cut off") from None
    except (http.client.HTTPException, ValueError) as error:
        raise UnreadableError(f"its answer is not HTTP: {type(error).__name__}") from None


def _port(address: SplitResult) -> int:
    return address.port or _PORTS[address.scheme]
