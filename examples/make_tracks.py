"""Write eight small audio files for trying the audio plugin; the same bytes of music each time.

    python examples/make_tracks.py FOLDER

Needs numpy and soundfile (`pip install "bullpy[audio]"`). Prints the file names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

Samples = NDArray[np.float64]
SEED = 20_240_501


def main() -> None:
    """Write the files and print their names."""
    parser = argparse.ArgumentParser(description="Write eight small audio files.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in write_tracks(folder):
        print(name)


def write_tracks(folder: Path) -> list[str]:
    """Write the files into a folder that exists, and give their names."""
    random = np.random.default_rng(SEED)
    speech = speech_like(random, 48_000, 8.0)
    song = music_like(random, 44_100, 20.0)
    short_song = music_like(random, 44_100, 12.0, tempo=128)
    fine = music_like(random, 96_000, 6.0, tempo=90)
    tracks: list[tuple[str, Samples, int, str]] = [
        ("speech.wav", _stereo(speech), 48_000, "PCM_16"),
        ("song.flac", song, 44_100, "PCM_16"),
        ("single.mp3", short_song, 44_100, "MPEG_LAYER_III"),
        ("clipped.wav", np.clip(short_song * 6, -1, 1), 44_100, "PCM_16"),
        ("silence.wav", np.zeros((5 * 44_100, 2)), 44_100, "PCM_16"),
        ("mono.wav", song[: 10 * 44_100, :1], 44_100, "PCM_16"),
        ("high-resolution.flac", fine, 96_000, "PCM_24"),
    ]
    for name, samples, rate, subtype in tracks:
        soundfile.write(folder / name, samples, rate, subtype=subtype)
    (folder / "not-audio.mp3").write_text("This is text, whatever its name says.\n" * 200)
    return [*(track[0] for track in tracks), "not-audio.mp3"]


def speech_like(random: np.random.Generator, rate: int, seconds: float) -> Samples:
    """Syllables of a buzzing voice with pauses between phrases."""
    time = _time(rate, seconds)
    pitch = 120 + 18 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(order * phase) / order**1.2 for order in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * 3.7 * time) + 0.4, 0, None)
    phrases = (np.sin(2 * np.pi * 0.25 * time) > -0.6).astype(float)
    breath = 0.03 * random.standard_normal(len(time))
    return _normalized((np.asarray(voice) + breath) * syllables * phrases, 0.5)


def music_like(
    random: np.random.Generator, rate: int, seconds: float, tempo: float = 110
) -> Samples:
    """Drums, bass and a wide pad; stereo."""
    time = _time(rate, seconds)
    beat = (time * tempo / 60) % 1.0
    kick = np.exp(-beat * 9) * np.sin(2 * np.pi * 55 * beat * 60 / tempo * (1 + np.exp(-beat * 20)))
    noise = random.standard_normal((len(time), 2))
    hat = 0.12 * noise * np.exp(-((beat * 2) % 1.0) * 14)[:, None]
    notes = np.array([55.0, 65.41, 49.0, 73.42])[(time * tempo / 240).astype(int) % 4]
    bass = 0.5 * np.sin(2 * np.pi * np.cumsum(notes) / rate)
    pads = [
        sum(np.sin(2 * np.pi * np.cumsum(notes * ratio * detune) / rate) for ratio in (4, 5, 6, 8))
        for detune in (0.997, 1.003)
    ]
    mix = np.stack([0.8 * kick + bass + 0.12 * np.asarray(pad) for pad in pads], axis=1) + hat
    fade = np.minimum(1.0, np.minimum(time, seconds - time) / 0.5)[:, None]
    return _normalized(mix * fade, 0.8)


def _time(rate: int, seconds: float) -> Samples:
    return np.arange(round(rate * seconds)) / rate


def _stereo(mono: Samples) -> Samples:
    return np.stack([mono, mono], axis=1)


def _normalized(samples: Samples, peak: float) -> Samples:
    return samples * (peak / np.max(np.abs(samples)))


if __name__ == "__main__":
    main()
