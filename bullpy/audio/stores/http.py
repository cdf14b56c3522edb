"""Files from a web server: every hop checked, every size and time bounded.

Proxies are not used: they would look names up themselves, unchecked.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from bullpy import errors
from bullpy.audio.errors import StoreRefusedError
from bullpy.audio.stores import keys
from bullpy.audio.stores.base import UNWATCHED, Watch
from bullpy.audio.stores.exchange import Answer, Client, TransientError, masked
from bullpy.audio.stores.temporary import Downloads, Sink
from bullpy.audio.stores.transfer import Abort, watched

MAX_REDIRECTS = 5
"""Hops that are followed for one file."""
ATTEMPTS = 4
"""Times that a file is asked for within one fetch."""
MAX_RETRY_AFTER = 30.0
"""Seconds that are waited at most because a server says so."""

_FIRST_PAUSE = 0.25  # seconds, doubled with each attempt


class HttpStore:
    """Files below one URL.

    Args:
        base: `http://` or `https://`; a user and a password in it are sent as Basic
            authorization, to that scheme, host and port alone.
        max_bytes: Largest accepted file, bytes.
        timeout: Seconds for one file, retries included.
        allow_private: Whether it may lead to addresses that are not public.
        downloads: Where files are kept while they are used.

    Raises:
        errors.ConfigurationError: The URL is none of those.
    """

    def __init__(
        self,
        base: str,
        *,
        max_bytes: int,
        timeout: float = 300.0,
        allow_private: bool = False,
        downloads: Downloads | None = None,
    ) -> None:
        self._base = _parsed(base)
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._downloads = Downloads() if downloads is None else downloads
        self._client = Client(allow_private, ssl.create_default_context(), self._base)

    def __repr__(self) -> str:
        return f"HttpStore({masked(self._base)!r})"

    @contextmanager
    def fetch(self, file_key: str, watch: Watch = UNWATCHED) -> Generator[Path]:
        """A copy of the file, removed when the context is left; see `Store.fetch`."""
        url = self._url(file_key)
        with self._downloads.place(file_key) as path:
            with Sink(path, self._max_bytes, f"The file {keys.shown(file_key)}") as sink:
                watched(
                    lambda abort: self._retried("GET", url, sink, abort),
                    watch,
                    what=f"The download of {keys.shown(file_key)}",
                    timeout=self._timeout,
                    share=lambda: sink.share,
                )
            yield path

    def version(self, file_key: str, watch: Watch = UNWATCHED) -> str | None:
        """The server's strong ETag; None where it gives none. See `Store.version`."""
        url = self._url(file_key)
        answer = watched(
            lambda abort: self._retried("HEAD", url, None, abort),
            Watch(watch.should_stop),
            what=f"The look for {keys.shown(file_key)}",
            timeout=self._timeout,
        )
        # A weak one stands for "means the same", not for "the same bytes" (RFC 9110, 8.8.1).
        return answer.etag if answer.etag and not answer.etag.startswith("W/") else None

    def _url(self, file_key: str) -> SplitResult:
        # Quoted whole: what looks like a query or an escape in a key is part of its name.
        path = quote(str(keys.checked(file_key)), safe="/", errors="replace")
        return self._base._replace(path=self._base.path + path)

    def _retried(self, method: str, url: SplitResult, sink: Sink | None, abort: Abort) -> Answer:
        attempt = 1
        while True:
            try:
                return self._followed(method, url, sink, abort)
            except TransientError as failure:
                if attempt == ATTEMPTS:
                    raise failure.error from failure.__cause__
                wanted = min(failure.retry_after or 0.0, MAX_RETRY_AFTER)
            # Workers that failed together should not come back together.
            abort.sleep(max(wanted, _FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(1, 1.5)))
            attempt += 1

    def _followed(self, method: str, url: SplitResult, sink: Sink | None, abort: Abort) -> Answer:
        """One attempt: as many requests as there are redirects, and one."""
        start = url
        for _hop in range(MAX_REDIRECTS + 1):
            answer = self._client.ask(method, url, sink, abort)
            if answer.location is None:
                return answer
            url = _next_hop(url, answer.location)
        raise StoreRefusedError(
            f"{masked(start)} redirects more than {MAX_REDIRECTS} times.",
            cause="The server sends requests round in a circle.",
        )


def _next_hop(url: SplitResult, location: str) -> SplitResult:
    """Where a redirect leads, if it may."""
    try:
        target = urlsplit(urljoin(url.geturl(), location))
        known = target.scheme in ("http", "https") and bool(target.hostname)
        _ = target.port  # raises where it is no number
    except ValueError:
        known = False
    else:
        if known and not (url.scheme == "https" and target.scheme == "http"):
            # What a server may send as it likes must be a valid request line.
            path = quote(target.path, safe="/%:@!$&'()*+,;=~-._")
            query = quote(target.query, safe="/%:@!$&'()*+,;=~-._?")
            return target._replace(path=path, query=query, fragment="")
    problem = "It leads from https to http." if known else "It leads to no http:// or https:// URL."
    raise StoreRefusedError(f"A redirect of {masked(url)} is not followed.", cause=problem)


def _parsed(base: str) -> SplitResult:
    try:
        url = urlsplit(base)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
        url = SplitResult("", "", "", "", "")
    if not usable or url.query or url.fragment:
        # Not shown: it may hold a password.
        raise errors.ConfigurationError(
            "The URL of the audio store is wrong.",
            cause="It has no host, a port that is no number, a query, or a fragment.",
            fix="Set BULLPY_AUDIO_STORE to something like 'https://files.example.com/audio/'.",
        )
    return url._replace(path=url.path.rstrip("/") + "/")
