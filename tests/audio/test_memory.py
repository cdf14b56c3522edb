"""Memory that an analysis takes; the figures are above interpreter and imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bullpy.audio import engines

ROOT = Path(__file__).parents[2]
RATE = 8_000  # a minute has as many cells as at any other rate, and is measured sooner
MINUTES = 30


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "long.wav"
    time = np.arange(60 * RATE) / RATE
    left, right = (level * np.sin(2 * np.pi * 440 * time) for level in (0.5, 0.4))
    minute = np.stack([left, right], axis=1)
    with soundfile.SoundFile(path, "w", samplerate=RATE, channels=2, subtype="PCM_16") as file:
        for _ in range(MINUTES):
            file.write(minute)
    return path


@pytest.mark.parametrize("tool", ["bullpy", "bullpy_1_thread"])
def test_a_long_file_takes_its_results_and_little_more(long: Path, tool: str) -> None:
    """The tool measures twice: what the first time took has to be there for the second."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.audio_tools", tool, long],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # The results are 12 MB and chunks 3 MB. In numpy, the passes have arrays of 5 MB more.
    limit = 26 if engines.chosen()[0] == "c" else 31
    assert json.loads(done.stdout)["peak_mb"] < limit
