"""What a process uses, from /proc and from `ps`: both say the same."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bullpy.executors import usage
from bullpy.executors.usage import from_ps, usage_of

HAS_PROC = Path("/proc/self/stat").exists()

SOURCE = """
import ctypes, os, sys, time
kept = bytearray(os.urandom(4096) * 20000)
ends = time.process_time() + 0.5
while time.process_time() < ends:
    pass
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def busy() -> Iterator[int]:
    """A process that has used some memory and CPU time, and now waits."""
    with subprocess.Popen(
        [sys.executable, "-c", SOURCE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        yield process.pid
        process.kill()


@pytest.mark.parametrize("look", [usage_of, from_ps])
def test_memory_and_cpu_time_of_a_process(look: object, busy: int) -> None:
    used = look(busy)  # type: ignore[operator]
    assert used is not None
    assert 80_000_000 < used.memory < 400_000_000
    # `ps` counts whole seconds.
    assert (0.0 if look is from_ps else 0.4) <= used.cpu < 10.0


@pytest.mark.skipif(not HAS_PROC, reason="there is no /proc to compare with")
def test_ps_says_what_proc_says(busy: int) -> None:
    proc, ps = usage_of(busy), from_ps(busy)
    assert proc is not None
    assert ps is not None
    assert abs(proc.memory - ps.memory) <= max(proc.memory, ps.memory) * 0.05
    assert abs(proc.cpu - ps.cpu) <= 1.1


@pytest.mark.parametrize("look", [usage_of, from_ps])
def test_process_that_is_gone_uses_nothing(look: object) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert look(process.pid) is None  # type: ignore[operator]


@pytest.mark.skipif(not HAS_PROC, reason="names are read from /proc only")
@pytest.mark.parametrize("name", [b"a) R 1 (b", b"() ) )", b"\xff\xfe", b"two words"])
def test_name_of_a_process_may_be_anything(name: bytes) -> None:
    source = (
        f"import ctypes, sys; ctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0);"
        "print('named', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"named\n"
        used = usage_of(process.pid)
        process.kill()
    assert used is not None
    assert 1_000_000 < used.memory < 400_000_000


def test_zombie_has_no_memory(busy: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    used = usage_of(process.pid)
    process.stdout.close()
    process.wait()
    assert used is None or used.memory == 0


@pytest.mark.parametrize(
    ("clock", "seconds"),
    [
        ("00:00:00", 0.0),
        ("00:01:05", 65.0),
        ("10:00:00", 36_000.0),
        ("2-03:04:05", 2 * 86_400 + 3 * 3_600 + 4 * 60 + 5),
        ("0:00.35", 0.35),
        ("12:34.56", 754.56),
    ],
)
def test_clock_of_ps(clock: str, seconds: float) -> None:
    assert usage._seconds(clock) == pytest.approx(seconds)


def test_own_process_grows_with_what_it_touches() -> None:
    before = usage_of(os.getpid())
    kept = ctypes.create_string_buffer(64 * 2**20)
    ctypes.memset(kept, 1, len(kept))
    after = usage_of(os.getpid())
    assert before is not None
    assert after is not None
    assert after.memory - before.memory > 32 * 2**20
    assert after.cpu >= before.cpu
