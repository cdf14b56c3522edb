"""`bullpy doctor`: why a queue is not consumed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bullpy.doctor import Diagnosis


LONGER = 4
"""With --watch, how many times as long all rounds but the first look at who is connected."""


def doctor(
    queue: Annotated[
        list[str] | None,
        typer.Option(help="A queue; without one, all under the prefix.", metavar="NAME"),
    ] = None,
    redis: Annotated[
        str | None, typer.Option(help="Where Redis is; REDIS_URL by default.", metavar="URL")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="First part of every key; BULLPY_PREFIX or bull by default.")
    ] = None,
    interval: Annotated[
        float,
        typer.Option(min=0.5, max=600, metavar="SECONDS", help="Time between the two looks."),
    ] = 6.0,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again, and tell what changes.")
    ] = False,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Run a harmless job through a queue of its own."),
    ] = False,
    probe_queue: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Add a job named bullpy-probe to this queue, and follow it."
        ),
    ] = None,
    peer: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where the other side tells which queue it uses."),
    ] = None,
    project: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Check the files of a project; alone, Redis is not asked."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object; with --watch one per line.")
    ] = False,
) -> None:
    """Tell why a queue is not consumed, with the proof and the fix.

    Changes nothing; --probe and --probe-queue add a job, and remove it.

    Exit code 0 when nothing is wrong, 1 with warnings, 2 when jobs are blocked or lost, 3 when
    Redis cannot be reached.
    """
    import asyncio
    import json

    from bullpy import errors, logs
    from bullpy.settings import WorkerSettings

    logs.configure("error", "console")
    if project is not None and not (queue or redis or probe or probe_queue or peer or watch):
        from bullpy.doctor import check_project

        checked = check_project(project)
        _tell(checked, as_json)
        raise typer.Exit(checked.exit_code)
    asked: dict[str, Any] = {
        "redis": redis,
        "prefix": prefix or WorkerSettings().prefix,
        "interval": interval,
        "probe": probe_queue or probe,
        "peer": peer,
        "project": project,
        "source": "--redis",
    }
    found: list[int] = []
    try:
        asyncio.run(_rounds(queue or [], asked, found, watch=watch, as_json=as_json))
    except errors.BullpyError as error:
        if as_json:
            typer.echo(json.dumps({"error": errors.as_dict(error)}))
        raise
    except KeyboardInterrupt:
        if not found:
            raise
    raise typer.Exit(found[-1])


async def _rounds(
    queues: list[str], asked: dict[str, Any], found: list[int], *, watch: bool, as_json: bool
) -> None:
    """Diagnose once, or until it is interrupted; `found` gets the exit code of each round."""
    import asyncio

    from bullpy.doctor import diagnose

    told: object = None
    while watch or not found:
        diagnosis = await diagnose(queues, **asked)
        news = [(each.code, each.queue, each.level) for each in diagnosis.verdicts]
        if as_json or news != told:
            _tell(diagnosis, as_json)
        told = news
        found.append(diagnosis.exit_code)
        if watch:
            # From now on there is time to see what comes and goes.
            asked["watch"] = LONGER * asked["interval"]
            # What ends before its time, as where nothing answers, is not asked again at once.
            await asyncio.sleep(max(0.0, asked["interval"] - diagnosis.seconds))


def _tell(diagnosis: Diagnosis, as_json: bool) -> None:
    import json

    from bullpy.doctor import report

    text = json.dumps(diagnosis.as_dict()) if as_json else "\n".join(report.lines(diagnosis))
    typer.echo(text)
