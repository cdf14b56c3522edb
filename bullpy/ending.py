"""The wait for a job's end: by its event, and by the job's state where an event may be missing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from bullpy import codec, errors

if TYPE_CHECKING:
    from bullpy.backend import Backend
    from bullpy.events import QueueEvents

LOOK_EACH = 1.0
"""Seconds between two looks at a job's state, however often there is a reason for one."""

LOOK_ANYWAY = 30.0
"""Seconds after which the state is looked at without a reason: emptying a queue tells nobody."""

PAGE = 1000
"""Events that are read at once when one is searched."""


class Ending:
    """How one job ends.

    ```python
    with Ending(backend, job_id, events) as ending:
        result = await ending.result()
    ```

    Args:
        backend: The job's queue.
        job_id: The job.
        events: Who follows the queue's events.
    """

    def __init__(self, backend: Backend, job_id: str, events: QueueEvents) -> None:
        self._backend = backend
        self._job_id = job_id
        self._events = events
        self._end: asyncio.Future[tuple[bool, Any]] = asyncio.get_running_loop().create_future()
        self._news = asyncio.Event()

    def __enter__(self) -> Self:
        self._events.on(f"completed:{self._job_id}", self._completed)
        self._events.on(f"failed:{self._job_id}", self._failed)
        self._events.on(f"removed:{self._job_id}", self._removed)
        self._events.doubters.add(self._news)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._events.off(f"completed:{self._job_id}", self._completed)
        self._events.off(f"failed:{self._job_id}", self._failed)
        self._events.off(f"removed:{self._job_id}", self._removed)
        self._events.doubters.discard(self._news)

    async def result(self) -> Any:
        """The job's result, as soon as there is one.

        Raises:
            errors.JobFailedError: The job failed.
            errors.JobNotFoundError: The job is gone, and its result with it.
            errors.RedisError: Redis could not be asked when the wait began.
            errors.WorkerStateError: The events are followed no more.
        """
        # Ready first, then ask: between the two no event can be missed.
        await self._events.wait_until_ready()
        self._check_open()
        await self._look()
        while not self._end.done():
            await self._wait_for_news()
            if not self._end.done():
                self._check_open()
                await self._look_again()
        ok, value = self._end.result()
        if not ok:
            raise errors.JobFailedError(self._job_id, str(value))
        return value

    async def _wait_for_news(self) -> None:
        try:
            async with asyncio.timeout(LOOK_ANYWAY):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    def _check_open(self) -> None:
        # A look through a closed connection would open another one that nobody closes.
        if self._events.closing or self._backend.connection.is_closed:
            raise errors.WorkerStateError(
                f"The queue was closed while somebody waited for job {self._job_id}.",
                fix="Wait for the job before the queue, or its QueueEvents, is closed.",
            )

    async def _look_again(self) -> None:
        """Look at the state; where Redis cannot say, once more a little later."""
        try:
            await self._look()
        except errors.RedisError:
            # The connection has told the log. The wait has no end of its own: it goes on.
            self._news.set()
        await asyncio.wait({self._end}, timeout=LOOK_EACH)

    async def _look(self) -> None:
        code, value = await self._backend.scripts.isFinished(self._job_id)
        if self._end.done():
            return
        if code == 1:
            self._ends(True, codec.loads(value) if value else None)
        elif code == 2:
            self._ends(False, value or "")
        elif code == -1 and not await self._find_event():
            raise errors.JobNotFoundError(
                f"Missing key for job {self._job_id}. isFinished",
                cause="It finished and was removed, or it was deleted.",
            )

    async def _find_event(self) -> bool:
        """Look for the end of a job that is gone among the events that are still to be read."""
        after = self._events.last_id
        key = self._backend.keys["events"]
        while not self._end.done():
            page = await self._backend.ask("XRANGE", key, f"({after}", "+", "COUNT", PAGE)
            for entry_id, fields in cast("list[Any]", page):
                after = entry_id.decode()
                event, args = self._events.parsed(fields)
                if args.get("jobId") == self._job_id:
                    self._heard(event, args)
            if len(page) < PAGE:
                break
        return self._end.done()

    def _heard(self, event: str, args: Mapping[str, Any]) -> None:
        if event == "completed":
            self._ends(True, args.get("returnvalue"))
        elif event == "failed":
            self._ends(False, args.get("failedReason"))

    def _completed(self, args: Mapping[str, Any], _id: str) -> None:
        self._heard("completed", args)

    def _failed(self, args: Mapping[str, Any], _id: str) -> None:
        self._heard("failed", args)

    def _removed(self, _args: Mapping[str, Any], _id: str) -> None:
        self._news.set()

    def _ends(self, ok: bool, value: Any) -> None:
        if not self._end.done():
            self._end.set_result((ok, value))
            self._news.set()
