"""`bullpy job show` and `bullpy job follow`: the life of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bullpy.cli.opening import Prefix, RedisUrl, opened

if TYPE_CHECKING:
    from bullpy.joblife import JobLife

TIMED_OUT = 124
"""Exit code of a wait that was too long, as timeout(1) has it."""

JobId = Annotated[str, typer.Argument(metavar="ID", help="The id of the job.")]
ItsQueue = Annotated[str, typer.Option("--queue", metavar="NAME", help="Its queue.")]
Data = Annotated[
    bool, typer.Option("--data", help="Its data, progress and result too, secrets and all.")
]


def show(
    job_id: JobId,
    queue: ItsQueue,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="What happened to it too, step by step.")
    ] = False,
    data: Data = False,
    redis: RedisUrl = None,
    prefix: Prefix = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show a job: its state, worker, lock, attempts and failure; with --timeline its life.

    Exit code 0 when the job or an event of it is there, 1 when not or Redis cannot be asked, 2 for
    a wrong call.
    """
    import asyncio
    import json

    from bullpy import errors
    from bullpy.cli.jobtext import life_lines

    try:
        life = asyncio.run(_read(job_id, queue, redis, prefix, with_data=data))
    except errors.BullpyError as error:
        if as_json:
            typer.echo(json.dumps(_failed(job_id, queue, error)))
        raise
    if as_json:
        typer.echo(json.dumps(life.as_dict(timeline=timeline)))
    else:
        typer.echo("\n".join(life_lines(life, timeline=timeline)))


def follow(
    job_id: JobId,
    queue: ItsQueue,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="How long to wait for its end; for ever."),
    ] = None,
    data: Data = False,
    redis: RedisUrl = None,
    prefix: Prefix = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: each step, then the outcome.")
    ] = False,
) -> None:
    """Show what happened to a job and what happens to it, until it has finished.

    Exit code 0 when it completed, 1 when it failed or is gone or Redis cannot be asked, 2 for a
    wrong call, 124 when it has not finished within --timeout.
    """
    import asyncio
    import json

    from bullpy import errors

    try:
        outcome, reason = asyncio.run(
            _follow(job_id, queue, redis, prefix, timeout, with_data=data, as_json=as_json)
        )
    except errors.BullpyError as error:
        if as_json:
            typer.echo(json.dumps(_failed(job_id, queue, error)))
        raise
    if as_json:
        typer.echo(json.dumps({"id": job_id, "queue": queue, "outcome": outcome} | reason))
    else:
        typer.echo(_end(outcome, timeout))
    if outcome != "completed":
        raise typer.Exit(TIMED_OUT if outcome == "running" else 1)


async def _read(
    job_id: str, name: str, url: str | None, prefix: str | None, *, with_data: bool
) -> JobLife:
    from bullpy import timeline
    from bullpy.following import not_found

    async with opened(name, url, prefix) as queue:
        life = await timeline.read(queue, job_id, with_data=with_data)
    if not life.exists and not life.steps:
        raise not_found(life)
    return life


async def _follow(
    job_id: str,
    name: str,
    url: str | None,
    prefix: str | None,
    timeout: float | None,
    *,
    with_data: bool,
    as_json: bool,
) -> tuple[str, dict[str, Any]]:
    """Print each step; how the job ended, or `running`, and why it failed."""
    import asyncio
    import json

    from bullpy.cli.jobtext import step_line
    from bullpy.following import Follower

    reason: dict[str, Any] = {}
    async with opened(name, url, prefix) as queue:
        follower = Follower(queue, job_id)
        steps = follower.steps()
        try:
            async with asyncio.timeout(timeout):
                async for step in steps:
                    if step.name == "failed":
                        reason = {"failedReason": step.details.get("reason", "")}
                    told = step.as_dict(with_data=with_data)
                    line = step_line(step, with_data=with_data)
                    typer.echo(json.dumps(told) if as_json else line)
        except TimeoutError:
            return "running", {}
        finally:
            await steps.aclose()
    assert follower.ending is not None
    return follower.ending, reason if follower.ending == "failed" else {}


def _end(outcome: str, timeout: float | None) -> str:
    match outcome:
        case "running":
            return f"the job has not finished after {timeout:g} s"
        case "gone":
            return "the job is gone: it was removed before it finished"
        case _:
            return f"the job has {outcome}"


def _failed(job_id: str, queue: str, error: BaseException) -> dict[str, Any]:
    from bullpy import errors

    return {"id": job_id, "queue": queue, "outcome": "error", "error": errors.as_dict(error)}
