"""Follows a job to its end: each step of its life as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bullpy import errors, timeline
from bullpy.ending import Ending
from bullpy.events import QueueEvents
from bullpy.joblife import ENDS, JobLife, Step

if TYPE_CHECKING:
    from bullpy.queue import Queue

EVENTS = (
    *("added", "waiting", "active", "progress", "delayed", "waiting-children", "stalled"),
    *("completed", "failed", "retries-exhausted", "removed", "duplicated", "deduplicated"),
)


class Follower:
    """The steps of one job, those that were and those to come, until it has finished.

    ```python
    follower = Follower(queue, job_id)
    async for step in follower.steps():
        print(step.name, step.at)
    print(follower.ending)
    ```

    Args:
        queue: The job's queue.
        job_id: The job.

    Attributes:
        ending: `completed`, `failed`, or `gone` for one that was removed before it ended; None
            until then.
    """

    def __init__(self, queue: Queue, job_id: str) -> None:
        self._queue = queue
        self._job_id = job_id
        self._last: Step | None = None
        self._inbox: asyncio.Queue[Step | None] = asyncio.Queue()
        self.ending: str | None = None

    async def steps(self) -> AsyncGenerator[Step]:
        """Each step once, in the order in which they happened.

        Raises:
            errors.JobNotFoundError: There is no such job, and no event tells of it.
            errors.RedisError: Redis could not be asked when it began. Later the events are
                followed over any outage.
        """
        life = await timeline.read(self._queue, self._job_id)
        if not life.exists and not life.steps:
            raise not_found(life)
        for step in life.steps:
            yield self._told(step)
        self.ending = life.ending
        if self.ending is not None:
            return
        async for step in self._to_come(life.last_id):
            yield self._told(step)
        # The end may have been seen by a look at the job, before its event was read.
        for step in (await timeline.read(self._queue, self._job_id)).steps:
            if self._is_news(step):
                yield self._told(step)

    async def _to_come(self, last_id: str) -> AsyncGenerator[Step]:
        queue = self._queue
        events = QueueEvents(
            queue.name,
            {"autorun": False},
            redis=queue.redisConnection.settings,
            prefix=queue.prefix,
            last_event_id=last_id,
        )
        for event in EVENTS:
            events.on(f"{event}:{self._job_id}", self._listener(event))
        try:
            with Ending(queue.backend, self._job_id, events) as ending:
                waiting = asyncio.create_task(self._wait(ending))
                try:
                    while (step := await self._inbox.get()) is not None:
                        yield await self._known(step)
                finally:
                    waiting.cancel()
                    await asyncio.wait({waiting})
            # Raises what ended the wait, unless it is the job's own end.
            self.ending = waiting.result()
        finally:
            await events.close()

    def _listener(self, event: str) -> Any:
        def arrived(args: dict[str, Any], entry_id: str) -> None:
            step = timeline.step_of(entry_id, {"event": event, **args})
            self._inbox.put_nowait(step)

        return arrived

    async def _wait(self, ending: Ending) -> str:
        """Wait for the job's end; how it ended."""
        try:
            await ending.result()
        except errors.JobFailedError:
            return "failed"
        except errors.JobNotFoundError:
            return "gone"
        finally:
            self._inbox.put_nowait(None)
        return "completed"

    async def _known(self, step: Step) -> Step:
        """The step with what the job's hash knows of it: which worker it runs on, whose clock."""
        if step.name not in ("active", *ENDS):
            return step
        key = self._queue.backend.toKey(self._job_id)
        fields = ("pb", "ats", "processedOn", "finishedOn")
        try:
            worker, starts, began, ended = await self._queue.client.hmget(key, *fields)
        except errors.RedisError:
            # An outage: the events come when it is over, and this step need not wait for more.
            return step
        details = dict(step.details)
        if step.name == "active":
            details |= {"worker": worker} if worker else {}
            details |= {"attempt": starts} if starts else {}
        moment = began if step.name == "active" else ended
        process_at = int(moment) if moment and moment.isdigit() else None
        return replace(step, details=details, process_at=process_at)

    def _told(self, step: Step) -> Step:
        """The step as it is given, with the time since the one before."""
        before, self._last = self._last, step
        if step.after is None and before is not None and before.clock == step.clock:
            return replace(step, after=(step.at - before.at) / 1000)
        return step

    def _is_news(self, step: Step) -> bool:
        if not step.event_id or self._last is None or not self._last.event_id:
            return False
        return _order(step.event_id) > _order(self._last.event_id)


def not_found(life: JobLife) -> errors.JobNotFoundError:
    """The error for a job that neither is there nor left an event."""
    return errors.JobNotFoundError(
        f"There is no job {life.job_id} in queue {life.queue}, and none of its last "
        f"{life.searched} events tells of one.",
        cause="It finished and was removed long ago, or the queue, its prefix or Redis is another.",
        fix="Compare the id, the queue and the prefix with the producer's.",
    )


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)
