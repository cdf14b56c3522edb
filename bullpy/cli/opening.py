"""Opening a queue for a command: settings, and a first look at Redis that does not wait."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bullpy.queue import Queue

LOOK_FOR = 4.0
"""Seconds that Redis may take to answer before the command gives up."""

QueueName = Annotated[str, typer.Option("--queue", metavar="NAME", help="The queue.")]
RedisUrl = Annotated[
    str | None, typer.Option("--redis", help="Where Redis is; REDIS_URL by default.", metavar="URL")
]
Prefix = Annotated[
    str | None,
    typer.Option("--prefix", help="First part of every key; BULLPY_PREFIX or bull by default."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


@asynccontextmanager
async def opened(
    name: str, url: str | None, prefix: str | None, *, log_level: str = "warning"
) -> AsyncGenerator[Queue]:
    """The queue, once Redis has answered; it is closed at the end.

    Raises:
        errors.ConfigurationError: The name, the URL or a setting is wrong.
        errors.RedisError: What no waiting mends, or a server that is not there.
    """
    from bullpy import logs, redis_url
    from bullpy.connection.probe import probe
    from bullpy.queue import Queue
    from bullpy.settings import WorkerSettings

    logs.configure(log_level, "console")
    if url is not None:
        redis_url.parse(url, source="--redis")
    async with Queue(name, redis=url, prefix=prefix or WorkerSettings().prefix) as queue:
        refused = (await probe(queue.redisConnection.settings, deadline=LOOK_FOR)).error
        if refused is not None:
            raise refused
        yield queue
