"""`bullpy ps`: which processes work for the queues, and what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bullpy.doctor.processes import Process

LOOK_FOR = 4.0
"""Seconds that Redis may take to answer before the command gives up."""

LONGEST = 1000
"""Characters of a line: names and reasons are what others wrote."""

SHOWN_GONE = 5
"""Processes that are gone which are shown of each queue, unless all are asked for."""

SHOWN_CELL = 60
"""Characters of a name, a host or an id in the table."""

SHOWN_STATE = 160
"""Characters of what a process does, or why it ended."""

SHOWN_JOBS = 4
"""Ids of jobs that a line shows."""


def ps(
    queue: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this queue; may be given several times."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Those that left within the last hour too.")
    ] = False,
    redis: Annotated[
        str | None, typer.Option(help="Where Redis is; REDIS_URL by default.", metavar="URL")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="First part of every key; BULLPY_PREFIX or bull by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show the workers and producers of queues: bullpy's own, and Node's as far as Redis knows.

    What bullpy's processes say of themselves is at most 15 s old. Without --queue, all queues are
    shown that some process is there for. Those that are gone are shown with --all, and where
    nothing is alive. Exit code 1 when Redis cannot be asked, 2 for a wrong call.
    """
    import asyncio
    import json

    from bullpy import errors
    from bullpy.terminal import printable

    try:
        seen = asyncio.run(_look(queue or [], redis, prefix))
    except errors.BullpyError as error:
        if as_json:
            typer.echo(json.dumps({"error": errors.as_dict(error)}))
        raise
    if as_json:
        typer.echo(json.dumps(seen.as_dict()))
        return
    lines = [
        line for name, found in seen.queues.items() for line in _lines(name, found, everything)
    ]
    lines = lines or [f"No process is there for any queue with prefix {seen.prefix}."]
    typer.echo("\n".join(printable(line, LONGEST) for line in lines))
    for note in seen.notes:
        typer.echo(f"note: {printable(note, LONGEST)}", err=True)


class _Seen:
    """What was found.

    Attributes:
        url: Where, password masked.
        prefix: First part of the queues' keys.
        queues: The processes of each queue.
        notes: What could not be seen.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self.queues: dict[str, list[Process]] = {}
        self.notes: list[str] = []

    def as_dict(self) -> dict[str, Any]:
        return {
            "redis": self.url,
            "prefix": self.prefix,
            "queues": [
                {"queue": name, "processes": [each.as_dict() for each in found]}
                for name, found in self.queues.items()
            ],
            "notes": self.notes,
        }


async def _look(names: Sequence[str], url: str | None, given: str | None) -> _Seen:
    from bullpy import redis_url, registry
    from bullpy.connection.asking import Asker, refused
    from bullpy.connection.probe import probe
    from bullpy.doctor.processes import processes_of, queues_of
    from bullpy.doctor.reading import CLIENT_NAME, read_clients
    from bullpy.settings import RedisSettings, WorkerSettings

    if url is not None:
        redis_url.parse(url, source="--redis")
    settings = RedisSettings.of(url)
    prefix = given or WorkerSettings().prefix
    # In a cluster the node that has the queues; without a tag they are not on one.
    key = f"{prefix}:{names[0] if names else 'queue'}:meta"
    unavailable = (await probe(settings, deadline=LOOK_FOR, key=key)).error
    if unavailable is not None:
        raise unavailable
    seen = _Seen(settings.masked_url, prefix)
    asker = await Asker.open(settings, CLIENT_NAME, key=key)
    try:
        forbidden: dict[str, str] = {}
        clients = await read_clients(asker, forbidden)
        if clients is None:
            seen.notes.append(
                "CLIENT LIST is not allowed: workers of Node are not seen, and a frozen one of "
                f"bullpy looks as one that is gone. {forbidden['CLIENT LIST']}"
            )
        wanted = list(dict.fromkeys(names)) or queues_of(
            clients or [], prefix, await registry.queues(asker, prefix)
        )
        known = await registry.read(asker, [(prefix, name) for name in wanted])
        if known.refusal:
            seen.notes.append(f"What bullpy's processes say cannot be read: {known.refusal}")
        active = await asker.ask(*(("LLEN", f"{prefix}:{name}:active") for name in wanted))
        for name, length in zip(wanted, active, strict=True):
            number = 0 if refused(length) else int(length)
            seen.queues[name] = processes_of(
                prefix, name, known, clients, active=number, db=settings.db
            )
        if settings.cluster:
            seen.notes.append("In a cluster, connections to one node are seen: that of the queues.")
    finally:
        await asker.close()
    return seen


def _lines(queue: str, found: Sequence[Process], everything: bool) -> list[str]:
    from bullpy.doctor.wording import many

    workers = [each for each in found if each.role == "worker"]
    serving = sum(each.is_alive for each in workers)
    left = [each for each in workers if not each.is_alive]
    # A producer that adds nothing is silent: that is no sign of its end.
    shown = [each for each in found if each.is_alive or everything]
    if not serving and not everything:
        shown += left[:SHOWN_GONE]
    head = f"{queue}: {many(serving, 'worker')}"
    for role, word in (("producer", "producer"), ("events", "listener")):
        count = sum(each.role == role for each in shown if each.is_alive)
        if count:
            head += f", {many(count, word)}"
    if left:
        hidden = "" if all(each in shown for each in left) else " (--all shows them)"
        head += f"; {len(left)} gone within the last hour{hidden}"
    if not shown:
        return [head]
    rows = [_HEAD, *map(_row, shown)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEAD))]
    texts = [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines = [head, texts[0].rstrip()]
    for each, text in zip(shown, texts[1:], strict=True):
        lines += [text.rstrip(), *(f"      {note}" for note in each.notes)]
    return lines


_HEAD = ("ROLE", "LANG", "STATE", "NAME", "HOST", "PID", "AGE", "VERSION", "JOBS")


def _row(process: Process) -> tuple[str, ...]:
    from bullpy.doctor.wording import span
    from bullpy.terminal import printable

    more = len(process.jobs) - SHOWN_JOBS
    shown = [printable(each, SHOWN_CELL) for each in process.jobs[:SHOWN_JOBS]]
    jobs = " ".join(shown) + (f" and {more} more" if more > 0 else "")
    # Here and not line by line: widths are counted in characters that are shown.
    state = printable(process.state, SHOWN_STATE)
    others = (
        process.name,
        process.host,
        str(process.pid or ""),
        span(process.age),
        process.version,
    )
    told = (printable(cell, SHOWN_CELL) or "-" for cell in others)
    return process.role, process.lang or "-", state, *told, jobs or "-"
