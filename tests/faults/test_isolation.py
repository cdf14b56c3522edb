"""Whatever a processor does in its child process, it is one job that is affected."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support import isolated, isolated_fragile
from support.faults import Program, eventually
from support.isolated_bench import (
    LONGEST_LAG,
    Bench,
    below,
    has_ended,
    is_gone,
    loop_lag,
    records,
)

from bullpy import Backoff, FlowProducer, Job, Queue, errors
from bullpy.executors.output import LINES_PER_SECOND, LONGEST_LINE


@pytest.fixture
async def bench(redis_url: str, queue: Queue, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(redis_url, queue, tmp_path)
    yield made
    await made.close()


def frame_of(function: Callable[..., Any]) -> str:
    """How faulthandler writes a frame of this function."""
    return f"in {function.__name__}"


# -- crashes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason", "cause"),
    [
        (isolated.segfault, "was killed by SIGSEGV", "memory that is not its own"),
        (isolated.abort, "was killed by SIGABRT", "abort"),
        (isolated.leave_at_once, "ended with exit code 3", "os._exit()"),
        (isolated.killed, "was killed by SIGKILL", "probably out of memory"),
    ],
)
async def test_crash_fails_that_job_alone_and_says_how_it_ended(
    bench: Bench, bad: Any, reason: str, cause: str
) -> None:
    await bench.hire(bad)
    ended = await bench.ordeal()
    assert reason in ended.reason
    assert cause in ended.reason
    assert ended.job.id in ended.reason
    assert ended.job.attempts_made == ended.job.attempts_started == 1
    error = bench.ledger.failed[ended.job.id][0]
    assert isinstance(error, errors.ChildCrashedError)


@pytest.mark.parametrize("bad", [isolated.segfault, isolated.segfault_silently, isolated.abort])
async def test_crash_leaves_the_stack_in_the_stacktrace_and_in_the_log(
    bench: Bench, bad: Any
) -> None:
    await bench.hire(bad)
    ended = await bench.fails(await bench.queue.add("bad"))
    for text in (ended.trace, ended.log):
        assert "Fatal Python error" in text
        assert frame_of(bad) in text
    if bad is isolated.segfault:
        assert "the last words" in ended.trace
        assert "the last words" in ended.log


async def test_last_words_after_a_flood_of_lines_are_kept(bench: Bench) -> None:
    await bench.hire(isolated.crash_after_flood)
    ended = await bench.ordeal()
    assert "the last words" in ended.trace
    assert frame_of(isolated.crash_after_flood) in ended.trace
    assert "noise 0\n" not in ended.trace


async def test_last_words_are_those_of_the_job_that_crashed(bench: Bench) -> None:
    await bench.hire(isolated.flood_and_return, concurrency=1, crash=isolated.abort)
    first = await bench.queue.add("bad")
    second = await bench.queue.add("crash")
    await bench.completes(first)
    ended = await bench.fails(second)
    assert frame_of(isolated.abort) in ended.trace
    assert "noise of another job" not in ended.trace


async def test_child_killed_from_outside_fails_its_job(bench: Bench) -> None:
    await bench.hire(isolated.say_pid_and_pause)
    async with bench.siblings():
        bad = await bench.queue.add("bad")
        os.kill(await bench.progress_of(bad.id), signal.SIGKILL)
        ended = await bench.fails(bad)
    await bench.others_complete()
    assert "SIGKILL" in ended.reason
    assert "probably out of memory" in ended.reason


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_idle_child_killed_from_outside_costs_no_job(bench: Bench, is_noticed: bool) -> None:
    await bench.hire(concurrency=1)
    first = await bench.completes(await bench.queue.add("pid"))
    if not is_noticed:
        # It dies while the job is on its way to it.
        bench.worker.once("active", lambda *_: os.kill(first, signal.SIGKILL))
        assert await bench.completes(await bench.queue.add("pid")) != first
        return
    os.kill(first, signal.SIGKILL)

    async def collected() -> bool:
        return first not in {seen.pid for seen in bench.children()}

    await eventually(collected, 5.0)
    assert await bench.completes(await bench.queue.add("pid")) != first
    await bench.others_complete()


async def test_job_that_crashes_twice_is_run_no_more(bench: Bench) -> None:
    await bench.hire(isolated.segfault)
    ended = await bench.ordeal(attempts=5)
    assert ended.job.attempts_made == ended.job.attempts_started == 2
    assert "crashed 2 times" in ended.reason
    assert ended.trace.count("Fatal Python error") == 2


async def test_crashes_are_counted_across_workers(bench: Bench) -> None:
    # Each of them sees only one of the crashes.
    first = await bench.hire(isolated.segfault, concurrency=1)
    bad = await bench.queue.add("bad", attempts=5, backoff=Backoff.fixed(0.7))
    await bench.ledger.until(lambda: bad.id in bench.ledger.failed, 10.0)
    await first.close()
    await bench.hire(isolated.segfault, concurrency=1)
    ended = await bench.fails(bad)
    assert ended.job.attempts_made == 2
    assert "crashed 2 times" in ended.reason


async def test_max_crashes_is_a_setting(bench: Bench) -> None:
    await bench.hire(isolated.leave_at_once, max_crashes=3)
    ended = await bench.fails(await bench.queue.add("bad", attempts=9))
    assert ended.job.attempts_made == 3
    assert "crashed 3 times" in ended.reason


# -- exceptions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("exit", "SystemExit: 3"),
        ("exit with text", "SystemExit: no more"),
        ("interrupt", "KeyboardInterrupt"),
        ("cancelled", "CancelledError"),
        ("generator", "GeneratorExit"),
        ("iteration", "StopIteration"),
        ("unprintable", "UnprintableError"),
        ("unpicklable", "UnpicklableError: with a lock"),
        ("surrogates", "broken"),
        ("group", "BaseExceptionGroup: g"),
        ("empty", "Exception"),
    ],
)
async def test_exception_fails_that_job_alone_with_its_traceback(
    bench: Bench, kind: str, reason: str
) -> None:
    worker = await bench.hire(isolated.raises)
    before = {seen.pid for seen in bench.children()}
    ended = await bench.ordeal(kind)
    assert reason in ended.reason
    assert "in raises" in ended.trace
    assert "isolated.py" in ended.trace
    # Nothing of bullpy's own between the reader and the processor.
    assert "child.py" not in ended.trace
    assert worker.exit_code == 0
    # An exception is no reason for another child.
    assert before <= {seen.pid for seen in bench.children()}


async def test_exceptions_are_retried_as_the_job_says(bench: Bench) -> None:
    await bench.hire(isolated.raises)
    ended = await bench.ordeal("exit", attempts=3)
    assert ended.job.attempts_made == 3


async def test_endless_recursion_fails_that_job_alone(bench: Bench) -> None:
    await bench.hire(isolated.raises_deeply)
    ended = await bench.ordeal()
    assert "RecursionError" in ended.reason


async def test_huge_message_is_cut(bench: Bench) -> None:
    await bench.hire(isolated.raises)
    async with loop_lag() as worst:
        ended = await bench.ordeal("huge")
    assert ended.reason.startswith("ValueError: xxx")
    assert len(ended.reason) <= 16384
    assert len(ended.trace) <= 32768
    assert worst() < LONGEST_LAG


# -- results -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("object", "no JSON form"), ("bytes", "no JSON form"), ("endless", "nested too deeply")],
)
async def test_result_without_json_form_fails_once(bench: Bench, kind: str, reason: str) -> None:
    await bench.hire(isolated.returns)
    ended = await bench.ordeal(kind, attempts=3)
    assert reason in ended.reason
    assert ended.job.attempts_started == 1


@pytest.mark.parametrize(
    ("kind", "result"), [("nan", {"nan": None, "inf": None}), ("surrogate", "\ud800")]
)
async def test_odd_result_is_stored_as_json(bench: Bench, kind: str, result: Any) -> None:
    await bench.hire(isolated.returns)
    assert (await bench.ordeal(kind)).job.returnvalue == result


async def test_result_of_50_mb_arrives_whole_while_the_loop_stays_free(
    bench: Bench, own_server: Any, tmp_path: Path
) -> None:
    size = 50 * 2**20
    async with Queue("much", redis=own_server.url) as queue:
        alone = Bench(own_server.url, queue, tmp_path)
        worker = await alone.hire(isolated.returns_much, result_limit=0)
        # Who listens wants the value decoded; this is about who does not.
        worker.off("completed", alone.ledger._on_completed)
        async with loop_lag() as worst:
            job = await queue.add("bad", size)
            key = queue.backend.toKey(job.id)

            async def done() -> int:
                return int(await queue.client.hlen(key)) and int(
                    await queue.client.execute_command("HSTRLEN", key, "returnvalue")
                )

            assert await eventually(done, 30.0) == size + 2
        assert worst() < LONGEST_LAG
        await alone.close()


# -- limits --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        isolated.spin,
        isolated.ignore_sigterm,
        isolated.ignore_all_signals,
        isolated.default_signals,
        isolated.stop_itself,
        isolated.leave_the_group,
        isolated.swallow_and_return,
        isolated.swallow_and_go_on,
        isolated.until_asked_to_stop,
        isolated.wait_and_convert,
    ],
)
async def test_timeout_ends_that_job_alone_whatever_it_does(bench: Bench, bad: Any) -> None:
    await bench.hire(bad, limits={"timeout": 0.3})
    ended = await bench.ordeal()
    assert await ended.job.get_state() == "failed"
    assert "timeout of 0.3 s" in ended.reason
    assert "ended after 0." in ended.reason or "ended after 1." in ended.reason
    assert isinstance(bench.ledger.failed[ended.job.id][0], errors.JobTimeoutError)


@pytest.mark.parametrize("kind", ["sum", "re", "pause", "pow"])
async def test_endless_loop_in_native_code_is_killed_and_its_stack_kept(
    bench: Bench, kind: str
) -> None:
    await bench.hire(isolated.spin_in_c, limits={"timeout": 0.3})
    ended = await bench.ordeal(kind)
    assert "timeout of 0.3 s" in ended.reason
    assert frame_of(isolated.spin_in_c) in ended.trace


@pytest.mark.parametrize("bad", [isolated.spin_with_cleanup, isolated.threads_that_share_the_job])
async def test_timeout_lets_the_processor_clean_up(bench: Bench, bad: Any, tmp_path: Path) -> None:
    await bench.hire(bad, limits={"timeout": 0.6}, stop_grace=2.0)
    ended = await bench.ordeal(str(tmp_path / "cleanup"))
    assert "timeout of 0.6 s" in ended.reason
    assert (tmp_path / "cleanup").read_text() == "cleaned up"
    assert f"in {bad.__name__}" in ended.trace


async def test_timeout_in_the_middle_of_a_call_is_not_lost(bench: Bench, tmp_path: Path) -> None:
    attempts = 15
    await bench.hire(isolated.chatter_with_cleanup, limits={"timeout": 0.1}, stop_grace=2.0)
    file = tmp_path / "cleanups"
    await bench.fails(await bench.queue.add("bad", str(file), attempts=attempts), 60.0)
    assert file.read_text() == "cleaned up\n" * attempts


async def test_timeouts_are_retried_as_the_job_says(bench: Bench) -> None:
    await bench.hire(isolated.spin_in_c, limits={"timeout": 0.2}, stop_grace=0.1)
    ended = await bench.ordeal("pause", attempts=3)
    assert ended.job.attempts_made == 3
    assert "crashed" not in ended.reason


async def test_job_beyond_its_memory_at_once_is_refused(bench: Bench) -> None:
    await bench.hire(isolated.allocate_at_once, limits={"memory": "300MB"})
    ended = await bench.ordeal()
    assert "memory limit of 300.0 MB" in ended.reason
    assert "refused" in ended.reason
    assert "in allocate_at_once" in ended.trace
    assert isinstance(bench.ledger.failed[ended.job.id][0], errors.MemoryLimitError)


async def test_job_beyond_its_memory_bit_by_bit_is_killed(bench: Bench) -> None:
    await bench.hire(isolated.allocate_bit_by_bit, limits={"memory": "300MB"})
    ended = await bench.ordeal()
    assert "memory limit of 300.0 MB" in ended.reason
    assert "its process had " in ended.reason
    assert isinstance(bench.ledger.failed[ended.job.id][0], errors.MemoryLimitError)


@pytest.mark.parametrize("bad", [isolated.map_much_and_touch_little, isolated.own_limit])
async def test_memory_limit_lets_honest_processors_work(bench: Bench, bad: Any) -> None:
    await bench.hire(bad, limits={"memory": "300MB"}, concurrency=3)
    assert (await bench.ordeal()).job.returnvalue == "fine"


async def test_memory_limit_of_one_job_is_none_for_the_next(bench: Bench) -> None:
    worker = await bench.hire(isolated.allocate_at_once, limits={"memory": "50MB"}, concurrency=1)
    assert worker.concurrency == 1
    await bench.fails(await bench.queue.add("bad"))
    child = await bench.completes(await bench.queue.add("pid"))
    import resource

    soft, hard = resource.prlimit(child, resource.RLIMIT_AS)
    assert soft == hard == resource.RLIM_INFINITY


async def test_cpu_limit_counts_this_job_alone(bench: Bench) -> None:
    await bench.hire(isolated.use_cpu, limits={"cpu": 0.6}, concurrency=1)
    # Together they use more than the limit, in the same child.
    for _ in range(2):
        await bench.completes(await bench.queue.add("bad", 0.35))
    ended = await bench.fails(await bench.queue.add("bad", 60))
    assert "limit of 0.6 s of CPU time" in ended.reason
    assert isinstance(bench.ledger.failed[ended.job.id][0], errors.CpuLimitError)
    await bench.others_complete()


# -- cancelling ----------------------------------------------------------------------------


async def test_cancelled_processor_that_looks_ends_by_itself(bench: Bench) -> None:
    worker = await bench.hire(isolated.until_asked_to_stop, stop_grace=10.0)
    async with bench.siblings():
        bad = await bench.queue.add("bad")
        await bench.progress_of(bad.id)
        assert worker.cancel_job(bad.id, "not wanted")
        result = await bench.completes(bad)
    await bench.others_complete()
    assert result == "stopped: cancelled"


@pytest.mark.parametrize("bad", [isolated.say_pid_and_pause, isolated.async_wait])
async def test_cancelled_processor_that_hangs_is_ended(bench: Bench, bad: Any) -> None:
    worker = await bench.hire(bad, limits={"isolation": "process"})
    async with bench.siblings():
        job = await bench.queue.add("bad", attempts=3)
        await bench.progress_of(job.id)
        assert worker.cancel_job(job.id, "not wanted")
        ended = await bench.fails(job)
    await bench.others_complete()
    assert ended.reason == "The job was cancelled: not wanted."
    assert ended.job.attempts_made == 1


async def test_worker_that_closes_hands_hanging_jobs_back(bench: Bench) -> None:
    worker = await bench.hire(isolated.say_pid_and_pause)
    bad = await bench.queue.add("bad")
    child = await bench.progress_of(bad.id)
    began = time.monotonic()
    await worker.close(timeout=0.2)
    assert time.monotonic() - began < 10.0
    assert is_gone(child)
    assert await bench.queue.get_job_state(bad.id) == "wait"
    stored = await bench.stored(bad)
    assert stored.job.attempts_made == 0
    await bench.close()


# -- forks and descriptors -----------------------------------------------------------------


async def test_fork_that_returns_in_both_processes_completes_once(bench: Bench) -> None:
    await bench.hire(isolated.fork_and_return_in_both)
    ended = await bench.ordeal()
    assert ended.job.returnvalue == "parent"


async def test_fork_that_raises_in_both_processes_fails_once(bench: Bench) -> None:
    await bench.hire(isolated.fork_and_raise_in_both)
    ended = await bench.ordeal()
    assert ended.reason == "ValueError: in the parent"


async def test_forked_process_cannot_use_the_job(bench: Bench) -> None:
    await bench.hire(isolated.fork_and_use_the_job_in_the_child)
    ended = await bench.ordeal()
    assert ended.job.returnvalue == "exit code 7"
    assert ended.log == ""


@pytest.mark.parametrize(
    "bad", [isolated.fork_sleeper_and_return, isolated.fork_sleeper_in_c_and_return]
)
async def test_forked_process_that_sleeps_on_ends_with_its_child(bench: Bench, bad: Any) -> None:
    await bench.hire(bad, max_jobs_per_child=1)
    async with bench.siblings():
        sleeper = await bench.completes(await bench.queue.add("bad"))

        async def gone() -> bool:
            return is_gone(sleeper)

        await eventually(gone, 5.0)
    await bench.others_complete()


@pytest.mark.parametrize("timeout", [None, 0.3])
async def test_crash_is_noticed_although_a_forked_process_holds_the_socket(
    bench: Bench, timeout: float | None
) -> None:
    await bench.hire(isolated.fork_sleeper_in_c_and_crash, limits={"timeout": timeout})
    async with bench.siblings():
        bad = await bench.queue.add("bad")
        sleeper = await bench.progress_of(bad.id)
        ended = await bench.fails(bad)
    await bench.others_complete()
    if timeout is None:
        assert "SIGABRT" in ended.reason
    assert has_ended(sleeper)


@pytest.mark.parametrize("first", [3, 0])
@pytest.mark.parametrize("then", ["return", "ask", "hang"])
async def test_closing_all_descriptors_fails_that_job_and_says_so(
    bench: Bench, first: int, then: str
) -> None:
    await bench.hire(isolated.close_descriptors)
    ended = await bench.ordeal([first, then])
    assert await ended.job.get_state() == "failed"
    assert "file descriptors" in ended.reason


async def test_descriptors_closed_and_used_for_something_else(bench: Bench) -> None:
    await bench.hire(isolated.close_descriptors_and_open_others)
    ended = await bench.ordeal()
    assert await ended.job.get_state() == "failed"
    assert "file descriptors" in ended.reason


async def test_garbage_on_the_socket_affects_that_job_alone(bench: Bench) -> None:
    await bench.hire(isolated.write_garbage_to_descriptors, limits={"timeout": 1.0})
    await bench.ordeal()


@pytest.mark.parametrize("bad", [isolated.closed_streams, isolated.no_streams])
async def test_processor_may_close_its_streams(bench: Bench, bad: Any) -> None:
    await bench.hire(bad, concurrency=1)
    await bench.completes(await bench.queue.add("bad"))
    await bench.others_complete()


# -- programs that a processor starts ------------------------------------------------------


async def test_program_that_a_processor_started_ends_with_its_timeout(bench: Bench) -> None:
    await bench.hire(isolated.start_sleeper, limits={"timeout": 0.5})
    async with bench.siblings():
        bad = await bench.queue.add("bad")
        program = await bench.progress_of(bad.id)
        ended = await bench.fails(bad)
    await bench.others_complete()
    assert "timeout of 0.5 s" in ended.reason
    assert has_ended(program)


@pytest.mark.parametrize("then", ["crash", "return"])
async def test_program_that_a_processor_left_ends_with_its_child(bench: Bench, then: str) -> None:
    await bench.hire(isolated.start_sleeper_and, max_jobs_per_child=1)
    async with bench.siblings():
        bad = await bench.queue.add("bad", then)
        program = await bench.progress_of(bad.id)
        await bench.ends(bad)

        async def gone() -> bool:
            return is_gone(program)

        await eventually(gone, 5.0)
    await bench.others_complete()


# -- output --------------------------------------------------------------------------------


async def test_floods_of_output_stay_bounded_and_leave_the_loop_free(bench: Bench) -> None:
    await bench.hire(isolated.flood, concurrency=6)
    with records("bullpy.processor") as logged:
        async with bench.siblings(), loop_lag() as worst:
            began = time.monotonic()
            jobs = [
                await bench.queue.add("bad", [stream, kind])
                for stream in ("stdout", "stderr")
                for kind in ("bytes", "lines")
            ]
            for job in jobs:
                assert await bench.completes(job, 60.0) == "flooded"
            took = time.monotonic() - began
        assert worst() < LONGEST_LAG
        await bench.others_complete()
    assert len(logged) <= (LINES_PER_SECOND + 1) * len(jobs) * (took + 2)
    assert max(len(record.getMessage()) for record in logged) <= LONGEST_LINE
    assert any("more lines of output were not logged" in each.getMessage() for each in logged)


async def test_flood_of_log_records_leaves_the_loop_free(bench: Bench) -> None:
    await bench.hire(isolated.flood_log, concurrency=5)
    with records("processor.isolated"):
        async with bench.siblings(), loop_lag() as worst:
            jobs = [await bench.queue.add("bad", 20_000) for _ in range(3)]
            for job in jobs:
                assert await bench.completes(job, 60.0) == "flooded"
        assert worst() < LONGEST_LAG
    await bench.others_complete()


async def test_output_is_logged_with_its_job(bench: Bench) -> None:
    await bench.hire(isolated.speak, concurrency=1)
    with records("bullpy.processor") as output, records("processor.isolated") as logged:
        jobs = [await bench.queue.add("bad") for _ in range(3)]
        for job in jobs:
            await bench.completes(job)
    for job in jobs:
        for stream in ("stdout", "stderr"):
            (record,) = [r for r in output if r.getMessage() == f"{stream} of {job.id}"]
            assert (record.stream, record.job_id) == (stream, job.id)  # type: ignore[attr-defined]
            assert record.job_name == "bad"  # type: ignore[attr-defined]
            assert record.queue == bench.queue.name  # type: ignore[attr-defined]
        (record,) = [r for r in logged if r.getMessage() == f"logged by {job.id}"]
        assert record.levelname == "WARNING"
        assert record.job_id == job.id  # type: ignore[attr-defined]


# -- starting ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "reason"),
    [("raise", "RuntimeError: no configuration here"), ("exit", "SystemExit: 4")],
)
async def test_import_error_in_the_child_alone_names_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    monkeypatch.setenv("FRAGILE", how)
    await bench.hire(isolated_fragile.fragile)
    ended = await bench.ordeal()
    assert await ended.job.get_state() == "failed"
    assert reason in ended.reason
    assert "child process" in ended.reason
    assert "isolated_fragile.py" in ended.trace


async def test_file_that_changed_on_disk_is_told(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / f"changing_{os.getpid()}.py"
    file.write_text("def process(job):\n    return job.data\n")
    import importlib

    module = importlib.import_module(file.stem)
    file.write_text("def other(job):\n    return job.data\n# longer\n")
    await bench.hire(module.process)
    ended = await bench.ordeal()
    assert await ended.job.get_state() == "failed"
    assert "'process'" in ended.reason
    # The file is mended, and the next job runs without a restart.
    file.write_text("def process(job):\n    return job.data\n\n\n# and longer\n")
    assert await bench.completes(await bench.queue.add("bad", 5)) == 5


@pytest.mark.parametrize(
    ("how", "reason"),
    [("hang", "not ready within 0.7 s"), ("crash", "before it was ready")],
)
async def test_child_that_cannot_start_fails_one_job_at_a_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    monkeypatch.setenv("FRAGILE", how)
    await bench.hire(isolated_fragile.fragile, child_start_timeout=0.7, concurrency=1)
    ended = await bench.fails(await bench.queue.add("bad", 1))
    assert reason in ended.reason
    assert isinstance(bench.ledger.failed[ended.job.id][0], errors.ChildStartError)
    monkeypatch.delenv("FRAGILE")
    assert await bench.completes(await bench.queue.add("bad", 2)) == 2
    await bench.others_complete()


async def test_worker_closes_while_children_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAGILE", "hang")
    await bench.hire(isolated_fragile.fragile, ready=False)
    job = await bench.queue.add("bad")

    async def starting() -> bool:
        return bool(bench.children()) and await bench.queue.get_job_state(job.id) == "active"

    await eventually(starting, 5.0)
    async with asyncio.timeout(10):
        await bench.worker.close(timeout=0.1)
    await bench.close()
    assert await bench.queue.get_job_state(job.id) == "wait"


async def test_cancelled_run_leaves_no_child_behind(bench: Bench) -> None:
    await bench.hire(isolated.say_pid_and_pause)
    await bench.progress_of((await bench.queue.add("bad")).id)
    bench.worker._deadline = 0.0
    (run,) = bench.runs
    run.cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(run, return_exceptions=True)
    assert run.cancelled()
    await bench.close()


# -- exchanging children -------------------------------------------------------------------


async def test_child_is_kept_from_job_to_job(bench: Bench) -> None:
    await bench.hire(concurrency=1)
    pids = [await bench.completes(await bench.queue.add("pid")) for _ in range(4)]
    assert len(set(pids)) == 1


async def test_child_is_exchanged_after_so_many_jobs(bench: Bench) -> None:
    await bench.hire(concurrency=1, max_jobs_per_child=2)
    pids = [await bench.completes(await bench.queue.add("pid")) for _ in range(6)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]
    await bench.only_children_are_left()


async def test_child_is_exchanged_above_so_much_memory(bench: Bench) -> None:
    await bench.hire(isolated.keep_memory, concurrency=1, max_rss_per_child="60MB")
    big = await bench.completes(await bench.queue.add("bad"))
    pids = [await bench.completes(await bench.queue.add("pid")) for _ in range(3)]
    assert big not in pids
    assert len(set(pids)) == 1
    await bench.only_children_are_left()


async def test_lower_concurrency_lets_children_go(bench: Bench) -> None:
    worker = await bench.hire(concurrency=3)
    async with bench.siblings():
        pass
    await bench.others_complete()
    worker.concurrency = 1
    for _ in range(3):
        await bench.completes(await bench.queue.add("pid"))
    await bench.only_children_are_left()


# -- the job from inside -------------------------------------------------------------------


@pytest.mark.parametrize("bad", [isolated.use_the_job, isolated.use_the_job_async])
async def test_job_can_be_used_from_a_child(bench: Bench, redis_url: str, bad: Any) -> None:
    worker = await bench.hire(bad, limits={"isolation": "process"})
    async with FlowProducer(redis=redis_url) as flows:
        await flows.add(
            {
                "name": "bad",
                "queueName": bench.queue.name,
                "data": {"first": 1},
                "children": [
                    {"name": "child", "queueName": bench.queue.name, "data": number}
                    for number in range(2)
                ],
            }
        )
    async with asyncio.timeout(15):
        await bench.ledger.until(lambda: len(bench.ledger.completed) == 3, 15.0)
    (parent,) = [job for job in await bench.queue.get_jobs(["completed"]) if job.name == "bad"]
    stored = await bench.stored(parent)
    result = stored.job.returnvalue
    assert result["rows"] == 1
    assert sorted(result["children"].values()) == [0, 1]
    assert result["data"] == stored.job.data == {"more": [1, 2]}
    assert stored.job.progress == {"percent": 50}
    assert stored.log == "one line"
    assert worker.active_jobs == []


async def test_error_of_the_worker_in_a_call_is_the_jobs_failure(bench: Bench) -> None:
    await bench.hire(isolated.error_of_the_worker)
    ended = await bench.ordeal(timeout=5.0)
    assert "UnicodeEncodeError" in ended.reason
    assert "in error_of_the_worker" in ended.trace


@pytest.mark.parametrize(
    ("how", "state", "attempts"),
    [
        ("retry", "completed", 2),
        ("snooze", "completed", 1),
        ("discard", "failed", 1),
        ("unrecoverable", "failed", 1),
    ],
)
async def test_processor_in_a_child_steers_its_job(
    bench: Bench, how: str, state: str, attempts: int
) -> None:
    await bench.hire(isolated.steers)
    ended = await bench.ordeal(how, attempts=3)
    assert await ended.job.get_state() == state
    assert ended.job.attempts_made == attempts


async def test_model_of_the_payload_is_made_in_the_child(bench: Bench) -> None:
    await bench.hire(isolated.takes_an_order)
    assert (await bench.ordeal({"number": 4})).job.returnvalue == 8
    wrong = await bench.fails(await bench.queue.add("bad", {"number": "four"}, attempts=3))
    assert "number: " in wrong.reason
    assert wrong.job.attempts_made == 1


async def test_data_of_20_mb_arrives_whole(bench: Bench) -> None:
    await bench.hire(isolated.length_of_data)
    assert (await bench.ordeal("x" * 20_000_000)).job.returnvalue == 20_000_000


async def test_middleware_sees_the_result(bench: Bench) -> None:
    seen = []
    await bench.hire(isolated.length_of_data, ready=False)

    @bench.worker.middleware
    async def around(call_next: Any, job: Any) -> Any:
        result = await call_next(job)
        seen.append(result)
        return [result]

    ended = await bench.ends(await bench.queue.add("bad", "four"))
    assert ended.job.returnvalue == [4]
    assert seen == [4]


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_processor_may_use_processes_of_its_own(bench: Bench, method: str) -> None:
    await bench.hire(isolated.use_processes)
    assert (await bench.ordeal(method)).job.returnvalue == [0, 2, 4, 6]


async def test_wrong_calls_are_refused_where_they_are_made(bench: Bench) -> None:
    await bench.hire(isolated.wrong_calls)
    ended = await bench.ordeal()
    assert ended.job.returnvalue == ["EncodingError", "EncodingError", *["JobStateError"] * 2]


async def test_processor_with_upstreams_three_arguments(bench: Bench) -> None:
    await bench.hire(isolated.all_arguments)
    assert (await bench.ordeal()).job.returnvalue == [True, False]


async def test_child_has_neither_redis_nor_bullmq(bench: Bench) -> None:
    await bench.hire(isolated_fragile.loaded_modules)
    assert (await bench.ordeal()).job.returnvalue == []


# -- threads that a processor leaves -------------------------------------------------------


async def test_thread_that_uses_the_job_of_yesterday_does_no_harm(bench: Bench) -> None:
    await bench.hire(isolated.thread_that_calls_on, concurrency=1)
    await bench.completes(await bench.queue.add("bad"))
    # In the same child.
    numbers = range(30)
    jobs = [await bench.queue.add("later", number) for number in numbers]
    for number, job in zip(numbers, jobs, strict=True):
        assert await bench.completes(job, 10.0) == number
        assert (await bench.stored(job)).log == "ran"


async def test_result_arrives_whole_while_threads_talk(bench: Bench) -> None:
    size = 4_000_000
    await bench.hire(isolated.thread_that_calls_while_the_result_is_sent, concurrency=1)
    for _ in range(3):
        assert await bench.completes(await bench.queue.add("bad", size), 10.0) == "x" * size
    await bench.others_complete()


async def test_thread_that_raises_later_does_no_harm(bench: Bench) -> None:
    await bench.hire(isolated.thread_that_raises_later)
    assert (await bench.ordeal()).job.returnvalue == "left"


async def test_threads_may_share_the_job(bench: Bench) -> None:
    await bench.hire(isolated.threads_that_share_the_job)
    ended = await bench.ordeal()
    assert ended.job.returnvalue == 8
    rows = ended.log.splitlines()
    assert len(rows) == 8 * 50
    assert set(rows) == {f"row {number}" for number in range(50)}


# -- preloading ----------------------------------------------------------------------------


async def test_preloaded_children_work_and_are_forks(bench: Bench) -> None:
    await bench.hire(isolated.use_the_job, preload=("support.isolated",))
    await bench.ordeal({"any": 1})
    servers = [seen for seen in bench.children() if "executors.forking" in seen.command]
    assert servers


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (isolated.segfault, "SIGSEGV"),
        (isolated.leave_at_once, "exit code 3"),
        (isolated.killed, "SIGKILL"),
    ],
)
async def test_crash_of_a_preloaded_child_is_told_with_its_signal(
    bench: Bench, bad: Any, reason: str
) -> None:
    await bench.hire(bad, preload=("support.isolated",))
    ended = await bench.ordeal()
    assert reason in ended.reason
    assert isinstance(bench.ledger.failed[ended.job.id][0], errors.ChildCrashedError)
    if bad is isolated.segfault:
        assert frame_of(bad) in ended.trace


async def test_preloaded_child_that_hangs_is_killed_with_what_it_started(bench: Bench) -> None:
    await bench.hire(isolated.start_sleeper, limits={"timeout": 0.5}, preload=("support.isolated",))
    async with bench.siblings():
        bad = await bench.queue.add("bad")
        program = await bench.progress_of(bad.id)
        ended = await bench.fails(bad)
    await bench.others_complete()
    assert "timeout of 0.5 s" in ended.reason
    assert has_ended(program)


async def test_fork_server_that_is_killed_is_started_again(bench: Bench) -> None:
    await bench.hire(preload=("support.isolated",))
    await bench.others_complete()
    (server,) = {s.pid for s in bench.children() if s.parent == os.getpid()}
    old = {seen.pid for seen in bench.children()} - {server}
    os.kill(server, signal.SIGKILL)

    async def collected() -> bool:
        return not old & {seen.pid for seen in bench.children()}

    await eventually(collected, 5.0)
    await bench.others_complete()
    (again,) = {s.pid for s in bench.children() if s.parent == os.getpid()}
    assert again != server


async def test_fork_server_that_was_killed_is_no_zombie_while_nothing_is_to_do(
    bench: Bench,
) -> None:
    await bench.hire(preload=("support.isolated",))
    await bench.others_complete()
    (server,) = {s.pid for s in bench.children() if s.parent == os.getpid()}
    os.kill(server, signal.SIGKILL)

    async def collected() -> bool:
        return server not in {seen.pid for seen in bench.children()}

    await eventually(collected, 5.0)


async def test_fork_server_killed_in_the_middle_of_jobs(bench: Bench) -> None:
    await bench.hire(isolated.say_pid_and_pause, preload=("support.isolated",))
    bad = await bench.queue.add("bad")
    child = await bench.progress_of(bad.id)
    (server,) = {s.pid for s in bench.children() if s.parent == os.getpid()}
    os.kill(server, signal.SIGKILL)
    ended = await bench.fails(bad)
    assert "ended together with its fork server" in ended.reason
    assert ended.job.crashes == 0
    assert is_gone(child)
    await bench.others_complete()


@pytest.mark.parametrize("module", ["no_such_module", "support.isolated_fragile"])
async def test_module_that_cannot_be_preloaded_ends_the_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setenv("FRAGILE", "raise")
    worker = await bench.hire(ready=False, preload=(module,))
    (run,) = bench.runs
    with pytest.raises(errors.BullpyError) as raised:
        await asyncio.wait_for(asyncio.shield(run), 10.0)
    shown = str(raised.value)
    assert "reload" in shown
    assert ("no_such_module" if module == "no_such_module" else "no configuration here") in shown
    assert not worker.running


async def test_preloading_that_hangs_ends_the_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAGILE", "hang")
    await bench.hire(ready=False, preload=("support.isolated_fragile",), child_start_timeout=0.5)
    (run,) = bench.runs
    with pytest.raises(errors.BullpyError, match="child_start_timeout"):
        await asyncio.wait_for(asyncio.shield(run), 10.0)


# -- whole programs ------------------------------------------------------------------------


HOLDS = """
import os
from bullpy import Worker, run
from support import isolated

worker = Worker(os.environ["QUEUE"], redis=os.environ["REDIS"], concurrency=3)
worker.processor("bad")(isolated.say_pid_and_pause)
worker.processor("spin")(isolated.spin_in_c)
worker.processor("gated")(isolated.gated)
worker.on("ready", lambda: print("ready", flush=True))
worker.on("active", lambda job, *_: print("active", job.id, flush=True))
worker.on("progress", lambda job, progress: print("progress", progress, flush=True))
worker.on("completed", lambda job, result: print("completed", job.id, flush=True))
print("pid", os.getpid(), flush=True)
run(worker)
"""


def surroundings(redis_url: str, queue: Queue) -> dict[str, str]:
    tests = str(Path(__file__).resolve().parents[1])
    root = str(Path(tests).parent)
    return {"QUEUE": queue.name, "REDIS": redis_url, "PYTHONPATH": os.pathsep.join([root, tests])}


async def number_after(program: Program, word: str) -> int:
    return int((await program.says(f"{word} ")).split()[-1])


async def test_killed_worker_leaves_no_child_behind(redis_url: str, queue: Queue) -> None:
    async with Program(HOLDS, **surroundings(redis_url, queue)) as program:
        worker = await number_after(program, "pid")
        await program.says("ready")
        jobs = [await queue.add("spin", "re"), await queue.add("spin", "sum")]
        await queue.add("bad")
        for job in jobs:
            await program.says(f"active {job.id}")
        await number_after(program, "progress")
        children = [seen.pid for seen in below(worker)]
        assert len(children) >= 3
        os.kill(worker, signal.SIGKILL)

        async def gone() -> bool:
            return all(is_gone(pid) for pid in children)

        await eventually(gone, 10.0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_to_the_whole_process_group_drains(
    redis_url: str, queue: Queue, tmp_path: Path, number: signal.Signals
) -> None:
    # As Ctrl-C in a terminal, or a supervisor that signals all processes of a service.
    import fcntl

    gate = tmp_path / "gate"
    source = f"import os; os.setpgid(0, 0)\n{HOLDS}"
    with gate.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        async with Program(source, **surroundings(redis_url, queue)) as program:
            worker = await number_after(program, "pid")
            await program.says("ready")
            job = await queue.add("gated", {"gate": str(gate), "number": 7})
            await program.says("progress running")
            children = [seen.pid for seen in below(worker)]
            os.killpg(worker, number)
            if number == signal.SIGTERM:
                for child in children:
                    os.kill(child, number)
            await eventually(lambda: _has_stopped(queue, worker), 10.0)
            fcntl.flock(held, fcntl.LOCK_UN)
            await program.says(f"completed {job.id}")
            assert await program.ends(10.0) == 0
            assert all(is_gone(pid) for pid in children)
    stored = await queue.get_job(job.id)
    assert stored is not None
    assert stored.returnvalue == 7


async def _has_stopped(queue: Queue, worker: int) -> bool:
    """Whether the worker fetches no more: its blocking wait is over."""
    clients = await queue.client.client_list()
    mine = [c for c in clients if ":w:" in c["name"] and queue.name in c["name"]]
    return not mine


SCRIPT = """
import os
from dataclasses import dataclass

from bullpy import Job, Worker, run

print("loaded as", __name__, flush=True)
worker = Worker(os.environ["QUEUE"], redis=os.environ["REDIS"])


@dataclass
class Order:
    number: int


@worker.processor()
def process(job: Job[Order]):
    return [os.getpid(), job.data.number]


worker.on("ready", lambda: print("ready", flush=True))
{start}
"""


async def _ends_of(script: list[str], folder: Path, environment: dict[str, str]) -> Any:
    return await asyncio.create_subprocess_exec(
        *script,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


@pytest.mark.parametrize("how", ["script", "module"])
@pytest.mark.parametrize("is_guarded", [True, False])
async def test_script_is_its_own_processor_module(
    redis_url: str, queue: Queue, tmp_path: Path, how: str, is_guarded: bool
) -> None:
    import sys

    start = 'if __name__ == "__main__":\n    run(worker)' if is_guarded else "run(worker)"
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "own_worker.py").write_text(SCRIPT.format(start=start))
    script = (
        [sys.executable, "package/own_worker.py"]
        if how == "script"
        else [sys.executable, "-m", "package.own_worker"]
    )
    program = await _ends_of(script, tmp_path, surroundings(redis_url, queue))
    try:
        job = await queue.add("any", {"number": 5})
        child, number = await job.wait_until_finished(20)
        assert number == 5
        assert child != program.pid
        program.send_signal(signal.SIGTERM)
        output, _ = await asyncio.wait_for(program.communicate(), 20)
        assert program.returncode == 0, output.decode()
        assert output.decode().count("ready") == 1
        assert is_gone(child)
    finally:
        if program.returncode is None:
            program.kill()
            await program.communicate()


RUNS_ITSELF = """
import asyncio, os
from bullpy import Queue, Worker

worker = Worker(os.environ["QUEUE"], redis=os.environ["REDIS"])

@worker.processor()
def process(job):
    return job.data

async def main():
    async with Queue(worker.name, redis=os.environ["REDIS"]) as queue:
        await queue.add("any", 1)
        await worker.run()

asyncio.run(main())
"""


async def test_script_that_runs_itself_when_loaded_gets_advice(
    redis_url: str, queue: Queue, tmp_path: Path
) -> None:
    import sys

    (tmp_path / "itself.py").write_text(RUNS_ITSELF)
    program = await _ends_of(
        [sys.executable, "itself.py"], tmp_path, surroundings(redis_url, queue)
    )
    try:

        async def failed() -> list[Job[Any]]:
            return await queue.get_jobs(["failed"])

        (job,) = await eventually(failed, 20.0)
        assert '__name__ == "__main__"' in (job.failed_reason or "")
        # Loading the script added no further job.
        assert sum((await queue.get_job_counts()).values()) == 1
    finally:
        program.kill()
        await program.communicate()


# -- runs that follow each other in one child ----------------------------------------------


async def test_a_job_that_is_over_cannot_speak_for_the_next(bench: Bench) -> None:
    await bench.hire(isolated.log_under_a_threads_eyes, concurrency=1)
    first = await bench.queue.add("bad", "leave")
    assert await bench.completes(first) == "left"
    ended = await bench.fails(await bench.queue.add("bad", "second"))
    assert "The job is over" in ended.reason
    assert ended.log == ""


async def test_a_stop_that_comes_late_does_not_hit_the_next_run(bench: Bench) -> None:
    await bench.hire(
        isolated.outlive_a_timeout_once, limits={"timeout": 0.2}, concurrency=1, stop_grace=10.0
    )
    job = await bench.queue.add("bad", attempts=2)
    assert await bench.completes(job) == "on time"
    assert len(bench.ledger.failed[job.id]) == 1


async def test_fork_that_fails_is_told_and_ends_nothing(bench: Bench) -> None:
    await bench.hire(isolated.segfault, preload=("support.no_fork",), concurrency=1)
    ended = await bench.fails(await bench.queue.add("bad"))
    assert "could not be started" in ended.reason
    assert "temporarily unavailable" in ended.reason
    assert ended.job.crashes == 0
