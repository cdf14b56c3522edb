"""Limits and locations of the audio plugin, and the only reader of its environment."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bullpy import errors

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class AudioSettings:
    """What is accepted, and where files are.

    Attributes:
        root: Folder that a job's fileKey is resolved below (`BULLPY_AUDIO_ROOT`), unless `store`
            is set.
        max_bytes: Largest accepted file, bytes (`BULLPY_AUDIO_MAX_BYTES`).
        max_duration: Longest accepted audio, seconds (`BULLPY_AUDIO_MAX_DURATION`).
        threads: Threads that measure one file, the caller's included (`BULLPY_AUDIO_THREADS`);
            2 where the process may use more than one core.
        max_channels: Most accepted channels.
        min_rate: Lowest accepted sample rate, Hz.
        max_rate: Highest accepted sample rate, Hz.
        max_level: Largest accepted sample magnitude, full scale being 1. Float files may
            exceed 1; beyond +60 dBFS the numbers are not audio scaled to full scale.
        store: Where files come from: a folder, or a `file://`, `http(s)://` or `s3://` URL
            (`BULLPY_AUDIO_STORE`); see `bullpy.audio.stores`.
        allow_private: Whether an HTTP store may lead to private and local addresses
            (`BULLPY_AUDIO_ALLOW_PRIVATE`).
        download_timeout: Longest download of one file with its retries, seconds
            (`BULLPY_AUDIO_DOWNLOAD_TIMEOUT`).
        temporary: Folder that downloads go to (`BULLPY_AUDIO_TMP`); the system's by default.
        cache: Folder of earlier measurements (`BULLPY_AUDIO_CACHE`); none are kept by default.
        cache_bytes: Largest size of that folder, bytes (`BULLPY_AUDIO_CACHE_BYTES`).
    """

    root: Path | None = None
    max_bytes: int = 2 * 1024**3
    max_duration: float = 4 * 3600.0
    threads: int = field(default_factory=lambda: min(2, _cores()))
    max_channels: int = 8
    min_rate: int = 8_000
    max_rate: int = 384_000
    max_level: float = 1000.0
    # May hold a password.
    store: str | None = field(default=None, repr=False)
    allow_private: bool = False
    download_timeout: float = 300.0
    temporary: Path | None = None
    cache: Path | None = None
    cache_bytes: int = 256 * 1024**2

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> AudioSettings:
        """The settings that the environment asks for.

        Args:
            environ: The variables to read; those of the process by default.

        Raises:
            errors.ConfigurationError: A variable holds something that is not a number above 0,
                or not one of the words that it takes.
        """
        env = os.environ if environ is None else environ
        return cls(
            root=_folder(env, "BULLPY_AUDIO_ROOT"),
            max_bytes=_positive(env, "BULLPY_AUDIO_MAX_BYTES", int, cls().max_bytes),
            max_duration=_positive(env, "BULLPY_AUDIO_MAX_DURATION", float, cls().max_duration),
            threads=_positive(env, "BULLPY_AUDIO_THREADS", int, cls().threads),
            store=env.get("BULLPY_AUDIO_STORE") or None,
            allow_private=_flag(env, "BULLPY_AUDIO_ALLOW_PRIVATE"),
            download_timeout=_positive(
                env, "BULLPY_AUDIO_DOWNLOAD_TIMEOUT", float, cls().download_timeout
            ),
            temporary=_folder(env, "BULLPY_AUDIO_TMP"),
            cache=_folder(env, "BULLPY_AUDIO_CACHE"),
            cache_bytes=_positive(env, "BULLPY_AUDIO_CACHE_BYTES", int, cls().cache_bytes),
        )

    def require_root(self) -> Path:
        """The root folder.

        Raises:
            errors.ConfigurationError: No root is set.
        """
        if self.root is None:
            raise errors.ConfigurationError(
                "No folder is set that audio files are read from.",
                cause="BULLPY_AUDIO_ROOT and BULLPY_AUDIO_STORE are unset or empty.",
                fix="Set BULLPY_AUDIO_ROOT to the folder that every fileKey is relative to.",
            )
        return self.root


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _folder(env: Mapping[str, str], name: str) -> Path | None:
    text = env.get(name)
    return Path(text) if text else None


def _flag(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "").lower()
    if text in ("", "0", "false", "no", "off"):
        return False
    if text in ("1", "true", "yes", "on"):
        return True
    raise errors.ConfigurationError(f"{name} is {env[name]!r}.", fix="Set it to 1 or 0.")


def _positive(
    env: Mapping[str, str], name: str, number: Callable[[str], _Number], default: _Number
) -> _Number:
    text = env.get(name)
    if not text:
        return default
    try:
        value = number(text)
    except ValueError:
        value = None
    if value is None or not value > 0 or math.isinf(value):
        raise errors.ConfigurationError(
            f"{name} is {text!r}, which is not a number above 0.",
            fix=f"Unset it, or set it to a number such as {default}.",
        )
    return value
