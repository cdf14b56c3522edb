"""Test signals of EBU Tech 3341/3342 (2023) and ITU-R BS.1770-5, synthesised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bullpy.audio import measuring, pipeline
from bullpy.audio.measuring import Engine, Measurer
from bullpy.audio.raw import RawMeasurement
from bullpy.audio.summary import Measurement

Samples = NDArray[np.float64]
Segment = tuple[float | None, float]  # peak level in dBFS (None: silence), seconds


def sine(level: float, seconds: float, rate: int = 48_000, hertz: float = 1000.0) -> Samples:
    """A sine of a peak level in dBFS, starting at phase 0."""
    frames = round(seconds * rate)
    return 10 ** (level / 20) * np.sin(2 * np.pi * hertz * np.arange(frames) / rate)


def sequence(segments: Sequence[Segment], rate: int = 48_000) -> Samples:
    """1 kHz sines and silences one after the other."""
    parts = [
        np.zeros(round(seconds * rate)) if level is None else sine(level, seconds, rate)
        for level, seconds in segments
    ]
    return np.concatenate(parts)


def stereo(mono: Samples) -> Samples:
    """The same signal on two channels."""
    return np.stack([mono, mono], axis=1)


def faded(signal: Samples, rate: int, seconds: float = 0.010) -> Samples:
    """Linear fades at both ends: an abrupt onset would ring above the peak under test."""
    ramp = np.linspace(0, 1, round(seconds * rate), endpoint=False)
    signal = signal.copy()
    signal[: len(ramp)] *= ramp
    signal[-len(ramp) :] *= ramp[::-1]
    return signal


def peak_tone(rate: int, divisor: int, amplitude: float, degrees: float) -> Samples:
    """Tech 3341 cases 15 to 19: a sine at rate/divisor with a given phase."""
    phase = 2 * np.pi * np.arange(rate) / divisor + np.deg2rad(degrees)
    return faded(amplitude * np.sin(phase), rate)


def peak_burst(rate: int, offset: int) -> Samples:
    """Tech 3341 cases 20 to 23: one loud period in a quieter tone, made at four times the rate."""
    frames = 4 * rate
    start = (frames // 2) // 24 * 24
    base = 0.5 * np.sin(2 * np.pi * np.arange(frames) / 24)
    loud = np.sin(2 * np.pi * np.arange(16) / 16)
    signal = np.concatenate([base[:start], loud, base[: frames - start - 16]])
    taps = np.arange(1025) - 512
    low_pass = 0.245 * np.sinc(0.245 * taps) * np.kaiser(1025, 8.0)
    low_pass /= low_pass.sum()
    return np.convolve(faded(signal, frames), low_pass, "same")[offset::4]


def raw_of(
    signal: Samples,
    rate: int = 48_000,
    block: int = 65_536,
    engine: Engine | None = None,
    threads: int = 1,
) -> RawMeasurement:
    """What the passes leave of a signal of shape (frames, channels)."""
    measurer = Measurer(rate, signal.shape[1], engine or measuring.engine())
    blocks = (
        signal[start : start + block].astype(np.float32) for start in range(0, len(signal), block)
    )
    chunks = measurer.chunks(blocks)
    pipeline.run(chunks, measurer.steps, threads=threads, on_turn=lambda: None)
    return measurer.finish()


def measure(signal: Samples, rate: int = 48_000, block: int = 65_536) -> Measurement:
    """What is found in a signal of shape (frames, channels)."""
    return Measurement.of(raw_of(signal, rate, block))
