"""New jobs are what upstream makes of the same options, and packed as redis-py would."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import hiredis
import msgpack
import pytest
from bullmq.job import Job as UpstreamJob
from bullmq.queue_keys import QueueKeys
from bullmq.scripts import Scripts as UpstreamScripts

from bullpy import Job
from bullpy.adding import Adder

QUEUE: Any = SimpleNamespace(backend=object(), qualifiedName="bull:q", name="q")
PARENT = {"id": "p", "queue": "bull:parents"}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"jobId": "order-7", "timestamp": 1, "attempts": 3, "lifo": True, "keepLogs": 5},
    {"timestamp": 1, "backoff": 500, "removeOnComplete": True, "removeOnFail": {"count": 3}},
    {"timestamp": 1, "backoff": {"type": "exponential", "delay": 1, "jitter": 0.5}},
    {"timestamp": 1, "delay": 5000, "priority": 2},
    {"timestamp": 1, "priority": 7, "deduplication": {"id": "d", "ttl": 5}},
    {"timestamp": 1, "parent": PARENT, "failParentOnFailure": True},
    {"timestamp": 1, "parent": PARENT, "removeDependencyOnFailure": True},
    {"timestamp": 1, "parent": PARENT, "ignoreDependencyOnFailure": True},
    {"timestamp": 1, "parent": PARENT, "continueParentOnFailure": True},
    {"timestamp": 1, "parent": None},
]


@pytest.mark.parametrize("opts", OPTIONS, ids=str)
def test_a_new_job_is_upstreams(opts: dict[str, Any]) -> None:
    given = dict(opts)
    job = Job[Any](QUEUE, "n", {"a": 1}, opts, "generated")
    theirs: dict[str, Any] = vars(UpstreamJob(QUEUE, "n", {"a": 1}, opts, "generated"))
    if "timestamp" not in opts:
        assert abs(theirs.pop("timestamp") - job.timestamp) < 1000
    assert {name: getattr(job, name) for name in theirs} == theirs
    assert opts == given


@pytest.mark.parametrize("opts", OPTIONS, ids=str)
@pytest.mark.parametrize("is_parent", [False, True])
async def test_a_command_carries_what_upstream_sends(opts: dict[str, Any], is_parent: bool) -> None:
    sent: list[tuple[str, list[str], list[Any]]] = []
    theirs = UpstreamScripts.__new__(UpstreamScripts)
    theirs.keys = QueueKeys("bull").getKeys("q")
    theirs.commands = _Recorder(sent)
    job: Any = Job[Any](QUEUE, "n", {"a": 1}, opts, "generated")
    await (theirs.addParentJob(job) if is_parent else theirs.addJob(job))
    ((script, keys, args),) = sent

    command = _adder().command(job, is_parent=is_parent)
    assert command.script == script
    for packed, first in [
        (command.by_hash(), [b"EVALSHA", b"sha of " + script.encode()]),
        (command.with_source(), [b"EVAL", b"text of " + script.encode()]),
    ]:
        found = _words(packed)
        assert found[: 3 + len(keys)] == [*first, b"%d" % len(keys), *map(str.encode, keys)]
        names, data, options = found[3 + len(keys) :]
        assert msgpack.unpackb(names) == msgpack.unpackb(args[0])
        assert data.decode() == args[1]
        assert msgpack.unpackb(options) == msgpack.unpackb(args[2])


def test_the_job_is_packed_as_a_whole_command() -> None:
    job: Any = Job[Any](QUEUE, "n" * 300, {"text": "\r\n$5\r\nä"}, {}, "generated")
    packed = _adder().command(job).by_hash()
    pack: Any = hiredis
    assert packed == pack.pack_command(tuple(_words(packed)))


def _adder() -> Adder:
    names = ["addStandardJob", "addDelayedJob", "addPrioritizedJob", "addParentJob"]
    scripts: Any = {
        name: SimpleNamespace(sha=f"sha of {name}".encode(), source=f"text of {name}".encode())
        for name in names
    }
    return Adder(QueueKeys("bull").getKeys("q"), scripts)


class _Recorder:
    """Stands for upstream's registered scripts."""

    def __init__(self, sent: list[tuple[str, list[str], list[Any]]]) -> None:
        self._sent = sent

    def __getitem__(self, name: str) -> Any:
        async def called(keys: list[str], args: list[Any], client: object) -> None:
            self._sent.append((name, keys, args))

        return called


def _words(packed: bytes) -> list[bytes]:
    """The words of a packed command, which has the form of a reply too."""
    reader = hiredis.Reader()
    reader.feed(packed)
    words: Any = reader.gets()
    assert reader.gets() is False
    return words
