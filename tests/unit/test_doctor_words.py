"""What the doctor's words show: no secrets, names that are read right, the cause first."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpy.doctor import Diagnosis, report
from bullpy.doctor.clients import Client, parse_clients, workers_of
from bullpy.doctor.verdicts import Cause, Certainty, Level, Proof, level_of, ordered
from bullpy.redaction import redact


@pytest.mark.parametrize(
    "text",
    [
        "redis://user:hunter2@host:6379/0 refused",
        "redis://:hunter2@host",
        "rediss://u:hun/ter2@hunter2@host",
        "redis://hunter2@host",
        "Authorization: Bearer hunter2hunter2",
        "password=hunter2 rejected",
        "{'api_key': 'hunter2', 'x': 1}",
        'B2_APP_KEY="hunter2"',
        "https://s3/bucket?X-Amz-Signature=hunter2&x=1",
        "token: hunter2",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
        "key AKIAHUNTER2HUNTER222 is wrong".replace("HUNTER2HUNTER222", "HUNTER2HUNTERX22"),
        "eyJhunter2hunter2.eyJhunter2hunter2.hunter2",
        r'{"body": "{\"token\": \"hunter2\"}"}',
        r"{\\\"token\\\":\\\"hunter2\\\"}",
    ],
)
def test_secrets_are_masked(text: str) -> None:
    assert "hunter2" not in redact(text).lower()


@pytest.mark.parametrize(
    "text",
    [
        "redis://host:6379/0",
        "redis://user:***@host:6379/0",
        "Missing process handler for job type process-audio",
        "HGET bull:audio:meta paused -> 1",
        "no module named 'tokenizers'",
        "file:///srv/tracks/a.wav has 3 channels",
    ],
)
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "piece", ["x", "a+", "a.", "://", "password", "token=", "eyJ", "sk-", "a://b@", "-----BEGIN A "]
)
def test_long_text_is_redacted_at_once(piece: str) -> None:
    began = time.process_time()
    redact(piece * (50_000 // len(piece)))
    # Seconds; a pattern that looks at each part of a word again takes minutes.
    assert time.process_time() - began < 3


@given(st.text())
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "part",
    ["a", "QUJD", "a.", "eyJ-", "token", "a://", "://", "auth ", "bearer ", 'token"', "x-amz-"],
)
def test_long_text_costs_no_more_than_its_length(part: str) -> None:
    text = part * (20_000 // len(part))
    started = time.process_time()
    redact(text)
    # Where the cost grows with the square of the length, this takes tens of seconds.
    assert time.process_time() - started < 1


def row(name: str, more: str = "") -> str:
    return (
        f"id=7 addr=127.0.0.1:4 laddr=127.0.0.1:6379 fd=8 name={name} age=9 idle=3 flags=b db=2 "
        f"sub=0 psub=0 multi=-1 qbuf=26 qbuf-free=0 cmd=bzpopmin user=default {more}"
    )


def test_row_of_the_server_is_read() -> None:
    client = Client.parse(row("bull:cQ==:w:w-1", "lib-name=ioredis lib-ver=5.11.1"))
    assert (client.id, client.db, client.age, client.idle, client.qbuf) == (7, 2, 9, 3, 26)
    assert (client.cmd, client.library, client.is_blocked) == ("bzpopmin", "ioredis 5.11.1", True)


@given(
    st.text("abcXYZ019._-", min_size=1),
    st.sampled_from(["bull", "{bull}", "a:b", "prod"]),
    st.sampled_from(["", ":w:w-1", ":w:host:12:1"]),
    st.booleans(),
)
def test_worker_is_found_in_both_spellings(
    queue: str, prefix: str, tail: str, is_plain: bool
) -> None:
    text = queue if is_plain else base64.b64encode(queue.encode()).decode()
    client = Client.parse(row(f"{prefix}:{text}{tail}"))
    assert workers_of([client], prefix, queue) == [client]
    assert not client.listens(prefix, queue + "x")
    assert not client.follows(prefix, queue)


def test_one_who_follows_events_is_no_worker() -> None:
    client = Client.parse(row("bull:cQ==:qe"))
    assert client.follows("bull", "q")
    assert not client.listens("bull", "q")


@pytest.mark.parametrize("name", ["", "redis-cli", ":", "bull:", ":w:x", "a:b:qe:", "bull::w:x"])
def test_other_names_are_read_without_harm(name: str) -> None:
    assert not Client.parse(row(name)).listens("bull", "q")


@given(st.binary())
def test_any_reply_is_read(reply: bytes) -> None:
    for client in parse_clients(b"id=1 " + reply):
        assert client.listeners is not None


def cause(code: str, level: Level, rank: int = 50, silences: frozenset[str] = frozenset()) -> Cause:
    return Cause(code, 0, level, "t", "s", "w", "f", rank=rank, silences=silences)


def test_worse_and_surer_verdicts_come_first() -> None:
    proof = Proof("GET x", "1")
    note = cause("note", Level.OK).verdict("m", proof)
    guessed = cause("guessed", Level.BLOCKED, 1).verdict("m", proof, certainty=Certainty.PROBABLE)
    watched = cause("watched", Level.BLOCKED, 9).verdict("m", proof, certainty=Certainty.WATCHED)
    proven = cause("proven", Level.BLOCKED, 8).verdict("m", proof)
    warning = cause("warning", Level.WARNING, 0).verdict("m", proof)
    told = ordered([note, guessed, warning, watched, proven])
    assert [verdict.code for verdict in told] == ["proven", "watched", "guessed", "warning", "note"]
    assert level_of(told) is Level.BLOCKED
    assert level_of([]) is Level.OK


def test_explained_verdict_is_silenced_on_its_own_queue_alone() -> None:
    proof = Proof("GET x", "1")
    paused = cause("paused", Level.BLOCKED, silences=frozenset({"frozen"}))
    frozen = cause("frozen", Level.BLOCKED)
    from dataclasses import replace

    found = [
        replace(paused.verdict("m", proof), queue="a"),
        replace(frozen.verdict("m", proof), queue="a"),
        replace(frozen.verdict("m", proof), queue="b"),
    ]
    assert [(each.code, each.queue) for each in ordered(found)] == [
        ("paused", "a"),
        ("frozen", "b"),
    ]


def test_text_of_others_does_not_steer_the_terminal() -> None:
    cause = Cause("x", 0, Level.BLOCKED, "t", "s", "w", "f")
    said = cause.verdict("queue \x1b]0;a\x07 fails", Proof("GET k", "no\nOK: nothing is wrong"))
    told = list(report.lines(Diagnosis(verdicts=[said])))
    assert all(line.isprintable() for line in told)
    assert "  proof    GET k -> no\\nOK: nothing is wrong" in told
