"""Where a job's file comes from: a fileKey in, a readable local path out.

| `BULLPY_AUDIO_STORE` | store |
|---|---|
| `/srv/audio`, `file:///srv/audio` | `local.LocalStore` |
| `https://host/base/`, `http://...` | `http.HttpStore` |
| `s3://bucket/prefix` | `s3.S3Store` |
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from bullpy import errors
from bullpy.audio.settings import AudioSettings
from bullpy.audio.stores.base import Store
from bullpy.audio.stores.local import LocalStore


def store_of(settings: AudioSettings) -> Store:
    """The store that the settings name.

    Raises:
        errors.ConfigurationError: None is named, or its URL is wrong.
        errors.MissingExtraError: obstore is needed and not installed.
    """
    text = settings.store
    if text is None:
        return LocalStore(settings.require_root())
    scheme, separator, _ = text.partition("://")
    if not separator:
        return LocalStore(text)
    match scheme.lower():
        case "file":
            return LocalStore(_folder(text))
        case "http" | "https":
            # ssl and http.client load when they are needed.
            from bullpy.audio.stores.http import HttpStore
            from bullpy.audio.stores.temporary import Downloads

            return HttpStore(
                text,
                max_bytes=settings.max_bytes,
                timeout=settings.download_timeout,
                allow_private=settings.allow_private,
                downloads=Downloads(settings.temporary),
            )
        case "s3":
            from bullpy.audio.stores.s3 import S3Store
            from bullpy.audio.stores.temporary import Downloads

            return S3Store(
                text,
                max_bytes=settings.max_bytes,
                timeout=settings.download_timeout,
                downloads=Downloads(settings.temporary),
            )
        case _:
            raise errors.ConfigurationError(
                f"There is no audio store of the kind {scheme[:20]!r}.",
                fix="Set BULLPY_AUDIO_STORE to a folder, or to a URL with file://, http://, "
                "https:// or s3://.",
            )


def _folder(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise errors.ConfigurationError(
            f"{url!r} is no folder of this machine.",
            fix="Set BULLPY_AUDIO_STORE to something like 'file:///srv/audio'.",
        )
    return Path(unquote(parts.path))
