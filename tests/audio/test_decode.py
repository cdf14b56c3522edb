"""Reading is exact, bounded, and independent of the block size."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bullpy import errors
from bullpy.audio import AudioSettings, analyze
from bullpy.audio.decode import open_audio
from bullpy.audio.errors import AudioLimitError
from bullpy.audio.report import AudioReport


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Noise bursts of changing level: a variable bit rate then really varies."""
    random = np.random.default_rng(5)
    level = np.repeat(random.uniform(0.0, 0.3, 50), 4410)[:, None]
    samples = np.clip(random.standard_normal((220_500, 2)) * level, -1, 1)
    folder = tmp_path_factory.mktemp("music")
    paths = {name: folder / f"music.{name}" for name in ("wav", "flac", "mp3")}
    soundfile.write(paths["wav"], samples, 44_100)
    soundfile.write(paths["flac"], samples, 44_100, subtype="PCM_24")
    soundfile.write(paths["mp3"], samples, 44_100, bitrate_mode="VARIABLE", compression_level=0.5)
    return paths


@pytest.mark.parametrize("block", [1000, 4096, 65_536])
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3"])
def test_block_reading_equals_whole_file_reading(
    music: dict[str, Path], kind: str, block: int
) -> None:
    whole, _ = soundfile.read(music[kind], dtype="float32", always_2d=True)
    with open_audio(music[kind], AudioSettings()) as audio:
        read = np.concatenate([part.copy() for part in audio.blocks(block)])
    np.testing.assert_array_equal(read, whole)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3"])
def test_results_do_not_depend_on_the_block_size(music: dict[str, Path], kind: str) -> None:
    reference = numbers(analyze(music[kind]))
    for block in (997, 8192, 100_000):
        found = numbers(analyze(music[kind], block_frames=block))
        assert found == pytest.approx(reference, abs=1e-9)


def test_results_do_not_depend_on_the_container(music: dict[str, Path]) -> None:
    wav, flac = analyze(music["wav"]), analyze(music["flac"])
    assert flac.loudness.integrated == pytest.approx(wav.loudness.integrated, abs=1e-3)
    assert flac.true_peak.max_dbtp == pytest.approx(wav.true_peak.max_dbtp, abs=1e-3)


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"max_bytes": 1000}, "bytes"),
        ({"max_duration": 1.0}, "longer than 1 s"),
        ({"max_channels": 1}, "2 channels"),
        ({"min_rate": 48_000}, "44100 Hz"),
        ({"max_rate": 22_050}, "44100 Hz"),
    ],
)
def test_limits_are_kept(music: dict[str, Path], limits: dict[str, float], named: str) -> None:
    settings = dataclasses.replace(AudioSettings(), **limits)
    with pytest.raises(AudioLimitError, match=named):
        analyze(music["wav"], settings=settings)


@pytest.mark.parametrize("threads", [1, 2])
def test_progress_moves_with_the_file(music: dict[str, Path], tmp_path: Path, threads: int) -> None:
    told: list[float] = []
    settings = AudioSettings(threads=threads)
    samples, rate = soundfile.read(music["mp3"])
    # Longer than what one thread reads ahead of the other, which may tell of that at once.
    soundfile.write(tmp_path / "long.mp3", np.tile(samples, (10, 1)), rate)
    analyze(tmp_path / "long.mp3", on_progress=told.append, block_frames=22_050, settings=settings)
    assert told == sorted(set(told))
    assert len(told) >= (100 if threads == 1 else 5)
    assert told[-1] == pytest.approx(1.0, abs=0.01)


def test_a_stopped_analysis_ends_at_once(music: dict[str, Path]) -> None:
    asked: list[int] = []
    with pytest.raises(errors.JobCancelledError, match="0\\.1 s"):
        analyze(
            music["wav"],
            should_stop=lambda: not asked.append(1),
            block_frames=4410,
            settings=AudioSettings(threads=1),
        )
    assert len(asked) == 1


def test_sixteen_bit_samples_are_the_same_as_integers(music: dict[str, Path]) -> None:
    with open_audio(music["wav"], AudioSettings()) as audio:
        floats = np.concatenate([part.copy() for part in audio.blocks()])
    with open_audio(music["wav"], AudioSettings()) as audio:
        integers = np.concatenate([part.copy() for part in audio.blocks(integers=True)])
    assert integers.dtype == np.int16
    np.testing.assert_array_equal(integers / np.float32(32_768), floats)
    with open_audio(music["flac"], AudioSettings()) as audio:  # 24 bits
        assert next(audio.blocks(integers=True)).dtype == np.float32


def test_environment_sets_limits_and_refuses_nonsense() -> None:
    settings = AudioSettings.from_env(
        {
            "BULLPY_AUDIO_ROOT": "/srv/audio",
            "BULLPY_AUDIO_MAX_DURATION": "60.5",
            "BULLPY_AUDIO_THREADS": "3",
        }
    )
    assert settings.threads == 3
    assert settings.require_root() == Path("/srv/audio")
    assert settings.max_duration == 60.5
    for wrong in ("soon", "-1", "0", "nan", "inf"):
        with pytest.raises(errors.ConfigurationError, match="BULLPY_AUDIO_MAX_DURATION"):
            AudioSettings.from_env({"BULLPY_AUDIO_MAX_DURATION": wrong})
    with pytest.raises(errors.ConfigurationError, match="BULLPY_AUDIO_ROOT"):
        AudioSettings.from_env({}).require_root()


def numbers(report: AudioReport) -> dict[str, float]:
    """Every number of a report by its dotted name."""
    found: dict[str, float] = {}

    def collect(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                collect(f"{name}.{key}", inner)
        elif isinstance(value, int | float):
            found[name] = value

    collect("report", dataclasses.asdict(report))
    assert all(math.isfinite(value) for value in found.values())
    return found
