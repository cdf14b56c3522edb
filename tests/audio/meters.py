"""Other people's loudness meters, to compare with."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import av
import av.filter
import numpy as np
import pyebur128
from numpy.typing import NDArray
from pyebur128 import MeasurementMode


class Ebur128(NamedTuple):
    """What FFmpeg's filter `ebur128=peak=true` says of a whole file, to 0.1 or finer."""

    integrated: float
    lra: float
    true_peak: float


def ffmpeg(path: Path) -> Ebur128:
    """FFmpeg's meter: the program where it is installed, otherwise the one inside PyAV."""
    program = shutil.which("ffmpeg")
    return _from_program(program, path) if program else from_pyav(path)


def _from_program(program: str, path: Path) -> Ebur128:
    done = subprocess.run(
        [
            *(program, "-nostdin", "-hide_banner", "-i", path),
            *("-af", "ebur128=peak=true", "-f", "null", "-"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    summary = done.stderr.rpartition("Summary:")[2]
    return Ebur128(
        *(
            float(re.search(rf"{name}:\s+(-?[\d.]+)", summary)[1])  # type: ignore[index]
            for name in ("I", "LRA", "Peak")
        )
    )


def from_pyav(path: Path) -> Ebur128:
    """The same filter through PyAV; its values are in the metadata of the last frame."""
    values: dict[str, str] = {}
    peak = -np.inf
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        graph = av.filter.Graph()
        graph.link_nodes(
            graph.add_abuffer(template=stream),
            graph.add("ebur128", "peak=true:metadata=1"),
            graph.add("abuffersink"),
        ).configure()
        frames = [*container.decode(stream), None]
        for frame in frames:
            graph.push(frame)
            while True:
                try:
                    values |= dict(graph.pull().metadata)
                except (av.BlockingIOError, av.EOFError):
                    break
                peak = max(
                    peak,
                    *(
                        float(value)
                        for name, value in values.items()
                        if re.fullmatch(r"lavfi\.r128\.true_peaks_ch\d+", name)
                    ),
                )
    return Ebur128(
        float(values["lavfi.r128.I"]), float(values["lavfi.r128.LRA"]), 20 * np.log10(peak)
    )


def libebur128(signal: NDArray[np.float32], rate: int) -> tuple[float, float]:
    """Integrated loudness and LRA of a signal of shape (frames, channels).

    Its LRA looks once a second, not ten times, as Tech 3342 (2023) asks.
    """
    state = pyebur128.R128State(
        signal.shape[1], rate, MeasurementMode.MODE_I | MeasurementMode.MODE_LRA
    )
    flat = np.ascontiguousarray(signal, np.float32).ravel()
    state.add_frames(flat, len(signal))
    return pyebur128.get_loudness_global(state), pyebur128.get_loudness_range(state)


def libebur128_short_term(signal: NDArray[np.float32], rate: int) -> list[float]:
    """libebur128's short-term loudness after each 100 ms from 3 s on, LUFS."""
    state = pyebur128.R128State(signal.shape[1], rate, MeasurementMode.MODE_S)
    found: list[float] = []
    step = rate // 10
    for start in range(0, len(signal) - step + 1, step):
        state.add_frames(np.ascontiguousarray(signal[start : start + step]).ravel(), step)
        found.append(pyebur128.get_loudness_shortterm(state))
    return found[29:]
