"""`bullpy job`: look at one job, and steer it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bullpy.cli import life
from bullpy.cli.asking import agree
from bullpy.cli.opening import LOOK_FOR, opened

if TYPE_CHECKING:
    from bullpy.queue import Queue

CANCELLED = "The job was cancelled"
"""What the failedReason of a cancelled job begins with."""

ENDS = ("completed", "failed", "delayed", "waiting", "waiting-children", "stalled")
"""Events that end a job's run."""

app = typer.Typer(
    no_args_is_help=True, help="Look at one job, and steer it.", rich_markup_mode=None
)


@app.callback()
def job() -> None:
    """Look at one job, and steer it."""


app.command()(life.show)
app.command()(life.follow)


@app.command()
def cancel(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The id of a job that runs.")],
    queue: Annotated[str, typer.Option(metavar="NAME", help="Its queue.")],
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Becomes part of the job's failedReason.")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(help="Where Redis is; REDIS_URL by default.", metavar="URL")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="First part of every key; BULLPY_PREFIX or bull by default.")
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="How long to wait for its end; 0 not at all."),
    ] = 10.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Stop a job that runs, on whatever machine; it fails and is not retried.

    Exit code 0 when the job was cancelled (with --timeout 0: when it was asked for), 1 when there
    is no such job, it does not run, it ended otherwise or still runs, 2 for a wrong call.
    """
    import asyncio

    from bullpy import errors

    agree(
        f"Cancelling job {job_id}",
        f"Cancel job {job_id} of queue {queue}? It fails and is not retried.",
        yes=yes,
    )
    answer: dict[str, Any] = {"id": job_id, "queue": queue}
    try:
        answer |= asyncio.run(_cancel(job_id, queue, reason, redis, prefix, timeout))
    except errors.BullpyError as error:
        if as_json:
            _print_json(answer | {"outcome": "error", "error": errors.as_dict(error)})
        raise
    if as_json:
        _print_json(answer)
    else:
        typer.echo(_told(answer, timeout))
    if answer["outcome"] not in ("cancelled", "requested"):
        raise typer.Exit(1)


async def _cancel(
    job_id: str,
    name: str,
    reason: str | None,
    url: str | None,
    prefix: str | None,
    timeout: float,
) -> dict[str, Any]:
    """Ask for the job's end, and wait for it; what came of it."""
    async with opened(name, url, prefix) as queue:
        if timeout == 0:
            asked = await queue.cancel(job_id, reason)
            return {"outcome": "requested", "worker": asked.processed_by}
        return await _cancel_and_wait(queue, job_id, reason, timeout)


async def _cancel_and_wait(
    queue: Queue, job_id: str, reason: str | None, timeout: float
) -> dict[str, Any]:
    import asyncio

    ended = asyncio.Event()
    last: list[tuple[str, dict[str, Any]]] = []

    def listener(event: str) -> Any:
        def arrived(args: dict[str, Any], _id: str) -> None:
            last[:] = [(event, args)]
            # What ended before was an earlier run, not the one that is asked to.
            ended.clear() if event == "active" else ended.set()

        return arrived

    # Followed before the job is asked for: one that removes itself leaves only the event.
    await _follow(queue)
    for event in ("active", *ENDS):
        queue.events.on(f"{event}:{job_id}", listener(event))
    asked = await queue.cancel(job_id, reason)
    found = {"worker": asked.processed_by}
    try:
        async with asyncio.timeout(timeout):
            await ended.wait()
    except TimeoutError:
        return {"outcome": "running", **found}
    event, args = last[0]
    if event == "failed":
        text = str(args.get("failedReason") or "")
        outcome = "cancelled" if text.startswith(CANCELLED) else "failed"
        return {"outcome": outcome, **found, "failedReason": text}
    return {"outcome": event, **found}


async def _follow(queue: Queue) -> None:
    """Follow the queue's events from now on.

    Raises:
        errors.RedisError: They cannot be read.
    """
    import asyncio

    from bullpy import errors

    problem: list[Exception] = []
    queue.events.on("error", problem.append)
    try:
        async with asyncio.timeout(LOOK_FOR):
            await queue.events.wait_until_ready()
    except TimeoutError:
        if problem:
            raise problem[-1] from None
        raise errors.RedisUnavailableError(
            f"The events of queue {queue.name} could not be read within {LOOK_FOR:g} s; "
            "nothing was cancelled.",
            fix="Try again, or do not wait for the end: --timeout 0.",
        ) from None


def _told(answer: dict[str, Any], timeout: float) -> str:
    worker = answer["worker"] or "an unknown worker"
    job_id = answer["id"]
    match answer["outcome"]:
        case "requested":
            return f"asked {worker} to cancel job {job_id}"
        case "cancelled":
            return f"job {job_id} is cancelled: {answer['failedReason']}"
        case "completed":
            return f"job {job_id} completed before it was cancelled"
        case "failed":
            return f"job {job_id} failed for another reason: {answer['failedReason']}"
        case "running":
            return (
                f"job {job_id} still runs on {worker} after {timeout:g} s: its processor does not "
                "look at should_stop(), or its worker is not one of bullpy or is gone"
            )
        case other:
            return f"job {job_id} left its worker before it was cancelled: {other}"


def _print_json(answer: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(answer))
