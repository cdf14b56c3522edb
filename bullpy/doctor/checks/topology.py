"""Servers on which BullMQ cannot write: replicas, and clusters without a hash tag."""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from dataclasses import replace

from bullpy.doctor.look import Look
from bullpy.doctor.verdicts import CHECKS, Cause, Level, Proof, Verdict
from bullpy.doctor.wording import many, span

READ_ONLY = Cause(
    code="read-only-replica",
    number=37,
    level=Level.BLOCKED,
    title="This is a read-only replica",
    symptom="`READONLY You can't write against a read only replica`; the worker's log or CPU runs "
    "hot, and nothing is processed.",
    why="The URL names a replica: a reader endpoint, or a node that lost its role in a failover. "
    "Jobs can be seen there and not taken. A Node worker that gets this error tries again at once, "
    "thousands of times a second.",
    fix="Use the address of the primary; with Sentinel let the client ask for the master.",
    refutes=("a dead worker", "a paused queue"),
    rank=3,
    # Workers and their keys are the primary's.
    silences=frozenset(
        {
            "active-without-owner",
            "no-adds",
            "no-worker",
            "too-few-workers",
            "worker-frozen",
            "worker-never-fetched",
        }
    ),
)
WITHOUT_TAG = Cause(
    code="cluster-without-tag",
    number=38,
    level=Level.BLOCKED,
    title="Redis Cluster, and the prefix has no hash tag",
    symptom="`CROSSSLOT Keys in request don't hash to the same slot` on every add and fetch.",
    why="A script of BullMQ uses many keys of its queue, and a cluster allows that only for keys "
    "of one slot. The part of a key in braces decides its slot; without braces each key has its "
    "own.",
    fix="Put braces around the prefix on both sides: prefix {bull}.",
    refutes=("a dead worker", "a lost connection"),
    rank=2,
    silences=frozenset(
        {
            "never-added",
            "no-adds",
            "no-worker",
            "other-db",
            "other-prefix",
            "other-queue-name",
            "queue-unreadable",
            "worker-frozen",
            "worker-never-fetched",
        }
    ),
)


@CHECKS.server(READ_ONLY)
def read_only_replica(look: Look) -> Iterator[Verdict]:
    """Whether what was looked at is a replica."""
    info = look.server.info
    if info.get("role") != "slave":
        return
    primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
    refused, grown = look.server.errors.get("READONLY", 0), look.growth("READONLY")
    proofs = [
        Proof("INFO replication", f"role:slave slave_read_only:{info.get('slave_read_only', '?')}"),
        Proof("INFO replication", f"master_host:master_port = {primary}"),
        Proof("INFO errorstats", f"errorstat_READONLY:count={refused}"),
    ]
    if info.get("slave_read_only") == "0":
        yield READ_ONLY.verdict(
            f"This is a writable replica of {primary}: what is written here is lost when it "
            "synchronizes, and the primary's workers do not see it.",
            *proofs,
            refutes=(),
        )
        return
    rate = (
        f" {many(grown, 'write')} were refused in the last {span(look.seconds)}." if grown else ""
    )
    yield READ_ONLY.verdict(f"This is a read-only replica of {primary}.{rate}", *proofs)


@CHECKS.server(WITHOUT_TAG)
def cluster_without_tag(look: Look) -> Iterator[Verdict]:
    """Whether keys of a queue lie in several slots of a cluster."""
    if not look.is_cluster:
        return
    # Not a check of one queue: in this state a queue cannot even be read.
    for queue in look.queues:
        wait, active = queue.key("wait"), queue.key("active")
        if _slot(wait) == _slot(active) or (queue.samples and queue.moves):
            continue
        grown = look.growth("CROSSSLOT")
        refused = look.server.errors.get("CROSSSLOT", 0)
        verdict = WITHOUT_TAG.verdict(
            f"The keys of {queue.prefix}:{queue.name} lie in different slots of the cluster, so "
            "that no script of BullMQ can run."
            + (f" {grown} were refused in the last {span(look.seconds)}." if grown > 0 else ""),
            Proof("INFO cluster", "cluster_enabled:1"),
            Proof(f"CLUSTER KEYSLOT {wait}", str(_slot(wait))),
            Proof(f"CLUSTER KEYSLOT {active}", str(_slot(active))),
            Proof("INFO errorstats", f"errorstat_CROSSSLOT:count={refused}"),
            fix=f"Use the prefix {{{queue.prefix}}} on both sides: Queue(name, {{ prefix: "
            f"'{{{queue.prefix}}}' }}) in Node, BULLPY_PREFIX={{{queue.prefix}}} for bullpy.",
        )
        yield replace(verdict, queue=queue.name)


def _slot(key: str) -> int:
    """The cluster's slot of a key: CRC-16/XMODEM of the part in the first braces, if any."""
    _, opening, rest = key.partition("{")
    tag, closing, _ = rest.partition("}")
    hashed = tag if opening and closing and tag else key
    return binascii.crc_hqx(hashed.encode(), 0) % 16384
