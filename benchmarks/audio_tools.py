"""One tool measures one file, twice; benchmarks/audio.py starts this as a process of its own.

    python -m benchmarks.audio_tools bullpy song.wav

Prints one JSON object: `in_process_s` of the second time, `peak_mb` of resident memory above
what the imports took, and `values` to compare with those of others.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

Values = dict[str, float | None]


def main() -> int:
    name, file = sys.argv[1:]
    measure = TOOLS[name]()
    imported = _peak_mb()
    values = measure(file)
    started = time.perf_counter()
    measure(file)
    seconds = time.perf_counter() - started
    peak = round(_peak_mb() - imported, 1)
    print(json.dumps({"in_process_s": seconds, "peak_mb": peak, "values": values}))
    return 0


def bullpy(threads: int = 2, kernel: str = "auto") -> Callable[[str], Values]:
    os.environ["BULLPY_AUDIO_KERNEL"] = kernel
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from bullpy.audio import AudioSettings, analyze
    from bullpy.audio.measuring import engine

    engine()
    settings = AudioSettings(threads=threads)

    def measure(file: str) -> Values:
        report = analyze(file, settings=settings)
        return {
            "integrated": report.loudness.integrated,
            "lra": report.loudness.lra,
            "true_peak": report.true_peak.max_dbtp,
        }

    return measure


def pyav() -> Callable[[str], Values]:
    import av
    import av.filter

    def measure(file: str) -> Values:
        with av.open(file) as container:
            (stream,) = container.streams.audio
            graph = av.filter.Graph()
            chain = [
                graph.add_abuffer(template=stream),
                graph.add("ebur128", "peak=true"),
                graph.add("abuffersink"),
            ]
            graph.link_nodes(*chain).configure()
            for frame in container.decode(stream):
                graph.push(frame)
                _drain(graph)
        return {}

    def _drain(graph: av.filter.Graph) -> None:
        while True:
            try:
                graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return

    return measure


def pyloudnorm() -> Callable[[str], Values]:
    import pyloudnorm as package
    import soundfile

    def measure(file: str) -> Values:
        samples, rate = soundfile.read(file)
        return {"integrated": float(package.Meter(rate).integrated_loudness(samples))}

    return measure


def librosa() -> Callable[[str], Values]:
    import librosa as package
    import librosa.feature
    import librosa.onset
    import numpy as np

    def measure(file: str) -> Values:
        samples, rate = package.load(file, sr=None)
        magnitude = np.abs(package.stft(samples, n_fft=4096, hop_length=1024))
        centroid = package.feature.spectral_centroid(S=magnitude, sr=rate)
        package.feature.spectral_rolloff(S=magnitude, sr=rate, roll_percent=0.85)
        package.feature.spectral_flatness(S=magnitude)
        package.onset.onset_strength(S=magnitude, sr=rate)
        return {"centroid": float(np.median(centroid))}

    return measure


TOOLS: dict[str, Callable[[], Callable[[str], Values]]] = {
    "bullpy": bullpy,
    "bullpy_1_thread": lambda: bullpy(threads=1),
    "bullpy_numpy": lambda: bullpy(threads=1, kernel="numpy"),
    "pyav": pyav,
    "pyloudnorm": pyloudnorm,
    "librosa": librosa,
}


def _peak_mb() -> float:
    """Highest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of a new process may still be its parent's
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    sys.exit(main())
