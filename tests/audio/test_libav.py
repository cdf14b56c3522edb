"""AAC, ALAC, Opus and others through PyAV: the same numbers and limits, and nothing else opened."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, cast

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from bullpy import errors
from bullpy.audio import (
    AudioLimitError,
    AudioSettings,
    CorruptAudioError,
    DecoderMissingError,
    NotAudioError,
    StoreError,
    analyze,
    libav,
)
from bullpy.audio.decode import open_audio
from bullpy.audio.sniff import Sniffed

ROOT = Path(__file__).resolve().parents[2]
RATE = 44_100
SECONDS = 20
ENCODERS: dict[str, tuple[list[str], str, str]] = {
    "aac.m4a": (["-c:a", "aac", "-b:a", "256k"], "MP4", "AAC"),
    "fast.m4a": (["-c:a", "aac", "-b:a", "256k", "-movflags", "+faststart"], "MP4", "AAC"),
    "fragments.mp4": (["-c:a", "aac", "-movflags", "+frag_keyframe+empty_moov"], "MP4", "AAC"),
    "plain.aac": (["-c:a", "aac", "-b:a", "256k"], "AAC", "AAC"),
    "alac.m4a": (["-c:a", "alac"], "MP4", "ALAC"),
    "alac.caf": (["-c:a", "alac"], "CAF", "ALAC"),
    "pcm.mov": (["-c:a", "pcm_s16be"], "MP4", "PCM_S16BE"),
    "opus.ogg": (["-c:a", "libopus", "-b:a", "256k", "-ar", "48000"], "OGG", "OPUS"),
    "opus.webm": (["-c:a", "libopus", "-b:a", "256k", "-ar", "48000"], "MATROSKA", "OPUS"),
    "vorbis.ogg": (["-c:a", "libvorbis", "-q:a", "8"], "OGG", "VORBIS"),
    "flac.ogg": (["-c:a", "flac"], "OGG", "FLAC"),
    "it.wma": (["-c:a", "wmav2", "-b:a", "192k"], "ASF", "WMAV2"),
    "it.wv": (["-c:a", "wavpack"], "WAVPACK", "WAVPACK"),
    "it.ac3": (["-c:a", "ac3", "-b:a", "448k"], "AC3", "AC3"),
}
"""Name, ffmpeg's options, and what the report says of container and codec."""
LOSSLESS = {"ALAC", "FLAC", "PCM_S16BE", "WAVPACK"}
UNTOLD = {"plain.aac", "it.wma", "it.ac3", "fragments.mp4"}
"""Files that do not say how much their encoder put in front, or behind."""


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with noise of changing level under two tones, as music.wav and in each coding."""
    random = np.random.default_rng(5)
    level = np.repeat(random.uniform(0.02, 0.2, SECONDS), RATE)[:, None]
    white = random.standard_normal((SECONDS * RATE, 2))
    time_ = np.arange(SECONDS * RATE) / RATE
    tones = np.stack([np.sin(2 * np.pi * hertz * time_) for hertz in (330, 440)], axis=1)
    samples = 0.3 * tones + level * (white + np.roll(white, 1, axis=0)) / 2
    folder = tmp_path_factory.mktemp("encoded")
    soundfile.write(folder / "music.wav", np.clip(samples, -0.95, 0.95), RATE)
    for name, (options, *_) in ENCODERS.items():
        ffmpeg("-i", folder / "music.wav", *options, folder / name)
    return folder


def ffmpeg(*arguments: str | Path) -> None:
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("ffmpeg makes the files: scripts/setup.sh ffmpeg")
    subprocess.run([program, "-nostdin", "-v", "error", "-y", *arguments], timeout=60, check=True)


def samples_of(path: Path) -> NDArray[np.float32]:
    with open_audio(path, AudioSettings()) as audio:
        return np.concatenate([block.copy() for block in audio.blocks(8192)])


@pytest.mark.parametrize("name", ENCODERS)
def test_values_are_those_of_the_wav_that_ffmpeg_decodes(
    name: str, encoded: Path, tmp_path: Path
) -> None:
    container, codec = ENCODERS[name][1:]
    ffmpeg("-i", encoded / name, "-c:a", "pcm_f32le", tmp_path / "decoded.wav")
    expected, found = analyze(tmp_path / "decoded.wav"), analyze(encoded / name)
    assert (found.metadata.format, found.metadata.codec) == (container, codec)
    assert found.metadata.bit_depth == (16 if codec in LOSSLESS else None)
    tolerance = 1e-6 if codec in LOSSLESS else 0.01  # LU and dB; ffmpeg may be another release
    assert found.loudness.integrated == pytest.approx(expected.loudness.integrated, abs=tolerance)
    assert found.loudness.lra == pytest.approx(expected.loudness.lra, abs=tolerance)
    assert found.true_peak.max_dbtp == pytest.approx(expected.true_peak.max_dbtp, abs=tolerance)
    assert found.rms.left == pytest.approx(expected.rms.left, abs=tolerance)
    assert found.stereo.correlation == pytest.approx(expected.stereo.correlation, abs=tolerance)
    assert found.metadata.duration == pytest.approx(SECONDS, abs=0.06 if name in UNTOLD else 1e-4)
    assert [warning.code for warning in found.warnings] == []


@pytest.mark.parametrize("name", [name for name in ENCODERS if ENCODERS[name][2] in LOSSLESS])
def test_lossless_codings_give_the_very_samples(name: str, encoded: Path) -> None:
    np.testing.assert_array_equal(samples_of(encoded / name), samples_of(encoded / "music.wav"))


@pytest.mark.parametrize(
    ("name", "delay"), [("aac.m4a", 0), ("fast.m4a", 0), ("vorbis.ogg", 0), ("plain.aac", 1024)]
)
def test_the_encoder_delay_is_left_out_where_the_file_tells_it(
    name: str, delay: int, encoded: Path
) -> None:
    expected = samples_of(encoded / "music.wav")[:RATE, 0]
    found = samples_of(encoded / name)[: RATE + 2048, 0]
    matches = np.correlate(found, expected, mode="valid")
    assert int(np.argmax(matches)) == delay


def test_twenty_four_bits_and_six_channels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, 6))
    soundfile.write(tmp_path / "six.wav", noise, RATE, subtype="PCM_24")
    ffmpeg("-i", tmp_path / "six.wav", "-c:a", "alac", tmp_path / "six.m4a")
    found, expected = analyze(tmp_path / "six.m4a"), analyze(tmp_path / "six.wav")
    assert (found.metadata.bit_depth, found.metadata.channels) == (24, 6)
    assert found.loudness == expected.loudness
    # The file names its loudspeakers, so nothing has to be assumed.
    assert "channel-order-assumed" not in {warning.code for warning in found.warnings}


def test_a_video_gives_its_sound(encoded: Path, tmp_path: Path) -> None:
    picture = ["-f", "lavfi", "-i", "testsrc=size=160x120:rate=10:duration=20"]
    coding = ["-c:v", "mpeg4", "-c:a", "alac", tmp_path / "clip.mp4"]
    ffmpeg(*picture, "-i", encoded / "music.wav", *coding)
    ffmpeg(*picture, "-c:v", "mpeg4", tmp_path / "mute.mp4")
    assert analyze(tmp_path / "clip.mp4").loudness == analyze(encoded / "music.wav").loudness
    with pytest.raises(NotAudioError, match="holds no audio"):
        analyze(tmp_path / "mute.mp4")


@pytest.mark.parametrize("options", [[], ["-live", "1"], ["-itsoffset", "3"]])
def test_a_video_that_goes_on_behind_its_sound_promises_no_more_sound(
    options: list[str], encoded: Path, tmp_path: Path
) -> None:
    path = tmp_path / "clip.mkv"
    before, after = (options, []) if "-itsoffset" in options else ([], options)
    picture = ["-f", "lavfi", "-i", "testsrc=size=160x120:rate=10:duration=30"]
    coding = ["-c:v", "mpeg4", "-c:a", "flac", *after, path]
    ffmpeg(*picture, *before, "-i", encoded / "music.wav", *coding)
    report = analyze(path)
    assert report.metadata.duration == pytest.approx(SECONDS, abs=1e-4)
    assert [warning.code for warning in report.warnings] == []


def test_half_a_video_is_told_of_by_the_length_of_its_sound(encoded: Path, tmp_path: Path) -> None:
    picture = ["-f", "lavfi", "-i", "testsrc=size=160x120:rate=10:duration=20"]
    coding = ["-c:v", "mpeg4", "-c:a", "libopus", tmp_path / "clip.mkv"]
    ffmpeg(*picture, "-i", encoded / "music.wav", *coding)
    content = (tmp_path / "clip.mkv").read_bytes()
    (tmp_path / "half.mkv").write_bytes(content[: len(content) // 2])
    assert "truncated" in {warning.code for warning in analyze(tmp_path / "half.mkv").warnings}


def test_a_coding_that_nobody_knows_is_not_read(encoded: Path, tmp_path: Path) -> None:
    ffmpeg("-i", encoded / "music.wav", "-c:a", "flac", tmp_path / "known.mkv")
    content = (tmp_path / "known.mkv").read_bytes()
    assert content.count(b"A_FLAC") == 1
    (tmp_path / "unknown.mkv").write_bytes(content.replace(b"A_FLAC", b"A_WHAT"))
    with pytest.raises(NotAudioError, match="in a coding that is not read"):
        analyze(tmp_path / "unknown.mkv")


def test_the_content_decides_not_the_name(encoded: Path, tmp_path: Path) -> None:
    shutil.copy(encoded / "aac.m4a", tmp_path / "song.mp3")
    shutil.copy(encoded / "music.wav", tmp_path / "song.m4a")
    assert analyze(tmp_path / "song.mp3").metadata.format == "MP4"
    assert analyze(tmp_path / "song.m4a").metadata.format == "WAV"


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:20\n#EXTINF:20,\nfile:{secret}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile 'file:{secret}'\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_is_text_whatever_its_name(kind: str, encoded: Path, tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    path.write_text(PLAYLISTS[kind].format(secret=encoded / "plain.aac"))
    with pytest.raises(NotAudioError, match="looks like text"):
        analyze(path)


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_even_where_a_playlist_is_parsed_nothing_that_it_names_is_opened(
    kind: str, encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list"
    path.write_text(PLAYLISTS[kind].format(secret=encoded / "plain.aac"))
    lenient = {"safe": "0"} if kind == "concat" else {"extension_picky": "0"}
    with path.open("rb") as file, av.open(file, format=kind, options=lenient) as opened:
        assert next(opened.decode(audio=0)).samples > 0  # the list itself is right
    monkeypatch.setitem(libav.CONTAINERS, kind, kind)
    sniffed = Sniffed(path.stat().st_size, demuxer=kind)
    with (
        path.open("rb", buffering=0) as file,
        pytest.raises((NotAudioError, CorruptAudioError)),
        libav.open_stream(file, path.name, sniffed, AudioSettings()),
    ):
        pass


def test_without_the_extra_it_says_what_to_install(
    encoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "bullpy.audio.libav")
    monkeypatch.delattr("bullpy.audio.libav")
    with pytest.raises(DecoderMissingError, match=r"pip install \"bullpy\[aac\]\"") as caught:
        analyze(encoded / "aac.m4a")
    assert caught.value.permanent


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
def test_limits_are_kept(encoded: Path, limits: dict[str, float], named: str) -> None:
    settings = dataclasses.replace(AudioSettings(), **limits)
    with pytest.raises(AudioLimitError, match=named):
        analyze(encoded / "aac.m4a", settings=settings)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["aac.m4a", "fast.m4a", "plain.aac", "opus.webm", "alac.caf"])
def test_progress_rises_with_the_bytes(name: str, threads: int, encoded: Path) -> None:
    told: list[float] = []
    analyze(encoded / name, on_progress=told.append, settings=AudioSettings(threads=threads))
    assert told == sorted(set(told))
    assert told[-1] == 1.0
    assert len(told) > 3
    shares: list[float] = []
    with open_audio(encoded / name, AudioSettings()) as audio:
        shares += [audio.share_read for _ in audio.blocks()]
    assert shares[len(shares) // 2 - 1] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("name", ["aac.m4a", "opus.ogg"])
def test_a_stop_is_heard_within_100_ms_however_large_the_blocks(name: str, encoded: Path) -> None:
    asked: list[float] = []

    def should_stop() -> bool:
        asked.append(time.perf_counter())
        return len(asked) == 8

    with pytest.raises(errors.JobCancelledError):
        analyze(encoded / name, should_stop=should_stop, block_frames=RATE * SECONDS)
    assert len(asked) == 8
    assert np.median(np.diff(asked)) < 0.1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aac.m4a", CorruptAudioError),  # its index is at the end
        ("fast.m4a", None),
        ("plain.aac", None),
        ("alac.m4a", CorruptAudioError),
        ("opus.ogg", None),
        ("vorbis.ogg", None),
        ("opus.webm", None),
        ("it.wv", None),
        ("it.wma", None),
    ],
)
def test_half_a_file_is_refused_or_told_of(
    name: str, expected: type[Exception] | None, encoded: Path, tmp_path: Path
) -> None:
    content = (encoded / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: len(content) // 2])
    try:
        report = analyze(path)
    except CorruptAudioError:
        return
    assert expected is None
    assert report.metadata.duration == pytest.approx(SECONDS / 2, abs=1.5)
    # An ADTS stream has no length, and an Ogg's is that of its last page.
    if name not in ("plain.aac", "opus.ogg", "vorbis.ogg", "flac.ogg"):
        assert "truncated" in {warning.code for warning in report.warnings}


def test_damage_tells_its_position(encoded: Path, tmp_path: Path) -> None:
    content = bytearray((encoded / "alac.m4a").read_bytes())
    half = len(content) // 2
    content[half : half + 20_000] = np.random.default_rng(0).bytes(20_000)
    (tmp_path / "alac.m4a").write_bytes(content)
    with pytest.raises(CorruptAudioError, match="is damaged after") as caught:
        analyze(tmp_path / "alac.m4a")
    assert caught.value.seconds == pytest.approx(SECONDS / 2, abs=2)


def test_a_failing_disk_is_no_damage(encoded: Path) -> None:
    class Failing:
        def __init__(self, path: Path) -> None:
            self._content = path.open("rb", buffering=0)
            self._left = 4

        def read(self, size: int) -> bytes:
            self._left -= 1
            if self._left < 0:
                raise OSError(5, "Input/output error")
            return self._content.read(size)

        def seek(self, offset: int, whence: int = 0) -> int:
            return self._content.seek(offset, whence)

        def tell(self) -> int:
            return self._content.tell()

        def close(self) -> None:
            self._content.close()

    def read_all(file: Failing) -> None:
        sniffed = Sniffed((encoded / "plain.aac").stat().st_size, demuxer="aac")
        buffer = np.empty((65_536, 2), np.float32)
        raw = cast("BinaryIO", file)
        with libav.open_stream(raw, "plain.aac", sniffed, AudioSettings()) as (decoder, _):
            while decoder.buffer_read_into(buffer, "float32"):
                pass

    with (
        closing(Failing(encoded / "plain.aac")) as file,
        pytest.raises(StoreError, match="Input/output error") as caught,
    ):
        read_all(file)
    assert not caught.value.permanent


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    # Decoded, the audio has 100 MB.
    source = f"anoisesrc=r={RATE}:d=300:a=0.1"
    ffmpeg("-f", "lavfi", "-i", source, "-ac", "2", "-c:a", "alac", tmp_path / "long.m4a")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.audio_tools", "bullpy", tmp_path / "long.m4a"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["peak_mb"] < 80  # PyAV's libraries have 40 MB of these


def test_a_hundred_damaged_files_end_in_a_report_or_a_typed_error(encoded: Path) -> None:
    child = Path(__file__).parents[1] / "support" / "libav_mutants.py"
    files = [encoded / name for name in ENCODERS]
    done = subprocess.run(
        [sys.executable, "-W", "error", child, "100", *files],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert sum(found.values()) == 100
    assert found["CorruptAudioError"] > 20
    assert found["read"] > 5
