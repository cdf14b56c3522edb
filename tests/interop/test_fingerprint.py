"""The fingerprint of a queue is the same in both languages, whatever leads to it."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest
from support.node import Node
from support.processes import ROOT, Process, run

from bullpy import EmbeddedServer, Queue, Worker

FILE = ROOT / "examples" / "node-api" / "fingerprint.mjs"


@pytest.mark.parametrize("prefix", ["bull", "{bull}", "prod:eu"])
async def test_node_computes_the_same_fingerprint(
    node: Node, redis_url: str, queue_name: str, prefix: str
) -> None:
    theirs = await node.peer.ask("fingerprint", queue=queue_name, prefix=prefix)
    await node.peer.ask("queue.close", queue=queue_name, prefix=prefix)
    async with Queue(queue_name, redis=redis_url, prefix=prefix) as queue:
        ours = await queue.fingerprint()
    assert re.fullmatch(r"[0-9a-f]{12}", ours.value)
    expected = ours.as_dict()
    assert {name: theirs[name] for name in expected} == expected
    assert theirs["line"].split(" via ")[0] == str(ours).split(" via ")[0]
    made = "\n".join([ours.run_id, "0", prefix, queue_name])
    assert ours.value == hashlib.sha256(made.encode()).hexdigest()[:12]


async def test_names_beyond_ascii_have_the_same_fingerprint(node: Node, redis_url: str) -> None:
    name = "größe 🎧"
    theirs = await node.peer.ask("fingerprint", queue=name, prefix="bull")
    await node.peer.ask("queue.close", queue=name, prefix="bull")
    async with Queue(name, redis=redis_url) as queue:
        assert (await queue.fingerprint()).value == theirs["fingerprint"]


def say(url: str, *arguments: str) -> str:
    node = shutil.which("node")
    assert node
    answer = run(node, FILE, *arguments, env={"REDIS_URL": url})
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


async def test_each_part_makes_another_fingerprint(redis_url: str) -> None:
    plain = redis_url.rstrip("/").removesuffix("/0")
    lines = [
        say(f"{plain}/0", "q"),
        say(f"{plain}/1", "q"),
        say(f"{plain}/0", "Q"),
        say(f"{plain}/0", "q", "--prefix", "{bull}"),
    ]
    found = [
        re.match(r"queue fp=([0-9a-f]{12}) run_id=[0-9a-f]{8} db=([01]) ", line) for line in lines
    ]
    assert all(found), lines
    assert len({match[1] for match in found if match}) == 4
    worker = Worker("q", redis=f"{plain}/1")
    assert found[1] is not None
    assert (await worker.fingerprint()).value == found[1][1]
    await worker.close()


def test_redis_that_hides_info_is_said_and_no_password_shown(own_server: EmbeddedServer) -> None:
    node = shutil.which("node")
    assert node
    url = f"redis://hidden:geheim@127.0.0.1:{own_server.port}"
    import redis

    with redis.Redis.from_url(own_server.url) as client:
        client.execute_command("ACL", "SETUSER", "hidden", "on", ">geheim", "~*", "+@all", "-info")
    text = say(url, "q")
    assert text.startswith("queue fp=unknown run_id=unknown db=0 prefix=bull queue=q via ")
    assert "(INFO fails: NOPERM" in text
    assert "geheim" not in text


def test_file_stays_short_and_needs_ioredis_alone() -> None:
    text = FILE.read_text()
    assert len(text.splitlines()) < 60
    imported = set(re.findall(r"from '([^']+)'", text))
    assert {name for name in imported if not name.startswith("node:")} == {"ioredis"}


def test_it_serves_what_it_prints(redis_url: str, tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node
    with Process(node, FILE, "q", "--serve", "0", env={"REDIS_URL": redis_url}) as process:
        line = process.wait_for(r"queue fp=(\w+)")
        port = process.wait_for(r"listening on port (\d+)")[1]
        import json
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/queue", timeout=10) as answer:
            assert json.load(answer)["fingerprint"] == line[1]
