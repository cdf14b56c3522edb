"""Files from S3 and from servers that speak its protocol (MinIO, R2, Ceph, ...), by obstore.

Credentials come from the environment as every S3 tool reads it: `AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, a web identity, or the role of the container or
machine. A URL that holds some is refused.

What obstore says of an error quotes the server's answer, key id and addresses included: of it
only the kind and the HTTP status are told.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from bullpy import errors
from bullpy.audio.errors import (
    FileKeyError,
    FileMissingError,
    StoreError,
    StoreRefusedError,
)
from bullpy.audio.stores import keys
from bullpy.audio.stores.base import UNWATCHED, Watch
from bullpy.audio.stores.temporary import Downloads, Sink
from bullpy.audio.stores.transfer import Abort, watched

if importlib.util.find_spec("obstore") is None:
    raise errors.MissingExtraError("obstore", "s3")

import obstore
from obstore import exceptions
from obstore import store as obstores

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_T = TypeVar("_T")

_RETRIES = 3
_CONNECT_TIMEOUT = timedelta(seconds=10)
_READ_TIMEOUT = timedelta(seconds=20)  # without a byte
_CHUNK = 256 * 1024
_OPTIONS = ("endpoint", "region")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_FAILURES = (exceptions.BaseError, OSError, ValueError)  # a missing key is FileNotFoundError
_STATUS = re.compile(r"status code: (\d{3})")


class S3Store:
    """Objects of one bucket, below a prefix.

    Args:
        url: `s3://bucket/prefix`, and `?endpoint=https://host:9000` and `region=` where it is
            not Amazon's. Both are also read from `AWS_ENDPOINT_URL` and `AWS_REGION`.
        max_bytes: Largest accepted object, bytes.
        timeout: Seconds for one object, retries included.
        downloads: Where objects are kept while they are used.
        environ: Where the endpoint is read from; the process's environment by default.

    Raises:
        errors.ConfigurationError: The URL is wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        max_bytes: int,
        timeout: float = 300.0,
        downloads: Downloads | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        env = os.environ if environ is None else environ
        self._bucket, self._prefix, options = _parsed(url)
        endpoint = options.get("endpoint") or next(
            (env[name] for name in _ENDPOINTS if env.get(name)), None
        )
        config: S3Config = {}
        if endpoint:
            config["endpoint"] = endpoint
        if "region" in options:
            config["region"] = options["region"]
        client: ClientConfig = {
            # Someone who writes http:// means it; obstore asks for it a second time.
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "connect_timeout": _CONNECT_TIMEOUT,
            "read_timeout": _READ_TIMEOUT,
            # Of the whole request: 30 s by default, which a large file does not keep.
            "timeout": timedelta(seconds=timeout),
        }
        retry: RetryConfig = {
            "max_retries": _RETRIES,
            "retry_timeout": timedelta(seconds=min(timeout, 60.0)),
        }
        try:
            self._store = obstores.S3Store(
                self._bucket,
                prefix=self._prefix or None,
                config=config,
                client_options=client,
                retry_config=retry,
            )
        except (exceptions.BaseError, ValueError):
            raise errors.ConfigurationError(
                "The S3 store cannot be set up.",
                cause="Its URL, or one of the AWS_* variables, holds something that is refused.",
                fix="Check BULLPY_AUDIO_STORE, its endpoint, and the AWS_* variables.",
            ) from None
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._downloads = Downloads() if downloads is None else downloads

    def __repr__(self) -> str:
        return f"S3Store({f's3://{self._bucket}/{self._prefix}'!r})"

    @contextmanager
    def fetch(self, file_key: str, watch: Watch = UNWATCHED) -> Generator[Path]:
        """A copy of the object, removed when the context is left; see `Store.fetch`."""
        keys.checked(file_key)
        with self._downloads.place(file_key) as path:
            with Sink(path, self._max_bytes, f"The file {keys.shown(file_key)}") as sink:
                watched(
                    lambda abort: _run(lambda: self._download(file_key, sink), abort),
                    watch,
                    what=f"The download of {keys.shown(file_key)}",
                    timeout=self._timeout,
                    share=lambda: sink.share,
                )
            yield path

    def version(self, file_key: str, watch: Watch = UNWATCHED) -> str | None:
        """The object's version, or its ETag and size. See `Store.version`."""
        keys.checked(file_key)
        return watched(
            lambda abort: _run(lambda: self._version(file_key), abort),
            Watch(watch.should_stop),
            what=f"The look for {keys.shown(file_key)}",
            timeout=self._timeout,
        )

    async def _download(self, file_key: str, sink: Sink) -> None:
        try:
            found = await obstore.get_async(self._store, file_key)
            expected = found.meta["size"]
            sink.begin(expected)
            async for chunk in found.stream(min_chunk_size=_CHUNK):
                sink.write(chunk)
        except _FAILURES as error:
            raise self._explained(file_key, error) from None
        if sink.written != expected:
            raise StoreError(
                f"The file {keys.shown(file_key)} ended after {sink.written} of {expected} bytes.",
                cause="The server or the network failed in the middle.",
            )

    async def _version(self, file_key: str) -> str | None:
        try:
            meta = await obstore.head_async(self._store, file_key)
        except _FAILURES as error:
            raise self._explained(file_key, error) from None
        if meta["version"] not in (None, "", "null"):  # null: versions are suspended
            return meta["version"]
        return f"{meta['e_tag']}-{meta['size']}" if meta["e_tag"] else None

    def _explained(self, file_key: str, error: Exception) -> StoreError:
        """What obstore's error means, without what it quotes."""
        name, text = keys.shown(file_key), str(error)
        found = _STATUS.search(text)
        said = f" (HTTP {found[1]})" if found else ""
        if isinstance(error, FileNotFoundError):
            if "<Code>NoSuchBucket</Code>" in text:
                return StoreRefusedError(
                    f"There is no bucket {self._bucket!r}{said}.",
                    fix="Correct BULLPY_AUDIO_STORE, its endpoint, or its region.",
                )
            return FileMissingError(
                f"There is no file {name} in the bucket {self._bucket!r}.",
                cause="It is not uploaded yet, or it was removed.",
            )
        if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
            return StoreRefusedError(
                f"The bucket {self._bucket!r} does not give {name}{said}.",
                cause="The credentials are wrong or expired, or they may not read it.",
                fix="Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy.",
            )
        if isinstance(error, ValueError):
            return FileKeyError(
                f"fileKey {name} is refused.",
                cause="It holds an empty part, or a part that is '.'.",
                fix="Send the object's key relative to the store's prefix.",
            )
        return StoreError(
            f"The file {name} cannot be had from the bucket {self._bucket!r} now{said}.",
            cause="The server is away or overloaded, or no credentials could be had.",
            fix="Check the endpoint, the region, and the AWS_* variables.",
        )


def _run(work: Callable[[], Awaitable[_T]], abort: Abort) -> _T:
    """Run a coroutine in this thread, and cancel it when the caller has gone."""

    async def main() -> _T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        with abort.breaking(lambda: loop.call_soon_threadsafe(task.cancel)):
            return await work()

    return asyncio.run(main())


def _parsed(text: str) -> tuple[str, str, dict[str, str]]:
    """Bucket, prefix and options of an s3:// URL."""
    problem = ""
    bucket, prefix, options = "", "", {}
    try:
        url = urlsplit(text)
        bucket, prefix = url.netloc, unquote(url.path).strip("/")
        options = (
            {name: values[-1] for name, values in parse_qs(url.query, strict_parsing=True).items()}
            if url.query
            else {}
        )
        endpoint = urlsplit(options.get("endpoint", "https://default"))
    except ValueError:
        problem = "It is no URL."
    else:
        if "@" in bucket or "@" in endpoint.netloc:
            problem = "It holds credentials, which are read from the environment alone."
        elif not _BUCKET.fullmatch(bucket):
            problem = "It names no bucket."
        elif ".." in prefix.split("/"):
            problem = "Its prefix holds '..'."
        elif endpoint.scheme not in ("http", "https") or not endpoint.hostname:
            problem = "Its endpoint is no http:// or https:// URL."
        elif set(options) - set(_OPTIONS):
            problem = f"It has options other than {' and '.join(_OPTIONS)}."
        elif url.fragment:
            problem = "It has a fragment."
    if problem:
        # Not shown: it may hold a secret.
        raise errors.ConfigurationError(
            "The S3 URL of the audio store is wrong.",
            cause=problem,
            fix="Set BULLPY_AUDIO_STORE to something like "
            "'s3://bucket/prefix?endpoint=https://minio.example.com'.",
        )
    return bucket, prefix, options
