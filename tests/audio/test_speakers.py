"""A WAVEFORMATEXTENSIBLE header decides how much each channel counts in loudness."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bullpy.audio import AudioReport, analyze
from bullpy.audio.speakers import channel_weights

RATE = 48_000
SIDE = 1.41


@pytest.mark.parametrize(
    ("mask", "weights"),
    [
        (0x3, (1, 1)),
        (0xC, (1, 0)),  # C LFE
        (0xB, (1, 1, 0)),  # 2.1
        (0x33, (1, 1, SIDE, SIDE)),  # quad
        (0x107, (1, 1, 1, 1)),  # L R C Cs
        (0x3F, (1, 1, 1, 0, SIDE, SIDE)),  # 5.1 with the surrounds called back
        (0x60F, (1, 1, 1, 0, SIDE, SIDE)),  # 5.1 with the surrounds called side
        (0x70F, (1, 1, 1, 0, 1, SIDE, SIDE)),  # 6.1
        (0x63F, (1, 1, 1, 0, 1, 1, SIDE, SIDE)),  # 7.1
        (0xFF, (1, 1, 1, 0, SIDE, SIDE, 1, 1)),  # 7.1 with five in front
        (0x2D63F, (1, 1, 1, 0, 1, 1, SIDE, SIDE, 1, 1, 1, 1)),  # 7.1.4
    ],
)
def test_weights_by_mask(mask: int, weights: tuple[float, ...]) -> None:
    assert channel_weights(len(weights), mask) == weights


@pytest.mark.parametrize(("channels", "mask"), [(3, 0x7), (4, 0x33), (6, 0x3F), (7, 0x70F)])
def test_the_usual_order_is_what_its_mask_says(channels: int, mask: int) -> None:
    assert channel_weights(channels, None) == channel_weights(channels, mask)


def with_mask(path: Path, levels: list[float], mask: int, container: str = "WAVEX") -> AudioReport:
    """A 1 kHz tone on every channel, each with its own amplitude."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)[:, None] * np.array(levels)
    written = "RF64" if container == "RF64" else "WAVEX"
    soundfile.write(path, tone, RATE, format=written, subtype="PCM_24")
    content = bytearray(path.read_bytes())
    if container == "W64":
        content = wave64(content)
    at = content.find(b"fmt ") + (24 if container == "W64" else 8)
    assert struct.unpack_from("<H", content, at) == (0xFFFE,)
    struct.pack_into("<I", content, at + 20, mask)
    path.write_bytes(content)
    return analyze(path)


def wave64(riff: bytearray) -> bytearray:
    """The same chunks with Sony's ids, 64-bit sizes, and starts at multiples of 8."""
    wave = bytes.fromhex("f3acd3118cd100c04f8edb8a")
    chunks, position = b"", 12
    while position < len(riff):
        name, length = struct.unpack_from("<4sI", riff, position)
        body = bytes(riff[position + 8 : position + 8 + length])
        chunks += name + wave + struct.pack("<Q", 24 + length) + body + bytes(-length % 8)
        position += 8 + length + length % 2
    first = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
    return bytearray(first + struct.pack("<Q", 40 + len(chunks)) + b"wave" + wave + chunks)


def loudness(weights: list[float], levels: list[float]) -> float:
    power = sum(weight * level**2 / 2 for weight, level in zip(weights, levels, strict=True))
    return 10 * math.log10(power)  # K-weighting and offset cancel out near 1 kHz


@pytest.mark.parametrize("container", ["WAVEX", "RF64", "W64"])
def test_the_low_frequency_channel_is_where_the_mask_says(container: str, tmp_path: Path) -> None:
    levels = [0.1, 0.1, 0.5]
    report = with_mask(tmp_path / "2.1.wav", levels, 0xB, container)
    assert report.loudness.integrated == pytest.approx(loudness([1, 1, 0], levels), abs=0.02)
    assert "channel-order-assumed" not in [warning.code for warning in report.warnings]


def test_front_centre_pairs_are_no_surrounds(tmp_path: Path) -> None:
    levels = [0.1, 0.1, 0.1, 0.5, 0.1, 0.1, 0.3, 0.3]
    weights = [1, 1, 1, 0, SIDE, SIDE, 1, 1]
    report = with_mask(tmp_path / "wide.wav", levels, 0xFF)
    assert report.loudness.integrated == pytest.approx(loudness(weights, levels), abs=0.02)


@pytest.mark.parametrize("mask", [0, 0x3, 0x7FF])
def test_a_mask_of_another_number_of_channels_says_nothing(mask: int, tmp_path: Path) -> None:
    levels = [0.1, 0.1, 0.1, 0.5, 0.2, 0.2]
    report = with_mask(tmp_path / "odd.wav", levels, mask)
    weights = [1, 1, 1, 0, SIDE, SIDE]
    assert report.loudness.integrated == pytest.approx(loudness(weights, levels), abs=0.02)
    assert "channel-order-assumed" in [warning.code for warning in report.warnings]
