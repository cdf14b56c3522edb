"""The compiled passes against the numpy passes, function by function, in every variant."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from audio.signals import raw_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bullpy import errors
from bullpy.audio import chunks, engines, measuring, raw
from bullpy.audio.chunks import CHUNK_FRAMES, Chunk, Chunker
from bullpy.audio.kernel import build, library
from bullpy.audio.measuring import NUMPY, Engine

ROOT = Path(__file__).parents[2]
RATES = (8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000, 384_000)


@pytest.fixture(params=library.VARIANTS)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine `c` in one variant."""
    try:
        loaded = library.load(request.param)
    except library.KernelError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(library, "load", lambda: loaded)
    return measuring.engine({"BULLPY_AUDIO_KERNEL": "auto"})


def noise(frames: int, channels: int, seed: int = 0) -> NDArray[np.float32]:
    """Noise of changing level with a few clipped stretches, shape (frames, channels)."""
    random = np.random.default_rng(seed)
    corners = np.arange(0, frames + 5000, 5000)
    level = np.interp(np.arange(frames), corners, random.uniform(0, 0.5, len(corners)))
    signal = random.standard_normal((frames, channels)) * level[:, None]
    signal[frames // 2 : frames // 2 + 5] = 1.5
    return np.clip(signal, -1, 1).astype(np.float32)


def chunked(signal: NDArray[np.float32], rate: int) -> list[Chunk]:
    """The chunks of a signal that is short enough for all to stay valid."""
    chunker = Chunker(rate, signal.shape[1], chunks.split)
    made = [*chunker.push(signal), *chunker.finish()]
    assert len(made) < chunks.SLOTS
    return made


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
@pytest.mark.parametrize("rate", RATES)
def test_weighting_equals_the_oracle(kernel: Engine, rate: int, channels: int) -> None:
    parts = chunked(noise(CHUNK_FRAMES + 1234, channels), rate)
    found, expected = kernel.weighting(rate, channels), NUMPY.weighting(rate, channels)
    for part in parts:
        found.push(part)
        expected.push(part)
    # 1e-9 of the largest: the high-pass subtracts numbers that are nearly equal.
    truth = expected.result()
    np.testing.assert_allclose(found.result(), truth, rtol=1e-9, atol=1e-9 * truth.max())


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("rate", RATES)
def test_levels_equal_the_oracle(kernel: Engine, rate: int, channels: int) -> None:
    parts = chunked(noise(CHUNK_FRAMES + 4321, channels), rate)
    found, expected = kernel.levels(rate, channels), NUMPY.levels(rate, channels)
    for part in parts:
        found.push(part)
        expected.push(part)
    compare(found.clipping(), expected.clipping(), 0)
    assert found.clipping().runs.sum() > 0
    compare(found.blocks(), expected.blocks(), 1e-12)
    none = np.zeros((channels, 0))
    compare(found.result(none), expected.result(none), 1e-12)


@pytest.mark.parametrize("pattern", ["open", "every", "pairs", "edges"])
def test_clipped_samples_and_runs_equal_the_oracle(kernel: Engine, pattern: str) -> None:
    signal = np.zeros((CHUNK_FRAMES + 50, 1), np.float32)
    if pattern == "open":
        signal[CHUNK_FRAMES - 2 : CHUNK_FRAMES + 2] = 1
    elif pattern == "every":
        signal[:] = -1
    elif pattern == "pairs":
        signal[::3] = signal[1::3] = 1
    else:
        signal[:3] = signal[-3:] = -1
    compare(raw_of(signal, engine=kernel).clipping, raw_of(signal, engine=NUMPY).clipping, 0)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("rate", [11_025, 44_100, 192_000])
def test_true_peaks_equal_the_oracle(kernel: Engine, rate: int, channels: int) -> None:
    parts = chunked(noise(CHUNK_FRAMES + 777, channels), rate)
    found, expected = kernel.true_peak(rate, channels), NUMPY.true_peak(rate, channels)
    for part in parts:
        found.push(part)
        expected.push(part)
    np.testing.assert_allclose(found.result(), expected.result(), rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000, 192_000, 384_000])
def test_spectrum_equals_the_oracle(kernel: Engine, rate: int, channels: int) -> None:
    parts = chunked(noise(2 * CHUNK_FRAMES + 99, channels), rate)
    found, expected = kernel.spectrum(rate, channels), NUMPY.spectrum(rate, channels)
    for part in parts:
        found.push(part)
        expected.push(part)
    one, other = found.result(), expected.result()
    bin_width = rate / one.size
    # Where the running sum meets 85 % to the last digit, rounding decides on the bin.
    np.testing.assert_allclose(one.rolloff, other.rolloff, atol=1.01 * bin_width)
    np.testing.assert_allclose(one.flux, other.flux, rtol=1e-4)
    same = dataclasses.replace(other, rolloff=one.rolloff, flux=one.flux)
    compare(one, same, 2e-5)


def test_spectrum_of_every_bin_is_its_own(kernel: Engine) -> None:
    found = kernel.spectrum(48_000, 2)
    expected = NUMPY.spectrum(48_000, 2)
    time = np.arange(4096 + 7 * 1024)
    hertz = np.linspace(1, 2047, 2)[None] + np.zeros((len(time), 1))
    signal = np.sin(2 * np.pi * hertz * time[:, None] / 4096).astype(np.float32)
    for part in chunked(signal, 48_000):
        found.push(part)
        expected.push(part)
    one, other = found.result().average, expected.result().average
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
    assert set(np.argsort(one)[-2:]) == {1, 2047}


@pytest.mark.parametrize("channels", [1, 2, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_split_equals_the_oracle(kernel: Engine, channels: int, dtype: type) -> None:
    random = np.random.default_rng(2)
    block = random.integers(-32_768, 32_768, (1001, channels)).astype(dtype)
    found, expected = (np.zeros((channels, 1100), np.float32) for _ in range(2))
    kernel.split(block, found[:, 50:1051])
    chunks.split(block, expected[:, 50:1051])
    np.testing.assert_array_equal(found, expected)
    if dtype == np.int16:
        assert np.abs(found).max() <= 1


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    frames=st.integers(1, 2 * CHUNK_FRAMES),
    channels=st.integers(1, 8),
    rate=st.sampled_from(RATES),
    block=st.integers(50, 100_000),
    seed=st.integers(0, 1000),
)
def test_results_do_not_depend_on_blocks_and_equal_the_oracle(
    kernel: Engine, frames: int, channels: int, rate: int, block: int, seed: int
) -> None:
    signal = noise(frames, channels, seed)
    whole = raw_of(signal, rate, CHUNK_FRAMES, kernel)
    compare(raw_of(signal, rate, block, kernel), whole, 0)
    expected = raw_of(signal, rate, engine=NUMPY)
    energy = expected.cells.energy
    np.testing.assert_allclose(
        whole.cells.energy, energy, rtol=1e-9, atol=1e-9 * float(energy.max())
    )
    np.testing.assert_allclose(whole.true_peaks, expected.true_peaks, rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(whole.spectrum.bands, expected.spectrum.bands, rtol=1e-4, atol=1e-12)


def test_a_decaying_tail_is_not_slow_and_ends_in_silence(kernel: Engine) -> None:
    signal = np.zeros((3 * CHUNK_FRAMES, 2), np.float32)
    signal[0] = 1
    signal[1:] = np.float32(1e-40)  # below the normal range
    found = raw_of(signal, engine=kernel)
    assert found.cells.energy[:, -2:].max() < 1e-60
    assert np.isfinite(found.spectrum.flatness).all()


def test_environment_chooses_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engines.chosen({"BULLPY_AUDIO_KERNEL": "numpy"})[0] == "numpy"
    with pytest.raises(errors.ConfigurationError, match="auto, c, numpy"):
        engines.chosen({"BULLPY_AUDIO_KERNEL": "fast"})

    def missing() -> None:
        raise library.KernelError("it was not built")

    monkeypatch.setattr(library, "load", missing)
    assert engines.chosen({}) == ("numpy", "no kernel: it was not built")
    assert measuring.engine({}) is NUMPY
    with pytest.raises(errors.ConfigurationError, match="it was not built"):
        engines.chosen({"BULLPY_AUDIO_KERNEL": "c"})


def test_a_missing_or_foreign_library_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "_kernel.so")
    for content, reason in ((None, "not built"), (b"no library", "does not load")):
        if content is not None:
            library.LIBRARY.write_bytes(content)
        library.load.cache_clear()
        with pytest.raises(library.KernelError, match=reason):
            library.load()
    library.load.cache_clear()


def test_a_failing_compiler_fails_no_installation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "is_current", lambda: False)
    for compiler, reason in (("no-such-compiler", "is not found"), ("false", "failed")):
        monkeypatch.setenv("CC", compiler)
        with pytest.raises(build.BuildError, match=reason):
            build.build(tmp_path / "_kernel.so")
        assert build.main() == 0
        assert "numpy is used" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("built", [True, False])
def test_a_wheel_names_the_platform_when_the_kernel_is_in_it(
    built: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if built and not build.is_current():
        pytest.skip("the kernel cannot be built here")
    monkeypatch.setenv("BULLPY_BUILD_KERNEL", "1" if built else "0")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert ("bullpy/audio/kernel/_kernel.so" in names) is built
    assert wheel.name.endswith("-py3-none-any.whl") is not built
    assert "-py3-none-" in wheel.name


def compare(found: object, expected: object, tolerance: float) -> None:
    """All fields of two results, arrays to a relative tolerance."""
    assert dataclasses.is_dataclass(found)
    for field in dataclasses.fields(found):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if dataclasses.is_dataclass(one):
            compare(one, other, tolerance)
        elif isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(
                one, other, rtol=tolerance, atol=tolerance, err_msg=field.name
            )
        else:
            assert one == other, field.name


def test_raw_results_have_the_documented_shapes(kernel: Engine) -> None:
    found = raw_of(noise(30_000, 2), 44_100, engine=kernel)
    cells = raw.full_cells(44_100, 30_000) + 1
    assert found.cells.energy.shape == found.cells.squares.shape == (2, cells)
    assert found.cells.products.shape == (cells,)
    assert found.true_peaks.shape == (2, -(-cells // raw.PEAK_CELLS))
    assert found.spectrum.bands.shape == (len(found.spectrum.power), len(raw.BANDS))
    assert (found.true_peaks.max(axis=1) >= found.cells.peaks.max(axis=1)).all()


@pytest.mark.parametrize("hertz", [50, 5_000, 11_025, 15_000, 21_000, 22_050])
def test_no_summit_is_skipped_whatever_the_frequency(kernel: Engine, hertz: int) -> None:
    """The kernel leaves out rows by their samples and second differences; the oracle others."""
    time = np.arange(44_100)
    random = np.random.default_rng(hertz)
    phase = np.pi / 4 + np.cumsum(random.normal(0, 0.01, (2, len(time))), axis=1)
    level = 0.5 + 0.4 * np.sin(2 * np.pi * 3 * time / 44_100)
    signal = (level * np.cos(2 * np.pi * hertz * time / 44_100 + phase)).T.astype(np.float32)
    found, expected = raw_of(signal, engine=kernel), raw_of(signal, engine=NUMPY)
    np.testing.assert_allclose(found.true_peaks, expected.true_peaks, rtol=2e-6, atol=1e-9)
