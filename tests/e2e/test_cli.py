"""The command line as users meet it: real processes, good and bad input."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.processes import BULLPY, Process, bullpy, worker

import bullpy as package
from bullpy import EmbeddedServer, Queue

APP = """
import os
from bullpy import Worker

worker = Worker(os.environ.get("TEST_QUEUE", "q"))

@worker.processor("double")
def double(job):
    return job.data["n"] * 2
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A folder with app.py, whose worker doubles numbers."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


async def doubled(url: str, queue_name: str, n: int, timeout: float = 15) -> int:
    async with Queue(queue_name, redis=url) as queue:
        job = await queue.add("double", {"n": n})
        return await job.wait_until_finished(timeout)


def assert_one_clear_error(done, code: int, *texts: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1, done.stderr
    for text in texts:
        assert text in done.stderr


# -- the commands --------------------------------------------------------------------------


def test_help_names_the_commands_and_appears_within_half_a_second() -> None:
    times = []
    for _ in range(5):
        started = time.monotonic()
        done = bullpy("--help")
        times.append(time.monotonic() - started)
        assert done.returncode == 0
        assert all(name in done.stdout for name in ("worker", "version", "audio"))
        if times[-1] < 0.5:
            return
    pytest.fail(f"help took {min(times):.2f} s at best")


def test_version_is_readable_and_json() -> None:
    assert f"bullpy       {package.__version__}" in bullpy("version").stdout
    found = json.loads(bullpy("version", "--json").stdout)
    assert found["bullpy"] == package.__version__
    assert found["bullmq"].startswith("3.4.")
    assert re.match(r"\d+\.", found["av's FFmpeg"])
    assert re.match(r"c \((avx2|baseline)\)$|numpy \(no kernel: ", found["audio engine"])


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["wroker"], ["worker", "--concurrency", "many"]]
)
def test_a_wrong_call_is_exit_2_and_says_what_is_wrong(arguments: list[str]) -> None:
    done = bullpy(*arguments)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


# -- targets -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["app", "app:worker", "app.py", "app.py:worker", "./app.py"])
async def test_a_worker_is_found_by_module_and_by_file(
    target: str, app: Path, redis_url: str, queue_name: str
) -> None:
    with worker(target, cwd=app, REDIS_URL=redis_url, TEST_QUEUE=queue_name) as process:
        process.wait_for("ready: queue")
        assert await doubled(redis_url, queue_name, 21) == 42
        assert process.stop() == 0


def test_a_file_finds_the_modules_beside_it(tmp_path: Path, redis_url: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "helper.py").write_text("NAME = 'q'\n")
    (inner / "json.py").write_text(
        "import helper\nfrom bullpy import Worker\n"
        "worker = Worker(helper.NAME)\n"
        "@worker.processor()\ndef any_job(job): ...\n"
    )
    with worker("inner/json.py", cwd=tmp_path, REDIS_URL=redis_url) as process:
        process.wait_for("ready: queue q")
        assert process.stop() == 0


async def test_several_targets_run_in_one_process(
    tmp_path: Path, redis_url: str, queue_name: str
) -> None:
    for name in ("one", "two"):
        text = APP.replace('os.environ.get("TEST_QUEUE", "q")', f'"{queue_name}-{name}"')
        (tmp_path / f"{name}.py").write_text(text)
    with worker("one", "two.py:worker", cwd=tmp_path, REDIS_URL=redis_url) as process:
        process.wait_for("ready: queue")
        process.wait_for("ready: queue")
        assert await doubled(redis_url, f"{queue_name}-one", 1) == 2
        assert await doubled(redis_url, f"{queue_name}-two", 2) == 4
        assert process.stop() == 0


async def test_a_plugin_runs_without_any_code(
    tmp_path: Path, redis_url: str, queue_name: str
) -> None:
    with worker(
        *("--plugin", "process-audio", "--queue", queue_name),
        cwd=tmp_path,
        REDIS_URL=redis_url,
        BULLPY_AUDIO_ROOT=str(tmp_path),
    ) as process:
        process.wait_for("ready: queue")
        async with Queue(queue_name, redis=redis_url) as queue:
            job = await queue.add("process-audio", {"fileKey": "x"})
            with pytest.raises(package.BullpyError, match="jobId"):
                await job.wait_until_finished(15)
        assert process.stop() == 0


def test_flags_win_over_the_environment(app: Path, redis_url: str) -> None:
    with worker(
        *("app", "--redis", redis_url, "--concurrency", "7"),
        cwd=app,
        REDIS_URL="redis://127.0.0.1:1",
        BULLPY_REDIS_HOST="127.0.0.2",
        BULLPY_CONCURRENCY="3",
    ) as process:
        process.wait_for("ready: queue q .* concurrency 7")
        assert process.stop() == 0


@pytest.mark.parametrize(
    ("content", "arguments", "texts"),
    [
        ("", ["none"], ["none cannot be loaded", "No module named"]),
        ("", ["none.py"], ["There is no file none.py"]),
        (APP, ["t:wroker"], ["has no 'wroker'", "worker"]),
        (APP, ["t:double"], ["is a function, not a Worker"]),
        ("x = 1", ["t"], ["holds no Worker"]),
        ("def broken(:", ["t.py"], ["cannot be loaded", "SyntaxError"]),
        ("1 / 0", ["t"], ["cannot be loaded", "ZeroDivisionError"]),
        ("import no_such_thing", ["t"], ["No module named 'no_such_thing'"]),
        ("from bullpy import Worker; Worker('a:b')", ["t"], ["contains a colon"]),
        ("from bullpy import Worker; Worker('')", ["t"], ["queue name is ''"]),
        (APP, ["t", "--concurrency", "0"], ["concurrency=0"]),
        (APP, ["t", "--log-level", "loud"], ["'loud' is no log level"]),
        ("", [], ["nothing to run"]),
        ("", ["--plugin", "process-audio"], ["belong together"]),
        (APP, ["t", "--queue", "q"], ["belong together"]),
        ("", ["--plugin", "no-plugin", "--queue", "q"], ["No installed plugin", "process-audio"]),
        ("", ["--plugin", "process-audio", "--queue", "a:b"], ["contains a colon"]),
        ("", ["--plugin", "process-audio", "--queue", ""], ["queue name is ''"]),
        (
            "from bullpy import Worker; worker = Worker('q', redis='redis://elsewhere')",
            ["t", "--redis", "redis://127.0.0.1:1"],
            ["redis://elsewhere"],
        ),
    ],
)
def test_what_cannot_run_is_one_clear_error(
    content: str, arguments: list[str], texts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "t.py").write_text(content)
    done = bullpy("worker", *arguments, cwd=tmp_path, env={"REDIS_URL": "redis://127.0.0.1:1"})
    assert_one_clear_error(done, 2, *texts)


def test_a_worker_without_a_processor_is_one_clear_error(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "t.py").write_text("from bullpy import Worker\nworker = Worker('q')\n")
    done = bullpy("worker", "t", cwd=tmp_path, env={"REDIS_URL": redis_url})
    assert done.returncode != 0
    assert "no processor" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_traceback_is_shown_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text("1 / 0\n")
    done = bullpy("worker", "t", "--traceback", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    done = bullpy("worker", "t", cwd=tmp_path, env={"BULLPY_TRACEBACK": "1"})
    assert "Traceback" in done.stderr


# -- queue names ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["two words", "queue-größe-队列"])
async def test_queue_names_with_spaces_and_any_script_work(
    name: str, app: Path, redis_url: str
) -> None:
    with worker("app", cwd=app, REDIS_URL=redis_url, TEST_QUEUE=name) as process:
        process.wait_for("ready: queue")
        assert await doubled(redis_url, name, 4) == 8
        assert process.stop() == 0


# -- Redis ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "texts"),
    [
        ("", ["empty"]),
        ("http://127.0.0.1:6379", ["http://", "redis://"]),
        ("redis://127.0.0.1:99999", ["99999"]),
        ("redis://127.0.0.1:6379/one", ["'one' is not a number"]),
    ],
)
def test_a_wrong_url_is_one_clear_error(url: str, texts: list[str], app: Path) -> None:
    for how in ({"REDIS_URL": url}, {}):
        arguments = [] if how else ["--redis", url]
        done = bullpy("worker", "app", *arguments, cwd=app, env=how)
        assert_one_clear_error(done, 2, *texts)
        assert ("REDIS_URL" if how else "--redis") in done.stderr


def test_no_url_at_all_is_one_clear_error(app: Path) -> None:
    assert_one_clear_error(bullpy("worker", "app", cwd=app), 2, "REDIS_URL")


@pytest.fixture
def http_server() -> Iterator[int]:
    """The port of an HTTP server."""

    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_is_not_redis_is_one_clear_error(app: Path, http_server: int) -> None:
    done = bullpy("worker", "app", "--redis", f"redis://127.0.0.1:{http_server}", cwd=app)
    assert_one_clear_error(done, 1, "is not Redis", "HTTP")


def test_tls_to_a_plain_port_is_one_clear_error(app: Path, server: EmbeddedServer) -> None:
    done = bullpy("worker", "app", "--redis", f"rediss://127.0.0.1:{server.port}", cwd=app)
    assert_one_clear_error(done, 1, "speaks no TLS", "redis://")


@pytest.mark.parametrize("user", ["", ":wrong@", "nobody:wrong@"])
def test_a_wrong_password_is_one_clear_error_that_does_not_show_it(user: str, app: Path) -> None:
    with EmbeddedServer(password=True) as server:
        url = f"redis://{user}127.0.0.1:{server.port}"
        done = bullpy("worker", "app", cwd=app, env={"REDIS_URL": url})
    assert_one_clear_error(done, 1, "password")
    assert ":wrong" not in done.stderr


def test_a_database_that_does_not_exist_is_one_clear_error(
    app: Path, server: EmbeddedServer
) -> None:
    done = bullpy("worker", "app", "--redis", f"redis://127.0.0.1:{server.port}/99", cwd=app)
    assert_one_clear_error(done, 1, "no database 99")


async def test_a_server_that_is_down_at_the_start_is_said_at_once_and_waited_for(
    app: Path, own_server: EmbeddedServer, queue_name: str
) -> None:
    url = own_server.url
    own_server.stop()
    with worker("app", cwd=app, REDIS_URL=url, TEST_QUEUE=queue_name) as process:
        process.wait_for("no connection to Redis: Nothing listens at", timeout=5)
        started = time.monotonic()
        own_server.start()
        assert await doubled(url, queue_name, 3) == 6
        assert time.monotonic() - started < 2.5
        assert "Traceback" not in process.output
        assert process.stop() == 0


def test_a_server_that_accepts_and_says_nothing_is_said_within_a_second(app: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        with worker("app", cwd=app, REDIS_URL=url) as process:
            process.wait_for("no answer from redis://127.0.0.1", timeout=5)


# -- the end -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_lets_the_running_job_finish(
    number: signal.Signals, tmp_path: Path, redis_url: str, queue_name: str
) -> None:
    (tmp_path / "slow.py").write_text(
        "import asyncio, sys\nfrom bullpy import Worker\n"
        f"worker = Worker({queue_name!r})\n"
        "@worker.processor()\n"
        "async def slow(job):\n"
        "    print('begun', flush=True)\n"
        "    await asyncio.sleep(1)\n"
        "    return 'whole'\n"
    )
    with worker("slow", cwd=tmp_path, REDIS_URL=redis_url) as process:
        async with Queue(queue_name, redis=redis_url) as queue:
            job = await queue.add("any", {})
            process.wait_for("begun")
            assert process.stop(number) == 0
            assert await job.wait_until_finished(5) == "whole"
        assert "Traceback" not in process.output


def test_ctrl_c_while_redis_is_down_ends_at_once(app: Path) -> None:
    with worker("app", cwd=app, REDIS_URL="redis://127.0.0.1:1") as process:
        process.wait_for("no connection to Redis")
        started = time.monotonic()
        assert process.stop(signal.SIGINT) == 0
        assert time.monotonic() - started < 3
        assert "Traceback" not in process.output


def test_ctrl_c_while_the_module_loads_is_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text("print('loading', flush=True)\nimport time\ntime.sleep(60)\n")
    with Process(*BULLPY, "worker", "t", cwd=tmp_path) as process:
        process.wait_for("loading")
        assert process.stop(signal.SIGINT) == 130
        assert "Traceback" not in process.output
