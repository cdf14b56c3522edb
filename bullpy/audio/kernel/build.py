"""Compiles the kernel with the system's C compiler. Needs nothing but the standard library.

    python bullpy/audio/kernel/build.py            build what is missing or out of date
    python bullpy/audio/kernel/build.py --force    build in any case

Building is optional: without a compiler, or when it fails, one line says so and the exit code
is 0, since `bullpy.audio` then runs in numpy. `CC` names the compiler and its options;
`BULLPY_BUILD_KERNEL=0` builds nothing.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIBRARY = FOLDER / "_kernel.so"
"""Loaded by path, so the ending is the same on every system."""
PASSES = ("split", "weighting", "levels", "truepeak", "spectrum")
_FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    # Both leave results as they are: nobody reads errno or traps of these functions.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-Wall",
    "-Wextra",
    # Vectors wider than a register are never passed between functions of two files.
    "-Wno-psabi",
)
_TIMEOUT = 300.0
_MARK = b"bullpy-kernel-sources:"


class BuildError(Exception):
    """The kernel was not built; the text says why."""


def build(library: Path = LIBRARY) -> Path:
    """Compile and link the kernel.

    Args:
        library: Where to; replaced in one step, so that a running process keeps its own.

    Returns:
        `library`.

    Raises:
        BuildError: There is no compiler, it failed, the folder cannot be written to, or the
            system is none of Linux and macOS.
    """
    if sys.platform not in ("linux", "darwin"):
        raise BuildError(f"it is built on Linux and macOS, not on {sys.platform}")
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        raise BuildError(f"there is no C compiler ({compiler[0]!r} is not found)")
    with tempfile.TemporaryDirectory(prefix="bullpy-kernel-") as folder:
        work = Path(folder)
        variants: list[tuple[str, list[str]]] = [("baseline", [])]
        if platform.machine().lower() in ("x86_64", "amd64") and _target(compiler, "x86_64"):
            variants.append(("avx2", ["-mavx2", "-mfma"]))
        objects: list[str] = []
        for variant, flags in variants:
            for name in PASSES:
                objects.append(str(work / f"{name}-{variant}.o"))
                source = str(FOLDER / f"{name}.c")
                defined = f"-DVARIANT={variant}"
                _run([*compiler, *_FLAGS, *flags, defined, "-c", source, "-o", objects[-1]])
        defines = [f'-DSOURCES="{source_hash()}"']
        if len(variants) > 1:
            defines.append("-DWITH_AVX2")
        built = work / library.name
        main = str(FOLDER / "variant.c")
        _run([*compiler, *_FLAGS, *defines, "-shared", main, *objects, "-o", str(built), "-lm"])
        # Beside the target first: a rename is atomic only within one file system.
        fresh = library.with_name(f"{library.name}.{os.getpid()}.so")
        try:
            shutil.copy(built, fresh)
            fresh.replace(library)
        except OSError as error:
            raise BuildError(f"{library.parent} cannot be written to ({error})") from error
    return library


def is_current(library: Path = LIBRARY) -> bool:
    """Whether the library was built from the sources as they are."""
    try:
        return _MARK + source_hash().encode() in library.read_bytes()
    except OSError:
        return False


def source_hash() -> str:
    """A hash of all sources and of the way they are built."""
    found = hashlib.sha256(" ".join(_FLAGS).encode())
    for name in ("kernel.h", "variant.c", *(f"{name}.c" for name in PASSES)):
        found.update((FOLDER / name).read_bytes())
    return found.hexdigest()[:32]


def wanted() -> bool:
    """Whether the environment lets the kernel be built."""
    return os.environ.get("BULLPY_BUILD_KERNEL", "1") != "0"


def _target(compiler: list[str], machine: str) -> bool:
    """Whether the compiler makes code for `machine`: it may be one for another system."""
    return _run([*compiler, "-dumpmachine"]).startswith((machine, "amd64"))


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]!r} did not run ({error})") from error
    if done.returncode:
        raise BuildError(f"{command[0]!r} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def main() -> int:
    """Build when something is to do. Always 0: the kernel is optional."""
    if not wanted() or (is_current() and "--force" not in sys.argv[1:]):
        return 0
    try:
        build()
    except BuildError as error:
        sys.stderr.write(f"audio kernel: not built, numpy is used: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
