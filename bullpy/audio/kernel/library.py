"""Loads the compiled kernel, and says why when it cannot."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INTERFACE = 3
"""Has to be `bullpy_interface` in variant.c."""
LIBRARY = Path(__file__).with_name("_kernel.so")
VARIANTS = ("avx2", "baseline")

_pointer = ctypes.c_void_p
_int64 = ctypes.c_int64
_float = ctypes.c_float
_ROWS = (_pointer, _int64, _int64)  # samples, stride, channels
_ENDS = (_pointer, _int64)  # ends, segments
_ARGUMENTS: dict[str, tuple[type, ...]] = {
    "split_float": (_pointer, _int64, _int64, _pointer, _int64),
    "split_int16": (_pointer, _int64, _int64, _pointer, _int64),
    "weighting": (*_ROWS, *_ENDS, _pointer, _pointer, _pointer),
    "statistics": (*_ROWS, *_ENDS, *_ENDS, _pointer, _pointer, _pointer, _pointer),
    "clipped": (_pointer, _int64, _float, _int64, _pointer),
    "true_peak": (*_ROWS, _int64, *_ENDS, _pointer, _float, _float, _float, _pointer),
    "spectrum_work": (_int64,),
    "spectrum": (
        *(*_ROWS, _int64, _int64, _int64),
        *(_pointer, _pointer, _pointer, _pointer),
        *(_float, _float, _float, _float),
        *(_pointer, _pointer, _pointer),
    ),
}


class KernelError(Exception):
    """The kernel cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The functions of one variant; kernel.h and the .c files describe them.

    Attributes:
        variant: `avx2` or `baseline`.
    """

    variant: str
    split_float: Callable[..., None]
    split_int16: Callable[..., None]
    weighting: Callable[..., None]
    statistics: Callable[..., None]
    clipped: Callable[..., None]
    true_peak: Callable[..., None]
    spectrum_work: Callable[..., int]
    spectrum: Callable[..., None]


@functools.cache
def load(variant: str | None = None) -> Kernel:
    """The kernel, in the fastest variant that this processor runs.

    Args:
        variant: One of `VARIANTS` instead.

    Raises:
        KernelError: There is no library, it does not load, it is of another version of
            bullpy, or the processor does not run the variant.
    """
    if not LIBRARY.exists():
        raise KernelError("it was not built: no C compiler was there at installation")
    try:
        library = ctypes.CDLL(str(LIBRARY))
        interface = library.bullpy_interface()
    except (OSError, AttributeError) as error:
        raise KernelError(f"it does not load ({error})") from error
    if interface != INTERFACE:
        raise KernelError("it was built from another version of bullpy; install bullpy again")
    fast = bool(library.bullpy_has_avx2())
    if variant == "avx2" and not fast:
        raise KernelError("this processor has no AVX2, or the library was built without")
    variant = variant or ("avx2" if fast else "baseline")
    return Kernel(variant, **{name: _function(library, name, variant) for name in _ARGUMENTS})


def _function(library: ctypes.CDLL, name: str, variant: str) -> Callable[..., Any]:
    function = getattr(library, f"bullpy_{name}_{variant}")
    function.argtypes = _ARGUMENTS[name]
    function.restype = _int64 if name == "spectrum_work" else None
    return function
