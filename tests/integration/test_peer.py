"""`--peer`: what the other side says, and what that means."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from bullpy import Queue
from bullpy.connection.identity import QueueFingerprint, fingerprint
from bullpy.doctor.peer import Peer, ask_peer, compare, compare_with_peer

OWN = QueueFingerprint(
    value=fingerprint("a" * 40, 0, "bull", "audio"),
    run_id="a" * 40,
    replid="f" * 40,
    db=0,
    prefix="bull",
    queue="audio",
    url="redis://127.0.0.1:6379/0",
)

Answer = Callable[[list[str]], Awaitable[bytes]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[str, list[list[str]]]]:
    """An HTTP server that gives raw answers; its address, and the heads of its requests."""
    seen: list[list[str]] = []
    ends = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        seen.append(head)
        reply = await answer(head)
        writer.write(reply.removesuffix(b"(open)"))
        if reply.endswith(b"(open)"):
            await ends.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", seen
    finally:
        ends.set()
        server.close()


def reply(body: object, status: str = "200 OK", **headers: str) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(text)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + text


def always(raw: bytes) -> Answer:
    async def answer(head: list[str]) -> bytes:
        return raw

    return answer


async def asked(raw: bytes, url: str = "", **options: Any) -> Peer:
    async with serving(always(raw)) as (address, _):
        return await ask_peer(address + url, **options)


def peer_of(own: QueueFingerprint, **other: Any) -> Peer:
    theirs = replace(own, **other)
    server = theirs.run_id or theirs.replid
    value = fingerprint(server, theirs.db, theirs.prefix, theirs.queue)
    return Peer(
        "http://api/health/queue",
        value,
        theirs.run_id,
        theirs.replid,
        theirs.db,
        theirs.prefix,
        theirs.queue,
    )


async def test_same_queue_agrees() -> None:
    peer = await asked(reply(OWN.as_dict()))
    assert peer.problem == ""
    verdict = compare(peer, OWN)
    assert (verdict.code, verdict.level.word) == ("peer-agrees", "ok")
    assert OWN.value in verdict.message


@pytest.mark.parametrize(
    ("other", "says", "fix"),
    [
        ({"run_id": "b" * 40, "replid": "e" * 40}, "server with run_id bbbbbbbb", "two servers"),
        ({"run_id": "b" * 40}, "replicates the other", "the primary"),
        ({"db": 1}, "it uses db 1, we use db 0", "one database"),
        ({"prefix": "prod"}, "its prefix is 'prod', ours is 'bull'", "one prefix"),
        ({"queue": "audio2"}, "its queue is 'audio2', ours is 'audio'", "one name"),
    ],
)
def test_part_that_differs_is_named(other: dict[str, Any], says: str, fix: str) -> None:
    verdict = compare(peer_of(OWN, **other), OWN)
    assert (verdict.code, verdict.level.word) == ("peer-differs", "blocked")
    assert says in verdict.message
    assert fix in verdict.fix
    assert len(verdict.proofs) == 2


def test_all_parts_that_differ_are_named_and_one_fix() -> None:
    verdict = compare(peer_of(OWN, db=2, queue="x"), OWN)
    assert "db 2" in verdict.message
    assert "'x'" in verdict.message
    assert "database" in verdict.fix


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (reply(b"<html>"), "not JSON"),
        (reply([1]), "not a JSON object"),
        (reply({}), "has no fingerprint"),
        (reply({"fingerprint": "abc"}), "what its fingerprint is made of"),
        (reply({"fingerprint": None, "error": "INFO is not allowed"}, "503 X"), "INFO is not"),
        (reply(b"", "404 Not Found"), "status 404"),
        (
            reply(b"", "302 Found", Location="http://evil.example/x?token=abcdefg"),
            "evil.example/x;",
        ),
        (reply(b"", "302 Found", Location="http://["), "no URL of http or https"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", "cut off"),
        (reply(b"x" * 100_000), "more than 64000 bytes"),
        (b"", "not HTTP"),
    ],
)
async def test_answer_that_is_none_is_said(raw: bytes, says: str) -> None:
    peer = await asked(raw)
    assert says in peer.problem, peer
    assert "abcdefg" not in peer.problem
    verdict = compare(peer, OWN)
    assert (verdict.code, verdict.level.word) == ("peer-unreadable", "warning")
    assert peer.problem in verdict.proofs[0].value


async def test_peer_that_says_nothing_costs_no_more_than_the_timeout() -> None:
    started = time.monotonic()
    peer = await asked(b"(open)", timeout=0.3)
    assert "in time" in peer.problem
    assert time.monotonic() - started < 3


async def test_peer_that_does_not_close_is_read() -> None:
    peer = await asked(reply(OWN.as_dict()) + b"(open)", timeout=0.5)
    assert peer.fingerprint == OWN.value


async def test_chunked_answer_is_read() -> None:
    text = json.dumps(OWN.as_dict()).encode()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    peer = await asked(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text))
    assert peer.fingerprint == OWN.value


async def test_path_is_health_queue_unless_given_and_password_is_used_not_shown() -> None:
    async with serving(always(reply(OWN.as_dict()))) as (address, seen):
        secret = address.replace("//", "//u:geheim@")
        peer = await ask_peer(secret + "?token=abcdef12")
        await ask_peer(address + "/other")
    assert [head[0].split()[1] for head in seen] == ["/health/queue?token=abcdef12", "/other"]
    assert "Authorization: Basic dTpnZWhlaW0=" in seen[0]
    assert peer.url == f"{address}/health/queue"
    verdict = compare(peer, OWN)
    assert "geheim" not in str(verdict)
    assert "abcdef12" not in str(verdict)


async def test_redirect_on_the_same_host_is_followed_but_not_with_the_password() -> None:
    async with serving(always(reply(OWN.as_dict()))) as (final, seen):
        moved = reply(b"", "307 Moved", Location=f"{final}/there")
        async with serving(always(moved)) as (address, _):
            peer = await ask_peer(address.replace("//", "//u:geheim@"))
    assert peer.fingerprint == OWN.value
    assert seen[0][0].startswith("GET /there ")
    assert not any(line.startswith("Authorization") for line in seen[0])


async def test_redirects_in_a_circle_end() -> None:
    assert "again and again" in (await asked(reply(b"", "302 Found", Location="/x"))).problem


@pytest.mark.parametrize(
    "url", ["ftp://h/x", "http://", "http://h:99999/", "http://[", "http://a b/"]
)
async def test_what_is_no_url_is_said(url: str) -> None:
    peer = await ask_peer(url)
    assert "no URL of http or https" in peer.problem
    assert compare(peer, OWN).code == "peer-unreadable"


async def test_nobody_there_is_said() -> None:
    assert "cannot be reached" in (await ask_peer("http://127.0.0.1:1")).problem


async def test_own_queue_without_fingerprint_is_said() -> None:
    verdict = compare(peer_of(OWN), replace(OWN, value="", run_id="", replid=""))
    assert verdict.code == "peer-unreadable"
    assert "INFO" in verdict.fix


async def test_real_queues_are_compared(queue: Queue, queue_name: str) -> None:
    mine = await queue.fingerprint()
    identity = await queue.whoami()
    async with serving(always(reply(mine.as_dict()))) as (address, _):
        agrees = await compare_with_peer(address, identity, "bull", ["another", queue_name])
        differs = await compare_with_peer(address, identity, "bull", ["another"])
    assert agrees.code == "peer-agrees"
    assert differs.code == "peer-differs"
