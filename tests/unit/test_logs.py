import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from bullpy import errors, logs

SECRET_URL = "redis://u:geheim@h:1/0"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield logging.getLogger("bullpy.test")
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_console_line_has_level_logger_message_and_extras(logger: logging.Logger) -> None:
    stream = io.StringIO()
    logs.configure("INFO", "console", stream)
    with logs.job_context("audio", "7", "process-audio"):
        logger.info("done in %d ms", 5, extra={"code": "a b"})
    (line,) = lines(stream)
    assert line.endswith(
        'INFO    bullpy.test: done in 5 ms code="a b" queue=audio job_id=7 job_name=process-audio'
    )


def test_console_record_is_one_line_whatever_it_says(logger: logging.Logger) -> None:
    stream = io.StringIO()
    logs.configure("INFO", "console", stream)
    logger.info("two\nlines\r%s", "x\ny", extra={"field": "a\nb"})
    assert len(lines(stream)) == 1


def test_json_record_is_one_object(logger: logging.Logger) -> None:
    stream = io.StringIO()
    logs.configure("INFO", "json", stream)
    with logs.job_context("audio", "7", "n"):
        logger.warning("slow\n%s", "x", extra={"seconds": 1.5, "error": ValueError("bad")})
    record = json.loads(stream.getvalue())
    assert record.pop("time").endswith("Z")
    assert record == {
        "level": "warning",
        "logger": "bullpy.test",
        "message": "slow\nx",
        "seconds": 1.5,
        "error": "ValueError: bad",
        "queue": "audio",
        "job_id": "7",
        "job_name": "n",
    }


@pytest.mark.parametrize("value", [float("nan"), {1: {2}}, {(1, 2): 3}, b"\xff", object()])
def test_json_takes_any_extra(logger: logging.Logger, value: object) -> None:
    stream = io.StringIO()
    logs.configure("INFO", "json", stream)
    logger.info("x", extra={"value": value})
    assert "value" in json.loads(stream.getvalue())


def test_json_takes_a_value_that_holds_itself(logger: logging.Logger) -> None:
    value: list[object] = []
    value.append(value)
    stream = io.StringIO()
    logs.configure("INFO", "json", stream)
    logger.info("x", extra={"value": value})
    assert "[[...]]" in stream.getvalue()


@pytest.mark.parametrize("format", ["console", "json"])
def test_passwords_are_redacted_everywhere(logger: logging.Logger, format: logs.Format) -> None:
    stream = io.StringIO()
    logs.configure("INFO", format, stream)
    logger.info("at %s", SECRET_URL, extra={"url": SECRET_URL, "deep": {"urls": [SECRET_URL]}})
    try:
        raise ValueError(SECRET_URL)
    except ValueError:
        logger.exception(SECRET_URL)
    assert "geheim" not in stream.getvalue()
    assert stream.getvalue().count("redis://u:***@h:1/0") >= 5


@pytest.mark.parametrize("formatter", [logs.ConsoleFormatter(), logs.JsonFormatter()])
def test_wrong_format_arguments_do_not_lose_the_line(formatter: logging.Formatter) -> None:
    record = logging.makeLogRecord({"msg": "%d jobs", "args": ("many",)})
    assert "%d jobs" in formatter.format(record)


def test_console_line_cannot_steer_the_terminal_or_break_its_stream() -> None:
    record = logging.makeLogRecord({"msg": "\x1b[2J \ud800", "field": "\x1b[2J"})
    line = logs.ConsoleFormatter().format(record)
    assert "\x1b" not in line
    line.encode()


async def test_job_context_belongs_to_its_task() -> None:
    both_inside = asyncio.Barrier(2)

    async def work(job_id: str) -> str:
        with logs.job_context("q", job_id, "n"):
            await both_inside.wait()
            found = logs.current_job()
            assert found is not None
            return found.job_id

    assert await asyncio.gather(work("1"), work("2")) == ["1", "2"]
    assert logs.current_job() is None


def test_auto_is_json_where_there_is_no_terminal(logger: logging.Logger) -> None:
    stream = io.StringIO()
    logs.configure("INFO", "auto", stream)
    logger.info("x")
    assert json.loads(stream.getvalue())["message"] == "x"


def test_configuring_twice_writes_each_line_once(logger: logging.Logger) -> None:
    stream = io.StringIO()
    logs.configure("INFO", "console", stream)
    logs.configure("WARNING", "console", stream)
    logger.info("no")
    logger.warning("yes")
    assert len(lines(stream)) == 1


@pytest.mark.parametrize(("level", "format"), [("LOUD", "auto"), ("INFO", "xml")])
def test_unknown_level_and_format_are_refused(level: str, format: logs.Format) -> None:
    with pytest.raises(errors.ConfigurationError):
        logs.configure(level, format)


def test_repeating_line_is_said_once_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr("bullpy.logs.time.monotonic", lambda: now)
    log = logging.getLogger("bullpy.test")
    limited = logs.RateLimited(1.0)
    said = [limited.log(log, logging.WARNING, "fetch", "failed: %s", n) for n in range(100)]
    limited.log(log, logging.WARNING, "other", "other")
    now = 101.0
    limited.log(log, logging.WARNING, "fetch", "failed: %s", "again")
    assert said == [True] + [False] * 99
    assert [record.getMessage() for record in caplog.records] == [
        "failed: 0",
        "other",
        "failed: again (99 more since the last)",
    ]


def test_rate_limit_remembers_a_bounded_number_of_kinds() -> None:
    limited = logs.RateLimited(60, kinds=10)
    for n in range(1000):
        assert limited.allow(str(n)) == 0
    assert limited.allow("999") is None
    assert limited.allow("0") == 0
