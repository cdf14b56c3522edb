"""The script calls of the hot path, with everything that does not change packed once.

Key order, argument order and the meaning of replies are those of BullMQ's scripts
`moveToActive-11`, `moveToFinished-14`, `moveToDelayed-11`, `retryJob-11`,
`moveToWaitingChildren-7`, `moveJobFromActiveToWait-9` and `moveStalledJobsToWait-9`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, cast

from bullpy import codec, errors, scripts
from bullpy.backend import Backend
from bullpy.connection.client import ScriptHead, run_packed, run_script
from bullpy.connection.clock import ServerClock
from bullpy.connection.pipelining import Pipeliner
from bullpy.connection.probe import classify
from bullpy.engine.fetched import Appetite, Fetched, GlobalLimit
from bullpy.job import Job
from bullpy.jobhash import CRASHES_FIELD, stacktrace_json
from bullpy.ownscripts import RETAKE
from bullpy.settings import WorkerSettings

_FINISH_TAIL = b"$%d\r\n%b\r\n" * 11
"""The end of `moveToFinished`: the keys from the job's on, and the arguments."""


class Calls:
    """Moves jobs of one queue between states on behalf of one worker.

    Args:
        owner: The worker; jobs carry it as their `queue`.
        backend: Its queue's keys and connection.
        settings: Lock duration, limiter, what to keep of finished jobs.
        worker_name: Stored in each job as `processedBy`.
        metrics_points: How many minutes of metrics to keep; empty for none.
    """

    def __init__(
        self,
        owner: object,
        backend: Backend,
        settings: WorkerSettings,
        worker_name: str,
        metrics_points: int | str = "",
    ) -> None:
        self._owner = owner
        self._backend = backend
        self._pipeliner: Pipeliner | None = None
        self._clock: ServerClock | None = None
        keys = backend.keys
        self._prefix = keys[""].encode()
        self._lock_ms = round(settings.lock_duration * 1000)
        self._limiter = settings.limiter.to_wire() if settings.limiter else None
        self._name = worker_name
        self._metrics_points = metrics_points
        self._keep = {
            "completed": settings.remove_on_complete.to_wire()
            if settings.remove_on_complete
            else None,
            "failed": settings.remove_on_fail.to_wire() if settings.remove_on_fail else None,
        }
        order = [
            "wait",
            "active",
            "prioritized",
            "events",
            "stalled",
            "limiter",
            "delayed",
            "paused",
            "meta",
            "pc",
        ]
        common = tuple(keys[name].encode() for name in order)
        self._marker = keys["marker"].encode()
        self._fetch_head = (11, *common, self._marker, self._prefix)
        self._finish_calls = {
            (target, more): ScriptHead(
                *scripts.load("moveToFinished"), (14, *common, keys[target].encode()), 11 + more
            )
            for target in ("completed", "failed")
            for more in (0, 1)
        }
        self._metrics_keys = {
            target: self._prefix + b"metrics:" + target.encode()
            for target in ("completed", "failed")
        }

    @property
    def clock(self) -> ServerClock:
        """Redis's clock, by which jobs are due."""
        # Not in `__init__`: as the socket, it belongs to a running event loop.
        if self._clock is None:
            self._clock = self._backend.shared.clock
        return self._clock

    # -- fetching --------------------------------------------------------------------------

    async def fetch(self, token: str, appetite: Appetite = Appetite.NONE) -> Fetched:
        """Take the next job, if there is one, under this token.

        Args:
            token: For the job's lock.
            appetite: What others should hear if the global concurrency is used up.

        Raises:
            errors.RedisUnavailableError: Nothing was sent; nothing happened.
            errors.ReplyLostError: A job may have been taken; see `recovery.adopt`.
            errors.RedisError: The server refused.
        """
        now = self._now()
        args = (*self._fetch_head, now, self._lock_options(token), appetite.value)
        try:
            reply = await self._run("moveToActive", args)
        except errors.ReplyLostError as lost:
            lost.asked = now
            raise
        fetched = self._fetched(reply, token)
        return fetched if self._is_fresh(now) else await self._confirmed(fetched, token)

    async def extend(self, job_id: str, token: str) -> bool:
        """Renew the lock of a job that was just fetched.

        Returns:
            Whether the lock was still this token's.

        Raises:
            errors.ReplyLostError: Redis could not be asked, so the job may be held or not.
        """
        try:
            return bool(await self._backend.scripts.extendLock(job_id, token, self._lock_ms))
        except errors.RedisError as error:
            raise errors.ReplyLostError(
                f"The lock of job {job_id} could not be renewed.", cause=error.message
            ) from error

    async def retake(self, job_id: str, token: str) -> bool:
        """Lock a job again whose lock ran out, if nobody has taken it meanwhile.

        In an outage that is longer than the lock nobody could.

        Returns:
            Whether it is this worker's again.

        Raises:
            errors.RedisError: As `fetch`.
        """
        keys = self._backend.keys
        args = (job_id, self._lock_ms)
        named = (keys["active"], keys["stalled"])
        return bool(await RETAKE(self._backend, job_id, token, *args, keys=named))

    def is_fetched(
        self, processed_by: bytes | None, processed_on: bytes | None, asked: int
    ) -> bool:
        """Whether a job with these fields was fetched by a call of this worker at that time."""
        return processed_by == self._name.encode() and processed_on == b"%d" % asked

    def _is_fresh(self, asked: int) -> bool:
        """Whether the lock of what was fetched by a call of that time still holds."""
        return self._now() - asked < self._lock_ms / 4

    async def _confirmed(self, fetched: Fetched, token: str) -> Fetched:
        """What was fetched, unless its lock ran out before the reply was read.

        A processor that blocks the event loop delays replies, and nobody renews the lock of a
        job that is not known yet.
        """
        job = fetched.job
        return fetched if job is None or await self.extend(job.id, token) else Fetched()

    def _lock_options(self, token: str) -> bytes:
        return codec.pack_for_lua(
            {
                "token": token,
                "lockDuration": self._lock_ms,
                "limiter": self._limiter,
                "name": self._name,
            }
        )

    def _fetched(self, reply: Any, token: str) -> Fetched:
        if not isinstance(reply, list):
            return Fetched(asked=True)
        # More than four where the queue has a global concurrency: see `places`.
        fields, job_id, limited, due, *told = cast("list[Any]", reply)
        limit = GlobalLimit(told[0], bool(told[1]), bool(told[2])) if told else None
        if fields:
            return Fetched(True, self.job(fields, job_id.decode(), token), limit=limit)
        return Fetched(
            True,
            None,
            max(float(limited or 0), 0.0) / 1000,
            self.clock.to_local(float(due) / 1000) if due and float(due) > 0 else 0.0,
            limit,
        )

    def job(self, fields: list[bytes], job_id: str, token: str) -> Job[Any]:
        """A job from the flat reply of HGETALL."""
        raw = dict(zip(fields[::2], fields[1::2], strict=True))
        return Job.from_raw(self._owner, raw, job_id, token)

    # -- finishing -------------------------------------------------------------------------

    def complete(
        self, job: Job[Any], result: bytes, *, fetch_next: bool
    ) -> Coroutine[Any, Any, Fetched]:
        """Store the result (JSON), and fetch the next job in the same call.

        Raises:
            errors.LockLostError: The lock is gone; the result was not stored.
            errors.JobNotFoundError: The job was removed.
            errors.RedisError: As `fetch`.
        """
        return self._finish(job, "completed", b"returnvalue", result, None, fetch_next)

    def fail(self, job: Job[Any], reason: str, *, fetch_next: bool) -> Coroutine[Any, Any, Fetched]:
        """Move the job to failed, and fetch the next one in the same call; raises as `complete`."""
        return self._finish(
            job, "failed", b"failedReason", encodable(reason), _failure(job, reason), fetch_next
        )

    async def drop(self, job: Job[Any], reason: str) -> None:
        """Remove a job of which only the id is left, telling `failed`; raises as `complete`."""
        await self._finish(
            job, "failed", b"failedReason", encodable(reason), None, False, keep={"count": 0}
        )

    async def _finish(
        self,
        job: Job[Any],
        target: str,
        field: bytes,
        value: bytes,
        fields: bytes | None,
        fetch_next: bool,
        keep: Mapping[str, int] | None = None,
    ) -> Fetched:
        opts = job.opts
        job_id = job.id.encode()
        token = job.token or ""
        packed = {
            "token": token,
            "keepJobs": keep or self._keep_jobs(opts, target),
            "limiter": self._limiter,
            "lockDuration": self._lock_ms,
            "attempts": opts.get("attempts", 0),
            "attemptsMade": job.attemptsMade,
            "maxMetricsSize": self._metrics_points,
            "fpof": bool(opts.get("failParentOnFailure")),
            "cpof": bool(opts.get("continueParentOnFailure")),
            "idof": bool(opts.get("ignoreDependencyOnFailure")),
            "rdof": bool(opts.get("removeDependencyOnFailure")),
            "name": self._name,
        }
        now = self._now()
        options = codec.pack_for_lua(packed)
        job_key = self._prefix + job_id
        metrics_key = self._metrics_keys[target]
        when = b"%d" % now
        kind = target.encode()
        tail = _FINISH_TAIL % (
            *(len(job_key), job_key, len(metrics_key), metrics_key),
            *(len(self._marker), self._marker, len(job_id), job_id, len(when), when),
            *(len(field), field, len(value), value, len(kind), kind),
            *(fetch_next, b"1" if fetch_next else b""),
            *(len(self._prefix), self._prefix, len(options), options),
        )
        if fields:
            tail += b"$%d\r\n%b\r\n" % (len(fields), fields)
        head = self._finish_calls[target, 1 if fields else 0]
        try:
            reply = self._checked(
                await run_packed(
                    self._pipe(), head.by_hash + tail, lambda: head.with_source() + tail, raw=True
                )
            )
        except errors.ReplyLostError as lost:
            lost.asked = now
            raise
        self._backend.scripts.check(reply, job.id, "moveToFinished")
        job.finishedOn = now
        if not fetch_next:
            return Fetched()
        fetched = self._fetched(reply, token)
        return fetched if self._is_fresh(now) else await self._confirmed(fetched, token)

    def _keep_jobs(self, opts: Mapping[str, Any], target: str) -> Mapping[str, int]:
        """Node's `getKeepJobs`: the job's own option, else the worker's, else keep all."""
        wanted = opts.get("removeOnComplete" if target == "completed" else "removeOnFail")
        if wanted is None:
            return cast("Mapping[str, int] | None", self._keep[target]) or {"count": -1}
        if isinstance(wanted, bool):
            return {"count": 0 if wanted else -1}
        return {"count": int(wanted)} if isinstance(wanted, int | float) else wanted

    # -- putting back ----------------------------------------------------------------------

    async def delay(
        self, job: Job[Any], milliseconds: int, *, reason: str | None, attempt: bool
    ) -> None:
        """Put the job into the delayed set.

        Args:
            job: The running job.
            milliseconds: How long from now.
            reason: Stored as its failedReason, with the stack traces; None stores neither.
            attempt: Whether this counts as an attempt.

        Raises:
            As `complete`.
        """
        keys = self._backend.keys
        order = ["marker", "active", "prioritized", "delayed"]
        after = ["events", "meta", "stalled", "wait", "limiter", "pc"]
        reply = await self._run(
            "moveToDelayed",
            (
                11,
                *(keys[name] for name in order),
                self._backend.toKey(job.id),
                *(keys[name] for name in after),
                self._prefix,
                self._now(),
                job.id,
                job.token or "",
                milliseconds,
                "0" if attempt else "1",
                _failure(job, reason) if reason is not None else "",
                "0",
            ),
        )
        self._backend.scripts.check(reply, job.id, "moveToDelayed")
        job.delay = milliseconds

    async def retry(self, job: Job[Any], reason: str) -> None:
        """Put the job back to be run at once, counting the attempt; raises as `complete`."""
        keys, args = self._backend.scripts.retryJobArgs(
            job.id, bool(job.opts.get("lifo")), job.token or "", {}
        )
        # It promotes delayed jobs, and upstream packs this machine's time.
        args[1] = self._now()
        reply = await self._run("retryJob", (len(keys), *keys, *args, _failure(job, reason)))
        self._backend.scripts.check(reply, job.id, "retryJob")

    async def release(self, job: Job[Any]) -> float:
        """Put the job back to the front of the queue without counting an attempt.

        Returns:
            Seconds that a rate limit still holds, 0 if none does.

        Raises:
            As `complete`.
        """
        return await self.put_back(job.id, job.token or "")

    async def put_back(self, job_id: str, token: str) -> float:
        """`release` for a job of which only the id and the token of its lock are known."""
        keys = self._backend.keys
        order = [
            "active",
            "wait",
            "stalled",
            "paused",
            "meta",
            "limiter",
            "prioritized",
            "marker",
            "events",
        ]
        reply = await self._run(
            "moveJobFromActiveToWait",
            (
                9,
                *(keys[name] for name in order),
                job_id,
                token,
                self._backend.toKey(job_id),
            ),
        )
        self._backend.scripts.check(reply, job_id, "moveJobFromActiveToWait")
        return max(float(reply or 0), 0.0) / 1000

    async def limit(self, seconds: float) -> None:
        """Let no worker of the queue fetch a job for that long.

        Raises:
            errors.RedisError: As `fetch`.
        """
        # Node writes Number.MAX_SAFE_INTEGER: more jobs than any limiter allows.
        await self._backend.conn.set(
            self._backend.keys["limiter"], 2**53 - 1, px=max(1, round(seconds * 1000))
        )

    async def wait_for_children(self, job: Job[Any]) -> bool:
        """Park the job until its children are done.

        Returns:
            False when there is nothing to wait for: the job is still active.

        Raises:
            As `complete`.
        """
        return bool(await self._backend.scripts.moveToWaitingChildren(job.id, job.token or "", {}))

    async def move_stalled(self, max_stalled_count: int, interval: float) -> list[str]:
        """Put jobs whose lock has expired back into the queue, and tell their ids."""
        keys = self._backend.keys
        order = [
            "stalled",
            "wait",
            "active",
            "stalled-check",
            "meta",
            "paused",
            "marker",
            "events",
            "repeat",
        ]
        reply = await self._run(
            "moveStalledJobsToWait",
            (
                9,
                *(keys[name] for name in order),
                max_stalled_count,
                self._prefix,
                self._now(),
                round(interval * 1000),
            ),
        )
        return [job_id.decode() for job_id in cast("list[bytes]", reply or [])]

    def _now(self) -> int:
        """The time by Redis's clock, milliseconds since 1970."""
        return self.clock.milliseconds()

    async def _run(self, name: str, args: tuple[Any, ...]) -> Any:
        sha, source = scripts.load(name)
        return self._checked(await run_script(self._pipe(), sha, source, args))

    def _pipe(self) -> Pipeliner:
        # Not in `__init__`: the socket belongs to a running event loop.
        if self._pipeliner is None:
            self._pipeliner = self._backend.shared.pipeliner
        return self._pipeliner

    def _checked(self, reply: Any) -> Any:
        if isinstance(reply, Exception):
            raise classify(reply, self._backend.connection.settings) from reply
        return reply


def encodable(text: str) -> bytes:
    """UTF-8 for any text; what has no encoding (lone surrogates) is written as an escape."""
    return text.encode("utf-8", "backslashreplace")


def _failure(job: Job[Any], reason: str) -> bytes:
    """The fields that tell of a failed attempt, flat as the scripts take them."""
    fields = ["failedReason", encodable(reason), "stacktrace", stacktrace_json(job.stacktrace)]
    if job.crashes:
        fields += [CRASHES_FIELD, str(job.crashes)]
    return codec.pack_for_lua(fields)
