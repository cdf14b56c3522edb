"""Downloads are private, go away always, and fill no disk without a word."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bullpy.audio import AudioLimitError, StoreError
from bullpy.audio.stores.temporary import Downloads, Sink

HOLD = """
import sys, time
from pathlib import Path
from bullpy.audio.stores.temporary import Downloads
with Downloads(Path(sys.argv[1])).place("a/killed.wav") as path:
    path.write_bytes(b"half")
    print(path, flush=True)
    sys.stdin.read()
"""


def test_a_place_is_private_and_removed(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path)
    with downloads.place("2024/take 1.wav") as path:
        path.write_bytes(b"x")
        assert path.name == "take 1.wav"
        for folder in (path.parent, path.parent.parent):
            assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileNotFoundError), downloads.place("b.wav") as path:
        (path / "of a file").write_bytes(b"x")
    assert [found.name for found in downloads.folder.iterdir()] == [".lock"]


@pytest.mark.parametrize("key", ["x" * 300 + ".wav", "ä" * 200 + ".wav", "\udc80.wav", "a/."])
def test_any_key_gives_a_name_that_the_file_system_takes(tmp_path: Path, key: str) -> None:
    with Downloads(tmp_path).place(key) as path:
        path.write_bytes(b"x")
        assert path.parent.parent == Downloads(tmp_path).folder


def test_what_a_killed_process_leaves_goes_with_the_next_download(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        assert downloads.sweep() == 0
        with downloads.place("b.wav"):
            assert left.exists(), "it is in use"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert left.exists()
    with downloads.place("b.wav") as path:
        assert not left.parent.exists()
        assert path.parent.exists()


def test_a_folder_that_somebody_else_prepared_is_not_used(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path / "a")
    downloads.folder.mkdir(parents=True, mode=0o700)
    downloads.folder.chmod(0o770)
    with pytest.raises(StoreError, match="Others may"), downloads.place("x"):
        pass
    linked = Downloads(tmp_path / "b")
    linked.folder.parent.mkdir()
    (tmp_path / "target").mkdir(mode=0o700)
    linked.folder.symlink_to(tmp_path / "target")
    with pytest.raises(StoreError, match="no folder of this user"), linked.place("x"):
        pass


def test_a_full_disk_is_said_plainly() -> None:
    with (
        Sink(Path("/dev/full"), 1000, "The file 'a.wav'") as sink,
        pytest.raises(StoreError, match="disk is full") as caught,
    ):
        sink.write(b"x")
    assert not caught.value.permanent
    assert "BULLPY_AUDIO_TMP" in str(caught.value)


def test_a_sink_takes_no_byte_more_than_the_limit(tmp_path: Path) -> None:
    with Sink(tmp_path / "a", 4, "a") as sink:
        sink.begin(4)
        sink.write(b"1234")
        assert sink.share == 1.0
        with pytest.raises(AudioLimitError):
            sink.write(b"5")
        sink.begin(None)
        sink.write(b"9")
        with pytest.raises(AudioLimitError):
            sink.begin(5)
    assert (tmp_path / "a").read_bytes() == b"9"
