"""Measures mutants in child processes, so that a crash, a hang or a leak names its mutant.

By hand, from the repository's root: `python tests/support/fuzzing.py 17` tells what mutant 17
does, `python tests/support/fuzzing.py 1000:6000` goes through five thousand of them.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

if __name__ == "__main__":  # run by hand
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from support.misbehaving import Measure, Measured
from support.mutants import corpus, mutant

LONGEST = 10.0
"""Seconds that one mutant may take with one engine."""
LARGEST = 400 * 1024
"""KiB of memory that one mutant may add."""
_PATIENCE = 60.0  # seconds until a child has loaded everything


@dataclass
class Campaign:
    """What mutants did.

    Attributes:
        outcomes: How often each outcome came: an error's name, or `measured`.
        failures: What should not have happened, each with its mutant.
        slowest: Longest time of one engine over one mutant, seconds.
        growth: Most memory that one mutant added, KiB.
    """

    outcomes: Counter[str] = field(default_factory=Counter[str])
    failures: list[str] = field(default_factory=list[str])
    slowest: float = 0.0
    growth: int = 0


def campaign(
    seeds: Iterable[int],
    engines: tuple[str, ...],
    children: int = 2,
    measure: Measure | None = None,
) -> Campaign:
    """Measure every mutant with every engine; never raises for what a mutant does.

    Args:
        seeds: Numbers of the mutants.
        engines: Values of `BULLPY_AUDIO_KERNEL`.
        children: Processes at a time.
        measure: What a child does with a mutant, a function of a module; `measured` by default.
    """
    found = Campaign()
    todo = iter(seeds)
    running = [_Child(engines, measure or measured) for _ in range(children)]
    try:
        while running:
            ready = wait([child.pipe for child in running], timeout=0.1)
            for child in list(running):
                if child.pipe in ready:
                    child.take(found)
                child.check_time(found)
                if child.gone or (child.idle and not child.give(next(todo, None))):
                    running.remove(child)
                    child.end()
                    if child.gone and child.loaded:
                        running.append(_Child(engines, measure or measured))
    finally:
        for child in running:
            child.end()
    return found


class _Child:
    """A process that measures one mutant after the other."""

    def __init__(self, engines: tuple[str, ...], measure: Measure) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far_end = context.Pipe()
        self.loaded = False
        self.gone = False
        self._seed: int | None = None
        self._limit = (LONGEST + 1) * len(engines)
        self._deadline = time.monotonic() + _PATIENCE
        self._process = context.Process(target=_measure_mutants, args=(far_end, engines, measure))
        self._process.start()
        far_end.close()

    @property
    def idle(self) -> bool:
        """Whether it waits for a mutant."""
        return self.loaded and self._seed is None

    def give(self, seed: int | None) -> bool:
        """The next mutant; False when there is none."""
        if seed is not None:
            self._seed = seed
            self._deadline = time.monotonic() + self._limit
            self.pipe.send(seed)
        return seed is not None

    def take(self, found: Campaign) -> None:
        """What the child sent: that it has loaded, what a mutant did, or that it is gone."""
        try:
            outcome, problems, seconds, growth = self.pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join(10)
            code = self._process.exitcode
            how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            self.gone = True
            found.failures.append(f"{self._doing()} killed its process: {how}")
            return
        if self.loaded:
            found.outcomes[outcome] += 1
            found.failures += [f"{self._doing()}: {problem}" for problem in problems]
            found.slowest = max(found.slowest, seconds)
            found.growth = max(found.growth, growth)
        self.loaded = True
        self._seed = None

    def check_time(self, found: Campaign) -> None:
        """Give up a child that takes too long."""
        if not self.gone and not self.idle and time.monotonic() > self._deadline:
            self.gone = True
            found.failures.append(f"{self._doing()} was not done after {self._limit:g} s")
            self._process.kill()

    def end(self) -> None:
        """A child that waits for a mutant leaves when its pipe is closed."""
        self.pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def _doing(self) -> str:
        if self._seed is None:
            return "the corpus"
        return f"mutant {self._seed} ({mutant(self._seed).recipe})"


def _measure_mutants(pipe: Connection, engines: tuple[str, ...], measure: Measure) -> None:
    """The child: mutants in; outcome, problems, seconds and KiB out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the MP3 decoder's remarks
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mutant.bin")
        if measure is measured:
            for content in corpus().values():  # whatever loads or grows once does so here
                path.write_bytes(content)
                for engine in engines:
                    _outcome(path, engine, series=True)
        pipe.send(("ready", [], 0.0, 0))
        while True:
            try:
                seed: int = pipe.recv()
            except EOFError:
                return
            path.write_bytes(mutant(seed).content)
            pipe.send(measure(path, seed, engines))


def measured(path: Path, seed: int, engines: tuple[str, ...]) -> Measured:
    """Outcome, problems, longest seconds of one engine, and KiB of memory that were added."""
    before = _forget_peak()
    outcomes: list[tuple[str, float | None]] = []
    problems: list[str] = []
    slowest = 0.0
    for engine in engines:
        start = time.monotonic()
        name, loudness, problem = _outcome(path, engine, series=seed % 4 == 0)
        slowest = max(slowest, time.monotonic() - start)
        outcomes.append((name, loudness))
        problems += [f"{engine}: {problem}"] if problem else []
    if any(not _alike(outcomes[0], other) for other in outcomes[1:]):
        problems.append(f"the engines differ: {outcomes}")
    growth = _peak() - before
    if slowest > LONGEST:
        problems.append(f"took {slowest:.1f} s")
    if growth > LARGEST:
        problems.append(f"added {growth // 1024} MB")
    return outcomes[0][0], problems, slowest, growth


def _alike(one: tuple[str, float | None], other: tuple[str, float | None]) -> bool:
    if one[1] is None or other[1] is None:
        return one == other
    return one[0] == other[0] and math.isclose(one[1], other[1], abs_tol=1e-3)


def _outcome(path: Path, engine: str, *, series: bool) -> tuple[str, float | None, str | None]:
    """The outcome's name, the loudness, and what is wrong with the outcome."""
    from bullpy.audio import AudioError, AudioSettings, StoreError, analyze

    os.environ["BULLPY_AUDIO_KERNEL"] = engine
    try:
        report = analyze(path, settings=AudioSettings(), series=series)
        return "measured", report.loudness.integrated, "; ".join(_unexplained(report)) or None
    except AudioError as error:
        clear = error.permanent and not isinstance(error, StoreError) and len(str(error)) > 20
        return type(error).__name__, None, None if clear else f"unclear: {error!r}"
    except BaseException:
        return "crashed", None, traceback.format_exc()


def _unexplained(report: object) -> Iterator[str]:
    """What a report must not hold: numbers that JSON has not, and nulls without a reason."""
    from bullpy.audio import AudioReport
    from bullpy.audio.report import null_fields

    assert isinstance(report, AudioReport)
    json.dumps(report.to_wire(), allow_nan=False)  # raises for NaN and infinity
    messages = " ".join(warning.message for warning in report.warnings)
    for name in null_fields(report):
        if f"{name}," not in messages and f"{name}." not in messages:
            yield f"{name} is null without a reason"
    peak, sample = report.true_peak.left_dbtp, report.true_peak.sample_peak_left
    if peak is not None and sample is not None and peak < sample - 1e-9:
        yield f"true peak {peak} below sample peak {sample}"


def _forget_peak() -> int:
    """Start a new peak of this process's memory; returns its memory now, KiB."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """The largest memory of this process, KiB; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _main(wanted: str) -> None:
    first, _, stop = wanted.partition(":")
    seeds = range(int(first), int(stop) if stop else int(first) + 1)
    found = campaign(seeds, ("c", "numpy"))
    print(*found.failures, sep="\n")
    counts = ", ".join(f"{count} {name}" for name, count in found.outcomes.most_common())
    print(f"{counts}; slowest {found.slowest:.2f} s, at most {found.growth // 1024} MB more")


if __name__ == "__main__":
    _main(sys.argv[1])
