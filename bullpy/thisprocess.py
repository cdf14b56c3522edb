"""What this process can say about itself, without secrets."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import socket
import sys
from importlib.metadata import PackageNotFoundError, version

from bullpy import __version__, redis_url
from bullpy.redaction import redact

LONGEST_COMMAND = 300
"""Characters of the command line that are told."""

LONGEST_TEXT = 300
"""Characters of any other text that are told."""

MASKED = 20_000
"""Characters of a text that are looked through for secrets; what follows is never told."""


@functools.cache
def versions() -> dict[str, str]:
    """Of bullpy, Python, and the packages that speak to Redis."""
    found = {"bullpy": __version__, "python": platform.python_version()}
    for name in ("bullmq", "redis"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            # Without its metadata, as in some bundles.
            continue
    return found


@functools.cache
def host() -> str:
    """The name of the machine."""
    return socket.gethostname()


def folder() -> str:
    """The working directory; empty where it is gone."""
    try:
        return os.getcwd()  # noqa: PTH109 - the same, without a Path
    except OSError:
        return ""


@functools.cache
def command() -> str:
    """What was typed to start it, with secrets masked."""
    shown: list[str] = []
    masks_next = False
    for argument in sys.orig_argv:
        shown.append("***" if masks_next else argument)
        # `--token VALUE`: what would be masked behind `=` is masked behind a space too.
        masks_next = argument.startswith("-") and redact(f"{argument}=x") != f"{argument}=x"
    return clipped(shlex.join(shown), LONGEST_COMMAND).replace("'***'", "***")


def clipped(text: str, limit: int = LONGEST_TEXT) -> str:
    """Text as it may be stored: redacted, of bounded length, and encodable."""
    # Masked before it is cut: half a secret is not known for one.
    masked = redact(redis_url.redact(text[:MASKED]))
    whole = masked.encode("utf-8", "backslashreplace").decode()
    return whole if len(whole) <= limit else f"{whole[: limit - 3]}..."
