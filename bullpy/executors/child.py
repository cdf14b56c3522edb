"""The child process: `python -m bullpy.executors.child SOCKET MARKER`.

It imports the processors, then runs one job at a time until its worker closes the socket. It
needs neither redis nor bullmq, so that it starts quickly and stays small: this module and those
it imports are the bottom layers and the standard library alone.
"""

from __future__ import annotations

import faulthandler
import functools
import inspect
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, cast

from bullpy import codec, errors
from bullpy.executors import frames, standins
from bullpy.executors.channel import Channel
from bullpy.executors.childjob import ChildJob, JobSignal
from bullpy.executors.frames import Kind
from bullpy.executors.target import Target
from bullpy.executors.wire import error_from_wire, error_to_wire
from bullpy.payloads import Payload
from bullpy.types import StopReason

EXIT_HUNG_UP = 181
"""The exit code of a child whose processor has closed the connection to the worker."""


class Loaded:
    """A processor as this process found it, or why it could not be loaded."""

    def __init__(self, target: Target, arguments: int, *, is_script: bool) -> None:
        self.error: dict[str, Any] | None = None
        self.is_async = False
        self._target = target
        self._arguments = arguments
        self._is_script = is_script
        self._function: Callable[..., Any] | None = None
        self._payload: Payload | None = None
        self.load()

    def load(self) -> bool:
        """Import it, again where that failed before: the file may be mended meanwhile."""
        if self._function is not None:
            return True
        allow = (
            standins.forbid_starting(cast("str", self._target.file)) if self._is_script else None
        )
        known = self._target.module in sys.modules
        try:
            function = self._target.load()
            self._payload = Payload.of(function)
            self.is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
            self._function = function
        except BaseException as error:  # noqa: BLE001 - told to the worker
            self.error = error_to_wire(error)
            if not known:
                # To be read anew at the next try.
                sys.modules.pop(self._target.module, None)
        finally:
            if allow is not None:
                allow()
        return self._function is not None

    def call(self, job: ChildJob[Any]) -> Any:
        """Call the processor."""
        assert self._function is not None
        if self._payload is not None:
            job.data = self._payload.load(job.id, job.data)
        extra = (job.token, JobSignal(job))[: self._arguments - 1]
        return self._function(job, *extra)


class Child:
    """Runs jobs that arrive on the socket.

    Args:
        sock: The socket to the worker.
        marker: See `serve`.
    """

    def __init__(self, sock: socket.socket, marker: int) -> None:
        self._marker = marker
        self._begun = 0
        self._interrupted = False
        self._pid = os.getpid()
        self._channel = Channel(sock, self._stopped, self._interrupt)
        self._processors: list[Loaded] = []
        self._job: ChildJob[Any] | None = None
        self._inside = False
        self._cancel: Callable[[], object] | None = None
        self._early_stop: dict[str, Any] | None = None

    def main(self) -> NoReturn:
        """Serve until the worker closes the socket."""
        try:
            kind, body = self._channel.receive()
            assert kind == Kind.INIT
            self._prepare(codec.loads(body))
            while True:
                kind, body = self._channel.receive()
                if kind == Kind.JOB:
                    self._run(body)
        except (EOFError, OSError):
            # The worker has closed the connection, or is gone. Threads that the processor left
            # behind must not keep the process alive.
            pass
        except errors.WorkerStateError:
            os._exit(EXIT_HUNG_UP)
        _flush()
        os._exit(0)

    # -- starting --------------------------------------------------------------------------

    def _prepare(self, init: dict[str, Any]) -> None:
        surroundings(init)
        _log_to(self._channel, init["log_level"])
        self._processors = load(init["processors"])
        signal.signal(signal.SIGTERM, self._terminated)
        os.register_at_fork(after_in_child=self._forked)
        failed = {
            str(number): loaded.error
            for number, loaded in enumerate(self._processors)
            if loaded.error is not None
        }
        self._channel.send(Kind.READY, codec.dumps(failed))
        # After READY: it takes a moment, and nobody waits for it.
        die_with_parent(init["parent"])

    def _forked(self) -> None:
        """In a process that a processor forked: the worker's socket is not its own."""
        self._channel.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    # -- running ---------------------------------------------------------------------------

    def _run(self, body: bytes) -> None:
        head, data = frames.two_of(body)
        order: dict[str, Any] = codec.loads(head)
        processor = self._processors[int(order["processor"])]
        job = self._job = ChildJob(
            order["fields"],
            codec.loads(data),
            functools.partial(self._ask, order["run"]),
            self._channel.poll_if_free,
        )
        # From here on the job counts as begun, and its end as its own.
        self._begun = order["run"]
        os.lseek(self._marker, self._begun, os.SEEK_SET)
        self._interrupted = False
        early, self._early_stop = self._early_stop, None
        if early is not None and early["run"] == self._begun:
            job.request_stop(StopReason(early["reason"]), early["text"])
        # The processor of an earlier job may have taken the signal for itself.
        signal.signal(signal.SIGTERM, self._terminated)
        lift = _limit_memory(order.get("address_space"))
        answer, reply = self._outcome(processor, job)
        is_lifted = lift()
        if os.getpid() != self._pid:
            # A processor that forked and let both processes return.
            os._exit(0)
        _flush()
        self._job = None
        self._channel.send(answer, reply)
        if not is_lifted:
            # The processor has lowered the limit for good; another child takes over.
            raise EOFError

    def _outcome(self, processor: Loaded, job: ChildJob[Any]) -> tuple[int, bytes]:
        try:
            if not processor.load():
                return Kind.ERROR, codec.dumps({"load": processor.error})
            encoded = codec.dumps(self._called(processor, job))
            if len(encoded) > frames.LONGEST:
                raise errors.EncodingError(
                    f"The result has {len(encoded)} bytes of JSON.",
                    fix="Store it elsewhere and return a reference.",
                )
            return Kind.RESULT, encoded
        except BaseException as error:  # noqa: BLE001 - the barrier: SystemExit and all
            self._inside = False
            return Kind.ERROR, codec.dumps(error_to_wire(error))

    def _called(self, processor: Loaded, job: ChildJob[Any]) -> Any:
        if processor.is_async:
            return self._called_on_loop(processor, job)
        try:
            self._inside = True
            if job.stop_reason is not None:
                raise self._stop_error()
            result = processor.call(job)
        finally:
            self._inside = False
        if inspect.iscoroutine(result):
            result.close()
            raise errors.ProcessorError(
                "The processor returned a coroutine.", fix="Make it an async def."
            )
        return result

    def _called_on_loop(self, processor: Loaded, job: ChildJob[Any]) -> Any:
        """Run an `async def` processor on an event loop of its own."""
        import asyncio

        async def main() -> Any:
            task = asyncio.current_task()
            assert task is not None
            loop = asyncio.get_running_loop()
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            if job.stop_reason is not None:
                raise self._stop_error()
            return await processor.call(job)

        try:
            return asyncio.run(main())
        except asyncio.CancelledError:
            if job.stop_reason is not None:
                raise self._stop_error() from None
            raise
        finally:
            self._cancel = None

    def _ask(self, run: int, method: str, args: tuple[Any, ...]) -> Any:
        """Let the worker call a method of the job.

        Args:
            run: The run that asks: a thread that it left behind may ask during another.
            method: The method.
            args: Its arguments.
        """
        wire = {"run": run, "method": method, "args": args}
        answer = self._channel.ask(Kind.CALL, codec.dumps(wire))
        reply: dict[str, Any] = codec.loads(answer)
        if reply.get("error") is not None:
            raise error_from_wire(reply["error"])
        return reply.get("value")

    # -- stopping --------------------------------------------------------------------------

    def _stopped(self, body: bytes) -> None:
        """A STOP frame: from now on the job's `should_stop()` is true."""
        wire: dict[str, Any] = codec.loads(body)
        if self._job is None or self._begun != wire["run"]:
            # It came together with its job, or after its end.
            self._early_stop = wire
            return
        self._job.request_stop(StopReason(wire["reason"]), wire["text"])
        if self._interrupted and not self._channel.note_interrupt():
            # The signal came first, and another thread reads: the main thread is to hear again.
            signal.pthread_kill(cast("int", threading.main_thread().ident), signal.SIGTERM)

    def _terminated(self, _number: int, _frame: FrameType | None) -> None:
        """SIGTERM: end the processor with an exception, wherever it is."""
        self._interrupted = True
        if not self._channel.note_interrupt():
            self._interrupt()

    def _interrupt(self) -> None:
        if self._job is None:
            return
        self._channel.poll_if_free()
        if self._job.stop_reason is None:
            return
        if self._cancel is not None:
            self._cancel()
        elif self._inside:
            raise self._stop_error()

    def _stop_error(self) -> errors.JobError:
        assert self._job is not None
        text = self._job.stop_text or f"The job was stopped: {self._job.stop_reason}."
        if self._job.stop_reason is StopReason.TIMEOUT:
            return errors.JobTimeoutError(text)
        if self._job.stop_reason is StopReason.CPU_LIMIT:
            return errors.CpuLimitError(text)
        return errors.JobCancelledError(text)


def surroundings(init: dict[str, Any]) -> None:
    """Let imports find here what they find in the worker."""
    sys.path[:] = init["path"]
    sys.argv[:] = init["argv"]
    if init["pythonpath"] is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = init["pythonpath"]
    standins.install()


def load(processors: list[dict[str, Any]]) -> list[Loaded]:
    """Import the processors."""
    return [
        Loaded(Target(*item["target"]), item["arguments"], is_script=item["is_script"])
        for item in processors
    ]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # the processor has closed or replaced it


def _limit_memory(extra: int | None) -> Callable[[], bool]:
    """Let allocations fail that lead far beyond the memory limit.

    The worker watches the resident set, a few times a second. An allocation of gigabytes at
    once would take the machine's memory before it looks, so the address space is limited too,
    with room for what is mapped and never touched.

    Returns:
        Lifts the limit; tells whether it could.
    """
    if extra is None:
        return _nothing
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - the hot path
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + extra, before[1]))
    except (OSError, ValueError):
        return _nothing  # no Linux, or a lower hard limit already

    def lift() -> bool:
        try:
            resource.setrlimit(resource.RLIMIT_AS, before)
        except (OSError, ValueError):
            return False
        return True

    return lift


def _nothing() -> bool:
    return True


def _log_to(channel: Channel, level: int) -> None:
    """Send what is logged here to the worker's log."""
    import logging

    class ToWorker(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                text = self.format(record)
                wire = {"name": record.name, "level": record.levelno, "text": text}
                channel.send(Kind.LOG, codec.dumps(wire))
            except (OSError, errors.BullpyError) as error:
                if isinstance(error, errors.JobLimitError | errors.JobCancelledError):
                    raise  # the job is to end, wherever it is
                self.handleError(record)

    root = logging.getLogger()
    root.handlers[:] = [ToWorker()]
    root.setLevel(level)


def die_with_parent(parent: int) -> None:
    """End when the worker is killed, even in the middle of a job that never looks.

    Linux only: elsewhere the closed socket ends the child after its job.
    """
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def serve(descriptor: int, marker: int) -> NoReturn:
    """Run jobs that arrive on this socket, as the only purpose of the process.

    Args:
        descriptor: The socket.
        marker: A file whose position tells the worker how many jobs were begun: it shares the
            position with this process, and learns so without a frame for each job whether a
            child that has died had begun its last one.
    """
    # Anew, because those of a fork server may be of another kind; and line by line, so that
    # nothing is lost in a crash.
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = open(  # noqa: SIM115 - for as long as the process lives
            number, "w", buffering=1, errors="backslashreplace", closefd=False
        )
        setattr(sys, name, stream)
    # A descriptor of its own: the processor may close or replace stderr.
    stderr = os.dup(2)
    faulthandler.enable(stderr)
    faulthandler.register(signal.SIGUSR1, stderr)
    for number in (descriptor, marker):
        os.set_inheritable(number, False)
    Child(socket.socket(fileno=descriptor), marker).main()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
