"""Retries failed jobs by the reason of their failure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

from bullpy import codec, errors
from bullpy.ownscripts import run_on_queue
from bullpy.redaction import redact
from bullpy.repairs import journal
from bullpy.repairs.common import Report, chunks, some, text
from bullpy.repairs.reasons import LENGTH, FailureGroup, code_of, normalised
from bullpy.terminal import LATEST, moment, printable

if TYPE_CHECKING:
    from bullpy.backend import Backend
    from bullpy.queue import Queue

LOOKED_AT = 100_000
"""Failed jobs that are looked at, the newest ones."""

PAGE = 500
"""Of which one script reads the reasons."""

EXAMPLES = 10
"""Ids that a group tells of."""


@dataclass(slots=True)
class RetryReport(Report):
    """What `retry_failed` found and did; with a dry run, what it would do.

    Attributes:
        failed: Jobs that have failed, in all.
        checked: Of how many, the newest ones, the reason was looked at.
        groups: All reasons, the most frequent first.
        chosen: The codes of the groups that were asked for.
        retried: Ids of the jobs that wait again, in the order in which they failed.
        changed: Ids of jobs that somebody else retried or removed meanwhile.
        without_data: Ids in `failed` that have no data.
        left: Jobs of the chosen groups beyond the limit.
    """

    NAME: ClassVar[str] = "retry-failed"

    failed: int = 0
    checked: int = 0
    groups: list[FailureGroup] = field(default_factory=list[FailureGroup])
    chosen: list[str] = field(default_factory=list[str])
    retried: list[str] = field(default_factory=list[str])
    changed: list[str] = field(default_factory=list[str])
    without_data: int = 0
    left: int = 0

    @property
    def changes(self) -> int:
        """Jobs that wait again."""
        return len(self.retried)

    def for_log(self) -> dict[str, Any]:
        """What the log of repairs keeps of it: of the groups those that were asked for."""
        # Not super(): a dataclass with slots is another class than the one written here.
        kept = Report.for_log(self)
        chosen = [group for group in self.groups if group.code in self.chosen]
        kept["groups"] = [f"{group.code} {group.count} {group.reason}" for group in chosen]
        return kept

    def sentences(self) -> Iterator[str]:
        """What was found and done, for people; a line each."""
        yield f"{self.checked} of {self.failed} failed jobs looked at"
        for group in self.groups:
            mark = "*" if group.code in self.chosen else " "
            last = moment(group.last)
            yield f"{mark} {group.code} {group.count:>6}  last {last}  {group.reason}"
        if self.without_data:
            yield f"{self.without_data} ids in `failed` have no data (bullpy repair ids)"
        if self.retried:
            verb = "would wait" if self.dry_run else "wait"
            yield f"{len(self.retried)} jobs {verb} again: {some(self.retried)}"
        if self.left:
            yield f"{self.left} more of these groups are left"
        if self.changed:
            yield f"{len(self.changed)} were retried or removed by somebody else meanwhile"
        if self.groups and not self.chosen:
            yield "no group has that reason or code"


async def retry_failed(
    queue: Queue,
    *,
    dry_run: bool = True,
    reason: str | None = None,
    group: str | None = None,
    limit: int | None = None,
    everything: bool = False,
) -> RetryReport:
    """Let failed jobs wait again, all that failed for one reason; workers may run meanwhile.

    Each is retried as `job.retry()` does it: it keeps its attempts, so it runs once more, and goes
    to those with its priority if it has one. Those that failed first come first.

    Args:
        queue: The queue.
        dry_run: Only tell what would be done; without a choice, for all groups.
        reason: Part of a reason, normalised or as it was; upper and lower case are the same.
        group: The code of a group.
        limit: How many to retry at most.
        everything: Retry all groups.

    Raises:
        errors.ConfigurationError: Nothing was chosen, or the limit is not positive.
        errors.RedisError: Redis could not be asked, or refused. What was retried stays so.
    """
    if not (dry_run or everything or group or reason):
        raise errors.ConfigurationError(
            "It was not said which failed jobs to retry.",
            fix="Give a reason, or the code of a group; or ask for all.",
        )
    if limit is not None and limit < 1:
        raise errors.ConfigurationError(
            f"At most {limit} jobs would be retried.", fix="Give a limit of 1 or more."
        )
    backend = queue.backend
    report = RetryReport(backend.name, dry_run)
    members = await _groups(backend, report, reason)
    for found in report.groups:
        # Without any choice a dry run tells of all.
        asked = everything or (group is None and reason is None) or found.code == group
        if asked or (reason is not None and found.code in members.matching):
            report.chosen.append(found.code)
    ids = members.of(report.chosen)
    report.left = max(0, len(ids) - limit) if limit is not None else 0
    ids = ids[:limit]
    async with journal.kept(backend, report) as entry:
        if ids:
            await entry.begin()
        for chunk in chunks(ids):
            await _retry(backend, chunk, report)
    return report


@dataclass(slots=True)
class _Members:
    """The jobs of the groups.

    Attributes:
        jobs: Of each group when a job failed, and its id.
        matching: The groups with the reason that was asked for.
    """

    jobs: dict[str, list[tuple[float, bytes]]] = field(
        default_factory=dict[str, list[tuple[float, bytes]]]
    )
    matching: set[str] = field(default_factory=set[str])

    def of(self, codes: Sequence[str]) -> list[bytes]:
        """The ids of these groups, those that failed first before others."""
        return [job_id for _, job_id in sorted(job for code in codes for job in self.jobs[code])]


async def _groups(backend: Backend, report: RetryReport, reason: str | None) -> _Members:
    """Read why the newest of the failed jobs failed, and group them."""
    members, groups = _Members(), dict[str, FailureGroup]()
    seen: set[bytes] = set()
    wanted = None if reason is None else reason.casefold()
    while report.checked < LOOKED_AT:
        total, jobs = await run_on_queue(backend, _REASONS, report.checked, PAGE, LENGTH * 2)
        report.failed = int(total)
        triples = cast("list[bytes]", jobs)
        report.checked += len(triples) // 3
        for job_id, failed_on, why in zip(triples[::3], triples[1::3], triples[2::3], strict=True):
            # Jobs that failed between two pages show some of the others again.
            if job_id in seen:
                continue
            seen.add(job_id)
            if not why.startswith(b"="):
                report.without_data += 1
                continue
            at = min(float(failed_on), LATEST)
            told = why[1:].decode("utf-8", "replace")
            found = _add(groups, members, job_id, at, told)
            if wanted is not None and (
                wanted in told.casefold() or wanted in groups[found].reason.casefold()
            ):
                members.matching.add(found)
        if len(triples) < 3 * PAGE:
            break
    report.groups = sorted(groups.values(), key=lambda each: (-each.count, -each.last))
    return members


def _add(
    groups: dict[str, FailureGroup], members: _Members, job_id: bytes, at: float, told: str
) -> str:
    """Add a failed job to its group, the newest first; the group's code."""
    kind = normalised(told)
    code = code_of(kind)
    if code not in groups:
        example = printable(" ".join(redact(told).split()), LENGTH)
        groups[code] = FailureGroup(code, kind, example, last=int(at))
    group = groups[code]
    group.count += 1
    group.first = int(at)
    if len(group.ids) < EXAMPLES:
        group.ids.append(text(job_id))
    members.jobs.setdefault(code, []).append((at, job_id))
    return code


async def _retry(backend: Backend, ids: list[bytes], report: RetryReport) -> None:
    if report.dry_run:
        report.retried.extend(map(text, ids))
        return
    options = await asyncio.gather(*(backend.ask("HGET", _key(backend, i), "opts") for i in ids))
    results = await asyncio.gather(
        *(_retry_one(backend, job_id, opts) for job_id, opts in zip(ids, options, strict=True))
    )
    for job_id, result in zip(ids, results, strict=True):
        (report.retried if result == 1 else report.changed).append(text(job_id))


async def _retry_one(backend: Backend, job_id: bytes, opts: bytes | None) -> int:
    """Retry with BullMQ's own script, as `job.retry()` does: 1, or a negative number."""
    keys = backend.keys
    names = ("events", "failed", "wait", "meta", "active", "marker", "prioritized", "pc")
    push = "RPUSH" if _is_lifo(opts) else "LPUSH"
    args = [job_id, push, "failedReason", "failed", "0", "0"]
    script_keys: list[Any] = [_key(backend, job_id), *(keys[name] for name in names)]
    # A second call, after a lost reply, finds a job that is not failed any more.
    result = await backend.scripts.commands["reprocessJob"](script_keys, args, repeatable=True)
    return int(result)


def _key(backend: Backend, job_id: bytes) -> bytes:
    return backend.keys[""].encode() + job_id


def _is_lifo(opts: bytes | None) -> bool:
    try:
        decoded = codec.loads(opts or b"{}")
    except (ValueError, RecursionError):
        return False
    return isinstance(decoded, dict) and bool(cast("dict[str, Any]", decoded).get("lifo"))


_REASONS = b"""
-- KEYS[1] the queue's `meta`; ARGV[1] how many newer ones to leave out, ARGV[2] how many to read,
-- ARGV[3] bytes of each reason. Gives how many have failed, and of each id, time and reason, which
-- begins with '='; it is empty for an id without job.
local base, jobs = string.sub(KEYS[1], 1, -5), {}
local last = ARGV[1] + ARGV[2] - 1
local failed = redis.call('ZREVRANGE', base .. 'failed', ARGV[1], last, 'WITHSCORES')
for index = 1, #failed, 2 do
    local id, reason = failed[index], ''
    if redis.call('TYPE', base .. id).ok == 'hash' then
        local fields = redis.call('HMGET', base .. id, 'name', 'failedReason')
        if fields[1] then reason = '=' .. string.sub(fields[2] or '', 1, ARGV[3]) end
    end
    jobs[#jobs + 1], jobs[#jobs + 2], jobs[#jobs + 3] = id, failed[index + 1], reason
end
return { redis.call('ZCARD', base .. 'failed'), jobs }
"""
