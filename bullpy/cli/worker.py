"""`bullpy worker`: run workers until a signal ends them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bullpy.settings import RedisSettings
    from bullpy.worker import Worker

FIRST_WORD = 0.8
"""Seconds without an answer of Redis until the command says that it waits."""

LOOK_FOR = 4.0
"""Seconds for the look at Redis before the workers start; they go on trying by themselves."""

ADDRESS = (
    *("HOST", "PORT", "DB", "USERNAME", "PASSWORD", "UNIX_SOCKET", "TLS", "CLUSTER"),
    *("SENTINELS", "SENTINEL_NAME", "SENTINEL_USERNAME", "SENTINEL_PASSWORD"),
)
"""What BULLPY_REDIS_* may say about the address, and --redis says instead."""

MOST_PROCESSES = 1024
"""More is a slip of the finger, and would take the machine down."""


def worker(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET...",
            help="A Worker: module:attribute or path/to/file.py:attribute; without the "
            "attribute, every Worker in it.",
        ),
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="JOB_NAME",
            help="Run the processor that an installed plugin offers for this job name.",
        ),
    ] = None,
    queue: Annotated[str | None, typer.Option(help="The queue, with --plugin.")] = None,
    redis: Annotated[
        str | None, typer.Option(help="Where Redis is; REDIS_URL by default.", metavar="URL")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Jobs that run at a time in each worker.")
    ] = None,
    processes: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Worker processes, under a parent that restarts them; auto fits the CPUs.",
        ),
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    log_format: Annotated[
        Literal["auto", "console", "json"],
        typer.Option(help="auto: console in a terminal, JSON elsewhere."),
    ] = "auto",
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the traceback of an error too.")
    ] = False,
) -> None:
    """Run workers until SIGTERM or SIGINT; the second signal hands their jobs back at once.

    Exit code 0 after a clean end, 1 when a worker crashed or Redis refuses it, 2 for a wrong
    call or configuration. With --processes, a crashed process is restarted instead.
    """
    import os

    from bullpy import logs

    if traceback:
        os.environ["BULLPY_TRACEBACK"] = "1"
    logs.configure(log_level, log_format)
    count = None if processes is None else _count(processes)
    if redis is not None:
        _use_redis(redis)

    from bullpy.supervisor import HURRY_SIGNAL, Parent

    parent = Parent.from_environment()
    workers = _workers(targets or [], plugin or [], queue)
    for made in workers:
        if concurrency is not None:
            made.concurrency = concurrency
    addresses = list(dict.fromkeys(made.redisConnection.settings for made in workers))
    if redis is not None:
        _check_address(redis, addresses)

    import asyncio

    from bullpy.running import run

    asyncio.run(_look(addresses))
    if count is not None:
        options = {
            "queue": queue,
            "concurrency": concurrency,
            "log-level": log_level,
            "log-format": log_format,
        }
        command = _command(targets or [], plugin or [], options)
        _supervise(command, _fitting(workers) if count == "auto" else count, workers)
    if parent is None:
        run(*workers)
    parent.adopt(workers)
    run(*workers, hurry_on=(HURRY_SIGNAL,))


def _count(processes: str) -> int | Literal["auto"]:
    """What --processes says."""
    from bullpy import errors

    if processes == "auto":
        return "auto"
    # int() takes more than digits, and refuses thousands of them.
    is_number = processes.isascii() and processes.isdigit() and len(processes) < 10
    if not is_number or not 1 <= int(processes) <= MOST_PROCESSES:
        raise errors.ConfigurationError(
            f"--processes is {processes[:80]!r}.",
            fix=f"Give a number from 1 to {MOST_PROCESSES}, or auto.",
        )
    return int(processes)


def _fitting(workers: list[Worker]) -> int:
    """As many processes as keep every CPU busy.

    Each slot of a worker with a `def` processor can use a CPU of its own; one event loop uses one
    CPU, whatever its concurrency.
    """
    import math

    from bullpy import cpus
    from bullpy.types import Isolation

    used = sum(made.concurrency for made in workers if made.isolations - {Isolation.LOOP})
    return math.ceil(cpus.available() / max(1, used))


def _command(targets: list[str], plugins: list[str], options: Mapping[str, object]) -> list[str]:
    """What a worker process runs.

    --redis and --traceback are in the environment by now. For --redis this matters: a command
    line is for all to read, and a URL may hold a password.
    """
    import sys
    from pathlib import Path

    import bullpy

    # Without -P, modules of the current folder would hide the standard library's while bullpy
    # loads. It is left out where bullpy itself is found there alone.
    is_here = Path(bullpy.__file__).resolve().parents[1] == Path.cwd()
    return [
        *(sys.executable, *([] if is_here else ["-P"]), "-m", "bullpy", "worker"),
        *(f"--plugin={name}" for name in plugins),
        *(f"--{name}={value}" for name, value in options.items() if value is not None),
        *("--", *targets),
    ]


def _supervise(command: list[str], processes: int, workers: list[Worker]) -> NoReturn:
    """Keep processes with such workers running, and end with their exit code."""
    import asyncio
    import sys

    from bullpy.supervisor import Supervisor, patience_for

    supervisor = Supervisor(command, processes, patience=patience_for(workers))
    sys.exit(asyncio.run(supervisor.run()))


def _use_redis(url: str) -> None:
    """Make the URL the address of all workers that name none; they read the environment."""
    import os

    from bullpy import redis_url

    redis_url.parse(url, source="--redis")
    os.environ["BULLPY_REDIS_URL"] = url
    for name in ADDRESS:
        os.environ.pop(f"BULLPY_REDIS_{name}", None)


def _workers(targets: list[str], plugins: list[str], queue: str | None) -> list[Worker]:
    from bullpy import errors
    from bullpy.cli.targets import load, of_plugins

    if bool(plugins) != (queue is not None):
        raise errors.ConfigurationError(
            "--plugin and --queue belong together.",
            fix="For example: bullpy worker --plugin process-audio --queue audio-analyzer.",
        )
    found = [worker for target in targets for worker in load(target)]
    if queue is not None:
        found.append(of_plugins(plugins, queue))
    if not found:
        raise errors.ConfigurationError(
            "There is nothing to run.",
            fix="Name a worker, such as app:worker, or use --plugin with --queue.",
        )
    return list(dict.fromkeys(found))


def _check_address(url: str, addresses: list[RedisSettings]) -> None:
    """A worker whose code names another Redis would ignore --redis in silence."""
    from bullpy import errors
    from bullpy.settings import RedisSettings

    wanted = RedisSettings.from_url(url).masked_url
    others = sorted({address.masked_url for address in addresses} - {wanted})
    if others:
        raise errors.ConfigurationError(
            f"--redis says {wanted}, and a worker's own code says {others[0]}.",
            fix="Leave --redis out, or redis= in the code.",
        )


async def _look(addresses: list[RedisSettings]) -> None:
    """Look at each Redis before any worker starts.

    An outage is no reason to give up: workers wait for its end. What no waiting mends, such as
    a wrong password, ends the command.

    Raises:
        errors.RedisError: The server refuses, or is none.
    """
    import asyncio
    import logging

    from bullpy import errors
    from bullpy.connection.probe import probe

    for address in addresses:
        looking = asyncio.create_task(probe(address, deadline=LOOK_FOR))
        done, _ = await asyncio.wait({looking}, timeout=FIRST_WORD)
        if not done:
            logging.getLogger("bullpy.worker").warning("no answer from %s yet", address.masked_url)
        error = (await looking).error
        if error is not None and not isinstance(error, errors.RedisUnavailableError):
            raise error
