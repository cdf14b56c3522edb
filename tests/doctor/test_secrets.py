"""Nothing secret is told, wherever it lies: in URLs, names, data, reasons, files, logs of Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.exceptions import RedisError
from support.node import NodeWorker
from support.processes import bullpy
from support.scenes.stage import Side, Stage, World

from bullpy import EmbeddedServer

QUEUE = "payments"

SECRETS = {
    "password of the URL": "Tr0ub4dor-of-the-url",
    "password of another user": "0ther-user-s-pw",
    "password that is refused": "y3sterday-s-pw",
    "data of a job": "sk-live-4242424242424242",
    "passphrase in the data": "data-passphrase-77",
    "URL in a reason": "reason-url-pw-11",
    "bearer token in a reason": "reasonBearer.Abc123456789",
    "key in a reason": "K005reasonAppKey99",
    "JSON in a reason": "reason-json-token-33",
    "name of a worker": "worker-name-token-55",
    "name of a client": "client-name-pw-66",
    "argument in SLOWLOG": "slowlog-argument-88",
    "URL in .env": "envfile-url-pw-12",
    "key in .env": "envfile-b2-key-13",
    "URL in .env.production": "envfile-prod-pw-14",
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
        peer: Of a page that nobody serves.
        project: A folder with environment files.
    """

    url: str
    refused: str
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
        yield Place(url, refused, peer, tmp_path)


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
    """Jobs that fail with secrets in their reasons, and are gone or kept."""
    for index, reason in enumerate(reasons()):
        worker = await node.worker("fail", params={"message": reason})
        job = await node.add("charge", removeOnFail=index == 0)
        await worker.event("failed", job)
        await worker.stop()


def write_project(folder: Path) -> None:
    """An API and a worker whose environment files disagree."""
    (folder / ".env").write_text(
        f"REDIS_URL=redis://:{SECRETS['URL in .env']}@cache.example.com:6379/0\n"
        f"B2_APP_KEY={SECRETS['key in .env']}\n"
    )
    (folder / ".env.production").write_text(
        f"REDIS_URL=redis://:{SECRETS['URL in .env.production']}@queue.example.com:6379/1\n"
    )
    (folder / "Procfile").write_text("web: node api.js\nworker: bullpy worker app:worker\n")


CALLS = {
    "doctor": ("doctor", "--queue", QUEUE, "--interval", "1"),
    "doctor without a queue": ("doctor", "--interval", "1"),
    "ps": ("ps", "--all"),
}


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
async def test_no_command_tells_a_secret(place: Place, form: tuple[str, ...]) -> None:
    several = [
        *((name, (*call, "--redis", place.url), {}) for name, call in CALLS.items()),
        *((f"{name}, refused", call, {"REDIS_URL": place.refused}) for name, call in CALLS.items()),
    ]
    runs = [
        asyncio.to_thread(bullpy, *call, *form, env=env, timeout=60) for _, call, env in several
    ]
    for (name, _, _), ended in zip(several, await asyncio.gather(*runs), strict=True):
        text = ended.stdout + ended.stderr
        told = [where for where, secret in SECRETS.items() if secret in text]
        assert not told, f"{name} tells the {', '.join(told)}:\n{text}"
        assert "Traceback" not in text, text
        assert text.strip(), name
