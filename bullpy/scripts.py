"""BullMQ's Lua scripts, from the installed `bullmq` package, over the shared connection.

Key layout and packing are upstream's `Scripts`; what differs here is JSON as Node writes it,
typed errors instead of bare `TypeError`s, and commands that are repeated after a lost reply
when repeating them is harmless.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import bullmq
from bullmq.queue_keys import QueueKeys
from bullmq.redis_connection import SCRIPT_DEFINITIONS, RedisConnection
from bullmq.scripts import Scripts as UpstreamScripts

from bullpy import codec, dialect, errors, luafunctions
from bullpy.adding import Adder
from bullpy.connection.client import run_script
from bullpy.connection.clock import ServerClock
from bullpy.connection.factory import SharedRedis
from bullpy.connection.probe import classify

if TYPE_CHECKING:
    from bullmq.job import Job as UpstreamJob

# Upstream registers the first group; the others it ships without using them.
_FILES: dict[str, str] = {
    **SCRIPT_DEFINITIONS,
    "addLog": "addLog-2.lua",
    "isFinished": "isFinished-3.lua",
    "moveJobFromActiveToWait": "moveJobFromActiveToWait-9.lua",
    "releaseLock": "releaseLock-1.lua",
}

# The scripts that bullpy packs by itself, with the number of keys that it was built against.
_BUILT_AGAINST = {
    "addStandardJob": 9,
    "addLog": 2,
    "extendLocks": 1,
    "isFinished": 3,
    "moveJobFromActiveToWait": 9,
    "moveStalledJobsToWait": 9,
    "moveToActive": 11,
    "moveToDelayed": 11,
    "moveToFinished": 14,
    "moveToWaitingChildren": 7,
    "retryJob": 11,
    "saveStacktrace": 1,
}

# Running these twice leaves what running them once does; a log line may come twice, which is
# better than a job that fails because of it.
_REPEATABLE = frozenset(
    [
        "addLog",
        "extendLock",
        "extendLocks",
        "getCounts",
        "getCountsPerPriority",
        "getJobs",
        "getJobScheduler",
        "getRanges",
        "getState",
        "getStateV2",
        "isFinished",
        "isJobInList",
        "pause",
        "saveStacktrace",
        "updateData",
        "updateProgress",
        "changePriority",
        "drain",
    ]
)


# Where upstream packs this machine's time for a script: the place among the arguments.
_LOCAL_TIME = {
    "addJobScheduler": 6,
    "cleanJobsInSet": 1,
    "moveToActive": 1,
    "moveToDelayed": 1,
    "moveToWaitingChildren": 2,
    "retryJob": 1,
    "updateJobScheduler": 4,
}


class Script:
    """One Lua script, callable as upstream calls it.

    Attributes:
        sha: Its SHA-1 in hex, for EVALSHA.
        source: Its text.
    """

    def __init__(self, name: str, shared: Callable[[], SharedRedis]) -> None:
        self.name = name
        self.sha, self.source = load(name)
        self._shared = shared

    async def __call__(
        self,
        keys: Sequence[str] = (),
        args: Sequence[Any] = (),
        client: Any = None,
        *,
        repeatable: bool = False,
    ) -> Any:
        """Run the script, or queue it on a pipeline given as `client`.

        Raises:
            errors.RedisError: The server could not be reached or refused.
        """
        if client is not None:
            registered = self._shared().client.register_script(self.source)
            return await registered(keys=keys, args=args, client=client)
        place = _LOCAL_TIME.get(self.name)
        if place is not None:
            args = await self._by_redis(args, place)
        try:
            return await self._run(keys, args)
        except errors.ReplyLostError:
            if not repeatable and self.name not in _REPEATABLE:
                raise
            return await self._run(keys, args)

    async def _by_redis(self, args: Sequence[Any], place: int) -> Sequence[Any]:
        """The arguments with Redis's time in place of this machine's, from which it is derived."""
        clock = self._shared().clock
        await clock.refresh()
        moment = int(args[place]) + round(clock.ahead * 1000)
        return (*args[:place], moment, *args[place + 1 :])

    async def _run(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        shared = self._shared()
        reply = await run_script(
            shared.pipeliner, self.sha, self.source, (len(keys), *keys, *args), raw=False
        )
        if isinstance(reply, Exception):
            raise classify(reply, shared.settings) from reply
        return reply


class Commands(dict[str, Script]):
    """The scripts by name, read from the package on first use."""

    def __init__(self, shared: Callable[[], SharedRedis]) -> None:
        super().__init__()
        self._shared = shared

    @property
    def clock(self) -> ServerClock:
        """The server's clock."""
        return self._shared().clock

    def __missing__(self, name: str) -> Script:
        script = self[name] = Script(name, self._shared)
        return script


class Scripts(UpstreamScripts):
    """Upstream's packing with Node's JSON and bullpy's errors."""

    def __init__(self, prefix: str, queue_name: str, connection: RedisConnection) -> None:
        # Not super().__init__(): it takes the client at once, which needs a running loop.
        self.prefix = prefix
        self.queueName = queue_name
        self.redisConnection = connection
        self.commands = connection.commands
        self.queue_keys = QueueKeys(prefix)
        self.keys = self.queue_keys.getKeys(queue_name)
        self.adder = Adder(self.keys, self.commands)

    @property
    def redisClient(self) -> Any:
        """redis-py's interface to the shared connection."""
        return self.redisConnection.conn

    def addJobArgs(self, job: UpstreamJob) -> list[Any]:
        """Pack a new job: `[msgpack of names and ids, JSON of the data, msgpack of options]`."""
        return list(self.adder.arguments(job))

    def check_added(self, result: object, job: UpstreamJob) -> None:
        """Raise for a negative result of a script that adds a job."""
        if isinstance(result, int) and result < 0:
            raise error_for(result, job.id, "addJob", parent_key=job.parentKey)

    async def updateData(self, job_id: str, data: object) -> None:
        """Replace a job's data.

        Raises:
            errors.JobNotFoundError: The job is gone.
        """
        result = await self.commands["updateData"](
            keys=[self.toKey(job_id)], args=[codec.dumps(data)]
        )
        self.check(result, job_id, "updateData")

    async def updateProgress(self, job_id: str, progress: object) -> None:
        """Store a job's progress and tell those who follow the queue's events.

        Raises:
            errors.JobNotFoundError: The job is gone.
        """
        result = await self.commands["updateProgress"](
            keys=[self.toKey(job_id), self.keys["events"], self.keys["meta"]],
            args=[job_id, codec.dumps(progress)],
        )
        self.check(result, job_id, "updateProgress")

    async def addLog(self, job_id: str, row: str, keep_logs: int) -> int:
        """Append a line to a job's log; 0 keeps all lines.

        Raises:
            errors.JobNotFoundError: The job is gone.
        """
        result = await self.commands["addLog"](
            keys=[self.toKey(job_id), self.toKey(f"{job_id}:logs")],
            args=[job_id, row, keep_logs or ""],
        )
        self.check(result, job_id, "addLog")
        return int(result)

    async def isFinished(self, job_id: str) -> tuple[int, str | None]:
        """`(0, None)` not finished, `(1, result JSON)`, `(2, failedReason)`, `(-1, None)` gone."""
        reply = await self.commands["isFinished"](
            keys=[self.keys["completed"], self.keys["failed"], self.toKey(job_id)],
            args=[job_id, "1"],
        )
        return int(reply[0]), reply[1] if len(reply) > 1 else None

    async def pause(self, paused: bool = True, *, tell: bool = True) -> int:
        """Pause or resume the queue.

        Args:
            paused: Pause, else resume.
            tell: Add the event `paused` or `resumed`.

        Returns:
            How many jobs are left in the list `paused` after a resume; resume again then.
        """
        names = ["wait", "paused"] if paused else ["paused", "wait"]
        keys = [
            self.keys[name]
            for name in (*names, "meta", "prioritized", "events", "delayed", "marker")
        ]
        args = ["paused" if paused else "resumed", "1" if tell else "0"]
        return int(await self.commands["pause"](keys, args) or 0)

    def moveToFinishedArgs(
        self,
        job: UpstreamJob,
        val: object,
        propVal: str,
        shouldRemove: object,
        target: str,
        token: str,
        fetchNext: bool = True,
        fields_to_update: dict[str, Any] | None = None,
    ) -> tuple[list[str], list[Any]]:
        """As upstream's, with the result in Node's JSON, finished by Redis's clock."""
        encoded = val if propVal == "failedReason" else codec.dumps(val)
        # Upstream would encode the value once more; its place is overwritten below.
        stand_in = "" if propVal == "failedReason" else None
        keys, args = super().moveToFinishedArgs(
            job, stand_in, propVal, shouldRemove, target, token, fetchNext, fields_to_update
        )
        args[1] = cast("Commands", self.commands).clock.milliseconds()
        args[3] = encoded
        return keys, args

    def check(
        self, result: object, job_id: str | None, command: str, state: str = "active"
    ) -> None:
        """Raise for a negative script result."""
        if isinstance(result, int) and result < 0:
            raise error_for(result, job_id, command, state)

    def finishedErrors(self, opts: dict[str, Any]) -> Exception:
        """The typed error for a script's negative result."""
        return error_for(
            cast("int", opts.get("code")),
            opts.get("jobId"),
            str(opts.get("command")),
            opts.get("state"),
            opts.get("parentKey"),
        )


def error_for(
    code: int,
    job_id: str | None,
    command: str,
    state: str | None = None,
    parent_key: str | None = None,
) -> errors.JobError:
    """The error for a negative result of a BullMQ script (numbers: BullMQ's `error-code.ts`).

    The first sentence is upstream's own text, so that code written against it finds it.
    """
    made, text, fix = {
        -1: (
            errors.JobNotFoundError,
            f"Missing key for job {job_id}. {command}",
            "It was removed.",
        ),
        -2: (
            errors.LockLostError,
            f"Missing lock for job {job_id}. {command}",
            "The lock expired: the worker could not renew it in time.",
        ),
        -3: (errors.JobStateError, f"Job {job_id} is not in the {state} state. {command}", None),
        -4: (errors.JobStateError, f"Job {job_id} has pending dependencies. {command}", None),
        -5: (
            errors.JobNotFoundError,
            f"Missing key for parent job {parent_key}. {command}",
            "Add the parent first, or check the queue name and prefix of `parent`.",
        ),
        -6: (
            errors.LockLostError,
            f"Lock mismatch for job {job_id}. Cmd {command} from {state}",
            "Another worker holds the job now.",
        ),
        -7: (
            errors.JobStateError,
            f"The parent job {job_id} cannot be replaced. {command}",
            f"Job {job_id} is the child of another parent; give the new child another id.",
        ),
        -8: (
            errors.JobStateError,
            f"Job {job_id} belongs to a job scheduler and cannot be removed directly. {command}",
            "Remove the job scheduler instead.",
        ),
        -9: (
            errors.JobStateError,
            f"Cannot complete job {job_id} because it has at least one failed child. {command}",
            None,
        ),
        -10: (
            errors.JobStateError,
            f"Cannot create job scheduler iteration - job ID already exists. {command}",
            None,
        ),
        -11: (
            errors.JobStateError,
            f"Cannot create job scheduler iteration - time slots already have jobs. {command}",
            None,
        ),
    }.get(code, (errors.JobStateError, f"Unknown code {code} error for {job_id}. {command}", None))
    return made(text, fix=fix)


@functools.cache
def load(name: str) -> tuple[bytes, bytes]:
    """A script's SHA-1 (hex) and text: the installed package's, as `dialect` speaks it."""
    path = Path(bullmq.__file__).parent / "commands" / _FILES[name]
    theirs = luafunctions.defer(name, path.read_text(encoding="utf-8"))
    source = dialect.speak(name, theirs.encode())
    return hashlib.sha1(source, usedforsecurity=False).hexdigest().encode(), source


def check_versions() -> None:
    """Make sure that the installed scripts take the keys that bullpy packs.

    Raises:
        errors.VersionMismatchError: They do not; the installed `bullmq` is another version.
    """
    wrong = [
        f"{name} ({_FILES.get(name, 'missing')}, expected {keys} keys)"
        for name, keys in _BUILT_AGAINST.items()
        if not _FILES.get(name, "").endswith(f"-{keys}.lua")
        or not (Path(bullmq.__file__).parent / "commands" / _FILES[name]).is_file()
    ]
    if wrong:
        from importlib.metadata import version

        raise errors.VersionMismatchError(
            f"bullpy {version('bullpy')} does not fit the installed bullmq {version('bullmq')}: "
            f"{', '.join(wrong)}.",
            cause="bullmq was upgraded beyond the range that bullpy was tested with.",
            fix='Install the tested range: pip install "bullmq>=3.4.4,<3.5".',
        )


check_versions()
