"""The static checks of a project: what is wrong is found, what is right is left alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import projects

from bullpy import errors
from bullpy.doctor.project import causes, inspect
from bullpy.doctor.project import files as project_files
from bullpy.doctor.verdicts import Cause, Level, lines_of

ONE_WORKER = "import { Worker } from 'bullmq';\nnew Worker('q', f, { connection: c() });\n"

Case = tuple[str, dict[str, str]]


def _cases() -> list[Case]:
    """What must be found, and the files, of each case in `project_cases.txt`."""
    text = (Path(projects.__file__).parent / "project_cases.txt").read_text(encoding="utf-8")
    found: list[Case] = []
    for part in text.split("\n=== ")[1:]:
        head, *parts = part.rstrip("\n").split("\n--- ")
        files = dict(each.partition("\n")[::2] for each in parts)
        found.append((head.strip(), {name: content + "\n" for name, content in files.items()}))
    return found


CASES = _cases()
WRONG = [case for case in CASES if not case[0].startswith("nothing")]
RIGHT = [case for case in CASES if case[0].startswith("nothing")]


def test_the_founding_products_mistakes_are_all_named(tmp_path: Path) -> None:
    report = inspect(projects.write(tmp_path, projects.BROKEN))
    found = {verdict.code for verdict in report.verdicts}
    assert found == {
        "children-orphaned",
        "command-timeout-below-block",
        "exit-code-lost",
        "failures-removed",
        "health-checked-once",
        "keys-in-health-check",
        "localhost-default",
        "major-not-pinned",
        "nested-settings",
        "no-such-job-state",
        "one-process-started",
        "queue-names-differ",
        "redis-url-missing",
        "redis-urls-differ",
        "restart-gives-up",
        "stalled-handler-wants-a-job",
    }
    assert report.level is Level.BLOCKED
    assert report.verdicts[0].code == "command-timeout-below-block"
    for verdict in report.verdicts:
        for proof in verdict.proofs:
            path, _, line = proof.command.partition(":")
            text = (tmp_path / path).read_text()
            assert line == "" or 1 <= int(line) <= text.count("\n")


def test_a_healthy_project_gives_nothing(tmp_path: Path) -> None:
    report = inspect(projects.write(tmp_path, projects.HEALTHY))
    assert [line for verdict in report.verdicts for line in lines_of(verdict)] == []
    assert report.skipped == ()
    assert len(report.read) == len(projects.HEALTHY)


@pytest.mark.parametrize(("code", "files"), WRONG, ids=[case[0] for case in WRONG])
def test_is_found(code: str, files: dict[str, str], tmp_path: Path) -> None:
    report = inspect(projects.write(tmp_path, files))
    assert code in {verdict.code for verdict in report.verdicts}


@pytest.mark.parametrize("files", [case[1] for case in RIGHT], ids=[case[0] for case in RIGHT])
def test_is_left_alone(files: dict[str, str], tmp_path: Path) -> None:
    report = inspect(projects.write(tmp_path, files))
    assert [line for verdict in report.verdicts for line in lines_of(verdict)] == []


def test_every_cause_of_a_project_has_a_case() -> None:
    declared = {each.code for each in vars(causes).values() if isinstance(each, Cause)}
    found = {verdict for verdict, _ in WRONG}
    in_the_product = {"children-orphaned", "health-checked-once", "one-process-started"}
    assert declared <= found | in_the_product | {"redis-url-missing"}


def test_urls_are_compared_by_a_number_and_by_parts(tmp_path: Path) -> None:
    files = {
        "a/.env": "REDIS_URL=redis://app:one@r/0\n",
        "b/.env": "REDIS_URL=redis://app:two@r/0\n",
        "c/.env": "REDIS_URL=redis://app:one@r:6379/0\n",
    }
    (verdict,) = inspect(projects.write(tmp_path, files)).verdicts
    assert "differ in password" in verdict.message
    assert [proof.command for proof in verdict.proofs] == ["a/.env:1", "b/.env:1"]
    first, second = (proof.value for proof in verdict.proofs)
    assert second.startswith(first), "one address, another password"
    assert second != first


def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    secret = projects.SECRET
    url = f"redis://u:{secret}@localhost"
    files: dict[str, str | bytes] = {
        name: text.replace("redis://", f"redis://u:{secret}@")
        for name, text in projects.BROKEN.items()
    }
    files |= {
        "Procfile": f"web: API_KEY={secret} node api.js --token {secret} & x\n"
        f"worker: PW={secret} node w.js\n",
        ".env": f"REDIS_URL={url}/1?db=2&{secret}=1\nBAD={secret}\n",
        "x/.env": f"REDIS_URL=redis://u:{secret}:{secret}@r:{secret}/0\n",
        "y/.env": f"REDIS_HOST={secret}\nREDIS_PASSWORD={secret}\n",
        "fly.toml": f"[env]\nREDIS_URL = '{url}'\n[processes]\nw = 'run {secret} & y'\n",
        "docker-compose.yml": "services:\n  a:\n    build: .\n"
        f"    command: x --pw {secret} & y\n"
        f"    environment:\n      REDIS_URL: {url}/3?family=4\n",
        "render.yaml": f"services:\n  - name: w\n    startCommand: run {secret} & y\n"
        f"    envVars:\n      - key: REDIS_URL\n        value: {url}\n",
        "broken.py": f"import redis\nx = '{secret}' +\n",
        "a.py": f"import redis, os\nu = os.getenv('REDIS_URL', '{url}')\n",
        "requirements.txt": f"bullmq @ https://u:{secret}@host/x.whl\nredis\n"
        f"--index-url https://u:{secret}@host\n",
        "package.json": f'{{"dependencies": {{"bullmq": ">=5 {secret}"}}}}',
    }
    report = inspect(projects.write(tmp_path, files))
    assert len(report.verdicts) > 15
    shown = json.dumps(report.as_dict()) + repr(report)
    shown += "\n".join(line for verdict in report.verdicts for line in lines_of(verdict))
    assert secret not in shown
    assert secret.lower() not in shown.lower()


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    outside = projects.write(tmp_path / "outside", {"a.js": ONE_WORKER})
    folder = projects.write(
        tmp_path / "project",
        {
            "large.js": b"x" * (project_files.MOST_BYTES + 1),
            "latin.js": "// caf\xe9".encode("latin-1"),
            "binary.py": b"\0\0",
            "wrong.py": "import redis\ndef (",
            "package.json": "{",
            "fly.toml": "=",
            "compose.yaml": "a: [",
        },
    )
    (folder / "link.js").symlink_to(outside / "a.js")
    (folder / "circle.js").symlink_to(folder / "circle.js")
    (folder / "linked").symlink_to(outside)
    report = inspect(folder)
    reasons = {each.path: each.reason for each in report.skipped}
    assert reasons.keys() == {
        "binary.py",
        "circle.js",
        "compose.yaml",
        "fly.toml",
        "large.js",
        "latin.js",
        "link.js",
        "package.json",
        "wrong.py",
    }
    assert "out of the folder" in reasons["link.js"]


def test_reading_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_files, "MOST_FILES", 3)
    folder = projects.write(tmp_path, {f"{index}.js": "" for index in range(5)})
    report = inspect(folder)
    assert len(report.read) == 3
    assert [each.path for each in report.skipped] == ["further files"]
    monkeypatch.setattr(project_files, "SECONDS", -1.0)
    assert inspect(folder).read == ()


@pytest.mark.parametrize(
    "line",
    [
        "\\'" * 2400,
        "/a[" * 1600,
        "const a = [" * 400,
        "import {" * 600,
        "from [" * 800,
        "`${" * 1000,
    ],
)
def test_brackets_and_quotes_without_end_do_not_hold_it_up(line: str, tmp_path: Path) -> None:
    began = time.process_time()
    inspect(projects.write(tmp_path, {"a.js": f"// redis\n{line}\n" * 30 + "from 'x';\n"}))
    assert time.process_time() - began < 5


def test_a_file_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigurationError, match="is no folder"):
        inspect(tmp_path / "absent")


NAMES = sorted(
    {Path(name).name for name in (*projects.BROKEN, *projects.HEALTHY)}
    | {"fly.toml", "render.yaml", "railway.toml", "Dockerfile", "app.json", "yarn.lock"}
    | {"start.sh", "a.ts", "pnpm-lock.yaml", "pyproject.toml", "health.js"}
)
TEXT = " ".join((*projects.BROKEN.values(), *projects.HEALTHY.values()))
PIECES = [*TEXT.split(), "${", "`", "{", "}", "(", ")", "'", "/", "\n"]
CONTENTS = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")),
    st.lists(st.sampled_from(PIECES), max_size=40).map(lambda found: " ".join(found).encode()),
)
SHARED_FOLDER = [HealthCheck.function_scoped_fixture]


@settings(max_examples=60, deadline=None, suppress_health_check=SHARED_FOLDER)
@given(files=st.dictionaries(st.sampled_from(NAMES), CONTENTS, max_size=6))
def test_no_content_breaks_it(files: dict[str, bytes], tmp_path: Path) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    report = inspect(projects.write(tmp_path, files))
    assert len(report.read) <= len(files)
    json.dumps(report.as_dict())
