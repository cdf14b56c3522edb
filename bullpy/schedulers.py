"""Job schedulers by Redis's clock."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

from bullmq import job_scheduler as upstream

from bullpy.connection.clock import ServerClock


class JobScheduler(upstream.JobScheduler):
    """Upstream's job schedulers, whose jobs are due by Redis's clock.

    Upstream asks this machine for the time in the middle of its functions. They are run as they
    are, with another clock where they look for the module `time`.

    Args:
        queue: The queue or worker that it belongs to.
        repeat_strategy: `(ms since 1970, repeat options)` gives the next moment of a pattern; by
            default cron's.
    """

    def __init__(
        self, queue: Any, repeat_strategy: Callable[[int, Any], int | None] | None = None
    ) -> None:
        super().__init__(queue, repeat_strategy or self._next_by_pattern)

    async def upsertJobScheduler(self, *args: Any, **kwargs: Any) -> Any:
        """As upstream's.

        Raises:
            errors.RedisError: Redis could not be asked, or refused.
        """
        await self._clock.refresh()
        return await self._run(upstream.JobScheduler.upsertJobScheduler, self, *args, **kwargs)

    def _build_next_job_opts(self, *args: Any) -> Any:
        return self._run(upstream.JobScheduler._build_next_job_opts, self, *args)  # pyright: ignore[reportPrivateUsage]

    def _next_by_pattern(self, millis: int, opts: Any) -> int | None:
        return self._run(upstream.default_repeat_strategy, millis, opts)

    @property
    def _clock(self) -> ServerClock:
        return self.backend.shared.clock

    def _run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call upstream's function with Redis's clock."""
        theirs = cast("FunctionType", function)
        names = {**theirs.__globals__, "time": self._clock}
        ours = FunctionType(theirs.__code__, names, theirs.__name__, theirs.__defaults__)
        return ours(*args, **kwargs)
