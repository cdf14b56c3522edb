"""`bullpy version`: what is installed."""

from __future__ import annotations

import json
import platform
from typing import Annotated

import typer

_PACKAGES = ("bullmq", "redis", "hiredis", "pydantic", "uvloop", "numpy", "soundfile", "av")


def version(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show the versions of bullpy, Python and the packages that matter."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    from bullpy import __version__

    found: dict[str, str | None] = {"bullpy": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = installed(name)
        except PackageNotFoundError:
            found[name] = None
    found["av's FFmpeg"] = _ffmpeg()
    found["audio engine"] = _audio_engine()
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, number in found.items():
        typer.echo(f"{name:12} {number or 'not installed'}")


def _ffmpeg() -> str | None:
    """The release of FFmpeg's libraries inside PyAV, which decode what libsndfile does not."""
    try:
        import av
    except ImportError:
        return None
    return av.ffmpeg_version_info


def _audio_engine() -> str:
    """Which arithmetic audio analysis uses here, and why when it is not the kernel."""
    from bullpy import errors
    from bullpy.audio import engines

    try:
        name, more = engines.chosen()
    except errors.ConfigurationError as error:
        return f"none: {error}"
    return f"{name} ({more})"
