"""Processors that run in child processes: a child imports them from here by name.

Most of them are what a worker has to survive. `job.data` tells them what they cannot know.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import itertools
import logging
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel

from bullpy import Job, errors

log = logging.getLogger("processor.isolated")

BLOCK = "x" * 2**20


# -- what runs beside them -----------------------------------------------------------------


def good(job: Any) -> Any:
    """Leaves a line in its log for each run, and gives its data back."""
    job.log("ran")
    return job.data


def gated(job: Any) -> Any:
    """Says that it runs, then waits until nobody else holds the lock of the file."""
    job.log("ran")
    with Path(job.data["gate"]).open() as gate:
        job.update_progress("running")
        fcntl.flock(gate, fcntl.LOCK_SH)
    return job.data["number"]


def pid(job: Any) -> int:
    return os.getpid()


# -- crashes -------------------------------------------------------------------------------


def segfault(job: Any) -> None:
    print("the last words", file=sys.stderr)
    ctypes.string_at(0)


def segfault_silently(job: Any) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def abort(job: Any) -> None:
    os.abort()


def leave_at_once(job: Any) -> NoReturn:
    os._exit(3)


def killed(job: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def say_pid_and_pause(job: Any) -> None:
    job.update_progress(os.getpid())
    ctypes.CDLL(None).pause()


def crash_after_flood(job: Any) -> None:
    """A library that says a lot, line by line, before it says why it crashes."""
    for number in range(300):
        print(f"noise {number}", file=sys.stderr, flush=True)
    print("the last words", file=sys.stderr, flush=True)
    os.abort()


def flood_and_return(job: Any) -> None:
    for number in range(200_000):
        print(f"noise of another job {number}", file=sys.stderr)


# -- exceptions ----------------------------------------------------------------------------


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class UnpicklableError(Exception):
    """Neither its arguments nor its attributes can be pickled, and it takes two of them."""

    def __init__(self, what: str, lock: object) -> None:
        super().__init__(what, lock)
        self.lock = lock

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> NoReturn:
        raise TypeError("not me")


def raises(job: Any) -> None:
    def make() -> BaseException:
        return {
            "exit": SystemExit(3),
            "exit with text": SystemExit("no more"),
            "interrupt": KeyboardInterrupt(),
            "cancelled": asyncio.CancelledError(),
            "generator": GeneratorExit(),
            "iteration": StopIteration(),
            "unprintable": UnprintableError(),
            "unpicklable": UnpicklableError("with a lock", threading.Lock()),
            "surrogates": ValueError("\ud800 \x00 broken \udfff"),
            "huge": ValueError("x" * 10_000_000),
            "group": BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError("inner")]),
            "empty": Exception(),
        }[job.data]

    raise make()


def raises_deeply(job: Any) -> None:
    def deeper() -> None:
        deeper()

    deeper()


# -- results -------------------------------------------------------------------------------


def returns(job: Any) -> Any:
    endless: list[Any] = []
    endless.append(endless)
    return {
        "object": object(),
        "bytes": {b"\xff\xfe"},
        "endless": endless,
        "nan": {"nan": float("nan"), "inf": float("inf")},
        "surrogate": "\ud800",
        "coroutine": lambda: None,
    }[job.data]


def returns_much(job: Any) -> str:
    return "x" * int(job.data)


# -- limits --------------------------------------------------------------------------------


def spin(job: Any) -> None:
    while True:
        pass


def spin_with_cleanup(job: Any) -> None:
    """In Python, so that an exception can end it; leaves a file behind when it is."""
    try:
        while True:
            pass
    finally:
        Path(job.data).write_text("cleaned up")


def chatter_with_cleanup(job: Any) -> None:
    """Talks to its worker all the time, so that it mostly ends in the middle of a word."""
    try:
        for number in itertools.count():
            job.update_progress(number)
    finally:
        with Path(job.data).open("a") as file:
            file.write("cleaned up\n")


def spin_in_c(job: Any) -> Any:
    return {
        "sum": lambda: sum(itertools.count()),
        "re": lambda: re.match(r"(a|aa)+$", "a" * 60 + "b"),
        "pause": lambda: ctypes.CDLL(None).pause(),
        "pow": lambda: 10 ** (10**9),
    }[job.data]()


def ignore_sigterm(job: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(0.01)


def ignore_all_signals(job: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(0.01)


def default_signals(job: Any) -> None:
    """SIGUSR1, with which it is asked for its stack, ends it."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    while True:
        time.sleep(0.01)


def stop_itself(job: Any) -> None:
    """Stopped as by Ctrl-Z, no signal but SIGKILL has an effect."""
    os.kill(os.getpid(), signal.SIGSTOP)


def leave_the_group(job: Any) -> None:
    """Moves to the worker's process group, where a signal to its own does not reach it."""
    os.setpgid(0, os.getpgid(os.getppid()))
    sum(itertools.count())


def swallow_and_return(job: Any) -> str:
    try:
        while True:
            time.sleep(0.01)
    except BaseException:
        return "as if nothing had happened"


def swallow_and_go_on(job: Any) -> None:
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            continue


def until_asked_to_stop(job: Any) -> str:
    job.update_progress("running")
    while not job.should_stop():
        time.sleep(0.005)
    return f"stopped: {job.stop_reason}"


def wait_and_convert(job: Any) -> None:
    """Raises something of its own in place of the exception that ends it."""
    try:
        while True:
            time.sleep(0.01)
    except Exception as error:
        raise ValueError("the database is closed") from error


async def async_wait(job: Any) -> str:
    await job.update_progress("running")
    await asyncio.sleep(1000)
    return "never"


def allocate_at_once(job: Any) -> int:
    return len(bytearray(10 * 2**30))


def allocate_bit_by_bit(job: Any) -> int:
    return len([bytearray(os.urandom(2**12) * (16 * 2**8)) for _ in range(10 * 2**10 // 16)])


def map_much_and_touch_little(job: Any) -> str:
    """What many libraries do: reserve addresses, use few of them."""
    import mmap

    with mmap.mmap(-1, 2**29) as area:
        area[0] = 1
    return "fine"


def own_limit(job: Any) -> str:
    """Lowers its own limit, which nobody can raise again."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34 if hard < 0 else hard))
    return "fine"


def use_cpu(job: Any) -> None:
    ends = time.process_time() + float(job.data)
    while time.process_time() < ends:
        pass


def keep_memory(job: Any) -> int:
    keep_memory.kept = bytearray(os.urandom(2**12) * 2**14)  # type: ignore[attr-defined]
    return os.getpid()


# -- processes and descriptors -------------------------------------------------------------


def fork_and_return_in_both(job: Any) -> str:
    return "child" if os.fork() == 0 else "parent"


def fork_and_raise_in_both(job: Any) -> None:
    child = os.fork()
    raise ValueError("in the child" if child == 0 else "in the parent")


def fork_and_use_the_job_in_the_child(job: Any) -> str:
    forked = os.fork()
    if forked == 0:
        try:
            job.log("not mine")
            os._exit(0)
        except BaseException:
            os._exit(7)
    _, status = os.waitpid(forked, 0)
    return f"exit code {os.waitstatus_to_exitcode(status)}"


def fork_sleeper_and_return(job: Any) -> int:
    """The forked process holds all descriptors that the processor has."""
    forked = os.fork()
    if forked == 0:
        ctypes.CDLL(None).pause()
        os._exit(0)
    return forked


def _fork_in_c() -> int:
    """Fork without Python's knowledge: no handler closes the worker's socket."""
    libc = ctypes.PyDLL(None)
    forked = libc.fork()
    if forked == 0:
        libc.pause()
        os._exit(0)
    return int(forked)


def fork_sleeper_in_c_and_return(job: Any) -> int:
    return _fork_in_c()


def fork_sleeper_in_c_and_crash(job: Any) -> None:
    job.update_progress(_fork_in_c())
    os.abort()


def close_descriptors(job: Any) -> Any:
    first, then = job.data
    os.closerange(first, 4096)
    if then == "hang":
        ctypes.CDLL(None).pause()
    if then == "ask":
        job.log("anybody there?")
    return "closed"


def close_descriptors_and_open_others(job: Any) -> str:
    os.closerange(3, 4096)
    kept = [os.open(os.devnull, os.O_RDWR) for _ in range(64)]
    job.log("into the wrong file?")
    return str(kept)


def write_garbage_to_descriptors(job: Any) -> str:
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"\xff" * 4096)
        except OSError:
            continue
    return "written"


def start_sleeper(job: Any) -> None:
    """Starts a program and waits for it."""
    with subprocess.Popen(["sleep", "1000"]) as program:
        job.update_progress(program.pid)
        while True:
            ctypes.CDLL(None).pause()


def start_sleeper_and(job: Any) -> int:
    """Starts a program and leaves it."""
    program = subprocess.Popen(["sleep", "1000"])
    job.update_progress(program.pid)
    if job.data == "crash":
        os.abort()
    # No ResourceWarning: it is left behind on purpose.
    program.returncode = 0
    return program.pid


# -- output --------------------------------------------------------------------------------


def flood(job: Any) -> str:
    stream, kind = job.data
    descriptor = {"stdout": 1, "stderr": 2}[stream]
    block = (BLOCK if kind == "bytes" else "y\n" * 2**19).encode()
    for _ in range(100 if kind == "bytes" else 8):
        left = memoryview(block)
        while left:
            left = left[os.write(descriptor, left) :]
    return "flooded"


def speak(job: Any) -> str:
    print(f"stdout of {job.id}")
    print(f"stderr of {job.id}", file=sys.stderr)
    log.warning("logged by %s", job.id)
    return "spoken"


def closed_streams(job: Any) -> str:
    sys.stdout.close()
    sys.stderr.close()
    return "closed"


def no_streams(job: Any) -> str:
    sys.stdout = sys.stderr = None  # type: ignore[assignment]
    return "gone"


def flood_log(job: Any) -> str:
    for number in range(int(job.data)):
        log.warning("record %d of a flood that goes through logging", number)
    return "flooded"


# -- the job from inside -------------------------------------------------------------------


def use_the_job(job: Any) -> Any:
    job.update_progress({"percent": 50})
    rows = job.log("one line")
    job.update_data({"more": [1, 2]})
    return {"rows": rows, "children": job.get_children_values(), "data": job.data}


async def use_the_job_async(job: Any) -> Any:
    await job.update_progress({"percent": 50})
    rows = await job.log("one line")
    await job.update_data({"more": [1, 2]})
    return {"rows": rows, "children": await job.get_children_values(), "data": job.data}


def modules(job: Any) -> list[str]:
    return [name for name in ("redis", "bullmq", "asyncio") if name in sys.modules]


def all_arguments(job: Any, token: str, abort_signal: Any) -> Any:
    return [job.token == token, abort_signal.aborted]


def length_of_data(job: Any) -> int:
    return len(job.data)


def error_of_the_worker(job: Any) -> None:
    """A call that the worker refuses with an exception that is none of bullpy's."""
    job.log("\ud800")


def steers(job: Any) -> str:
    if job.attempts_started > 1:
        return "at last"
    raise {
        "retry": errors.Retry("once more", delay=0.01),
        "snooze": errors.Snooze(0.01),
        "discard": errors.Discard("never again"),
        "unrecoverable": UnrecoverableError("no use"),
    }[job.data]


def snoozes_once(job: Any) -> list[float]:
    """Gives when it began first, and when it began again 1.5 s later."""
    began = time.time()
    first = job.once("first", lambda: began)
    if job.attempts_started == 1:
        raise errors.Snooze(1.5)
    return [first, began]


class UnrecoverableError(Exception):
    """A plugin's own; BullMQ knows it by its name."""


class Order(BaseModel):
    number: int


def takes_an_order(job: Job[Order]) -> int:
    return job.data.number * 2


def double(number: int) -> int:
    return number * 2


def use_processes(job: Any) -> list[int]:
    context = multiprocessing.get_context(job.data)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        return list(pool.map(double, range(4)))


def wrong_calls(job: Any) -> list[str]:
    raised = []
    for call in (
        lambda: job.update_progress(object()),
        lambda: job.update_data({b"\xff"}),
        lambda: job._ask("remove"),
        lambda: job._ask("_do"),
    ):
        try:
            call()
            raised.append("nothing")
        except BaseException as error:
            raised.append(type(error).__name__)
    return raised


# -- threads -------------------------------------------------------------------------------


def thread_that_calls_on(job: Any) -> str:
    """A thread uses the job again and again, long after the processor has returned."""

    def call_on() -> None:
        while True:
            job.log("from a thread")

    threading.Thread(target=call_on, daemon=True).start()
    return "left"


def thread_that_calls_while_the_result_is_sent(job: Any) -> str:
    """The result is long, and takes many writes."""

    def call_on() -> None:
        while True:
            log.warning("from a thread")
            job.log("from a thread")

    for _ in range(4):
        threading.Thread(target=call_on, daemon=True).start()
    return "x" * int(job.data)


def thread_that_raises_later(job: Any) -> str:
    def later() -> None:
        time.sleep(0.05)
        raise ValueError("in a thread")

    threading.Thread(target=later).start()
    return "left"


def threads_that_share_the_job(job: Any) -> int:
    """Many threads use the job at the same time; then an endless loop."""

    def call() -> None:
        for number in range(50):
            job.log(f"row {number}")
            log.info("row %d", number)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if job.data is None:
        return len(threads)
    return spin_with_cleanup(job)  # type: ignore[return-value]


# -- a mix ---------------------------------------------------------------------------------


def mixed(job: Any) -> Any:
    """What the job's data says: most are fine."""
    if job.data["kind"] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job.data["kind"] == "hang" and job.data["number"] % 2:
        # The signal ends this call, and so the exception can end the processor.
        ctypes.CDLL(None).pause()
    if job.data["kind"] == "hang":
        sum(itertools.count())
    if job.data["kind"] == "memory":
        kept = bytearray(os.urandom(2**12) * 2**16)
        ctypes.CDLL(None).pause()
        return len(kept)
    job.log("ran")
    return job.data["number"]


def log_under_a_threads_eyes(job: Any) -> str:
    """The first run leaves a thread with its job; during the second, the thread uses it."""
    if job.data == "leave":
        _left.append(job)
        return "left"
    _left[0].log("of the first job")
    job.log("of the second job")
    return "done"


_left: list[Any] = []


def outlive_a_timeout_once(job: Any) -> str:
    """The first run ignores its end and is over its time; the second is quick."""
    if job.attempts_made == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            pass
        return "too late"
    # Long enough for a stop that was meant for the first run.
    return "stopped" if any(job.should_stop() for _ in range(100)) else "on time"
