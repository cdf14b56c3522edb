"""Nothing secret is told, wherever it lies: in URLs, names, data, reasons, files, logs of Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError
from support.node import NodeWorker
from support.processes import bullpy
from support.scenes.stage import Side, Stage, World

from bullpy import EmbeddedServer
from bullpy.doctor import diagnose, report

QUEUE = "payments"

SECRETS = {
    "password of the URL": "Tr0ub4dor-of-the-url",
    "password of another user": "0ther-user-s-pw",
    "password that is refused": "y3sterday-s-pw",
    "password without a colon": "c0lonless-pw",
    "data of a job": "sk-live-4242424242424242",
    "passphrase in the data": "data-passphrase-77",
    "URL in a reason": "reason-url-pw-11",
    "bearer token in a reason": "reasonBearer.Abc123456789",
    "key in a reason": "K005reasonAppKey99",
    "JSON in a reason": "reason-json-token-33",
    "name of a worker": "worker-name-token-55",
    "name of a client": "client-name-pw-66",
    "argument in SLOWLOG": "slowlog-argument-88",
    "URL of the API's .env": "envfile-url-pw-12",
    "key in .env": "envfile-b2-key-13",
    "URL of the worker's .env": "envfile-prod-pw-14",
    "URL of the peer": "peer-url-pw-15",
    "query of the peer": "peer-query-token-16",
}
"""Where each of them lies."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where all secrets are.

    Attributes:
        url: Of the server, password and all.
        refused: The same with a wrong password.
        colonless: With the password where the user should be, and none.
        peer: Of a page that nobody serves.
        project: A folder with environment files.
    """

    url: str
    refused: str
    colonless: str
    peer: str
    project: Path


def reasons() -> list[str]:
    """What failures say, as drivers and HTTP clients phrase it."""
    return [
        f"connect ECONNREFUSED redis://app:{SECRETS['URL in a reason']}@10.0.0.7:6379/0",
        "401 from https://api.example.com: Authorization: Bearer "
        + SECRETS["bearer token in a reason"],
        f"B2_APP_KEY={SECRETS['key in a reason']} is not valid",
        json.dumps({"token": SECRETS["JSON in a reason"], "error": "expired"}),
    ]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with World() as world, Stage(world, "secrets") as stage:
        stage.queue = QUEUE
        server = await stage.server("--slowlog-log-slower-than", "0", "--latency-tracking", "no")
        url, refused = await with_passwords(server, stage)
        node = await stage.node("5", url)
        await fail(node)
        worker: NodeWorker = await node.worker(
            "hold", name=f"w:token={SECRETS['name of a worker']}"
        )
        data = {
            "apiKey": SECRETS["data of a job"],
            "passphrase": SECRETS["passphrase in the data"],
        }
        held = await node.add("charge", data)
        await worker.event("processing", held)
        await node.add_many(3, "charge", data)
        named = stage.redis(url)
        await named.client_setname(f"redis://x:{SECRETS['name of a client']}@host:6379")
        await named.set("session", SECRETS["argument in SLOWLOG"])
        with suppress(RedisError):
            await stage.redis(refused).ping()
        write_project(tmp_path)
        peer = (
            f"http://app:{SECRETS['URL of the peer']}@127.0.0.1:9/health/queue"
            f"?token={SECRETS['query of the peer']}"
        )
        colonless = f"redis://{SECRETS['password without a colon']}@127.0.0.1:{server.port}/0"
        yield Place(url, refused, colonless, peer, tmp_path)


async def with_passwords(server: EmbeddedServer, stage: Stage) -> tuple[str, str]:
    """Users with passwords; the URL of the first, and one with a password of yesterday."""
    redis = stage.redis(server.url)
    for user, secret in (("app", "password of the URL"), ("other", "password of another user")):
        await redis.execute_command(
            "ACL", "SETUSER", user, "on", f">{SECRETS[secret]}", "~*", "&*", "+@all"
        )
    at = f"127.0.0.1:{server.port}/0"
    return (
        f"redis://app:{SECRETS['password of the URL']}@{at}",
        f"redis://app:{SECRETS['password that is refused']}@{at}",
    )


async def fail(node: Side) -> None:
    """Queues whose jobs all fail and are removed, each with a secret in the reason."""
    for index, reason in enumerate(reasons()):
        queue = f"refunds-{index}"
        worker = await node.worker("fail", queue=queue, params={"message": reason})
        for _ in range(3):
            await node.add("refund", queue=queue, removeOnFail=True)
        await worker.event("failed", count=3)


def write_project(folder: Path) -> None:
    """An API and a worker whose environment files disagree."""
    for part, secret, at in (
        ("api", "URL of the API's .env", "cache.example.com:6379/0"),
        ("worker", "URL of the worker's .env", "queue.example.com:6379/1"),
    ):
        (folder / part).mkdir()
        (folder / part / ".env").write_text(
            f"REDIS_URL=redis://:{SECRETS[secret]}@{at}\nB2_APP_KEY={SECRETS['key in .env']}\n"
        )
    (folder / "api" / "package.json").write_text('{"dependencies": {"bullmq": "5.61.2"}}')
    (folder / "worker" / "requirements.txt").write_text("bullpy==0.1.0\n")
    (folder / "Procfile").write_text("web: node api.js\nworker: bullpy worker app:worker\n")


async def test_nothing_secret_is_told(place: Place) -> None:
    said = {**await by_diagnosis(place), **await by_command(place)}
    for name, text in said.items():
        told = [where for where, secret in SECRETS.items() if secret in text]
        assert not told, f"{name} tells the {', '.join(told)}:\n{text}"
        assert "Traceback" not in text, text
    # What is not secret is told, so that this test would see what is.
    for name, parts in TOLD.items():
        for part in parts:
            assert part in said[name], said[name]


TOLD = {
    "doctor of all queues": ("10.0.0.7", "api.example.com", "B2_APP_KEY=***"),
    "doctor, refused": ("refuses the user or the password", "redis://app:***@"),
    "diagnosis with a peer": ("127.0.0.1:9/health/queue",),
    "diagnosis with a project": ("api/.env", "worker/.env"),
    "ps": ("w:token=***",),
}
"""What must be found in what is said, by its name."""


async def by_command(place: Place) -> dict[str, str]:
    """All that commands print."""
    calls: dict[str, tuple[tuple[str, ...], str]] = {
        "doctor of all queues": (("doctor", "--interval", "1"), place.url),
        "doctor, refused": (("doctor", "--queue", QUEUE), place.refused),
        "ps": (("ps", "--all"), place.url),
        "ps --json": (("ps", "--all", "--json"), place.url),
    }
    runs = [
        asyncio.to_thread(bullpy, *arguments, env={"REDIS_URL": url}, timeout=60)
        for arguments, url in calls.values()
    ]
    ended = await asyncio.gather(*runs)
    return {name: each.stdout + each.stderr for name, each in zip(calls, ended, strict=True)}


async def by_diagnosis(place: Place) -> dict[str, str]:
    """What the commands would print, in both forms."""
    quick: dict[str, Any] = {"interval": 1.0}
    found = {
        "diagnosis": await diagnose([QUEUE], redis=place.url, **quick),
        "diagnosis with a peer": await diagnose([QUEUE], redis=place.url, peer=place.peer, **quick),
        "diagnosis with a project": await diagnose(
            [QUEUE], redis=place.url, project=place.project, **quick
        ),
        "diagnosis, refused": await diagnose([QUEUE], redis=place.refused),
        "diagnosis without a colon": await diagnose([QUEUE], redis=place.colonless),
        "diagnosis of a wrong URL": await diagnose([QUEUE], redis=place.url + "?tls=maybe"),
    }
    texts = {name: "\n".join(report.lines(each)) for name, each in found.items()}
    forms = {f"{name} as JSON": json.dumps(each.as_dict()) for name, each in found.items()}
    # A program may log it whole.
    plain = {f"{name} as Python shows it": repr(each) for name, each in found.items()}
    return {**texts, **forms, **plain}
