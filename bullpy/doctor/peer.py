"""`--peer URL`: asks the other side which queue it uses, and compares that with ours.

The other side is a process that serves `/health/queue`: `examples/node-api/fingerprint.mjs` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from bullpy.connection.identity import QueueFingerprint, ServerIdentity
from bullpy.doctor import fetching
from bullpy.doctor.fetching import UnreadableError
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict

TIMEOUT = 5.0
"""Seconds that the answer may take, redirects included."""

PATH = "/health/queue"
"""Where a URL without a path is asked."""

LONGEST = 300
"""Characters of a text of the other side that are believed."""

DIFFERS = Cause(
    code="peer-differs",
    number=0,
    level=Level.BLOCKED,
    title="The other side uses another queue",
    symptom="The API adds jobs and the worker waits, both without an error.",
    why="Both sides said what the Redis that they reached calls itself, and the answers differ: in "
    "the server, the database, the prefix or the name of the queue. What one adds the other cannot "
    "see.",
    fix="Give both sides the same REDIS_URL, prefix and queue name.",
    certainty=Certainty.STATED,
    rank=5,
    silences=frozenset(["never-added", "no-adds"]),
    refutes=("a dead worker", "a wrong job name"),
)
AGREES = Cause(
    code="peer-agrees",
    number=0,
    level=Level.OK,
    title="The other side uses the same queue",
    symptom="`bullpy doctor --peer` says so.",
    why="The fingerprints of both sides are equal: same server, database, prefix and queue.",
    fix="Nothing: look for the cause elsewhere.",
    certainty=Certainty.STATED,
    refutes=("another Redis", "another database", "another prefix", "another queue name"),
)
UNREADABLE = Cause(
    code="peer-unreadable",
    number=0,
    level=Level.WARNING,
    title="The other side does not say which queue it uses",
    symptom="`bullpy doctor --peer URL` gets no answer, or one that is no fingerprint.",
    why="The URL is wrong, the other side is down, or it does not serve a fingerprint; or its user "
    "may not ask Redis for INFO, without which there is none.",
    fix="Serve examples/node-api/fingerprint.mjs under /health/queue there, and name that URL.",
    certainty=Certainty.STATED,
)
CHECKS.declare(DIFFERS, AGREES, UNREADABLE)


@dataclass(frozen=True, slots=True)
class Peer:
    """What the other side says about itself.

    Attributes:
        url: Where it was asked, without user, password and query.
        fingerprint: Of its queue; empty if it does not know it.
        run_id: Of its server; empty if it does not say.
        replid: `master_replid` of it, likewise.
        db: Its database.
        prefix: First part of its keys.
        queue: Its queue.
        problem: Why that is not known, in words; empty if it is.
    """

    url: str
    fingerprint: str = ""
    run_id: str = ""
    replid: str = ""
    db: int = 0
    prefix: str = ""
    queue: str = ""
    problem: str = ""


async def ask_peer(url: str, *, timeout: float = TIMEOUT) -> Peer:
    """Ask the other side which queue it uses; never raises because of what it answers.

    Args:
        url: http or https; a URL without a path is asked for `/health/queue`.
        timeout: Seconds for all of it.
    """
    try:
        address = fetching.address_of(url, path=PATH)
    except UnreadableError as error:
        return Peer("the peer's URL", problem=str(error))
    shown = fetching.shown(address)
    try:
        status, body = await fetching.get(address, timeout=timeout)
        # A service that is not well answers 503, and may still say which queue it uses.
        if status not in (200, 500, 503):
            return Peer(shown, problem=f"it answers with status {status}")
        return _parse(shown, body)
    except UnreadableError as error:
        return Peer(shown, problem=str(error))


def compare(peer: Peer, own: QueueFingerprint) -> Verdict:
    """What it means that the other side says this, and this is our queue."""
    asked = Proof(f"GET {peer.url}", peer.problem or _line(peer))
    if peer.problem:
        return UNREADABLE.verdict(f"{peer.url} does not say which queue it uses.", asked)
    here = Proof("bullpy doctor", str(own))
    if not own.value:
        return UNREADABLE.verdict(
            "Our own Redis does not tell its run_id, so there is nothing to compare.",
            asked,
            here,
            fix="Allow INFO to the user of the URL that the doctor uses.",
        )
    if peer.fingerprint == own.value:
        message = f"{peer.url} uses the same queue: fingerprint {own.value}."
        return AGREES.verdict(message, asked, here)
    parts, fix = _differences(peer, own)
    if not parts:
        return UNREADABLE.verdict(
            f"{peer.url} names the same server, database, prefix and queue, and has another "
            "fingerprint.",
            asked,
            here,
            fix="Update fingerprint.mjs there: it computes something else.",
        )
    message = f"{peer.url} uses another queue: {'; '.join(parts)}."
    return DIFFERS.verdict(message, asked, here, fix=fix)


async def compare_with_peer(
    url: str, identity: ServerIdentity, prefix: str, queues: Iterable[str]
) -> Verdict:
    """Ask the other side, and compare it with the one of our queues that it may mean."""
    peer = await ask_peer(url)
    names = list(queues)
    name = peer.queue if peer.queue in names or not names else names[0]
    return compare(peer, QueueFingerprint.of(identity, prefix, name))


def _differences(peer: Peer, own: QueueFingerprint) -> tuple[list[str], str | None]:
    """Which parts differ, and what to do about the first of them."""
    found: list[tuple[str, str | None]] = []
    if (peer.run_id or peer.replid) != (own.run_id or own.replid):
        theirs, ours = peer.run_id or peer.replid, own.run_id or own.replid
        text = f"it is on the server with run_id {theirs[:8]}, we are on {ours[:8]}"
        if peer.replid and peer.replid == own.replid:
            text += ", and one of the two replicates the other"
            found.append((text, "Give both sides the URL of the primary."))
        else:
            found.append((text, "Give both sides the same REDIS_URL: they reach two servers."))
    if peer.db != own.db:
        found.append(
            (
                f"it uses db {peer.db}, we use db {own.db}",
                "Use one database in both URLs: the number at their end, such as /0.",
            )
        )
    if peer.prefix != own.prefix:
        found.append(
            (f"its prefix is {peer.prefix!r}, ours is {own.prefix!r}", "Use one prefix on both.")
        )
    if peer.queue != own.queue:
        found.append(
            (
                f"its queue is {peer.queue!r}, ours is {own.queue!r}",
                "Use one name of the queue on both sides; upper and lower case count.",
            )
        )
    return [text for text, _ in found], found[0][1] if found else None


def _line(peer: Peer) -> str:
    server = peer.run_id or peer.replid
    return (
        f"queue fp={peer.fingerprint} run_id={server[:8]} db={peer.db} prefix={peer.prefix} "
        f"queue={peer.queue}"
    )


def _parse(url: str, body: bytes) -> Peer:
    try:
        answer: object = json.loads(body)
    except ValueError:
        raise UnreadableError("the answer is not JSON") from None
    if not isinstance(answer, dict):
        raise UnreadableError("the answer is not a JSON object")
    said = cast("dict[str, Any]", answer)

    def text(name: str) -> str:
        value = said.get(name)
        return value[:LONGEST] if isinstance(value, str) else ""

    db = said.get("db")
    peer = Peer(
        url,
        fingerprint=text("fingerprint"),
        run_id=text("run_id"),
        replid=text("replid"),
        db=db if isinstance(db, int) else 0,
        prefix=text("prefix"),
        queue=text("queue"),
    )
    if not peer.fingerprint:
        raise UnreadableError(text("error") or "the answer has no fingerprint")
    if not (peer.queue and (peer.run_id or peer.replid)):
        raise UnreadableError("the answer does not say what its fingerprint is made of")
    return peer
