"""A file whose end is missing is measured as far as it goes, and the report says so."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from bullpy.audio import AudioReport, CorruptAudioError, EmptyAudioError, analyze, mpeg

RATE = 48_000


def written(path: Path, samples: NDArray[np.floating], **options: str) -> bytes:
    soundfile.write(path, samples, RATE, **options)
    return path.read_bytes()


def measured(path: Path, content: bytes) -> AudioReport:
    path.write_bytes(content)
    return analyze(path)


def told(report: AudioReport) -> list[str]:
    """Messages of the warning `truncated`."""
    return [warning.message for warning in report.warnings if warning.code == "truncated"]


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAVEX", "PCM_24"),
        ("RF64", "PCM_16"),
        ("W64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AIFF", "FLOAT"),
        ("WAV", "IMA_ADPCM"),
        ("WAV", "ULAW"),
    ],
)
def test_half_a_file_is_called_truncated(
    container: str, subtype: str, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    content = written(tmp_path / "whole", tone, format=container, subtype=subtype)
    assert told(analyze(tmp_path / "whole")) == []
    report = measured(tmp_path / "half", content[: len(content) // 2])
    assert report.metadata.duration == pytest.approx(2.5, abs=0.05)
    (message,) = told(report)
    assert float(message.split("about ")[1].split(" s")[0]) == pytest.approx(2.5, abs=0.05)


def test_big_endian_wav_is_called_truncated(tone: NDArray[np.float32], tmp_path: Path) -> None:
    content = written(tmp_path / "x.wav", tone, format="WAV", endian="BIG")
    assert content[:4] == b"RIFX"
    assert told(measured(tmp_path / "half", content[: len(content) // 2]))


def test_a_data_chunk_of_three_gigabytes_is_a_promise(good: Path, tmp_path: Path) -> None:
    content = bytearray((good / "ok.wav").read_bytes())
    struct.pack_into("<I", content, 40, 3_000_000_000)
    (message,) = told(measured(tmp_path / "three.wav", bytes(content)))
    assert "about 15620.00 s" in message  # (3e9 / 4 bytes - 240000 frames) / 48 kHz


def test_what_lies_before_the_samples_is_no_audio(good: Path, tmp_path: Path) -> None:
    content = (good / "ok.wav").read_bytes()
    junk = b"JUNK" + struct.pack("<I", 1 << 20) + bytes(1 << 20)
    half = content[:12] + junk + content[12 : 44 + 480_000]
    (message,) = told(measured(tmp_path / "half.wav", half))
    assert "about 2.50 s" in message


@pytest.mark.parametrize(
    "length", [0xFFFFFFFF, 0xFFFFFFDB, 0x7FFFFFFF, 0x7FFFFFF0, 0x7FFFF000, 0x80000000]
)
def test_lengths_that_streams_are_given_are_no_promise(
    length: int, good: Path, tmp_path: Path
) -> None:
    content = bytearray((good / "ok.wav").read_bytes())
    struct.pack_into("<I", content, 40, length)
    report = measured(tmp_path / "stream.wav", bytes(content))
    assert told(report) == []
    assert report.metadata.frames == 240_000


def test_a_stream_whose_lengths_stayed_zero_is_empty_and_says_why(
    good: Path, tmp_path: Path
) -> None:
    content = bytearray((good / "ok.wav").read_bytes())
    struct.pack_into("<I", content, 4, 0)
    struct.pack_into("<I", content, 40, 0)
    with pytest.raises(EmptyAudioError, match="0 bytes of audio although 960000 bytes follow"):
        measured(tmp_path / "pipe.wav", bytes(content))


def test_an_empty_w64_is_empty(tone: NDArray[np.float32], tmp_path: Path) -> None:
    content = bytearray(written(tmp_path / "x", tone, format="W64", subtype="PCM_16"))
    at = content.find(b"data") + 16
    struct.pack_into("<Q", content, at, 24)  # the size counts the chunk's header
    with pytest.raises(EmptyAudioError):
        measured(tmp_path / "empty.w64", bytes(content))


def mp3(tone: NDArray[np.float32], channels: int, mode: str) -> bytes:
    """An MP3 without the frame that tells its length."""
    file = io.BytesIO()
    soundfile.write(file, tone[:, :channels], RATE, format="MP3", bitrate_mode=mode)
    content = file.getvalue()
    assert b"Xing" in content[:200] or b"Info" in content[:200]
    return content[content.find(b"\xff\xfb", 4) :]


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_without_length_that_ends_inside_a_frame_was_cut(
    channels: int, mode: str, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    content = mp3(tone, channels, mode)
    assert told(measured(tmp_path / "whole.mp3", content)) == []
    half = content[: len(content) // 2]
    (message,) = told(measured(tmp_path / "half.mp3", half))
    assert "inside an MP3 frame" in message


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), bytes(1000), b"APETAGEX" + bytes(24)])
def test_what_follows_the_last_frame_of_an_mp3_is_no_cut(
    tail: bytes, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    assert told(measured(tmp_path / "tagged.mp3", mp3(tone, 2, "CONSTANT") + tail)) == []


def test_an_mp3_cut_between_frames_looks_whole(tone: NDArray[np.float32], tmp_path: Path) -> None:
    """Without a length nobody can tell: the documentation says so."""
    content = mp3(tone, 2, "CONSTANT")
    cut = 0
    while cut < len(content) // 2:
        cut += mpeg.frame_length(content[cut : cut + 4])
    report = measured(tmp_path / "cut.mp3", content[:cut])
    assert told(report) == []
    assert 2 < report.metadata.duration < 3


@pytest.fixture(scope="module")
def flac(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two seconds of noise: too much for the decoder to have read ahead to the end."""
    noise = np.random.default_rng(5).uniform(-0.3, 0.3, (2 * RATE, 2))
    return written(tmp_path_factory.mktemp("flac") / "ok.flac", noise)


@pytest.mark.parametrize(
    "tail",
    [b"TAG" + bytes(125), b"TAG" + b"x" * 125, bytes(500), b"APETAGEX" + bytes(24), bytes(100_000)],
)
def test_what_follows_the_last_frame_of_a_flac_is_no_damage(
    tail: bytes, flac: bytes, tmp_path: Path
) -> None:
    report = measured(tmp_path / "tagged.flac", flac + tail)
    plain = measured(tmp_path / "plain.flac", flac)
    assert report.metadata.frames == 2 * RATE
    assert report.loudness == plain.loudness
    assert report.warnings == plain.warnings


def test_a_flac_with_a_tag_that_lost_frames_is_damaged(flac: bytes, tmp_path: Path) -> None:
    tag = b"TAG" + bytes(125)
    with pytest.raises(CorruptAudioError):
        measured(tmp_path / "cut.flac", flac[: len(flac) * 3 // 4] + tag)
    half = len(flac) // 2
    with pytest.raises(CorruptAudioError):
        measured(tmp_path / "hole.flac", flac[:half] + bytes(20_000) + flac[half + 20_000 :] + tag)


def test_a_flac_that_does_not_tell_its_length_is_damaged_where_it_fails(
    flac: bytes, tmp_path: Path
) -> None:
    untold = bytearray(flac)
    untold[21] &= 0xF0  # STREAMINFO: the low 36 bits of rate, channels, depth and length
    untold[22:26] = bytes(4)
    assert measured(tmp_path / "untold.flac", bytes(untold)).metadata.frames == 2 * RATE
    half = len(untold) // 2
    untold[half : half + 20_000] = bytes(20_000)
    with pytest.raises(CorruptAudioError):
        measured(tmp_path / "hole.flac", bytes(untold))


def test_a_flac_behind_a_flac_is_warned_of(flac: bytes, tmp_path: Path) -> None:
    report = measured(tmp_path / "joined.flac", flac + flac)
    assert report.metadata.frames == 2 * RATE
    assert "unread-audio" in [warning.code for warning in report.warnings]
