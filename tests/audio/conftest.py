"""Audio files made for the tests; nothing is shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from bullpy import errors
from bullpy.audio import engines

RATE = 48_000


@pytest.fixture(scope="session")
def tone() -> NDArray[np.float32]:
    """Five seconds of two slightly different tones, 48 kHz."""
    time = np.arange(5 * RATE) / RATE
    left, right = (0.5 * np.sin(2 * np.pi * 440 * time), 0.4 * np.sin(2 * np.pi * 441 * time))
    return np.stack([left, right], axis=1).astype(np.float32)


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory, tone: NDArray[np.float32]) -> Path:
    """A folder with the tone as ok.wav, ok.flac and ok.mp3."""
    folder = tmp_path_factory.mktemp("good")
    for name in ("ok.wav", "ok.flac", "ok.mp3"):
        soundfile.write(folder / name, tone, RATE)
    return folder


@pytest.fixture(params=["c", "numpy"])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the compiled passes and with those in numpy."""
    monkeypatch.setenv("BULLPY_AUDIO_KERNEL", request.param)
    try:
        engines.chosen()
    except errors.ConfigurationError as error:
        pytest.skip(str(error))
