"""What must hold for the files of the repository itself, rather than for the code."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted(ROOT.glob("requirements/*.txt"))
NODE_LOCKS = [ROOT / "tests/node/package-lock.json", ROOT / "examples/node-api/package-lock.json"]
# Written in parts, so that this file is not itself a hit.
MACHINE_PATHS = re.compile(
    r"(?<![\w.~$}/-])/(?:"
    + "|".join(("ho" + "me", "ro" + "ot", "Us" + "ers", "wo" + "rk", "fa" + "rm"))
    + r")/\w"
)


def locked(lock: Path) -> dict[str, list[str]]:
    """Each requirement of a lock file (`name==version ; marker`) and its hashes."""
    requirements: dict[str, list[str]] = {}
    joined = re.sub(r"\s*\\\n\s*", " ", lock.read_text())
    for line in joined.splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement, *hashes = line.split(" --hash=")
            requirements[requirement.strip()] = hashes
    return requirements


def repository_files() -> list[Path]:
    """Everything that is, or can become, part of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name]
    # Not a git checkout, for example an unpacked archive.
    left_out = {".venv", "node_modules", "__pycache__", "build", "dist"}
    return [path for path in ROOT.rglob("*") if left_out.isdisjoint(path.parts)]


def test_both_lock_files_exist() -> None:
    assert [lock.name for lock in LOCKS] == ["demo.txt", "dev.txt"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_file_carries_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert not re.search(r"https?:|file:|git\+|\s@\s", text)
    assert not re.search(r"^\s*-(?!-hash)", text, re.MULTILINE), "no options, no editable installs"
    assert not re.search(r"(?<![\w-])/\w+/", text.replace("requirements/", "")), "no paths"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_file_pins_and_hashes_every_package(lock: Path) -> None:
    requirements = locked(lock)
    assert len(requirements) > 20
    for requirement, hashes in requirements.items():
        assert re.match(r"[a-z0-9.-]+==\S+( ;.*)?$", requirement)
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", item) for item in hashes)


def test_demo_installs_what_dev_installs() -> None:
    dev, demo = (locked(ROOT / f"requirements/{name}.txt") for name in ("dev", "demo"))
    versions = {requirement.split(" ;")[0] for requirement in dev}
    assert {requirement.split(" ;")[0] for requirement in demo} <= versions


def test_every_dependency_is_in_the_lock_file() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project: dict[str, Any] = declared["project"]
    wanted = list(project["dependencies"])
    for requirements in project["optional-dependencies"].values():
        wanted += requirements
    wanted += [item for item in declared["dependency-groups"]["dev"] if isinstance(item, str)]
    names = {re.split(r"[^A-Za-z0-9._-]", item)[0].lower() for item in wanted} - {"bullpy"}
    assert names <= {item.split("==")[0] for item in locked(ROOT / "requirements/dev.txt")}


def test_extra_all_is_all_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (everything,) = extras["all"]
    named = set(everything.removeprefix("bullpy[").removesuffix("]").split(","))
    assert named == set(extras) - {"all"}


def test_version_is_the_same_everywhere() -> None:
    import bullpy

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert bullpy.__version__ == project["version"]


@pytest.mark.parametrize("lock", NODE_LOCKS, ids=lambda lock: lock.parent.name)
def test_package_lock_carries_no_address_and_hashes_every_package(lock: Path) -> None:
    packages: dict[str, dict[str, Any]] = json.loads(lock.read_text())["packages"]
    for name, package in packages.items():
        assert "resolved" not in package, name
        if name:
            assert package["integrity"].startswith("sha512-"), name


@pytest.mark.parametrize("lock", NODE_LOCKS, ids=lambda lock: lock.parent.name)
def test_package_lock_belongs_to_its_package_json(lock: Path) -> None:
    package = json.loads((lock.parent / "package.json").read_text())
    root = json.loads(lock.read_text())["packages"][""]
    assert root["dependencies"] == package["dependencies"]
    pinned = package["dependencies"].values()
    assert all(re.fullmatch(r"(npm:bullmq@)?\d+\.\d+\.\d+", version) for version in pinned)


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    hits: list[str] = []
    for path in repository_files():
        if not path.is_file() or path.is_symlink():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATHS.search(line):
                hits.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert hits == []
