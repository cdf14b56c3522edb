"""`bullpy worker --processes` as operators meet it: run, killed, stopped, misconfigured."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from support.processes import Process, bullpy, run, worker

from bullpy import EmbeddedServer, Queue

MEETING = """
import asyncio, os
from bullpy import Worker

worker = Worker({queue!r}, **{keywords})

@worker.processor("meet")
async def meet(job):
    "Ends once as many jobs run as are expected: with concurrency 1, each in its own process."
    await worker.client.incr(job.data["key"])
    while int(await worker.client.get(job.data["key"])) < job.data["expected"]:
        await asyncio.sleep(0.005)
    return os.getpid()

@worker.processor("long")
async def long(job):
    os.write(1, b"begun\\n")  # in one piece, beside other processes
    await asyncio.sleep(job.data["seconds"])
    return os.getpid()
"""

UNTIL_SECOND_LOAD = """
from pathlib import Path
loaded = Path("loaded")
first, _ = not loaded.exists(), loaded.touch()
"""
"""The parent loads the module first, then its worker processes do."""


@pytest.fixture
def app(tmp_path: Path, queue_name: str) -> Path:
    """A folder with app.py, whose worker runs jobs that meet, and long ones."""
    (tmp_path / "app.py").write_text(MEETING.format(queue=queue_name, keywords={}))
    return tmp_path


async def meet(url: str, queue_name: str, number: int) -> tuple[set[int], set[str]]:
    """Run that many jobs at a time; gives the processes' ids, and the workers' names."""
    async with Queue(queue_name, redis=url) as queue:
        key = f"{queue_name}:meeting:{os.urandom(4).hex()}"
        jobs = [
            await queue.add("meet", {"key": key, "expected": number}, remove_on_complete=False)
            for _ in range(number)
        ]
        pids = await asyncio.gather(*(job.wait_until_finished(20) for job in jobs))
        done = [await queue.get_job(job.id) for job in jobs]
        return set(pids), {job.processedBy for job in done}


def wait_until_ready(process: Process, number: int) -> dict[int, int]:
    """The process id of each worker process, by its number."""
    found = [
        process.wait_for(r"worker process (\d+) \(pid (\d+)\) is ready") for _ in range(number)
    ]
    return {int(match[1]): int(match[2]) for match in found}


def wait_until_all_are_gone(process: Process) -> None:
    """The output ends when the last process that could write to it has ended."""
    with pytest.raises(AssertionError, match="ended before a line matched"):
        process.wait_for("no line is like this", timeout=20)


def assert_one_clear_error(done, code: int, *texts: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    assert all(text in done.stderr for text in texts), done.stderr


# -- running -------------------------------------------------------------------------------


async def test_all_worker_processes_run_jobs_under_names_of_their_own(
    app: Path, redis_url: str, queue_name: str
) -> None:
    with worker("app", "--processes", "3", cwd=app, REDIS_URL=redis_url) as process:
        ready = wait_until_ready(process, 3)
        pids, names = await meet(redis_url, queue_name, 3)
        assert pids == set(ready.values())
        assert len(names) == 3
        assert process.stop() == 0
        assert "all worker processes have stopped; restarts: 0" in process.output


@pytest.mark.parametrize("where", ["variable", "code"])
async def test_a_name_that_the_user_chose_gets_a_number(
    where: str, tmp_path: Path, redis_url: str, queue_name: str
) -> None:
    keywords = {"worker_name": "mill"} if where == "code" else {}
    env = {"BULLPY_NAME": "mill"} if where == "variable" else {}
    (tmp_path / "app.py").write_text(MEETING.format(queue=queue_name, keywords=keywords))
    with worker("app", "--processes=2", cwd=tmp_path, REDIS_URL=redis_url, **env) as process:
        wait_until_ready(process, 2)
        _, names = await meet(redis_url, queue_name, 2)
        assert names == {"mill:1", "mill:2"}
        async with Queue(queue_name, redis=redis_url) as queue:
            clients = [found["name"] for found in await queue.client.client_list()]
            ends = [name.rpartition(":w:")[2] for name in clients if ":w:mill" in name]
            assert sorted(ends) == ["mill:1", "mill:2"]
        assert process.stop() == 0


async def test_options_reach_the_worker_processes_and_a_password_shows_in_no_process_list(
    app: Path, queue_name: str
) -> None:
    with EmbeddedServer(password=True) as server:
        arguments = ["--concurrency", "7", "--log-format", "json", "--processes", "2"]
        # --redis is on the parent's own command line, where the user put it.
        with worker(
            *("app:worker", "--redis", server.url, *arguments),
            cwd=app,
            REDIS_URL="redis://127.0.0.1:1",
            BULLPY_REDIS_HOST="127.0.0.2",
        ) as process:
            pids = wait_until_ready(process, 2).values()
            assert len(re.findall(r'"message": "ready: .* concurrency 7', process.output)) == 2
            for pid in pids:
                shown = run("ps", "-o", "args=", "-p", str(pid)).stdout
                assert "bullpy worker" in shown
                assert server.url not in shown
                assert "--redis" not in shown
            assert process.stop() == 0


async def test_a_plugin_runs_in_several_processes(
    tmp_path: Path, redis_url: str, queue_name: str
) -> None:
    with worker(
        *("--plugin", "process-audio", "--queue", queue_name, "--processes", "2"),
        cwd=tmp_path,
        REDIS_URL=redis_url,
        BULLPY_AUDIO_ROOT=str(tmp_path),
    ) as process:
        wait_until_ready(process, 2)
        assert process.stop() == 0


def test_modules_of_the_folder_hide_none_that_bullpy_needs(app: Path, redis_url: str) -> None:
    for name in ("asyncio", "logging", "typer"):
        (app / f"{name}.py").write_text("1 / 0\n")
    # As the command `bullpy` starts: without the current folder among the modules.
    command = [sys.executable, "-P", "-m", "bullpy", "worker", "app", "--processes", "1"]
    with Process(*command, cwd=app, env={"REDIS_URL": redis_url}) as process:
        wait_until_ready(process, 1)
        assert process.stop() == 0


# -- how many ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "many", "", "1025", "9" * 5000, "²", "1_0"])
def test_a_number_that_is_none_is_one_clear_error(number: str, app: Path) -> None:
    done = bullpy("worker", "app", f"--processes={number}", cwd=app)
    assert_one_clear_error(done, 2, "--processes is", "auto")


@pytest.mark.parametrize(
    ("kind", "concurrency", "expected"),
    [("async def", 3, 4), ("def", 1, 4), ("def", 3, 2), ("def", 4, 1), ("def", 9, 1)],
)
def test_auto_fits_the_cpus_to_what_one_process_uses(
    kind: str, concurrency: int, expected: int, tmp_path: Path, redis_url: str, queue_name: str
) -> None:
    (tmp_path / "app.py").write_text(
        "import os\n"
        "os.sched_getaffinity = lambda pid: {0, 1, 2, 3}\n"
        "from bullpy import Worker, cpus\n"
        "cpus.quota = lambda root: None\n"
        f"worker = Worker({queue_name!r})\n"
        f"@worker.processor()\n{kind} any_job(job): ...\n"
    )
    arguments = ["--processes", "auto", "--concurrency", str(concurrency)]
    with worker("app", *arguments, cwd=tmp_path, REDIS_URL=redis_url) as process:
        ready = wait_until_ready(process, expected)
        assert process.stop() == 0
    assert sorted(ready) == list(range(1, expected + 1))
    assert process.output.count(") started") == expected


# -- restarts ------------------------------------------------------------------------------


async def test_a_killed_worker_process_is_restarted_and_jobs_go_on(
    app: Path, redis_url: str, queue_name: str
) -> None:
    with worker("app", "--processes", "2", cwd=app, REDIS_URL=redis_url) as process:
        ready = wait_until_ready(process, 2)
        os.kill(ready[1], signal.SIGKILL)
        process.wait_for(rf"worker process 1 \(pid {ready[1]}\) ended: SIGKILL; restart in 0.5 s")
        again = wait_until_ready(process, 1)
        assert list(again) == [1]
        pids, _ = await meet(redis_url, queue_name, 2)
        assert pids == {again[1], ready[2]}
        assert process.stop() == 0
        assert "restarts: 1" in process.output


def test_a_worker_process_that_somebody_stops_is_restarted(app: Path, redis_url: str) -> None:
    with worker("app", "--processes", "1", cwd=app, REDIS_URL=redis_url) as process:
        ready = wait_until_ready(process, 1)
        os.kill(ready[1], signal.SIGTERM)
        process.wait_for("ended: exit code 0; restart in 0.5 s")
        wait_until_ready(process, 1)
        assert process.stop() == 0


# -- stopping ------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["parent", "terminal", "everyone"])
async def test_the_first_signal_lets_all_processes_finish_their_jobs(
    to: str, app: Path, redis_url: str, queue_name: str
) -> None:
    with worker("app", "--processes", "2", cwd=app, REDIS_URL=redis_url) as process:
        ready = wait_until_ready(process, 2)
        async with Queue(queue_name, redis=redis_url) as queue:
            jobs = [await queue.add("long", {"seconds": 1}) for _ in range(2)]
            for _ in jobs:
                process.wait_for("begun")
            if to == "parent":
                process.send(signal.SIGTERM)
            elif to == "everyone":
                # As systemd does it; the parent signals its worker processes too.
                for pid in (*ready.values(), process.pid):
                    os.kill(pid, signal.SIGTERM)
            else:
                # Ctrl-C goes to all processes of the terminal's foreground group.
                os.killpg(process.pid, signal.SIGINT)
            assert process.end() == 0
            assert len({await job.wait_until_finished(5) for job in jobs}) == 2
        assert process.output.count("SIGTERM: stop fetching") == 2
        assert "hand the jobs back" not in process.output
        assert len(re.findall(r"stopped: exit code 0", process.output)) == 2
        assert "Traceback" not in process.output


async def test_the_second_signal_hands_the_jobs_back(
    app: Path, redis_url: str, queue_name: str
) -> None:
    with worker("app", "--processes", "2", cwd=app, REDIS_URL=redis_url) as process:
        wait_until_ready(process, 2)
        async with Queue(queue_name, redis=redis_url) as queue:
            for _ in range(2):
                await queue.add("long", {"seconds": 600})
            for _ in range(2):
                process.wait_for("begun")
            process.send(signal.SIGTERM)
            for _ in range(2):
                process.wait_for("SIGTERM: stop fetching")
            assert process.stop() == 0
            counts = await queue.get_job_counts("wait", "active")
            assert counts == {"wait": 2, "active": 0}
        assert process.output.count("hand the jobs back now") == 2


async def test_no_worker_process_outlives_a_killed_parent(
    app: Path, redis_url: str, queue_name: str
) -> None:
    with worker("app", "--processes", "2", cwd=app, REDIS_URL=redis_url) as process:
        wait_until_ready(process, 2)
        async with Queue(queue_name, redis=redis_url) as queue:
            jobs = [await queue.add("long", {"seconds": 1}) for _ in range(2)]
            for _ in jobs:
                process.wait_for("begun")
            process.send(signal.SIGKILL)
            wait_until_all_are_gone(process)
            # As on SIGTERM: they have finished what they ran.
            assert len({await job.wait_until_finished(5) for job in jobs}) == 2
        assert process.output.count("the parent process is gone") == 2


async def test_a_parent_that_is_killed_while_its_processes_drain_does_not_hurry_them(
    app: Path, redis_url: str, queue_name: str
) -> None:
    with worker("app", "--processes", "1", cwd=app, REDIS_URL=redis_url) as process:
        wait_until_ready(process, 1)
        async with Queue(queue_name, redis=redis_url) as queue:
            job = await queue.add("long", {"seconds": 1})
            process.wait_for("begun")
            process.send(signal.SIGTERM)
            process.wait_for("SIGTERM: stop fetching")
            process.send(signal.SIGKILL)
            wait_until_all_are_gone(process)
            await job.wait_until_finished(5)
        assert "hand the jobs back" not in process.output


STUCK = """
import time
from bullpy import Worker, supervisor

supervisor.MARGIN = 0.2 - supervisor.HURRY_TIMEOUT
worker = Worker({queue!r}, shutdown_timeout=0)

@worker.processor()
async def blocks_the_loop(job):
    print("begun", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 128 + signal.SIGKILL), (signal.SIGKILL, -signal.SIGKILL)]
)
async def test_a_stuck_worker_process_is_killed_whether_or_not_its_parent_lives(
    number: signal.Signals, code: int, tmp_path: Path, redis_url: str, queue_name: str
) -> None:
    (tmp_path / "t.py").write_text(STUCK.format(queue=queue_name))
    with worker("t", "--processes", "1", cwd=tmp_path, REDIS_URL=redis_url) as process:
        wait_until_ready(process, 1)
        async with Queue(queue_name, redis=redis_url) as queue:
            await queue.add("any", {})
            process.wait_for("begun")
            process.send(number)
            wait_until_all_are_gone(process)
        assert process.end() == code


def test_a_signal_while_the_worker_processes_load_is_a_clean_end(app: Path, redis_url: str) -> None:
    loading = "if not first:\n    import os, time; os.write(1, b'loading\\n'); time.sleep(600)\n"
    (app / "slow.py").write_text(UNTIL_SECOND_LOAD + loading + (app / "app.py").read_text())
    with worker("slow", "--processes", "2", cwd=app, REDIS_URL=redis_url) as process:
        for _ in range(2):
            process.wait_for("loading")
        assert process.stop() == 0
        assert "Traceback" not in process.output


# -- what cannot run -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "arguments", "text"),
    [
        ("1 / 0", ["t"], "ZeroDivisionError"),
        ("", ["t"], "holds no Worker"),
        ("from bullpy import Worker; w = Worker('q')", ["t", "--concurrency=0"], "concurrency=0"),
        ("", [], "nothing to run"),
    ],
)
def test_a_wrong_configuration_ends_before_any_process_starts(
    content: str, arguments: list[str], text: str, tmp_path: Path
) -> None:
    (tmp_path / "t.py").write_text(content)
    done = bullpy(
        *("worker", *arguments, "--processes", "3"),
        cwd=tmp_path,
        env={"REDIS_URL": "redis://127.0.0.1:1"},
    )
    assert_one_clear_error(done, 2, text)
    assert "started" not in done.stderr


def test_a_wrong_password_ends_before_any_process_starts(app: Path) -> None:
    with EmbeddedServer(password=True) as server:
        url = f"redis://:wrong@127.0.0.1:{server.port}"
        done = bullpy("worker", "app", "--processes", "3", cwd=app, env={"REDIS_URL": url})
    assert_one_clear_error(done, 1, "password")
    assert ":wrong" not in done.stderr
    assert "started" not in done.stderr


@pytest.mark.parametrize(
    ("failing", "code"),
    [
        ("if not first: raise ValueError('no such model')\n", 2),
        ("if not first: import os; os._exit(3)\n", 3),
    ],
)
def test_what_only_the_worker_processes_find_wrong_ends_all_at_once(
    failing: str, code: int, app: Path, redis_url: str
) -> None:
    (app / "t.py").write_text(UNTIL_SECOND_LOAD + failing + (app / "app.py").read_text())
    done = bullpy("worker", "t", "--processes", "2", cwd=app, env={"REDIS_URL": redis_url})
    assert done.returncode == code, done.stderr
    assert "ended before it was ready" in done.stderr
    assert "restart in" not in done.stderr


def test_a_lifespan_that_fails_ends_all_at_once(app: Path, redis_url: str) -> None:
    failing = "\n@worker.lifespan\nasync def broken(worker):\n    1 / 0\n    yield {}\n"
    (app / "t.py").write_text((app / "app.py").read_text() + failing)
    done = bullpy("worker", "t", "--processes", "2", cwd=app, env={"REDIS_URL": redis_url})
    assert done.returncode == 1, done.stderr
    assert "restart in" not in done.stderr


async def test_redis_that_is_down_at_the_start_is_waited_for(
    app: Path, own_server: EmbeddedServer, queue_name: str
) -> None:
    url = own_server.url
    own_server.stop()
    with worker("app", "--processes", "2", cwd=app, REDIS_URL=url) as process:
        for _ in range(2):
            process.wait_for("no connection to Redis")
        own_server.start()
        wait_until_ready(process, 2)
        await meet(url, queue_name, 2)
        assert process.stop() == 0
        assert "restart in" not in process.output
