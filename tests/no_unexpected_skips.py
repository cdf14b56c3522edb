"""Fails a CI run in which a test was skipped for a reason that nobody allowed.

A skipped test proves nothing. Where the environment really lacks something, its reason is
listed here, so that the list is seen when it grows.
"""

from __future__ import annotations

import os

import pytest

ALLOWED_REASONS: tuple[str, ...] = ()
"""Beginnings of reasons that a user would accept."""

_unexpected = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_unexpected] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not reason.startswith(ALLOWED_REASONS or ("\0",)):
            item.config.stash[_unexpected].append(f"{item.nodeid}: {reason}")
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CI") and session.config.stash[_unexpected]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash[_unexpected]:
        terminalreporter.write_line(f"unexpectedly skipped: {line}", red=True)
