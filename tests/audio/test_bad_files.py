"""Every damaged file gives a typed error, or a result with a warning; never a wrong number."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from bullpy import codec
from bullpy.audio import (
    AudioError,
    AudioLimitError,
    AudioReport,
    CorruptAudioError,
    EmptyAudioError,
    FileMissingError,
    NotAudioError,
    analyze,
)
from bullpy.audio.report import null_fields

RATE = 48_000
RANDOM = np.random.default_rng(0)
Maker = Callable[[Path], bytes]


def wav(good: Path) -> bytes:
    return (good / "ok.wav").read_bytes()


def flac(good: Path) -> bytes:
    return (good / "ok.flac").read_bytes()


def mp3(good: Path) -> bytes:
    return (good / "ok.mp3").read_bytes()


def patched(content: bytes, at: int, layout: str, value: int) -> bytes:
    changed = bytearray(content)
    struct.pack_into(layout, changed, at, value)
    return bytes(changed)


def middle(content: bytes, length: int, seed: int = 0) -> bytes:
    half = len(content) // 2
    return content[:half] + np.random.default_rng(seed).bytes(length) + content[half + length :]


def flac_length(content: bytes, frames: int) -> bytes:
    changed = bytearray(content)
    packed = int.from_bytes(changed[18:26], "big") & ~((1 << 36) - 1) | frames
    changed[18:26] = packed.to_bytes(8, "big")
    return bytes(changed)


def in_riff(content: bytes) -> bytes:
    """An MP3 as the samples of a WAV file: WAVE_FORMAT_MPEGLAYER3, 0x55."""
    fields = struct.pack("<HHIIHHHHIHHH", 0x55, 2, RATE, 16_000, 1, 0, 12, 1, 2, 384, 1, 0)
    body = b"WAVEfmt " + struct.pack("<I", len(fields)) + fields
    body += b"data" + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def id3(size: int) -> bytes:
    return b"ID3\x04\x00\x00" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0))


REFUSED: dict[str, tuple[Maker, type[AudioError]]] = {
    "zero.wav": (lambda good: b"", EmptyAudioError),
    "one-byte.wav": (lambda good: b"R", NotAudioError),
    "text.wav": (lambda good: b"hello this is not audio\n" * 1000, NotAudioError),
    "text.mp3": (lambda good: b"hello this is not audio\n" * 1000, NotAudioError),
    "text.flac": (lambda good: b"hello\n" * 1000, NotAudioError),
    "html.mp3": (lambda good: b"<html><body>404</body></html>", NotAudioError),
    "random.wav": (lambda good: RANDOM.bytes(200_000), NotAudioError),
    "random.mp3": (lambda good: RANDOM.bytes(200_000), NotAudioError),
    "zeros.mp3": (lambda good: bytes(200_000), NotAudioError),
    "png.wav": (lambda good: b"\x89PNG\r\n\x1a\n" + RANDOM.bytes(5000), NotAudioError),
    "m4a.mp3": (lambda good: b"\0\0\0\x20ftypM4A " + bytes(5000), CorruptAudioError),
    "cut-20.wav": (lambda good: wav(good)[:20], CorruptAudioError),
    "cut-43.wav": (lambda good: wav(good)[:43], CorruptAudioError),
    "cut-44.wav": (lambda good: wav(good)[:44], EmptyAudioError),
    "data-zero.wav": (lambda good: patched(wav(good), 40, "<I", 0), EmptyAudioError),
    "channels-0.wav": (lambda good: patched(wav(good), 22, "<H", 0), CorruptAudioError),
    "channels-65535.wav": (lambda good: patched(wav(good), 22, "<H", 65535), CorruptAudioError),
    "rate-0.wav": (lambda good: patched(wav(good), 24, "<I", 0), CorruptAudioError),
    "rate-max.wav": (lambda good: patched(wav(good), 24, "<I", 0xFFFFFFFF), CorruptAudioError),
    "fmt-huge.wav": (lambda good: patched(wav(good), 16, "<I", 0x7FFFFFFF), CorruptAudioError),
    "cut.flac": (lambda good: flac(good)[: len(flac(good)) // 2], CorruptAudioError),
    "middle.flac": (lambda good: middle(flac(good), 2000), CorruptAudioError),
    "header.flac": (lambda good: flac(good)[:60], CorruptAudioError),
    "middle.mp3": (lambda good: middle(mp3(good), 4000), CorruptAudioError),
    "m4a.wav": (lambda good: b"\0\0\0\x20ftypM4A " + bytes(5000), CorruptAudioError),
    "id3-huge.mp3": (lambda good: id3(2**28 - 1) + mp3(good), CorruptAudioError),
}

READ: dict[str, tuple[Maker, str | None]] = {
    "half.wav": (lambda good: wav(good)[: len(wav(good)) // 2], "truncated"),
    "odd.wav": (lambda good: wav(good)[: len(wav(good)) // 2 + 1], "truncated"),
    "size-max.wav": (lambda good: patched(wav(good), 40, "<I", 0xFFFFFFFF), None),
    "size-2g.wav": (lambda good: patched(wav(good), 40, "<I", 0x7FFFFFF0), None),
    "junk.wav": (
        lambda good: (
            wav(good)[:12] + b"JUNK" + struct.pack("<I", 1 << 20) + bytes(1 << 20) + wav(good)[12:]
        ),
        None,
    ),
    "unknown-length.flac": (lambda good: flac_length(flac(good), 0), None),
    "absurd-length.flac": (lambda good: flac_length(flac(good), (1 << 36) - 1), None),
    "id3.flac": (lambda good: id3(1024) + bytes(1024) + flac(good), None),
    "half.mp3": (lambda good: mp3(good)[: len(mp3(good)) // 2], "truncated"),
    "garbage-first.mp3": (lambda good: RANDOM.bytes(3000) + mp3(good), None),
    "zeros-first.mp3": (lambda good: bytes(5000) + mp3(good), None),
    "garbage-last.mp3": (lambda good: mp3(good) + RANDOM.bytes(5000), None),
    "id3-500k.mp3": (lambda good: id3(500_000) + bytes(500_000) + mp3(good), None),
    "mp3-in-riff.wav": (lambda good: in_riff(mp3(good)), None),
    "bits-13.wav": (lambda good: patched(wav(good), 34, "<H", 13), None),
    "mp3-named.wav": (mp3, None),
    "wav-named.mp3": (wav, None),
    "flac-named.wav": (flac, None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_typed_permanent_error(name: str, good: Path, tmp_path: Path) -> None:
    make, expected = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(make(good))
    with pytest.raises(AudioError) as caught:
        analyze(path)
    assert type(caught.value) is expected
    assert caught.value.permanent
    assert "regular file" not in str(caught.value)


@pytest.mark.parametrize("name", READ)
def test_read_and_warned_of(name: str, good: Path, tmp_path: Path) -> None:
    make, warning = READ[name]
    path = tmp_path / name
    path.write_bytes(make(good))
    report = analyze(path)
    codes = [found.code for found in report.warnings if found.code != "too-short"]
    assert codes == ([warning] if warning else [])
    seconds = report.metadata.duration
    assert seconds == pytest.approx(5, abs=0.1) if warning is None else 2 < seconds < 3
    assert report.loudness.integrated == pytest.approx(-7.6, abs=0.3)


def test_folder_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotAudioError, match="folder"):
        analyze(tmp_path)
    with pytest.raises(FileMissingError) as caught:
        analyze(tmp_path / "none.wav")
    assert not caught.value.permanent


def test_damage_tells_its_position(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "middle.flac"
    path.write_bytes(middle(flac(good), 2000))
    with pytest.raises(CorruptAudioError) as caught:
        analyze(path, block_frames=1024)
    assert caught.value.seconds is not None
    assert 1 < caught.value.seconds < 4


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_mp3_is_never_measured_silently(seed: int, good: Path, tmp_path: Path) -> None:
    path = tmp_path / "middle.mp3"
    path.write_bytes(middle(mp3(good), 4000, seed))
    try:
        report = analyze(path)
    except CorruptAudioError:
        return
    assert "truncated" in {warning.code for warning in report.warnings}


def test_text_is_called_text(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    path.write_text("hello\n" * 100)
    with pytest.raises(NotAudioError, match="looks like text"):
        analyze(path)


@pytest.mark.parametrize(
    ("channels", "rate", "named"),
    [
        (16, 48_000, "16 channels"),
        (32, 48_000, "32 channels"),
        (2, 1, "1 Hz"),
        (1, 384_001, "384001 Hz"),
    ],
)
def test_limits_of_channels_and_rate(channels: int, rate: int, named: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "odd.wav", np.zeros((4800, channels)), rate)
    with pytest.raises(AudioLimitError, match=named):
        analyze(tmp_path / "odd.wav")


def written(path: Path, samples: NDArray[np.floating], rate: int = RATE, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def test_nan_and_infinity_count_as_zero_and_are_told(
    tone: NDArray[np.float32], tmp_path: Path
) -> None:
    clean = tone.copy()
    clean[[1000, 2000], 0] = 0
    broken = tone.copy()
    broken[1000, 0], broken[2000, 0] = np.nan, -np.inf
    expected = analyze(written(tmp_path / "clean.wav", clean, subtype="FLOAT"))
    report = analyze(written(tmp_path / "broken.wav", broken, subtype="FLOAT"))
    assert report.loudness == expected.loudness
    assert report.true_peak == expected.true_peak
    assert [warning.code for warning in report.warnings] == ["non-finite-samples", "too-short"]
    assert "2 samples" in report.warnings[0].message


def test_numbers_that_are_no_audio_are_refused(tone: NDArray[np.float32], tmp_path: Path) -> None:
    huge = tone.copy()
    huge[1000:1010] = 1e30
    with pytest.raises(CorruptAudioError, match="full scale"):
        analyze(written(tmp_path / "huge.wav", huge, subtype="FLOAT"))


def test_float_overs_are_reported_not_clipped(tone: NDArray[np.float32], tmp_path: Path) -> None:
    report = analyze(written(tmp_path / "over.wav", tone * 4, subtype="FLOAT"))
    assert report.true_peak.max_dbtp == pytest.approx(6.02, abs=0.01)


SPECIAL: dict[str, tuple[Callable[[], NDArray[np.floating]], int]] = {
    "silence": (lambda: np.zeros((5 * RATE, 2)), RATE),
    "denormal": (lambda: np.full((5 * RATE, 2), 1e-40, np.float32), RATE),
    "last-bit": (lambda: RANDOM.integers(-1, 2, (5 * RATE, 2)) / 32768, RATE),
    "direct-current": (lambda: np.full((5 * RATE, 2), 0.25), RATE),
    "one-frame": (lambda: np.full((1, 2), 0.5), RATE),
    "100-ms": (lambda: RANDOM.uniform(-0.5, 0.5, (4800, 2)), RATE),
    "one-second": (lambda: RANDOM.uniform(-0.5, 0.5, (RATE, 2)), RATE),
    "mono": (lambda: RANDOM.uniform(-0.5, 0.5, (5 * RATE, 1)), RATE),
    "left-only": (lambda: RANDOM.uniform(-0.5, 0.5, (5 * RATE, 1)) * [[1, 0]], RATE),
    "antiphase": (lambda: RANDOM.uniform(-0.5, 0.5, (5 * RATE, 1)) * [[1, -1]], RATE),
    "six-channels": (lambda: RANDOM.uniform(-0.5, 0.5, (5 * RATE, 6)), RATE),
    "eight-channels": (lambda: RANDOM.uniform(-0.5, 0.5, (RATE, 8)), RATE),
    "8-khz": (lambda: RANDOM.uniform(-0.5, 0.5, (40_000, 2)), 8_000),
    "11-khz": (lambda: RANDOM.uniform(-0.5, 0.5, (44_100, 2)), 11_025),
    "odd-rate": (lambda: RANDOM.uniform(-0.5, 0.5, (44_100, 2)), 22_257),
    "384-khz": (lambda: RANDOM.uniform(-0.5, 0.5, (384_000, 2)), 384_000),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_numbers_are_finite_or_null_with_a_reason(name: str, tmp_path: Path) -> None:
    make, rate = SPECIAL[name]
    report = analyze(written(tmp_path / f"{name}.wav", make(), rate, subtype="FLOAT"))
    assert_explained(report)


def test_silence_is_null_everywhere_and_says_so(tmp_path: Path) -> None:
    report = analyze(written(tmp_path / "silence.wav", np.zeros((5 * RATE, 2))))
    assert report.loudness.integrated is None
    assert report.true_peak.max_dbtp is None
    assert report.stereo.correlation is None
    assert [warning.code for warning in report.warnings] == ["silence"]


def test_mono_loudness_is_one_channel(tone: NDArray[np.float32], tmp_path: Path) -> None:
    mono = analyze(written(tmp_path / "mono.wav", tone[:, :1])).loudness.integrated
    dual = analyze(written(tmp_path / "dual.wav", tone[:, [0, 0]])).loudness.integrated
    assert mono is not None
    assert dual == pytest.approx(mono + 3.01, abs=0.01)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050])
def test_a_low_sample_rate_is_warned_of(rate: int, tmp_path: Path) -> None:
    samples = RANDOM.uniform(-0.5, 0.5, (4 * rate, 2))
    report = analyze(written(tmp_path / "low.wav", samples, rate))
    codes = [warning.code for warning in report.warnings]
    assert ("low-sample-rate" in codes) == (rate < 22_050)


def test_bits_that_are_no_whole_bytes_are_read_from_the_top(good: Path, tmp_path: Path) -> None:
    """13 bits lie in the upper part of two bytes: the samples are those of 16 bits."""
    path = tmp_path / "bits-13.wav"
    path.write_bytes(patched(wav(good), 34, "<H", 13))
    assert analyze(path).true_peak == analyze(good / "ok.wav").true_peak


@pytest.mark.parametrize(
    "subtype",
    [
        "PCM_U8",
        "PCM_24",
        "PCM_32",
        "FLOAT",
        "DOUBLE",
        "ULAW",
        "ALAW",
        "IMA_ADPCM",
        "MS_ADPCM",
    ],
)
def test_every_coding_of_wav_reads_the_same_loudness(
    subtype: str, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    report = analyze(written(tmp_path / "coded.wav", tone, subtype=subtype))
    assert report.loudness.integrated == pytest.approx(-7.6, abs=0.3)


@pytest.mark.parametrize("container", ["RF64", "W64", "AIFF", "WAVEX"])
def test_relatives_of_wav_are_read(
    container: str, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    path = written(tmp_path / "relative.wav", tone, format=container, subtype="PCM_16")
    assert analyze(path).metadata.frames == len(tone)


def assert_explained(report: AudioReport) -> None:
    wire = report.to_wire()
    text = json.dumps(wire, allow_nan=False)  # raises for NaN and infinity
    assert codec.loads(codec.dumps(wire)) == json.loads(text)
    messages = " ".join(warning.message for warning in report.warnings)
    for field in null_fields(report):
        assert f"{field}," in messages or f"{field}." in messages, field
