"""A fileKey names a file below the root, or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bullpy import errors
from bullpy.audio import AudioSettings, FileKeyError, FileMissingError, LocalStore, StoreError
from bullpy.audio.stores import store_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "take 1.wav").write_bytes(b"inside")
    (tmp_path / "secret.wav").write_bytes(b"outside")
    return folder


def test_a_key_below_the_root_is_found(root: Path) -> None:
    with LocalStore(root).fetch("inner/take 1.wav") as path:
        assert path.read_bytes() == b"inside"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "   ",
        ".",
        "./",
        "..",
        "../secret.wav",
        "inner/../../secret.wav",
        "inner/../inner/take 1.wav",
        "/etc/passwd",
        "//host/share/file.wav",
        "\\\\host\\share\\file.wav",
        "\\secret.wav",
        "..\\secret.wav",
        "inner\\..\\..\\secret.wav",
        "C:\\secret.wav",
        "C:secret.wav",
        "inner/take 1.wav\0.txt",
        "inner/take\n1.wav",
        "x" * 5000,
    ],
)
def test_path_traversal_is_refused(root: Path, key: str) -> None:
    with pytest.raises(FileKeyError) as caught:
        LocalStore(root).resolve(key)
    assert caught.value.permanent
    assert len(str(caught.value)) < 500


def test_a_link_out_of_the_root_is_refused(root: Path) -> None:
    (root / "link.wav").symlink_to(root.parent / "secret.wav")
    (root / "up").symlink_to(root.parent)
    for key in ("link.wav", "up/secret.wav"):
        with pytest.raises(FileKeyError, match="symbolic link"):
            LocalStore(root).resolve(key)


def test_a_link_inside_the_root_is_followed(root: Path) -> None:
    (root / "alias.wav").symlink_to("inner/take 1.wav")
    assert LocalStore(root).resolve("alias.wav").read_bytes() == b"inside"


def test_a_link_to_itself_is_refused(root: Path) -> None:
    (root / "loop.wav").symlink_to("loop.wav")
    with pytest.raises(FileKeyError):
        LocalStore(root).resolve("loop.wav")


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mounted").symlink_to(root)
    path = LocalStore(tmp_path / "mounted").resolve("inner/take 1.wav")
    assert path.read_bytes() == b"inside"


@pytest.mark.parametrize("key", ["none.wav", "inner/none.wav", "inner/take 1.wav/more.wav"])
def test_a_missing_file_may_still_come(root: Path, key: str) -> None:
    with pytest.raises(FileMissingError) as caught:
        LocalStore(root).resolve(key)
    assert not caught.value.permanent


def test_a_missing_root_may_be_mounted_later(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="BULLPY_AUDIO_ROOT") as caught:
        LocalStore(tmp_path / "none").resolve("a.wav")
    assert not caught.value.permanent


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["..", ".", "", "inner", "take 1.wav", "secret.wav", "\\", "~", "%2e%2e"])
    ).map("/".join)
    | st.text(max_size=40)
)
def test_no_key_leads_out_of_the_root(root: Path, key: str) -> None:
    try:
        path = LocalStore(root).resolve(key)
    except StoreError:
        return
    assert path.is_relative_to(root.resolve())


@pytest.mark.parametrize("text", ["{}", "file://{}", "file://localhost{}"])
def test_a_setting_names_the_folder(root: Path, text: str) -> None:
    settings = AudioSettings.from_env(
        {"BULLPY_AUDIO_STORE": text.format(root), "BULLPY_AUDIO_ROOT": "/nowhere"}
    )
    with store_of(settings).fetch("inner/take 1.wav") as path:
        assert path.read_bytes() == b"inside"


def test_the_root_is_the_store_where_none_is_named(root: Path) -> None:
    settings = AudioSettings.from_env({"BULLPY_AUDIO_ROOT": str(root)})
    with store_of(settings).fetch("inner/take 1.wav") as path:
        assert path.read_bytes() == b"inside"


@pytest.mark.parametrize(
    "text", ["ftp://host/x", "gs://bucket", "://x", "file://host/srv", "file:///srv?x=1"]
)
def test_a_store_of_another_kind_is_a_configuration_error(text: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="BULLPY_AUDIO_STORE"):
        store_of(AudioSettings.from_env({"BULLPY_AUDIO_STORE": text}))


def test_a_store_with_a_password_is_not_shown() -> None:
    text = "https://me:hidden@files.example/"
    assert "hidden" not in repr(AudioSettings.from_env({"BULLPY_AUDIO_STORE": text}))


def test_a_version_changes_with_the_file_and_a_young_one_has_none(root: Path) -> None:
    store, file = LocalStore(root), root / "inner" / "take 1.wav"
    assert store.version("inner/take 1.wav") is None
    # The time of a change of the file's data cannot be set; a file of the system is old enough.
    system = LocalStore(Path(os.__file__).parent)
    assert system.version("os.py") == system.version("os.py") is not None
    assert system.version("os.py") != system.version("abc.py")
    file.unlink()
    with pytest.raises(FileMissingError):
        store.version("inner/take 1.wav")
