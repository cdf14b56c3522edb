"""`bullpy job` as users type it, beside a worker in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import BULLPY, ROOT, Process, bullpy, environment, worker

from bullpy import Job, Queue

APP = """
import asyncio, os
from bullpy import Worker

worker = Worker(os.environ["TEST_QUEUE"], concurrency=2)

@worker.processor("hold")
async def hold(job):
    print("begun", job.id, flush=True)
    await asyncio.sleep(3600)

@worker.processor("deaf")
async def deaf(job):
    print("begun", job.id, flush=True)
    while True:
        try:
            return await asyncio.sleep(job.data, "whole")
        except asyncio.CancelledError:
            print("heard", job.id, flush=True)
"""


@pytest.fixture
def running(tmp_path: Path, redis_url: str, queue_name: str) -> Iterator[Process]:
    (tmp_path / "app.py").write_text(APP)
    with worker("app", cwd=tmp_path, REDIS_URL=redis_url, TEST_QUEUE=queue_name) as process:
        process.wait_for("ready: queue")
        yield process


@pytest.fixture
async def queue(queue_name: str, redis_url: str) -> AsyncIterator[Queue]:
    async with Queue(queue_name, redis=redis_url) as opened:
        yield opened


async def begun(queue: Queue, process: Process, name: str, **options: Any) -> Job[Any]:
    job = await queue.add(name, options.pop("data", None), **options)
    await asyncio.to_thread(process.wait_for, f"begun {job.id}")
    return job


async def cancel(queue: Queue, *arguments: str) -> subprocess.CompletedProcess[str]:
    url = queue.redisConnection.settings.masked_url
    where = ("--queue", queue.name, "--redis", url)
    return await asyncio.to_thread(bullpy, "job", "cancel", *arguments, *where)


async def test_a_running_job_is_cancelled_and_the_command_says_so(
    running: Process, queue: Queue
) -> None:
    job = await begun(queue, running, "hold", attempts=3)
    done = await cancel(queue, job.id, "--reason", "the wrong file", "--yes")
    assert done.returncode == 0, done.stderr
    said = f"job {job.id} is cancelled: The job was cancelled: the wrong file"
    assert done.stdout.rstrip(".\n") == said
    assert done.stderr == ""
    assert await job.get_state() == "failed"


async def test_a_job_that_removes_itself_is_seen_to_be_cancelled(
    running: Process, queue: Queue
) -> None:
    job = await begun(queue, running, "hold", remove_on_fail=True)
    done = await cancel(queue, job.id, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("worker")
    assert found == {
        "id": job.id,
        "queue": queue.name,
        "outcome": "cancelled",
        "failedReason": "The job was cancelled.",
    }
    assert await queue.get_job(job.id) is None


async def test_a_job_that_does_not_listen_still_runs(running: Process, queue: Queue) -> None:
    job = await begun(queue, running, "deaf", data=3600)
    done = await cancel(queue, job.id, "--yes", "--timeout", "1.5")
    assert done.returncode == 1
    assert f"job {job.id} still runs on " in done.stdout
    assert "after 1.5 s" in done.stdout
    await asyncio.to_thread(running.wait_for, f"heard {job.id}")


async def test_a_job_that_completes_anyway_is_said_to(running: Process, queue: Queue) -> None:
    job = await begun(queue, running, "deaf", data=1)
    done = await cancel(queue, job.id, "--yes", "--json", "--timeout", "20")
    assert done.returncode == 1
    assert json.loads(done.stdout)["outcome"] == "completed"


async def test_a_job_that_is_handed_back_instead_is_said_to(running: Process, queue: Queue) -> None:
    job = await begun(queue, running, "deaf", data=3600)
    asking = asyncio.create_task(cancel(queue, job.id, "--yes", "--timeout", "20"))
    await asyncio.to_thread(running.wait_for, f"heard {job.id}")
    running.send(signal.SIGINT)
    await asyncio.to_thread(running.wait_for, "stop fetching")
    running.send(signal.SIGINT)
    done = await asking
    assert done.returncode == 1
    assert done.stdout == f"job {job.id} left its worker before it was cancelled: waiting\n"


async def test_without_waiting_the_request_is_placed(running: Process, queue: Queue) -> None:
    job = await begun(queue, running, "hold")
    done = await cancel(queue, job.id, "--yes", "--timeout", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("asked ")
    with pytest.raises(Exception, match=r"The job was cancelled\."):
        await job.wait_until_finished(10)


async def test_a_job_that_does_not_run_is_one_clear_error(queue: Queue) -> None:
    job = await queue.add("hold")
    for arguments, code, text in [
        ([job.id], "job-state", f"Job {job.id} is waiting"),
        (["17"], "job-not-found", f"There is no job 17 in queue {queue.name}"),
    ]:
        done = await cancel(queue, *arguments, "--yes", "--json")
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {text}")
        assert "fix:" in done.stderr
        found = json.loads(done.stdout)
        assert (found["outcome"], found["error"]["code"]) == ("error", code)
    await queue.obliterate(force=True)


async def test_another_prefix_is_another_queue(running: Process, queue: Queue) -> None:
    job = await begun(queue, running, "hold")
    done = await cancel(queue, job.id, "--yes", "--prefix", "other")
    assert done.returncode == 1
    assert "There is no job" in done.stderr


def test_without_a_terminal_it_wants_yes() -> None:
    done = bullpy("job", "cancel", "1", "--queue", "q", "--redis", "redis://127.0.0.1:1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: Cancelling job 1 was not confirmed.")
    assert "--yes" in done.stderr


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1), (b"\n", 1)])
async def test_on_a_terminal_it_asks(
    running: Process, queue: Queue, answer: bytes, code: int
) -> None:
    job = await begun(queue, running, "hold")
    url = queue.redisConnection.settings.masked_url
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        process = await asyncio.create_subprocess_exec(
            *(*BULLPY, "job", "cancel", job.id, "--queue", queue.name, "--redis", url),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
        )
        async with asyncio.timeout(20):
            out, err = await process.communicate()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == code, err
    assert b"It fails and is not retried. [y/N]" in err
    assert (await job.get_state() == "failed") is (code == 0)
    assert bool(out) is (code == 0)
    assert (b"Nothing was done." in err) is (code == 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["1"], "--queue"),
        (["--queue", "q"], "ID"),
        (["1", "--queue", "q", "--timeout", "-1"], "timeout"),
        (["1", "--queue", "a:b", "--yes", "--redis", "redis://127.0.0.1:1"], "contains a colon"),
        (["1", "--queue", "q", "--yes", "--redis", "http://x"], "http://"),
        (["1", "--queue", "q", "--yes"], "REDIS_URL"),
    ],
)
def test_a_wrong_call_is_exit_2(arguments: list[str], text: str) -> None:
    done = bullpy("job", "cancel", *arguments)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reason_that_is_too_long_is_exit_2(redis_url: str) -> None:
    where = ("--queue", "q", "--yes", "--redis", redis_url)
    done = bullpy("job", "cancel", "1", *where, "--reason", "x" * 1001)
    assert done.returncode == 2
    assert "1001 characters" in done.stderr


def test_a_server_that_is_down_is_one_clear_error() -> None:
    where = ("--queue", "q", "--yes", "--redis", "redis://127.0.0.1:1")
    done = bullpy("job", "cancel", "1", *where, timeout=8)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Nothing listens at redis://127.0.0.1:1")


async def look(queue: Queue, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    url = queue.redisConnection.settings.masked_url
    where = ("--queue", queue.name, "--redis", url)
    return await asyncio.to_thread(bullpy, "job", command, *arguments, *where)


async def test_a_running_job_is_shown_with_its_worker_and_without_its_data(
    running: Process, queue: Queue
) -> None:
    job = await begun(queue, running, "hold", data={"card": "4111"})
    done = await look(queue, "show", job.id, "--timeline")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"job {job.id} of queue {queue.name}: active\n")
    assert " lock " in done.stdout
    assert " active on " in done.stdout
    assert "4111" not in done.stdout
    found = json.loads((await look(queue, "show", job.id, "--data", "--json")).stdout)
    assert found["data"]["data"] == {"card": "4111"}
    assert found["lock_for"] > 0
    assert "steps" not in found


async def test_a_job_is_followed_until_it_fails_and_another_until_the_timeout(
    running: Process, queue: Queue
) -> None:
    job = await queue.add("hold")
    following = asyncio.create_task(look(queue, "follow", job.id, "--json", "--timeout", "20"))
    other = await look(queue, "follow", job.id, "--timeout", "0.5")
    assert other.returncode == 124
    assert other.stdout.endswith("the job has not finished after 0.5 s\n")
    assert " active on " in other.stdout
    await queue.cancel(job.id, "enough")
    done = await following
    assert done.returncode == 1, done.stderr
    *steps, end = map(json.loads, done.stdout.splitlines())
    assert [step["step"] for step in steps][:3] == ["created", "waiting", "active"]
    assert (end["outcome"], end["failedReason"]) == ("failed", "The job was cancelled: enough.")


async def test_a_job_that_completes_ends_the_command_with_0(running: Process, queue: Queue) -> None:
    job = await begun(queue, running, "deaf", data=0.2)
    done = await look(queue, "follow", job.id)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "the job has completed"
    assert "whole" not in done.stdout


@pytest.mark.parametrize("command", ["show", "follow"])
async def test_a_job_that_never_was_is_one_clear_error(queue: Queue, command: str) -> None:
    done = await look(queue, command, "17", "--json")
    assert done.returncode == 1
    assert done.stderr.startswith("error: There is no job 17 in queue")
    assert json.loads(done.stdout)["error"]["code"] == "job-not-found"
