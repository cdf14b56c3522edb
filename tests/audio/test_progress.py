"""Progress follows the bytes, as one scale that only rises; cancelling takes a moment."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from bullpy import errors
from bullpy.audio import AudioSettings, analyze
from bullpy.audio.decode import open_audio
from bullpy.audio.progress import INTERVAL, Progress


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_two_files_are_one_scale_by_their_bytes() -> None:
    told: list[int] = []
    clock = Clock()
    progress = Progress(told.append, [3000, 1000], clock)
    for index in (0, 1):
        on_share = progress.of_file(index)
        for share in (0.0, 0.5, 1.0):
            clock.now += INTERVAL
            on_share(share)
    progress.finish()
    assert told == [37, 75, 87, 99, 100]


def test_it_is_told_at_most_four_times_a_second_and_never_falls() -> None:
    told: list[tuple[float, int]] = []
    clock = Clock()
    progress = Progress(lambda percent: told.append((clock.now, percent)), [1000], clock)
    on_share = progress.of_file(0)
    for step in range(1000):
        clock.now += 0.002
        on_share(step / 1000 if step % 10 else 0.0)
    progress.finish()
    progress.finish()
    times, values = zip(*told[:-1], strict=True)
    assert np.diff(times).min() >= INTERVAL
    assert list(values) == sorted(set(values))
    assert len(told) <= 2 / INTERVAL + 2
    assert told[-1][1] == 100


@pytest.fixture(scope="module")
def varying(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same audio: half silence, half noise, so that bytes and frames differ in an MP3."""
    random = np.random.default_rng(0)
    noise = 0.2 * random.standard_normal((44_100 * 30, 2))
    samples = np.concatenate([np.zeros_like(noise), noise])
    folder = tmp_path_factory.mktemp("varying")
    paths = {name: folder / f"it.{name}" for name in ("wav", "flac", "mp3")}
    soundfile.write(paths["wav"], samples, 44_100)
    soundfile.write(paths["flac"], samples, 44_100)
    soundfile.write(paths["mp3"], samples, 44_100, bitrate_mode="VARIABLE", compression_level=0.5)
    content = bytearray(paths["flac"].read_bytes())
    # STREAMINFO: total samples unknown.
    packed = int.from_bytes(content[18:26], "big") & ~((1 << 36) - 1)
    content[18:26] = packed.to_bytes(8, "big")
    paths["unknown.flac"] = folder / "unknown.flac"
    paths["unknown.flac"].write_bytes(content)
    return paths


@pytest.mark.parametrize(
    ("name", "half"), [("wav", 0.5), ("flac", 0.0), ("unknown.flac", 0.0), ("mp3", 0.2)]
)
def test_the_share_is_one_of_bytes(varying: dict[str, Path], name: str, half: float) -> None:
    # Silence takes no bytes in a FLAC, and few in an MP3.
    shares: list[float] = []
    with open_audio(varying[name], AudioSettings()) as audio:
        shares += [audio.share_read for _ in audio.blocks()]
    assert shares == sorted(shares)
    assert shares[len(shares) // 2 - 1] == pytest.approx(half, abs=0.15)
    assert shares[-1] > 0.99


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["wav", "flac", "unknown.flac", "mp3"])
def test_progress_rises_to_the_end(varying: dict[str, Path], name: str, threads: int) -> None:
    told: list[float] = []
    analyze(varying[name], on_progress=told.append, settings=AudioSettings(threads=threads))
    assert told == sorted(set(told))
    assert told[-1] == 1.0
    assert len(told) > 5


@pytest.mark.parametrize("name", ["wav", "flac", "mp3"])
def test_a_stop_is_heard_within_100_ms_however_large_the_blocks(
    varying: dict[str, Path], name: str
) -> None:
    asked: list[float] = []

    def should_stop() -> bool:
        asked.append(time.perf_counter())
        return len(asked) == 12

    with pytest.raises(errors.JobCancelledError):
        analyze(varying[name], should_stop=should_stop, block_frames=44_100 * 60)
    assert np.median(np.diff(asked)) < 0.1


def test_a_stop_is_heard_within_100_ms_with_eight_channels(tmp_path: Path) -> None:
    noise: NDArray[np.float64] = np.random.default_rng(0).uniform(-1, 1, (48_000 * 16, 8))
    soundfile.write(tmp_path / "eight.wav", noise, 48_000, subtype="PCM_24")
    asked: list[float] = []
    analyze(
        tmp_path / "eight.wav",
        should_stop=lambda: bool(asked.append(time.perf_counter())),
        block_frames=48_000 * 16,
    )
    assert len(asked) > 10
    assert np.median(np.diff(asked)) < 0.1
