"""The same file is measured once, and nothing else passes for it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from audio.webserver import Handler, content, status, web_server

from bullpy import Job, errors
from bullpy.audio import AudioJob, AudioSettings, process_audio
from bullpy.audio.cache import Cache

SETTINGS = AudioSettings()
REPORT: dict[str, object] = {"loudness": {"integrated": -14.25}, "metadata": {"fileName": "a.wav"}}


class StandIn:
    """What the processor uses of a job, without a queue."""

    def __init__(self, **fields: Any) -> None:
        self.id = "1"
        self.data = {
            "jobId": "0B6D2C8E-6F4B-4F5F-9F0C-2B1A7B0F8A11",
            "fileKey": "ok.wav",
            "mode": "genre",
            **fields,
        }
        self.lines: list[str] = []

    def update_progress(self, progress: int) -> None:
        pass

    def log(self, line: str) -> None:
        self.lines.append(line)

    def should_stop(self) -> bool:
        return False

    def run(self) -> dict[str, Any]:
        result = process_audio(typing.cast("Job[AudioJob]", self))
        result.pop("processingTime")
        return result

    @property
    def measured(self) -> bool:
        return any(line.startswith("Measured ") and "before" not in line for line in self.lines)


@pytest.fixture
def folder(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "root"
    shutil.copytree(good, root)
    monkeypatch.setenv("BULLPY_AUDIO_ROOT", str(root))
    monkeypatch.setenv("BULLPY_AUDIO_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(**fields: Any) -> tuple[dict[str, Any], bool]:
    job = StandIn(**fields)
    return job.run(), job.measured


def test_the_same_bytes_are_measured_once_under_any_name(folder: Path) -> None:
    first, measured = run()
    assert measured
    again, measured = run()
    assert not measured
    assert again == first
    shutil.copy(folder / "root/ok.wav", folder / "root/copy.wav")
    copy, measured = run(fileKey="copy.wav")
    assert not measured
    assert copy["metadata"] == {
        **first["metadata"],
        "fileName": "copy.wav",
        "fileKey": "copy.wav",
    }


def test_other_bytes_under_the_same_name_are_measured(folder: Path) -> None:
    run()
    shutil.copy(folder / "root/ok.flac", folder / "root/ok.wav")
    result, measured = run()
    assert measured
    assert result["metadata"]["format"] == "FLAC"


def test_curves_are_another_measurement(folder: Path) -> None:
    run()
    result, measured = run(series=True)
    assert measured
    assert "series" in result
    assert run(series=True)[1] is False
    assert "series" not in run()[0]


def test_stricter_limits_are_not_passed_by_an_earlier_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    monkeypatch.setenv("BULLPY_AUDIO_MAX_DURATION", "1")
    with pytest.raises(errors.Discard):
        run()


def test_another_engine_measures_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    monkeypatch.setattr("bullpy.audio.cache.ENGINE_VERSION", "9.9.9")
    assert run()[1] is True


def test_nothing_is_kept_unless_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BULLPY_AUDIO_CACHE")
    assert [run()[1], run()[1]] == [True, True]
    assert not (folder / "cache").exists()


def test_a_known_version_is_not_even_downloaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = (folder / "root/ok.wav").read_bytes()
    monkeypatch.setenv("BULLPY_AUDIO_TMP", str(folder))
    monkeypatch.setenv("BULLPY_AUDIO_ALLOW_PRIVATE", "1")
    with web_server() as web:
        monkeypatch.setenv("BULLPY_AUDIO_STORE", web.url())
        web.answers["/ok.wav"] = content(body, ETag='"1"')
        assert [run()[1], run()[1]] == [True, False]
        assert [asked.method for asked in web.asked] == ["HEAD", "GET", "HEAD", "HEAD"]
        web.answers["/ok.wav"] = content(body, ETag='"2"')
        assert run()[1] is True


def damage_bytes(path: Path) -> None:
    path.write_bytes(b"\xff\x00 no JSON")


def damage_value(path: Path) -> None:
    entry = json.loads(path.read_text())
    entry["report"]["loudness"]["integrated"] = 0.0
    path.write_text(json.dumps(entry))


def damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damage_shape(path: Path) -> None:
    path.write_text("[" * 100_000)


@pytest.mark.parametrize("damage", [damage_bytes, damage_value, damage_end, damage_shape])
def test_a_damaged_entry_is_a_miss_and_mended(folder: Path, damage: Callable[[Path], None]) -> None:
    first, _ = run()
    (entry,) = (folder / "cache").glob("*.json")
    damage(entry)
    again, measured = run()
    assert measured
    assert again == first
    assert run()[1] is False


def test_a_folder_that_cannot_be_written_costs_no_job(folder: Path) -> None:
    (folder / "cache").write_text("a file")
    assert run()[1] is True


@pytest.mark.parametrize("code", [403, 405, 501])
def test_a_server_that_tells_no_versions_costs_no_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    body = (folder / "root/ok.wav").read_bytes()
    monkeypatch.setenv("BULLPY_AUDIO_TMP", str(folder))
    monkeypatch.setenv("BULLPY_AUDIO_ALLOW_PRIVATE", "1")

    def answer(handler: Handler) -> None:
        (status(code) if handler.command == "HEAD" else content(body))(handler)

    with web_server() as web:
        monkeypatch.setenv("BULLPY_AUDIO_STORE", web.url())
        web.answers["/ok.wav"] = answer
        # Then it is known by its bytes.
        assert [run()[1], run()[1]] == [True, False]


def test_what_others_have_in_the_folder_stays(tmp_path: Path) -> None:
    names = {"mine.json", "film.mkv.part"}
    for name in names:
        (tmp_path / name).write_bytes(bytes(1000))
    Cache(tmp_path, 10, SETTINGS).put("first", REPORT, series=False)
    assert {path.name for path in tmp_path.iterdir()} == names


def test_the_folder_is_bounded_and_the_last_used_stay(tmp_path: Path) -> None:
    made: dict[str, Path] = {}
    for age, name in enumerate(("third", "second", "first"), start=1):
        Cache(tmp_path, 10_000, SETTINGS).put(name, REPORT, series=False)
        (made[name],) = set(tmp_path.iterdir()) - set(made.values())
        os.utime(made[name], (0, 1_000_000 - age))
    size = made["first"].stat().st_size
    cache = Cache(tmp_path, 3 * size, SETTINGS)
    used = cache.get("first", "x/b.wav", series=False)
    assert used == {**REPORT, "metadata": {"fileName": "b.wav"}}
    cache.put("fourth", REPORT, series=False)
    kept = [cache.get(name, "a", series=False) for name in ("first", "second", "third", "fourth")]
    assert [report is not None for report in kept] == [True, False, True, True]


@pytest.mark.parametrize("old", [False, True])
def test_a_file_that_changes_while_it_is_measured_is_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    if old:
        monkeypatch.setattr("bullpy.audio.stores.local._SETTLED", 0.0)

    class Overwriting(StandIn):
        def log(self, line: str) -> None:
            super().log(line)
            shutil.copy(folder / "root/ok.flac", folder / "root/ok.wav")

    Overwriting().run()
    assert list((folder / "cache").glob("*")) == []
    assert run()[1] is True
    assert run()[1] is False


def test_many_may_read_and_write_at_once(tmp_path: Path) -> None:
    def work(number: int) -> bool:
        cache = Cache(tmp_path, 2_000, SETTINGS)
        for step in range(50):
            name = str((number + step) % 7)
            cache.put(name, REPORT, series=False)
            report = cache.get(name, "a.wav", series=False)
            if report is not None and report != REPORT:
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".json"] == []
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2_000


def test_settings_that_change_nothing_share_entries(tmp_path: Path) -> None:
    Cache(tmp_path, 10_000, SETTINGS).put("x", REPORT, series=False)
    other = dataclasses.replace(SETTINGS, threads=1, root=tmp_path)
    assert Cache(tmp_path, 10_000, other).get("x", "a.wav", series=False) == REPORT
