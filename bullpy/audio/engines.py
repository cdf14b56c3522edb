"""Which arithmetic runs: the compiled kernel where it can, numpy otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping

from bullpy import errors
from bullpy.audio.kernel import library

ENGINES = ("auto", "c", "numpy")


def chosen(environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Which engine runs, without loading numpy.

    Args:
        environ: Where `BULLPY_AUDIO_KERNEL` is read from; the process's by default.

    Returns:
        `c` or `numpy`, and more about it: the kernel's variant, or why it is not used.

    Raises:
        errors.ConfigurationError: `BULLPY_AUDIO_KERNEL` is none of `auto`, `c` and `numpy`,
            or it is `c` and the kernel cannot be used.
    """
    env = os.environ if environ is None else environ
    wanted = env.get("BULLPY_AUDIO_KERNEL") or "auto"
    if wanted not in ENGINES:
        raise errors.ConfigurationError(
            f"BULLPY_AUDIO_KERNEL is {wanted!r}.", fix=f"Set it to one of {', '.join(ENGINES)}."
        )
    if wanted == "numpy":
        return "numpy", "asked for by BULLPY_AUDIO_KERNEL"
    try:
        return "c", library.load().variant
    except library.KernelError as error:
        if wanted == "auto":
            return "numpy", f"no kernel: {error}"
        raise errors.ConfigurationError(
            f"BULLPY_AUDIO_KERNEL is 'c', but the kernel cannot be used: {error}.",
            fix="Install bullpy where there is a C compiler, or set it to 'auto'.",
        ) from error
