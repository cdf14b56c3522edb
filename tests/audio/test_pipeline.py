"""Threads that share one file: same results, errors at once, nobody left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from audio.signals import raw_of
from hypothesis import given, settings
from hypothesis import strategies as st

from bullpy import errors
from bullpy.audio import AudioSettings, CorruptAudioError, analyze, pipeline
from bullpy.audio.chunks import SLOTS, Chunk


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def chunks(count: int, *, gaps: bool = False) -> Iterator[Chunk | None]:
    for number in range(count):
        if gaps:
            yield None
        yield Chunk(np.zeros((1, 1), np.float32), 0, number, 1)


def nothing() -> None:
    pass


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("gaps", [False, True])
def test_every_step_takes_every_chunk_in_order(threads: int, gaps: bool) -> None:
    taken: list[list[int]] = [[], [], []]
    steps = [lambda chunk, own=own: own.append(chunk.start) for own in taken]
    pipeline.run(chunks(100, gaps=gaps), steps, threads=threads, on_turn=nothing)
    assert taken == [list(range(100))] * 3


@pytest.mark.parametrize("threads", [2, 4])
def test_no_more_chunks_are_made_than_stay_valid(threads: int) -> None:
    made = 0
    worst = 0

    def source() -> Iterator[Chunk]:
        nonlocal made
        for chunk in chunks(200):
            assert chunk is not None
            made += 1
            yield chunk

    def slow(chunk: Chunk) -> None:
        nonlocal worst
        worst = max(worst, made - chunk.start)

    pipeline.run(source(), [slow, lambda chunk: None], threads=threads, on_turn=nothing)
    assert 1 <= worst < SLOTS


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_first_error_of_a_step_ends_the_run(threads: int) -> None:
    seen: list[int] = []

    def fail(chunk: Chunk) -> None:
        seen.append(chunk.start)
        if chunk.start == 5:
            raise ValueError("chunk 5")

    with pytest.raises(ValueError, match="chunk 5"):
        pipeline.run(chunks(1000), [fail], threads=threads, on_turn=nothing)
    assert seen == list(range(6))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_error_of_the_source_ends_the_run(threads: int) -> None:
    def source() -> Iterator[Chunk | None]:
        yield from chunks(3)
        raise CorruptAudioError("damaged")

    with pytest.raises(CorruptAudioError, match="damaged"):
        pipeline.run(source(), [lambda chunk: None], threads=threads, on_turn=nothing)


@pytest.mark.parametrize("threads", [1, 2])
def test_on_turn_runs_in_the_calling_thread_and_can_end_the_run(threads: int) -> None:
    where: set[int] = set()

    def on_turn() -> None:
        where.add(threading.get_ident())
        if len(taken) > 10:
            raise errors.JobCancelledError("enough")

    taken: list[int] = []
    with pytest.raises(errors.JobCancelledError, match="enough"):
        pipeline.run(
            chunks(1_000_000),
            [lambda chunk: taken.append(chunk.start)],
            threads=threads,
            on_turn=on_turn,
        )
    assert where == {threading.get_ident()}
    assert len(taken) < 100_000


def test_one_thread_asks_after_each_step() -> None:
    taken: list[str] = []

    def on_turn() -> None:
        if taken:
            raise errors.JobCancelledError("enough")

    steps = [lambda chunk, name=name: taken.append(name) for name in ("first", "second")]
    with pytest.raises(errors.JobCancelledError, match="enough"):
        pipeline.run(chunks(3), steps, threads=1, on_turn=on_turn)
    assert taken == ["first"]


def test_a_caller_that_waits_for_a_slow_decoder_is_still_asked() -> None:
    release, started = threading.Event(), threading.Event()
    main = threading.get_ident()

    def source() -> Iterator[Chunk | None]:
        # The helper has to be the one that decodes: the caller hands over once.
        while threading.get_ident() == main:
            yield None
        started.set()
        assert release.wait(10)
        yield from chunks(1)

    asked_while_waiting = 0

    def on_turn() -> None:
        nonlocal asked_while_waiting
        if started.is_set():
            asked_while_waiting += 1
            if asked_while_waiting == 3:
                release.set()

    pipeline.run(source(), [lambda chunk: None], threads=2, on_turn=on_turn)
    assert asked_while_waiting >= 3


@settings(max_examples=15, deadline=None)
@given(
    frames=st.integers(1, 400_000),
    channels=st.integers(1, 3),
    block=st.integers(500, 200_000),
    threads=st.integers(2, 4),
)
def test_results_do_not_depend_on_threads(
    frames: int, channels: int, block: int, threads: int
) -> None:
    signal = np.random.default_rng(frames).uniform(-1, 1, (frames, channels))
    one = raw_of(signal, 44_100, block)
    other = raw_of(signal, 44_100, 65_536, threads=threads)
    np.testing.assert_array_equal(one.cells.energy, other.cells.energy)
    np.testing.assert_array_equal(one.cells.squares, other.cells.squares)
    np.testing.assert_array_equal(one.true_peaks, other.true_peaks)
    np.testing.assert_array_equal(one.spectrum.bands, other.spectrum.bands)
    np.testing.assert_array_equal(one.spectrum.average, other.spectrum.average)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3"])
def test_cancel_takes_less_than_100_ms(good: Path, kind: str, threads: int) -> None:
    asked = 0
    stopped_at = 0.0

    def should_stop() -> bool:
        nonlocal asked, stopped_at
        asked += 1
        stopped_at = stopped_at or (time.monotonic() if asked >= 3 else 0.0)
        return asked >= 3

    with pytest.raises(errors.JobCancelledError):
        analyze(
            good / f"ok.{kind}",
            should_stop=should_stop,
            block_frames=4096,
            settings=AudioSettings(threads=threads),
        )
    assert time.monotonic() - stopped_at < 0.1
