"""Damaged audio files by number: mutant 17 is the same bytes each time it is asked for."""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soundfile

Random = np.random.Generator
Mutation = Callable[[bytearray, Random], bytearray]

_HEADER = 160
"""Bytes at the start of a file that hold its header; longer ones begin there too."""
_LENGTHS = (0, 1, 7, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF8, 0xFFFFFFFF)
_CHUNKS = (b"RIFF", b"fmt ", b"data", b"fact", b"PEAK", b"ds64", b"FORM", b"COMM", b"SSND")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A damaged file.

    Attributes:
        seed: Its number.
        recipe: What it was made of and how.
        content: Its bytes.
    """

    seed: int
    recipe: str
    content: bytes


def mutant(seed: int) -> Mutant:
    """The mutant of a number: a small real file after one to three mutations."""
    random = np.random.default_rng(seed)
    bases = corpus()
    name = str(random.choice(sorted(bases)))
    content = bytearray(bases[name])
    steps: list[str] = []
    for _ in range(random.choice([1, 2, 3], p=[0.6, 0.25, 0.15])):
        mutate = _MUTATIONS[random.integers(len(_MUTATIONS))]
        content = mutate(content, random)
        steps.append(mutate.__name__.strip("_"))
    return Mutant(seed, f"{name}: {', '.join(steps)}", bytes(content))


@functools.cache
def corpus() -> dict[str, bytes]:
    """Small undamaged files of every kind that is read."""
    files = {
        name: _written(rate, channels, seconds, **options)
        for name, (rate, channels, seconds, options) in _FILES.items()
    }
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256)
    files["flac behind ID3"] = tag + files["flac"]
    files["mp3 behind ID3"] = tag + files["mp3 mono"]
    files["mp3 in wav"] = _in_riff(files["mp3"])
    first = files["mp3"].find(b"\xff\xfb", 4)  # the frame after the one that holds the length
    files["mp3 without length"] = files["mp3"][first:]
    return files


_FILES: dict[str, tuple[int, int, float, dict[str, object]]] = {
    "wav": (44_100, 2, 0.5, {"format": "WAV", "subtype": "PCM_16"}),
    "wav 3 s": (8_000, 2, 3.2, {"format": "WAV", "subtype": "PCM_16"}),
    "wav 8 bits": (22_050, 1, 0.5, {"format": "WAV", "subtype": "PCM_U8"}),
    "wav 24 bits": (48_000, 1, 0.5, {"format": "WAV", "subtype": "PCM_24"}),
    "wav float": (44_100, 2, 0.5, {"format": "WAV", "subtype": "FLOAT"}),
    "wav double": (11_025, 2, 0.5, {"format": "WAV", "subtype": "DOUBLE"}),
    "wav 5.1": (48_000, 6, 0.5, {"format": "WAVEX", "subtype": "PCM_16"}),
    "wav ulaw": (8_000, 1, 0.5, {"format": "WAV", "subtype": "ULAW"}),
    "wav ima": (22_050, 2, 0.5, {"format": "WAV", "subtype": "IMA_ADPCM"}),
    "wav ms": (22_050, 2, 0.5, {"format": "WAV", "subtype": "MS_ADPCM"}),
    "rifx": (44_100, 2, 0.5, {"format": "WAV", "subtype": "PCM_16", "endian": "BIG"}),
    "rf64": (44_100, 2, 0.5, {"format": "RF64", "subtype": "PCM_16"}),
    "w64": (44_100, 2, 0.5, {"format": "W64", "subtype": "PCM_16"}),
    "aiff": (44_100, 2, 0.5, {"format": "AIFF", "subtype": "PCM_16"}),
    "aifc": (44_100, 2, 0.5, {"format": "AIFF", "subtype": "FLOAT"}),
    "flac": (44_100, 2, 0.5, {"format": "FLAC", "subtype": "PCM_16"}),
    "flac 24 bits": (96_000, 1, 0.3, {"format": "FLAC", "subtype": "PCM_24"}),
    "flac 3 s": (8_000, 2, 3.2, {"format": "FLAC", "subtype": "PCM_16"}),
    "flac 8 channels": (16_000, 8, 0.5, {"format": "FLAC", "subtype": "PCM_16"}),
    "mp3": (44_100, 2, 0.6, {"format": "MP3", "bitrate_mode": "CONSTANT"}),
    "mp3 vbr": (44_100, 2, 0.6, {"format": "MP3", "bitrate_mode": "VARIABLE"}),
    "mp3 mono": (22_050, 1, 0.6, {"format": "MP3", "bitrate_mode": "VARIABLE"}),
    "mp3 3 s": (8_000, 2, 3.2, {"format": "MP3", "bitrate_mode": "VARIABLE"}),
}
"""Sample rate in Hz, channels, seconds, and how it is written."""


def _written(rate: int, channels: int, seconds: float, **options: object) -> bytes:
    random = np.random.default_rng(1)
    time = np.arange(round(seconds * rate))[:, None] / rate
    tone = 0.4 * np.sin(2 * np.pi * (300 + 40 * np.arange(channels)) * time)
    noise = 0.05 * random.standard_normal((len(time), channels))
    file = io.BytesIO()
    soundfile.write(file, tone + noise, rate, **options)
    return file.getvalue()


def _in_riff(mp3: bytes) -> bytes:
    """WAVE_FORMAT_MPEGLAYER3 (0x55) with its extra fields."""
    fields = struct.pack("<HHIIHHHHIHHH", 0x55, 2, 44_100, 16_000, 1, 0, 12, 1, 2, 417, 1, 0)
    body = b"WAVEfmt " + struct.pack("<I", len(fields)) + fields
    body += b"data" + struct.pack("<I", len(mp3)) + mp3 + bytes(len(mp3) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _flip_bits_of_the_header(content: bytearray, random: Random) -> bytearray:
    return _flipped(content, random, min(_HEADER, len(content)), random.integers(1, 5))


def _flip_bits_anywhere(content: bytearray, random: Random) -> bytearray:
    return _flipped(content, random, len(content), random.integers(1, 50))


def _flipped(content: bytearray, random: Random, below: int, count: int) -> bytearray:
    for _ in range(count if below else 0):
        content[random.integers(below)] ^= 1 << random.integers(8)
    return content


def _truncate(content: bytearray, random: Random) -> bytearray:
    below = len(content) if random.random() < 0.6 else min(_HEADER, len(content))
    return content[: random.integers(below + 1)]


def _write_lengths(content: bytearray, random: Random) -> bytearray:
    """A length after a chunk's name, or a word anywhere in the header, is a lie."""
    places = [at + 4 for name in _CHUNKS if (at := content.find(name)) >= 0]
    at = random.choice(places) if places and random.random() < 0.7 else random.integers(_HEADER)
    value = int(random.choice(_LENGTHS)) if random.random() < 0.7 else random.integers(1 << 32)
    layout = "<I" if random.random() < 0.7 else ">I"
    if at + 4 <= len(content):
        struct.pack_into(layout, content, int(at), int(value))
    return content


def _change_the_format(content: bytearray, random: Random) -> bytearray:
    """Other rates, channels, bits and codings in a `fmt ` or `COMM` chunk or in STREAMINFO."""
    fmt = content.find(b"fmt ")
    if 0 <= fmt <= len(content) - 24:
        word = int(random.choice([0, 2, 12, 14, 16, 18, 20, 22]))
        at = fmt + (24 if content[:4] == b"riff" else 8) + word
        values = (0, 1, 2, 3, 6, 8, 9, 13, 17, 24, 32, 64, 0x11, 0x55, 0xFFFE, 0xFFFF)
        layout = "<H" if content[:4] != b"RIFX" else ">H"
        if at + 2 <= len(content):
            struct.pack_into(layout, content, at, int(random.choice(values)))
        return content
    at = max(content.find(b"COMM") + 8, content.find(b"fLaC") + 8, 0)
    for _ in range(random.integers(1, 4)):
        place = at + int(random.integers(34))
        if place < len(content):
            content[place] = random.integers(256)
    return content


def _change_mpeg_headers(content: bytearray, random: Random) -> bytearray:
    """Other versions, layers, rates or modes in some frame headers of an MP3."""
    at = content.find(b"\xff")
    while at >= 0:
        if random.random() < 0.05 and at + 4 <= len(content):
            content[at + int(random.integers(1, 4))] = random.integers(256)
        at = content.find(b"\xff", at + 1)
    return content


def _remove_a_part(content: bytearray, random: Random) -> bytearray:
    start, stop = _part(content, random)
    del content[start:stop]
    return content


def _repeat_a_part(content: bytearray, random: Random) -> bytearray:
    start, stop = _part(content, random)
    return content[:stop] + content[start:stop] * int(random.integers(1, 6)) + content[stop:]


def _fill_a_part(content: bytearray, random: Random) -> bytearray:
    start, stop = _part(content, random)
    kind = random.integers(3)
    filler = (bytes, lambda n: b"\xff" * n, random.bytes)[kind]
    content[start:stop] = filler(stop - start)
    return content


def _part(content: bytearray, random: Random) -> tuple[int, int]:
    """A whole chunk by its name, a header's part, or any part of the file."""
    names = [at for name in _CHUNKS if (at := content.find(name)) >= 0]
    if names and random.random() < 0.3:
        start = int(random.choice(names))
        length = int.from_bytes(content[start + 4 : start + 8], "little")
        return start, min(len(content), start + 8 + length)
    below = len(content) if random.random() < 0.6 else min(_HEADER, len(content))
    start, stop = sorted(random.integers(below + 1, size=2).tolist())
    return start, stop


def _splice(content: bytearray, random: Random) -> bytearray:
    """The start of this file, then the end of another."""
    bases = corpus()
    other = bases[str(random.choice(sorted(bases)))]
    cut = int(random.integers(len(content) + 1))
    return content[:cut] + other[int(random.integers(len(other))) :]


def _prepend(content: bytearray, random: Random) -> bytearray:
    return bytearray(random.bytes(int(random.integers(1, 4000)))) + content


def _append(content: bytearray, random: Random) -> bytearray:
    return content + random.bytes(int(random.integers(1, 4000)))


_MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits_of_the_header,
    _flip_bits_of_the_header,
    _flip_bits_anywhere,
    _truncate,
    _write_lengths,
    _write_lengths,
    _change_the_format,
    _change_the_format,
    _change_mpeg_headers,
    _remove_a_part,
    _repeat_a_part,
    _fill_a_part,
    _splice,
    _prepend,
    _append,
)
