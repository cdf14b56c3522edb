"""New jobs as commands for the wire: the script that adds a job, with its keys packed once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bullmq.job import optsEncodeMap

from bullpy import codec
from bullpy.connection.client import ScriptHead

if TYPE_CHECKING:
    from bullmq.job import Job as UpstreamJob

    from bullpy.scripts import Script

# The order in which each script takes the keys of its queue.
_KEYS = {
    "addStandardJob": (
        *("wait", "paused", "meta", "id", "completed"),
        *("delayed", "active", "events", "marker"),
    ),
    "addDelayedJob": ("marker", "meta", "id", "delayed", "completed", "events"),
    "addPrioritizedJob": (
        *("marker", "meta", "id", "prioritized", "delayed"),
        *("completed", "active", "events", "pc"),
    ),
    "addParentJob": ("meta", "id", "delayed", "waiting-children", "completed", "events"),
}
_ARGUMENTS = 3
_TAIL = b"$%d\r\n%b\r\n" * _ARGUMENTS
_SHORTENED = frozenset(optsEncodeMap)


class Adder:
    """Packs the commands that add jobs to one queue.

    Args:
        keys: The queue's keys by BullMQ's names.
        commands: BullMQ's scripts by name.
    """

    def __init__(self, keys: Mapping[str, str], commands: Mapping[str, Script]) -> None:
        self._keys = keys
        self._commands = commands
        self._base = keys[""]
        self._heads: dict[str, ScriptHead] = {}

    def command(self, job: UpstreamJob, *, is_parent: bool = False) -> AddCommand:
        """The command that adds the job.

        Args:
            job: The job; its parent has to be there when the command runs.
            is_parent: Whether it waits for children that are added after it.

        Raises:
            errors.EncodingError: Its data has no JSON form.
        """
        names, data, opts = self.arguments(job)
        tail = _TAIL % (len(names), names, len(data), data, len(opts), opts)
        script = _script_of(job, is_parent)
        return AddCommand(script, self._head(script), tail)

    def arguments(self, job: UpstreamJob) -> tuple[bytes, bytes, bytes]:
        """What the scripts take: msgpack of names and ids, JSON of the data, msgpack of options."""
        parent_key = job.parentKey
        deduplication_id = job.deduplication_id
        names = codec.pack_for_lua(
            (
                self._base,
                job.id or "",
                job.name,
                job.timestamp,
                parent_key,
                f"{parent_key}:dependencies" if parent_key else None,
                job.parent,
                job.repeatJobKey,
                f"{self._base}de:{deduplication_id}" if deduplication_id else None,
            )
        )
        opts = job.opts
        if not _SHORTENED.isdisjoint(opts):
            opts = {optsEncodeMap.get(name, name): value for name, value in opts.items()}
        return names, codec.dumps(job.data), codec.pack_for_lua(opts)

    def _head(self, script: str) -> ScriptHead:
        head = self._heads.get(script)
        if head is None:
            keys = [self._keys[name] for name in _KEYS[script]]
            command = self._commands[script]
            head = ScriptHead(command.sha, command.source, (len(keys), *keys), _ARGUMENTS)
            self._heads[script] = head
        return head


class AddCommand:
    """One job, packed for the wire.

    Attributes:
        script: The name of the script that adds it.
    """

    __slots__ = ("_head", "_tail", "script")

    def __init__(self, script: str, head: ScriptHead, tail: bytes) -> None:
        self.script = script
        self._head = head
        self._tail = tail

    def by_hash(self) -> bytes:
        """For a server that has the script."""
        return self._head.by_hash + self._tail

    def with_source(self) -> bytes:
        """For one that may not have it."""
        return self._head.with_source() + self._tail


def _script_of(job: UpstreamJob, is_parent: bool) -> str:
    if is_parent:
        return "addParentJob"
    opts: Mapping[str, Any] = job.opts
    if opts.get("delay"):
        return "addDelayedJob"
    return "addPrioritizedJob" if opts.get("priority") else "addStandardJob"
