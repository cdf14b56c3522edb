"""The doctor on what nobody should have written: what is large, odd, or meant to harm."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from support.processes import bullpy

from bullpy import EmbeddedServer, Queue, timeline
from bullpy.connection.asking import Asker
from bullpy.doctor.look import Sample
from bullpy.doctor.reading import read_queue
from bullpy.settings import RedisSettings

MEGABYTE = 1 << 20

NASTY = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202e\u2028\r\nOK: nothing is wrong"
"""What a terminal would obey, or show as a line of its own."""


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


async def sample_of(redis_url: str, queue: str) -> Sample:
    asker = await Asker.open(RedisSettings.of(redis_url), "test")
    try:
        return await read_queue(asker, "bull", queue)
    finally:
        await asker.close()


async def put(redis: Redis, queue: str, job_id: str, where: str, **fields: Any) -> None:
    """A job, written by hand."""
    known = {"name": "a", "data": "{}", "opts": "{}", "timestamp": int(time.time() * 1000)}
    await redis.hset(f"bull:{queue}:{job_id}", mapping=known | fields)
    if where == "active":
        await redis.lpush(f"bull:{queue}:active", job_id)
    else:
        await redis.zadd(f"bull:{queue}:{where}", {job_id: 1})


async def test_few_of_large_events_are_read(
    redis: Redis, redis_url: str, queue_name: str, queue: Queue
) -> None:
    # A script that read all of them would stop the server for a second.
    large = json.dumps("x" * MEGABYTE)
    await redis.xadd(f"bull:{queue_name}:events", {"event": "added", "jobId": "7", "name": "a"})
    for number in range(30):
        event = {"event": "completed", "jobId": str(number), "returnvalue": large}
        await redis.xadd(f"bull:{queue_name}:events", event)
    sample = await sample_of(redis_url, queue_name)
    assert 0 < len(sample.events) < 10
    assert sample.events[0].job_id == "29"
    life = await timeline.read(queue, "7")
    assert [step.name for step in life.steps] == ["created", "completed"]
    assert life.reaches_back


async def test_two_hundred_small_events_are_read(
    redis: Redis, redis_url: str, queue_name: str, queue: Queue
) -> None:
    for number in range(250):
        event = {"event": "added", "jobId": str(number), "name": "a"}
        await redis.xadd(f"bull:{queue_name}:events", event)
    sample = await sample_of(redis_url, queue_name)
    assert [event.job_id for event in sample.events] == [str(at) for at in range(249, 49, -1)]


async def test_long_texts_and_much_data_stay_where_they_are(
    redis: Redis, redis_url: str, queue_name: str, queue: Queue
) -> None:
    text = "y" * MEGABYTE
    await put(redis, queue_name, "1", "failed", failedReason=text, progress=text)
    for number in range(10):
        data = json.dumps(["z" * 60_000, number])
        await put(redis, queue_name, f"a{number}", "active", data=data)
    sample = await sample_of(redis_url, queue_name)
    assert sample.failed[0].failed_reason == "(over 64 KiB)"
    assert sample.failed[0].name == "a"
    assert [job.data_is_json for job in sample.active].count(True) == 2
    assert [job.data_is_json for job in sample.active].count(None) == 8


@pytest.mark.parametrize(
    ("data", "is_json"),
    [
        ('{"half": "\\ud83d"}', None),
        ("[" * 1200 + "]" * 1200, None),
        ("{not json", False),
        ("null", True),
    ],
)
async def test_only_what_is_no_json_is_called_so(
    redis: Redis, redis_url: str, queue_name: str, queue: Queue, data: str, is_json: bool | None
) -> None:
    await put(redis, queue_name, "1", "active", data=data)
    sample = await sample_of(redis_url, queue_name)
    assert sample.active[0].data_is_json is is_json


@pytest.mark.parametrize("version", ["bullmq:²", "bullmq:" + "9" * 5000, "", ":::", NASTY])
async def test_odd_numbers_in_meta_are_no_numbers(
    redis: Redis, redis_url: str, queue_name: str, queue: Queue, version: str
) -> None:
    meta = {"version": version, "concurrency": "9" * 400, "max": "²", "duration": "nan"}
    await redis.hset(f"bull:{queue_name}:meta", mapping=meta)
    sample = await sample_of(redis_url, queue_name)
    assert len(sample.version) <= 1
    assert {name: sample.number(name) for name in ("concurrency", "max", "duration")} == {
        "concurrency": None,
        "max": None,
        "duration": None,
    }


def record(**fields: Any) -> dict[str, Any]:
    now = time.time()
    known = {"role": "worker", "prefix": "bull", "seen": now, "heartbeat": 15, "started": now}
    return known | fields


async def nasty(redis: Redis) -> str:
    """A queue whose every text is meant to harm; its name."""
    queue = f"nasty{NASTY}".replace(":", "")
    now = time.time()
    await redis.hset(f"bull:{queue}:meta", mapping={"version": f"bullmq:{NASTY}"})
    await redis.set(f"bull:{queue}:id", 1)
    said = f"{NASTY} password=hunter2"
    await put(redis, queue, f"1{NASTY}", "failed", name=NASTY, failedReason=said, pb=NASTY, ats=5)
    await put(redis, queue, "2", "active", name=NASTY, pb=NASTY, progress=json.dumps(NASTY))
    await redis.lpush(f"bull:{queue}:wait", f"nobody{NASTY}")
    fields = {"event": "failed", "jobId": "2", "failedReason": said}
    await redis.xadd(f"bull:{queue}:events", fields)
    records = {
        "aa": record(name=said, host=said, command=said, state=NASTY, lang=NASTY, busy=1),
        "bb": record(ended={"at": now, "reason": f"crashed: {said}", "code": 1}),
        "cc": record(role=NASTY, last_error={"at": now, "text": said}),
        "dd": record(seen=float("inf"), options={"limit": float("nan")}),
    }
    for name, each in records.items():
        text = json.dumps(each | {"id": name, "queue": queue})
        await redis.set(f"bullpy:bull:{queue}:proc:{name}", text)
        await redis.zadd(f"bullpy:bull:{queue}:procs", {name: now * 1000 + 9e6})
    await redis.zadd(f"bullpy:bull:{queue}:procs", {b"\xff\xfe": now * 1000 + 9e6})
    return queue


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


async def test_no_command_writes_what_a_terminal_obeys(own_server: EmbeddedServer) -> None:
    async with Redis.from_url(own_server.url) as redis:
        queue = await nasty(redis)
    where = ("--redis", own_server.url)
    its = f"--queue={queue}"
    calls = [
        ("doctor", "--interval", "0.5", its),
        ("doctor", "--interval", "0.5"),
        ("ps", "--all", its),
        ("job", "show", "2", "--timeline", its),
        ("job", "show", "no" + NASTY.partition("\r")[0], "--queue=plain"),
        ("repair", "ids", its),
        ("repair", "log", its),
    ]
    for call in calls:
        for form in ((), ("--json",)):
            ended = bullpy(*call, *where, *form, timeout=60)
            text = ended.stdout + ended.stderr
            odd = {char for char in text if not char.isprintable() and char != "\n"}
            assert not odd, f"{call[:2]}: {odd}"
            assert "Traceback" not in text, text
            assert "hunter2" not in text, text
            starts = [line for line in text.split("\n") if line.startswith("OK")]
            assert all("with what was looked at" in line for line in starts), text
            if form:
                json.loads(ended.stdout, parse_constant=refuse)


async def test_a_wrong_queue_name_is_told_as_json_too(redis_url: str) -> None:
    ended = bullpy("doctor", "--queue", "a:b", "--redis", redis_url, "--json", timeout=60)
    assert json.loads(ended.stdout)["error"]["message"].startswith("The queue name")
