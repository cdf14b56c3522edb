"""The doctor's looks: bounded, without traces, and by name less where the ACL allows less."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from bullpy import EmbeddedServer, Queue, errors
from bullpy.connection.asking import Asker
from bullpy.connection.identity import QueueFingerprint
from bullpy.doctor import CHECKS, diagnose, elsewhere, probing, reading, report
from bullpy.doctor.look import NO_KEY, NO_TTL, Look, QueueLook
from bullpy.settings import RedisSettings

BRIEF = 0.6


@pytest.fixture
async def asker(redis_url: str) -> Any:
    opened = await Asker.open(RedisSettings.of(redis_url), reading.CLIENT_NAME)
    yield opened
    await opened.close()


async def keys_of(server: EmbeddedServer) -> dict[bytes, Any]:
    asker = await Asker.open(RedisSettings.of(server.url), reading.CLIENT_NAME)
    try:
        return {key: await asker.one("DUMP", key) for key in await asker.one("KEYS", "*")}
    finally:
        await asker.close()


async def test_sample_tells_what_is_there(queue: Queue, start_worker: Any, asker: Asker) -> None:
    await queue.add("first", {"secret": "x"})
    await queue.add("later", job_id="own", delay=60)
    await queue.add("later", job_id="own")
    await queue.add("urgent", priority=2)
    sample = await reading.read_queue(asker, "bull", queue.name, ["1", "none"])
    assert sample.added == 4
    assert {name: count for name, count in sample.counts.items() if count} == {
        "wait": 1,
        "prioritized": 1,
        "delayed": 1,
    }
    assert sample.ready == 2
    assert sample.marker
    assert [job.id for job in sample.next] == ["1"]
    assert sample.next[0].name == "first"
    assert [job.priority for job in sample.prioritized] == [2]
    (delayed,) = sample.delayed
    assert 0 < delayed.due - sample.at <= 60_000
    assert sample.places == {"1": "wait", "none": "gone", "own": "delayed"}
    assert sample.events[0].name == "waiting"
    newest = sample.newest("duplicated")
    assert newest is not None
    assert newest.job_id == "own"
    assert sample.stalled_check_ttl == NO_KEY


async def test_sample_tells_how_long_deduplication_lasts(queue: Queue, asker: Asker) -> None:
    for _ in range(2):
        await queue.add("a", {}, deduplication={"id": "short", "ttl": 60_000})
        await queue.add("a", {}, deduplication={"id": "long"})
    sample = await reading.read_queue(asker, "bull", queue.name)
    assert 0 < sample.deduplicated["short"] <= 60_000
    assert sample.deduplicated["long"] == NO_TTL


async def test_active_job_shows_its_lock_and_never_its_data(
    queue: Queue, start_worker: Any, asker: Asker
) -> None:
    held = asyncio.Event()
    started = asyncio.Event()

    async def hold(job: Any) -> None:
        started.set()
        await held.wait()

    await start_worker(hold, lock_duration=20)
    await queue.add("x", {"password": "hunter2"})
    async with asyncio.timeout(10):
        await started.wait()
    sample = await reading.read_queue(asker, "bull", queue.name)
    held.set()
    (job,) = sample.active
    assert job.lock
    assert 10_000 < job.lock_ttl <= 20_000
    assert job.data_is_json is True
    assert job.starts == 1
    assert "hunter2" not in repr(sample)


async def test_ids_without_data_are_counted(queue: Queue, asker: Asker) -> None:
    await queue.add("x")
    await queue.client.lpush(queue.keys["wait"], "ghost")
    sample = await reading.read_queue(asker, "bull", queue.name)
    assert (sample.checked, sample.without_data) == (2, ("ghost",))


async def test_keys_of_another_type_count_as_absent(queue: Queue, asker: Asker) -> None:
    for name in ("wait", "active", "events", "completed", "marker"):
        await queue.client.set(queue.keys[name], "strange")
    sample = await reading.read_queue(asker, "bull", queue.name)
    assert not any(sample.counts.values())
    for name in ("wait", "active", "events", "completed", "marker"):
        await queue.client.delete(queue.keys[name])


async def test_diagnosis_changes_nothing(
    own_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a record of the producer, which comes a moment after its first add.
    monkeypatch.setenv("BULLPY_HEARTBEAT", "0")
    async with Queue("calm", redis=own_server.url) as queue:
        await queue.add("x", delay=600)
    before = await keys_of(own_server)
    await diagnose(["calm", "absent"], redis=own_server.url, interval=BRIEF)
    assert before
    assert await keys_of(own_server) == before


async def test_probe_leaves_nothing(own_server: EmbeddedServer) -> None:
    found = await diagnose([], redis=own_server.url, interval=BRIEF, probe=True)
    assert "probe-passed" in [verdict.code for verdict in found.verdicts]
    assert found.exit_code == 0
    async with Queue("other", redis=own_server.url) as queue:
        assert await queue.client.keys("*bullpy-probe*") == []


async def test_probe_in_a_queue_without_worker_is_taken_out_again(queue: Queue) -> None:
    verdict = await probing.try_queue(queue.name, queue.redisConnection.settings, "bull", BRIEF)
    assert (verdict.code, verdict.queue) == ("probe-not-taken", queue.name)
    assert await queue.count() == 0


async def test_probe_does_not_hide_that_no_job_was_ever_added(own_server: EmbeddedServer) -> None:
    asked: Any = {"redis": own_server.url, "interval": BRIEF}
    before = await diagnose(["new"], **asked)
    settings = RedisSettings.of(own_server.url)
    assert (await probing.try_queue("new", settings, "bull", BRIEF)).code == "probe-not-taken"
    after = await diagnose(["new"], **asked)
    codes = [each.code for each in before.verdicts]
    assert "never-added" in codes
    assert [each.code for each in after.verdicts] == codes
    async with Queue("new", redis=own_server.url) as queue:
        await queue.add("x", delay=600)
        await probing.try_queue("new", settings, "bull", BRIEF)
        assert await queue.client.get(queue.keys["id"]) == "2"


async def test_probe_whose_add_was_held_up_is_taken_out_again(own_server: EmbeddedServer) -> None:
    async with Queue("held", redis=own_server.url) as queue:
        # The server knows the script then, so that the probe's add is one command.
        await queue.add("x")
        await queue.client.execute_command("CLIENT", "PAUSE", 2000, "WRITE")
        settings = queue.redisConnection.settings
        verdict = await probing.try_queue("held", settings, "bull", timeout=0.2)
        assert verdict.code == "probe-refused"
        assert await queue.get_job_counts("waiting") == {"waiting": 1}


async def test_peer_is_compared_with_its_own_queue_where_none_is_named(
    own_server: EmbeddedServer,
) -> None:
    async with Queue("ours", redis=own_server.url) as queue:
        await queue.add("x", delay=600)
        theirs = QueueFingerprint.of(await queue.whoami(), "bull", "theirs")
    body = json.dumps(theirs.as_dict()).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        asked: Any = {"redis": own_server.url, "interval": BRIEF, "peer": address}
        found = [
            [each.code for each in (await diagnose(names, **asked)).verdicts if "peer" in each.code]
            for names in ([], ["ours"])
        ]
    finally:
        server.close()
    assert found == [["peer-agrees"], ["peer-differs"]]


async def test_probe_is_taken_by_a_worker_that_does_not_know_it(
    queue: Queue, start_worker: Any
) -> None:
    async def refuse(job: Any) -> None:
        raise ValueError("who is redis://u:hunter2@h?")

    await start_worker(refuse)
    verdict = await probing.try_queue(queue.name, queue.redisConnection.settings, "bull", 5)
    assert verdict.code == "probe-passed"
    assert "ValueError" in verdict.message
    assert "hunter2" not in verdict.message
    assert await queue.get_job_counts("failed") == {"failed": 0}


RULES = "~* &* +@all"


@pytest.mark.parametrize(
    ("denied", "name"),
    [
        ("-client|list", "CLIENT LIST"),
        ("-client", "CLIENT LIST"),
        ("-info", "INFO"),
        ("-acl", "ACL LOG"),
        ("-slowlog", "SLOWLOG"),
    ],
)
async def test_what_is_not_allowed_is_named(
    own_server: EmbeddedServer, denied: str, name: str
) -> None:
    async with Queue("q", redis=own_server.url) as queue:
        job = await queue.add("x", delay=600)
        assert await queue.backend.remove(job.id, False) == 1
        rules = [*RULES.split(), denied]
        await queue.client.execute_command("ACL", "SETUSER", "ops", "on", ">pw", *rules)
    url = own_server.url.replace("redis://", "redis://ops:pw@")
    found = await diagnose(["q"], redis=url, interval=BRIEF)
    assert list(found.forbidden) == [name]
    text = "\n".join(report.lines(found))
    assert f"{name} is not allowed" in text
    assert "pw@" not in text
    assert found.level.word == "ok", text


async def test_queue_that_may_not_be_read_is_named(own_server: EmbeddedServer) -> None:
    async with Queue("q", redis=own_server.url) as queue:
        await queue.add("x")
        rules = ["~other:*", "&*", "+@all"]
        await queue.client.execute_command("ACL", "SETUSER", "ops", "on", ">pw", *rules)
    url = own_server.url.replace("redis://", "redis://ops:pw@")
    found = await diagnose(["q"], redis=url, interval=BRIEF)
    assert "queue      q: cannot be read" in "\n".join(report.lines(found))
    assert found.exit_code == 2


async def test_queues_under_the_prefix_are_found(own_server: EmbeddedServer) -> None:
    for name in ("one", "two"):
        async with Queue(name, redis=own_server.url) as queue:
            await queue.add("x", delay=600)
    async with Queue("three", redis=own_server.url, prefix="other") as queue:
        await queue.add("x", delay=600)
    found = await diagnose([], redis=own_server.url, interval=BRIEF)
    assert found.queues == ["one", "two"]


async def test_same_queue_is_found_in_other_databases_and_under_other_prefixes(
    own_server: EmbeddedServer,
) -> None:
    for database, prefix in ((0, "bull"), (5, "bull"), (0, "prod")):
        url = own_server.url.replace("/0", f"/{database}")
        async with Queue("q", redis=url, prefix=prefix) as queue:
            await queue.add("x")
    url = own_server.url.replace("/0", "/1")
    asker = await Asker.open(RedisSettings.of(url), reading.CLIENT_NAME)
    try:
        queue_look = QueueLook(Look(RedisSettings.of(url)), "bull", "q")
        queue_look.samples.append(await reading.read_queue(asker, "bull", "q"))
        assert elsewhere.is_needed(queue_look)
        found = await elsewhere.Search(asker, []).find(queue_look)
        # It is back in its own database.
        assert await asker.one("DBSIZE") == 0
    finally:
        await asker.close()
    assert [(place.db, place.prefix, place.added) for place in found.places][:2] == [
        (0, "bull", 1),
        (5, "bull", 1),
    ]


async def test_twenty_queues_without_workers_cost_little_more_than_one(
    own_server: EmbeddedServer,
) -> None:
    names = [f"q{number}" for number in range(20)]
    for name in names:
        async with Queue(name, redis=own_server.url) as queue:
            await queue.add("x")
    one = await diagnose(names[:1], redis=own_server.url, interval=BRIEF)
    all_of_them = await diagnose(names, redis=own_server.url, interval=BRIEF)
    assert one.commands < 100
    # Two looks, and some keys for jobs in no list, are for each queue.
    assert all_of_them.commands - one.commands < 19 * 10
    assert [verdict.code for verdict in all_of_them.verdicts] == ["no-worker"] * 20


async def test_unreachable_server_and_missing_settings_are_verdicts() -> None:
    gone = await diagnose(["q"], redis="redis://:hunter2@127.0.0.1:1/0")
    assert gone.exit_code == 3
    assert [verdict.code for verdict in gone.verdicts] == ["redis-unreachable"]
    assert "hunter2" not in "\n".join(report.lines(gone)) + str(gone.as_dict())
    missing = await diagnose(["q"])
    assert missing.exit_code == 3
    assert missing.verdicts[0].level.word == "unreachable"


async def test_origin_of_each_setting_is_told(
    own_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", own_server.url)
    monkeypatch.setenv("BULLPY_REDIS_COMMAND_TIMEOUT", "9")
    found = await diagnose([], interval=BRIEF)
    sources = {origin.name: (origin.value, origin.source) for origin in found.settings}
    assert sources["port"] == (str(own_server.port), "REDIS_URL")
    assert sources["command_timeout"] == ("9.0", "BULLPY_REDIS_COMMAND_TIMEOUT")
    assert sources["tls"] == ("False", "default")


async def test_wrong_queue_name_is_refused() -> None:
    with pytest.raises(errors.ConfigurationError):
        await diagnose(["a:b"], redis="redis://127.0.0.1:1")


async def test_another_database_that_may_not_be_selected_is_not_taken_for_the_own_one(
    own_server: EmbeddedServer,
) -> None:
    async with Queue("q", redis=own_server.url.replace("/0", "/1")) as queue:
        await queue.add("x")
    async with Queue("q", redis=own_server.url) as queue:
        await queue.add("x")
        rules = [*RULES.split(), "-select"]
        await queue.client.execute_command("ACL", "SETUSER", "ops", "on", ">pw", *rules)
    url = own_server.url.replace("redis://", "redis://ops:pw@")
    found = await diagnose(["q"], redis=url, interval=BRIEF)
    assert found.look is not None
    elsewhere_found = found.look.queues[0].elsewhere
    assert elsewhere_found is not None
    assert elsewhere_found.places == ()
    assert found.verdicts[0].code == "no-worker"


async def test_check_that_fails_takes_no_other_verdict_along(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> list[Any]:
        raise ZeroDivisionError("nobody thought of this")

    await queue.add("x")
    monkeypatch.setattr(CHECKS, "of_queue", [broken, *CHECKS.of_queue])
    found = await diagnose([queue.name], redis=queue.redisConnection.settings, interval=BRIEF)
    assert found.verdicts[0].code == "no-worker"
    (failed,) = [verdict for verdict in found.verdicts if verdict.code == "check-failed"]
    assert "nobody thought of this" in failed.proofs[0].value


async def test_queues_beyond_the_first_twenty_are_counted(own_server: EmbeddedServer) -> None:
    for number in range(22):
        async with Queue(f"q{number:02}", redis=own_server.url) as queue:
            await queue.add("x", delay=600)
    found = await diagnose([], redis=own_server.url, interval=BRIEF)
    assert (len(found.queues), found.left_out) == (20, ["q20", "q21"])
    assert "2 more queues" in "\n".join(report.lines(found))
