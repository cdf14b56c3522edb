"""`bullpy queue`: look after one queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bullpy.cli.asking import agree

if TYPE_CHECKING:
    from bullpy.repair import RepairReport

LOOK_FOR = 4.0
"""Seconds that Redis may take to answer before the command gives up."""

SHOWN = 10
"""Ids that are told of each kind; `--json` tells all."""

app = typer.Typer(no_args_is_help=True, help="Look after one queue.", rich_markup_mode=None)


@app.callback()
def queue() -> None:
    """Look after one queue."""


@app.command()
def repair(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The queue.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be done.")
    ] = False,
    redis: Annotated[
        str | None, typer.Option(help="Where Redis is; REDIS_URL by default.", metavar="URL")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="First part of every key; BULLPY_PREFIX or bull by default.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Put jobs back that no worker would ever get; workers may run meanwhile.

    Those are jobs in no list of the queue, as after a resume by BullMQ 5 beside version 6, and
    jobs in a list that nobody reads. Exit code 0 when that is done or there are none; with
    --dry-run 1 when there are some; 1 when Redis cannot be asked, 2 for a wrong call.
    """
    import asyncio
    import json

    from bullpy import errors

    if not dry_run:
        agree(
            f"Repairing queue {name}",
            f"Repair queue {name}? Lost jobs go back to the front and run.",
            yes=yes,
            fix="Give --yes, or look first: --dry-run.",
        )
    try:
        report, warnings = asyncio.run(_repair(name, redis, prefix, dry_run=dry_run))
    except errors.BullpyError as error:
        if as_json:
            typer.echo(json.dumps({"queue": name, "error": errors.as_dict(error)}))
        raise
    if as_json:
        typer.echo(json.dumps(report.as_dict() | {"warnings": warnings}))
    else:
        typer.echo("\n".join(_lines(report)))
        for warning in warnings:
            typer.echo(f"warning: {warning['message']}\n{warning['cause']}", err=True)
    if dry_run and not report.found_nothing:
        raise typer.Exit(1)


async def _repair(
    name: str, url: str | None, prefix: str | None, *, dry_run: bool
) -> tuple[RepairReport, list[dict[str, Any]]]:
    from dataclasses import asdict

    from bullpy import logs, redis_url
    from bullpy.connection.probe import probe
    from bullpy.peers import PeerWarning
    from bullpy.queue import Queue
    from bullpy.settings import WorkerSettings

    # The warnings are told below, in the command's own words.
    logs.configure("error", "console")
    if url is not None:
        redis_url.parse(url, source="--redis")
    warnings: list[PeerWarning] = []
    async with Queue(name, redis=url, prefix=prefix or WorkerSettings().prefix) as queue:
        # What no waiting mends, and a server that is not there, is said at once.
        refused = (await probe(queue.redisConnection.settings, deadline=LOOK_FOR)).error
        if refused is not None:
            raise refused
        queue.on("warning", warnings.append)
        report = await queue.repair(dry_run=dry_run)
    return report, [asdict(warning) for warning in warnings]


def _lines(report: RepairReport) -> list[str]:
    verb = "would go" if report.dry_run else "went"
    lines = [f"queue {report.queue}: {report.checked} jobs looked at"]
    kinds = {
        f"{verb} back to those that wait": report.waiting,
        f"{verb} back to those with a priority": report.prioritized,
        f"{verb} back to those that are delayed": report.delayed,
        "have ended, are locked or wait for children, and were left alone": report.held,
    }
    for text, ids in kinds.items():
        if ids:
            more = ", ..." if len(ids) > SHOWN else ""
            lines.append(f"{len(ids)} lost jobs {text}: {', '.join(ids[:SHOWN])}{more}")
    if report.merged:
        moved = "would be moved" if report.dry_run else "were moved"
        lines.append(f"{report.merged} jobs {moved} out of a list that nobody reads")
    if report.found_nothing:
        lines.append("no job is lost")
    return lines
