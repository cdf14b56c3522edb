"""`bullpy repair`: mend what is wrong with a queue, each thing by its name.

Every command tells what it would do, and does it with `--apply` alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bullpy.cli.opening import AsJson, Prefix, QueueName, RedisUrl, opened

if TYPE_CHECKING:
    from bullpy.queue import Queue
    from bullpy.repairs import LogEntry, Report

Apply = Annotated[
    bool, typer.Option("--apply/--dry-run", help="Do it; without, only tell what would be done.")
]

LONGEST = 4000
"""Characters of a line."""

app = typer.Typer(
    help="Mend a queue; each command only tells what it would do, unless --apply is given.",
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def repair(context: typer.Context) -> None:
    """Mend a queue; each command only tells what it would do, unless --apply is given.

    Workers may run meanwhile, and running a repair twice is fine. Exit code 0 when it is done or
    there is nothing to do; 1 when something would be done and --apply was not given, or Redis
    cannot be asked; 2 for a wrong call.
    """
    if context.invoked_subcommand is not None:
        return
    from bullpy.repairs import NAMES

    for name, meaning in NAMES.items():
        typer.echo(f"bullpy repair {name:<13} {meaning}")
    typer.echo(f"bullpy repair {'log':<13} show what was repaired, when and by whom")
    typer.echo("each needs --queue NAME, and changes nothing without --apply")


@app.command()
def resume(
    queue: QueueName,
    apply: Apply = False,
    redis: RedisUrl = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Resume a paused queue; no job of BullMQ 5 or 6 is lost, whichever list it is in."""

    async def mend(opened: Queue) -> Report:
        from bullpy import repairs

        return await repairs.resume(opened, dry_run=not apply)

    _repair("resume", mend, queue, redis, prefix, apply=apply, as_json=as_json)


@app.command()
def orphans(
    queue: QueueName,
    apply: Apply = False,
    redis: RedisUrl = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Put jobs back that no worker would ever get.

    Those are jobs in no list of the queue, as after a resume by BullMQ 5 beside version 6, and
    jobs in a list that nobody reads. Lost jobs go to the front. It reads all keys of the database,
    in small steps.
    """

    async def mend(opened: Queue) -> Report:
        return await opened.repair(dry_run=not apply)

    _repair("orphans", mend, queue, redis, prefix, apply=apply, as_json=as_json)


@app.command()
def active(
    queue: QueueName,
    apply: Apply = False,
    redis: RedisUrl = None,
    prefix: Prefix = None,
    apart: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Between the two looks for a lock."),
    ] = 10.0,
    max_stalled: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="How often a job may stall before its next worker fails it."
        ),
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Let active jobs wait again that have no owner: no lock in two looks, and none when moved.

    It does what the stalled check of a worker does, where none does it. Attempts stay.
    """

    async def mend(opened: Queue) -> Report:
        from bullpy import repairs

        return await repairs.recover_active(
            opened, dry_run=not apply, apart=apart, max_stalled_count=max_stalled
        )

    _repair("active", mend, queue, redis, prefix, apply=apply, as_json=as_json)


@app.command()
def ids(
    queue: QueueName,
    apply: Apply = False,
    redis: RedisUrl = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Drop ids that have no data from all lists and sets; never one that a worker holds."""

    async def mend(opened: Queue) -> Report:
        from bullpy import repairs

        return await repairs.drop_ids(opened, dry_run=not apply)

    _repair("ids", mend, queue, redis, prefix, apply=apply, as_json=as_json)


@app.command()
def limiter(
    queue: QueueName,
    apply: Apply = False,
    redis: RedisUrl = None,
    prefix: Prefix = None,
    longer_than: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="Remove any limiter that lasts longer than that."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove a rate limit that does not end, or that rateLimit() made for over a minute."""

    async def mend(opened: Queue) -> Report:
        from bullpy import repairs

        return await repairs.release_limiter(opened, dry_run=not apply, longer_than=longer_than)

    _repair("limiter", mend, queue, redis, prefix, apply=apply, as_json=as_json)


@app.command("retry-failed")
def retry_failed(
    queue: QueueName,
    apply: Apply = False,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Part of the reason of the failures.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="CODE", help="The code of a group, as it is shown.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every group.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most so many, the oldest first.")
    ] = None,
    redis: RedisUrl = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Let failed jobs wait again, by the reason of their failure; without a choice, show reasons.

    Reasons are compared without numbers, ids, paths and the like. Each job keeps its attempts.
    """

    async def mend(opened: Queue) -> Report:
        from bullpy import repairs

        return await repairs.retry_failed(
            opened,
            dry_run=not apply,
            reason=reason,
            group=group,
            limit=limit,
            everything=everything,
        )

    chosen = bool(reason or group or everything)
    # What was shown without a choice is all of them; to retry all has to be said.
    more = "" if chosen else " --all"
    _repair("retry-failed", mend, queue, redis, prefix, apply=apply, as_json=as_json, more=more)


@app.command()
def log(
    queue: QueueName,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many repairs.")] = 20,
    redis: RedisUrl = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Show what was repaired, when and by whom; the newest first."""
    import asyncio
    import json

    async def read() -> list[LogEntry]:
        from bullpy import repairs

        async with opened(queue, redis, prefix) as found:
            return await repairs.read_log(found, limit=limit)

    entries = asyncio.run(read())
    if as_json:
        typer.echo(json.dumps({"queue": queue, "repairs": [each.as_dict() for each in entries]}))
        return
    for entry in entries:
        typer.echo("\n".join(_told(entry)))
    if not entries:
        from bullpy.terminal import printable

        typer.echo(f"nothing of queue {printable(queue, 200)} was repaired yet")


def _repair(
    name: str,
    mend: Callable[[Queue], Awaitable[Report]],
    queue: str,
    redis: str | None,
    prefix: str | None,
    *,
    apply: bool,
    as_json: bool,
    more: str = "",
) -> None:
    """Run a repair, and tell of it; `more` is what its command needs beside --apply."""
    import asyncio
    import json

    from bullpy import errors
    from bullpy.terminal import printable

    try:
        report, warnings = asyncio.run(_mend(mend, queue, redis, prefix))
    except errors.BullpyError as error:
        if as_json:
            told = {"repair": name, "queue": queue, "error": errors.as_dict(error)}
            typer.echo(json.dumps(told))
        raise
    if as_json:
        typer.echo(json.dumps(report.as_dict() | {"warnings": warnings}))
    else:
        lines = [f"queue {queue}: {name}", *map("  {}".format, report.sentences())]
        typer.echo("\n".join(printable(line, LONGEST) for line in lines))
        for warning in warnings:
            typer.echo(f"warning: {printable(warning['message'], LONGEST)}", err=True)
            typer.echo(printable(str(warning["cause"]), LONGEST), err=True)
        if report.log_error:
            told = f"warning: it is not in the log of repairs: {report.log_error}"
            typer.echo(printable(told, LONGEST), err=True)
        if report.dry_run and not report.found_nothing:
            again = f"nothing was changed; to do it: {_again()}{more} --apply"
            typer.echo(printable(again, LONGEST))
    if report.dry_run and not report.found_nothing:
        raise typer.Exit(1)


async def _mend(
    mend: Callable[[Queue], Awaitable[Report]], name: str, url: str | None, prefix: str | None
) -> tuple[Report, list[dict[str, Any]]]:
    from dataclasses import asdict

    from bullpy.peers import PeerWarning

    warnings: list[PeerWarning] = []
    # The warnings are told above, in the command's own words.
    async with opened(name, url, prefix, log_level="error") as queue:
        queue.on("warning", warnings.append)
        report = await mend(queue)
    return report, [asdict(warning) for warning in warnings]


def _again() -> str:
    """The command as it was typed, with passwords masked."""
    import sys

    from bullpy.redaction import redact

    words = [word for word in sys.argv[1:] if word != "--dry-run"]
    return redact(shlex.join(["bullpy", *words]))


def _told(entry: LogEntry) -> list[str]:
    from bullpy.terminal import moment, printable

    took = "" if entry.ended is None else f" after {(entry.ended - entry.started) / 1000:.1f} s"
    who = printable(entry.who, 200)
    lines = [f"{moment(entry.started)} {entry.repair} {entry.outcome}{took}, by {who}"]
    if entry.error:
        lines.append(f"  {printable(entry.error, 500)}")
    for name, value in entry.report.items():
        if value not in (0, "", [], None, False, {}):
            lines.append(f"  {name}: {printable(str(value), 300)}")
    return lines
