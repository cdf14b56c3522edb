"""An MP3 that does not tell its length is read to its end, whatever its bit rates."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from bullpy.audio import AudioSettings, StoreError, analyze, mpeg
from bullpy.audio.decode import open_audio
from bullpy.audio.untold import behind_length

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def encoded(rate: int, channels: int, **options: object) -> tuple[bytes, bytes]:
    """Noise of changing level as an MP3, with and without the frame that tells its length."""
    random = np.random.default_rng(5)
    level = np.repeat(random.uniform(0, 0.3, 50), rate // 10)[:, None]
    samples = np.clip(random.standard_normal((len(level), channels)) * level, -1, 1)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="MP3", **options)
    content = file.getvalue()
    assert mpeg.tells_length(content)
    untold = content[mpeg.frame_length(content) :]
    assert not mpeg.tells_length(untold)
    return content, untold


def samples_of(path: Path) -> NDArray[np.float32]:
    with open_audio(path, AudioSettings()) as audio:
        return np.concatenate([block.copy() for block in audio.blocks()])


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
@pytest.mark.parametrize(
    ("rate", "channels"), [(48_000, 2), (44_100, 1), (22_050, 2), (16_000, 1), (8_000, 2)]
)
def test_it_is_read_to_its_end(rate: int, channels: int, mode: str, tmp_path: Path) -> None:
    content, untold = encoded(rate, channels, bitrate_mode=mode)
    (tmp_path / "told.mp3").write_bytes(content)
    (tmp_path / "untold.mp3").write_bytes(untold)
    told, read = samples_of(tmp_path / "told.mp3"), samples_of(tmp_path / "untold.mp3")
    # The frame also tells what the encoder padded: without it, that stays.
    padded = len(read) - len(told)
    assert 0 < padded <= 3 * 1152
    aligned = [np.abs(read[at : at + len(told)] - told).max() for at in range(padded + 1)]
    assert min(aligned) < 1e-4
    warnings = [warning.code for warning in analyze(tmp_path / "untold.mp3").warnings]
    assert "truncated" not in warnings


@pytest.mark.parametrize("before", [b"", bytes(5000), b"ID3\x04\0\0\0\0\x02\0" + bytes(256)])
def test_what_comes_before_does_not_matter(before: bytes, tmp_path: Path) -> None:
    _, untold = encoded(44_100, 2, bitrate_mode="VARIABLE")
    (tmp_path / "plain.mp3").write_bytes(untold)
    (tmp_path / "behind.mp3").write_bytes(before + untold)
    np.testing.assert_array_equal(
        samples_of(tmp_path / "behind.mp3"), samples_of(tmp_path / "plain.mp3")
    )


def test_progress_follows_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "untold.mp3"
    path.write_bytes(encoded(44_100, 2, bitrate_mode="VARIABLE")[1] * 4)
    told: list[float] = []
    analyze(path, on_progress=told.append, settings=AudioSettings(threads=1), block_frames=8192)
    assert told == sorted(set(told))
    assert told[-1] == 1.0
    assert len(told) > 5


def test_the_frame_in_front_is_one_and_tells_a_length() -> None:
    for rate, channels in [(48_000, 2), (44_100, 1), (24_000, 2), (16_000, 1), (8_000, 1)]:
        _, untold = encoded(rate, channels)
        frame = mpeg.length_frame(untold[:4])
        assert mpeg.frame_length(frame) == len(frame)
        assert mpeg.tells_length(frame)


def test_the_view_reads_and_seeks_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "untold.mp3"
    _, untold = encoded(44_100, 2)
    path.write_bytes(b"junk" + untold)
    whole = mpeg.length_frame(untold) + untold
    with path.open("rb", buffering=0) as raw, behind_length(raw, 4) as view:
        assert view.read() == whole
        assert view.read(1) == b""
        for at, count in [(0, 10), (len(whole) - 5, 10), (400, 100_000), (100, 900)]:
            assert view.seek(at) == at
            assert view.read(count) == whole[at : at + count]
            assert view.tell() == min(len(whole), at + count)
        assert view.seek(-3, os.SEEK_END) == len(whole) - 3
        assert view.seek(-1, os.SEEK_CUR) == len(whole) - 4


def test_what_lies_behind_the_length_that_is_told_is_warned_of(tmp_path: Path) -> None:
    content, untold = encoded(44_100, 2, bitrate_mode="VARIABLE")
    for tail, warned in [(content, True), (b"TAG" + bytes(125), False), (bytes(100_000), False)]:
        (tmp_path / "joined.mp3").write_bytes(content + tail)
        codes = [warning.code for warning in analyze(tmp_path / "joined.mp3").warnings]
        assert ("unread-audio" in codes) == warned
    (tmp_path / "joined.mp3").write_bytes(untold * 2)
    report = analyze(tmp_path / "joined.mp3")
    assert report.metadata.duration > 9.9
    assert "unread-audio" not in [warning.code for warning in report.warnings]


@pytest.mark.parametrize("reads", [0, 1, 4])
def test_a_failing_disk_is_no_end(
    reads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.FileIO):
        left = reads

        def readinto(self, buffer: WriteableBuffer, /) -> int:
            self.left -= 1
            if self.left < 0:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer)

    path = tmp_path / "untold.mp3"
    path.write_bytes(encoded(44_100, 2, bitrate_mode="VARIABLE")[1])
    monkeypatch.setattr("bullpy.audio.decode._raw", Failing)
    with pytest.raises(StoreError, match="Input/output error") as caught:
        analyze(path)
    assert not caught.value.permanent
