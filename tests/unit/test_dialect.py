"""What is put around BullMQ's scripts."""

from __future__ import annotations

from pathlib import Path

import bullmq
import pytest

from bullpy import dialect

COMMANDS = Path(bullmq.__file__).parent / "commands"


def original(name: str) -> bytes:
    return next(COMMANDS.glob(f"{name}-*.lua")).read_bytes()


@pytest.mark.parametrize("name", ["extendLock", "updateProgress", "getCounts", "isFinished"])
def test_scripts_that_touch_no_waiting_job_stay_as_they_are(name: str) -> None:
    assert dialect.speak(name, original(name)) == original(name)


@pytest.mark.parametrize("name", sorted({*dialect._META_KEY, *dialect._RELEASES_PARENT}))
def test_the_packages_own_text_is_kept_whole(name: str) -> None:
    assert original(name) in dialect.speak(name, original(name))


@pytest.mark.parametrize("name", sorted(dialect._META_KEY))
def test_the_key_of_meta_is_where_the_script_says(name: str) -> None:
    number = dialect._META_KEY[name]
    lines = [line for line in original(name).decode().splitlines() if f"KEYS[{number}]" in line]
    assert any("meta" in line for line in lines)


def test_every_script_that_adds_to_a_list_is_known() -> None:
    """A later version of the package may bring another one."""
    adding = {
        path.name.rsplit("-", 1)[0]
        for path in COMMANDS.glob("*.lua")
        if not path.name.startswith("relay")
        and any(word in path.read_text() for word in ("addJobInTargetList(", "RPUSH", "LPUSH"))
    }
    assert adding - {"addLog"} <= {*dialect._META_KEY, *dialect._RELEASES_PARENT}
