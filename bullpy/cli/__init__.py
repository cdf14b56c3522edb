"""The `bullpy` command: one module per group of commands.

Exit codes: 0 done, 1 it failed, 2 wrong call or configuration, 3 a file is outside its target
(`bullpy audio analyze`), 130 interrupted; `bullpy worker`
ends with the code of `SystemExit` where a processor raised it; `bullpy doctor` has its own.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from bullpy import errors
from bullpy.cli import audio, doctor, job, ps, repair, version, worker

LONGEST = 4000
"""Characters of a line of an error."""

app = typer.Typer(
    name="bullpy",
    help="Python workers for BullMQ queues.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: rich would double the time until it appears.
    rich_markup_mode=None,
)
app.command("worker")(worker.worker)
app.command("doctor")(doctor.doctor)
app.command("ps")(ps.ps)
app.command("version")(version.version)
app.add_typer(job.app, name="job")
app.add_typer(repair.app, name="repair")
app.add_typer(audio.app, name="audio")


def main() -> NoReturn:
    """Run the command line; an error of bullpy is one clear message, without a traceback.

    `BULLPY_TRACEBACK=1` shows the traceback too.
    """
    try:
        app()
    except errors.BullpyError as error:
        if os.environ.get("BULLPY_TRACEBACK") == "1":
            import traceback

            traceback.print_exception(error)
        typer.echo(_message(error), err=True)
        sys.exit(2 if isinstance(error, errors.ConfigurationError | errors.ProcessorError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _message(error: errors.BullpyError) -> str:
    from bullpy.terminal import printable

    parts = {"error": error.message, "cause": error.cause, "fix": error.fix}
    # Some messages have several lines, and some quote what a server or a name says.
    lines = [
        printable(line, LONGEST)
        for name, text in parts.items()
        if text
        for line in f"{name + ':':<6} {text}".split("\n")
    ]
    return "\n".join(lines)
