"""Logging: job context, formatters for people and machines, redaction, rate limits.

The library only logs, to loggers named `bullpy.*`. `configure` is for the command line, which
owns its process; an application sets up logging as it likes and may use the parts of this
module: `JobContextFilter`, `ConsoleFormatter`, `JsonFormatter`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Generator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import IO, Literal, NamedTuple, TextIO, cast

from typing_extensions import override

from bullpy import errors, redis_url

redact = redis_url.redact

Format = Literal["auto", "console", "json"]


class JobContext(NamedTuple):
    """Which job the current code runs for."""

    queue: str
    job_id: str
    job_name: str


_context: ContextVar[JobContext | None] = ContextVar("bullpy_job", default=None)


def current_job() -> JobContext | None:
    """The job that the current task or thread runs for."""
    return _context.get()


def enter_job(queue: str, job_id: str, job_name: str) -> None:
    """Mark what the current task logs from now on as belonging to a job."""
    _context.set(JobContext(queue, job_id, job_name))


@contextlib.contextmanager
def job_context(queue: str, job_id: str, job_name: str) -> Generator[JobContext]:
    """Mark what is logged inside as belonging to a job."""
    context = JobContext(queue, job_id, job_name)
    token = _context.set(context)
    try:
        yield context
    finally:
        _context.reset(token)


class JobContextFilter(logging.Filter):
    """Adds `queue`, `job_id` and `job_name` of the current job to each record without them."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        context = _context.get()
        if context is not None:
            for name, value in context._asdict().items():
                record.__dict__.setdefault(name, value)
        return True


class _Formatter(logging.Formatter):
    def message_of(self, record: logging.LogRecord) -> str:
        """The message; a wrong format string must not cost the line."""
        try:
            text = record.getMessage()
        except Exception as error:  # noqa: BLE001 - any __str__ may run here
            text = f"{record.msg} (cannot be formatted: {errors.describe(error)})"
        return redact(text)

    def trace_of(self, record: logging.LogRecord) -> str:
        text = ""
        if record.exc_info and record.exc_info[0] is not None:
            text = record.exc_text or "".join(traceback.format_exception(*record.exc_info))
        if record.stack_info:
            text = f"{text.rstrip()}\n{record.stack_info}" if text else record.stack_info
        return redact(text.rstrip())


class ConsoleFormatter(_Formatter):
    """One line a record for people: local time, level, logger, message, then `key=value`."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone()
        clock = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"
        message = self.message_of(record).translate(_CONTROL)
        fields = "".join(f" {name}={_shown(value)}" for name, value in extras(record).items())
        line = f"{clock} {record.levelname:<7} {record.name}: {message}{fields}"
        trace = self.trace_of(record)
        whole = f"{line}\n{trace}" if trace else line
        # Lone surrogates cannot be written to a UTF-8 stream.
        return whole.encode("utf-8", "backslashreplace").decode()


class JsonFormatter(_Formatter):
    """One JSON object a record: time (ISO 8601, UTC), level, logger, message, extras, exception."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.message_of(record),
        }
        for name, value in extras(record).items():
            line.setdefault(name, _cleaned(value))
        trace = self.trace_of(record)
        if trace:
            line["exception"] = trace
        try:
            return json.dumps(line, default=_text, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            # NaN, and keys that are no text: such a value is shown as text.
            plain = {
                key: value if _is_plain(value) else _text(value) for key, value in line.items()
            }
            return json.dumps(plain)


class RateLimited:
    """Says a repeating thing at most once per interval and kind, and counts the rest.

    ```python
    limited = RateLimited(1.0)
    limited.log(log, logging.WARNING, "fetch", "fetching failed: %s", error)
    ```

    Args:
        interval: Seconds of silence after a line of the same kind.
        kinds: How many kinds are remembered.
    """

    def __init__(self, interval: float = 1.0, *, kinds: int = 1000) -> None:
        self._interval = interval
        self._kinds = kinds
        self._seen: dict[str, tuple[float, int]] = {}
        self._guard = threading.Lock()

    def allow(self, kind: str) -> int | None:
        """How many of this kind were held back since the last; None: hold this one back."""
        now = time.monotonic()
        with self._guard:
            last, held = self._seen.get(kind, (-self._interval, 0))
            if now - last < self._interval and kind in self._seen:
                self._seen[kind] = (last, held + 1)
                return None
            # Taken out first: the order of the dict is then that of the last line.
            self._seen.pop(kind, None)
            if len(self._seen) >= self._kinds:
                del self._seen[next(iter(self._seen))]
            self._seen[kind] = (now, 0)
            return held

    def log(
        self,
        logger: logging.Logger,
        level: int,
        kind: str,
        message: str,
        *args: object,
        extra: dict[str, object] | None = None,
    ) -> bool:
        """Log unless this kind was said just now; tells whether it did."""
        held = self.allow(kind)
        if held is None:
            return False
        if held:
            message, args = message + " (%d more since the last)", (*args, held)
        logger.log(level, message, *args, extra=extra, stacklevel=2)
        return True


def configure(
    level: int | str = "INFO",
    format: Format = "auto",  # noqa: A002 - the name of the option that it is
    stream: TextIO | None = None,
) -> logging.Handler:
    """Set up logging for a process that bullpy owns; calling it again replaces the first set-up.

    Args:
        level: Level of the root logger, a name or a number.
        format: `console`, `json`, or `auto`: console on a terminal, JSON otherwise.
        stream: Where to; None is stderr.

    Raises:
        ConfigurationError: There is no such level or format.
    """
    target = stream or sys.stderr
    if format not in ("auto", "console", "json"):
        raise errors.ConfigurationError(
            f"{format!r} is no log format.", fix="Use auto, console or json."
        )
    number = _level(level)
    handler = _Handler(target)
    handler.addFilter(JobContextFilter())
    console = format == "console" or (format == "auto" and _is_terminal(target))
    handler.setFormatter(ConsoleFormatter() if console else JsonFormatter())
    root = logging.getLogger()
    for old in [item for item in root.handlers if isinstance(item, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    return handler


def extras(record: logging.LogRecord) -> dict[str, object]:
    """What was passed as `extra` to the call that logged."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that configuring again finds it."""


_DEEPEST = 5
_CONTROL = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160)]} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: " ",
    0x2029: " ",
}
"""Job data ends up in messages: it must not end the line or steer the terminal."""

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def _level(level: int | str) -> int:
    if isinstance(level, int):
        return level
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise errors.ConfigurationError(
            f"{level!r} is no log level.", fix="Use DEBUG, INFO, WARNING, ERROR or CRITICAL."
        )
    return number


def _is_terminal(stream: IO[str]) -> bool:
    try:
        return stream.isatty()
    except ValueError:
        return False


def _shown(value: object) -> str:
    text = redact(_text(value))
    if text and text.isprintable() and not any(char in text for char in ' "='):
        return text
    return json.dumps(text, ensure_ascii=False)


def _cleaned(value: object, depth: int = 0) -> object:
    """The value with passwords hidden in all its texts; what is nested deep becomes text."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict | list | tuple):
        if depth >= _DEEPEST:
            return _text(value)  # pyright: ignore[reportUnknownArgumentType]
        if isinstance(value, dict):
            items = cast("dict[object, object]", value).items()
            return {key: _cleaned(item, depth + 1) for key, item in items}
        return [_cleaned(item, depth + 1) for item in cast("list[object]", value)]
    return value


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return redact(value.decode(errors="replace"))
    if isinstance(value, BaseException):
        return redact(errors.describe(value))
    try:
        return redact(str(value))
    except Exception as error:  # noqa: BLE001 - any __str__ may run here
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | bool | None)
