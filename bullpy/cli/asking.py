"""Asking before a command changes something."""

from __future__ import annotations

import typer


def agree(doing: str, question: str, *, yes: bool, fix: str = "Give --yes.") -> None:
    """Ask, unless the answer was given.

    Args:
        doing: What was not confirmed, for the error: `Cancelling job 4`.
        question: What is asked, with what will happen.
        yes: The answer was given.
        fix: What to do where there is nobody to ask.

    Raises:
        errors.ConfigurationError: There is no terminal to ask on.
        typer.Exit: The answer is no.
    """
    import sys

    from bullpy import errors

    if yes:
        return
    if not sys.stdin.isatty():
        raise errors.ConfigurationError(
            f"{doing} was not confirmed.",
            cause="The command asks, and there is no terminal to ask on.",
            fix=fix,
        )
    # Not typer.confirm: it writes to stdout too, where --json has its place.
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        typer.echo("Nothing was done.", err=True)
        raise typer.Exit(1)
