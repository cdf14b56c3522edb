"""`diagnose`: connect step by step, look twice, and say what is wrong."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from bullpy import errors, registry
from bullpy.backend import check_queue_name
from bullpy.connection import probe as connecting
from bullpy.connection.asking import Asker
from bullpy.connection.probe import ProbeReport, Step
from bullpy.doctor import checks, elsewhere, origins, probing, reaching, reading
from bullpy.doctor.look import Look, QueueLook
from bullpy.doctor.peer import compare_with_peer
from bullpy.doctor.project import ProjectReport, inspect
from bullpy.doctor.verdicts import CHECKS, Cause, Level, Proof, Verdict, level_of, ordered
from bullpy.settings import RedisSettings

log = logging.getLogger("bullpy.doctor")

INTERVAL = 6.0
"""Seconds between the first and the last look: longer than a worker of BullMQ waits for a job
before it asks again."""

BETWEEN = 1.5
"""Seconds between the looks at who is connected."""

CONNECT_WITHIN = 5.0
"""Seconds for connecting, all steps together."""

MOST_QUEUES = 20
"""Queues that are looked at when none is named."""

CHECK_FAILED = Cause(
    code="check-failed",
    number=0,
    level=Level.WARNING,
    title="A check of the doctor itself failed",
    symptom="The report has fewer verdicts than it should, and names the check.",
    why="What lies in Redis is of a form that the check does not know: a defect of bullpy. The "
    "other checks are not touched.",
    fix="Report it with the output of `bullpy doctor --json` and the traceback of the log.",
    rank=99,
)
CHECKS.declare(CHECK_FAILED)

_Seen = TypeVar("_Seen", Look, QueueLook)

assert checks  # importing it declares all checks


@dataclass(slots=True)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
        verdicts: What is wrong, the most important first; also explanations of level OK.
        queues: The queues that were looked at.
        left_out: Further ones that were found where none was named, and not looked at.
        steps: How connecting went, step by step.
        settings: The connection's settings, with what each comes from.
        look: All that was seen; None where Redis could not be reached.
        forbidden: What the ACL or the provider does not allow, by command.
        project: What was found in the project's folder; None without one.
        commands: Commands that were sent to Redis.
        seconds: How long it took.
    """

    verdicts: list[Verdict] = field(default_factory=list[Verdict])
    queues: list[str] = field(default_factory=list[str])
    left_out: list[str] = field(default_factory=list[str])
    steps: tuple[Step, ...] = ()
    settings: list[origins.Origin] = field(default_factory=list[origins.Origin])
    look: Look | None = field(default=None, repr=False)
    forbidden: dict[str, str] = field(default_factory=dict[str, str])
    project: ProjectReport | None = None
    commands: int = 0
    seconds: float = 0.0

    @property
    def level(self) -> Level:
        """The worst verdict's level."""
        return level_of(self.verdicts)

    @property
    def exit_code(self) -> int:
        """0 healthy, 1 warnings, 2 blocked, 3 Redis not reachable."""
        return int(self.level)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        identity = self.look.identity if self.look else None
        return {
            "level": self.level.word,
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
            "queues": self.queues,
            "left_out": self.left_out,
            "server": None if identity is None else str(identity),
            "settings": [
                {"name": each.name, "value": each.value, "source": each.source}
                for each in self.settings
            ],
            "steps": [
                {
                    "name": step.name,
                    "ok": step.ok,
                    "detail": step.detail,
                    "seconds": round(step.seconds, 4),
                }
                for step in self.steps
            ],
            "forbidden": self.forbidden,
            "project": None if self.project is None else self.project.files_as_dict(),
            "commands": self.commands,
            "seconds": round(self.seconds, 2),
        }


async def diagnose(
    queues: Sequence[str] = (),
    *,
    redis: RedisSettings | str | Mapping[str, object] | None = None,
    prefix: str = "bull",
    interval: float = INTERVAL,
    watch: float = 0.0,
    probe: bool | str = False,
    peer: str | None = None,
    project: Path | str | None = None,
    source: str = "argument",
) -> Diagnosis:
    """Find out why queues are not consumed. Changes nothing, unless asked for a probe.

    Args:
        queues: Their names; without any, those that are found under the prefix.
        redis: Where Redis is: settings, a URL, a dict; None reads the environment.
        prefix: First part of every key.
        interval: Seconds between the first and the last look.
        watch: Seconds for which it is looked at who is connected, if longer than `interval`:
            what comes and goes slowly is seen then.
        probe: True runs a harmless job through a queue of the probe's own and removes both; the
            name of a queue adds the job there, and sees whether a worker takes it.
        project: A folder whose files are checked as well; see `bullpy.doctor.project`.
        peer: URL of the other side, which tells which queue it uses; see `bullpy.doctor.peer`.
        source: What to call `redis` in the report.

    Returns:
        The diagnosis; it never raises because of what Redis does.

    Raises:
        errors.ConfigurationError: The name of a queue is wrong, or the project is no folder.
    """
    files = None if project is None else await asyncio.to_thread(inspect, Path(project))
    for name in (*queues, *([probe] if isinstance(probe, str) else ())):
        check_queue_name(name)
    started = time.monotonic()
    diagnosis = Diagnosis(queues=list(dict.fromkeys(queues)))
    try:
        given = origins.given(redis, source=source)
    except errors.ConfigurationError as error:
        diagnosis.verdicts = [reaching.not_configured(error)]
    else:
        diagnosis.settings = origins.origins(given)
        await _Visit(diagnosis, given, prefix, max(interval, watch)).make()
        if diagnosis.look is not None:
            more: list[Verdict] = []
            if probe:
                more.append(await _probed(probe, given.settings, prefix))
            identity = diagnosis.look.identity
            if peer is not None and identity is not None:
                # Without a name the other side's queue is the one that is meant.
                more.append(await compare_with_peer(peer, identity, prefix, queues))
            diagnosis.verdicts = ordered([*diagnosis.verdicts, *more])
    if files is not None:
        diagnosis.project = files
        diagnosis.verdicts = ordered([*diagnosis.verdicts, *files.verdicts])
    diagnosis.seconds = time.monotonic() - started
    return diagnosis


def check_project(folder: Path | str) -> Diagnosis:
    """The diagnosis of a project's files alone: Redis is not asked.

    Raises:
        errors.ConfigurationError: It is no folder.
    """
    started = time.monotonic()
    files = inspect(Path(folder))
    return Diagnosis(
        verdicts=list(files.verdicts), project=files, seconds=time.monotonic() - started
    )


def _of_queue(queue: QueueLook) -> Iterator[Verdict]:
    for check in CHECKS.of_queue:
        yield from _said(check, queue)


def _said(check: Callable[[_Seen], Iterable[Verdict]], seen: _Seen) -> list[Verdict]:
    """What a check finds; one that fails takes no other's verdict along."""
    try:
        return list(check(seen))
    except Exception as error:
        name = f"{check.__module__}.{getattr(check, '__name__', 'check')}"
        log.exception("the check %s failed", name)
        return [
            CHECK_FAILED.verdict(
                f"The check {name} failed; what it would have found is not known.",
                Proof(name, errors.describe(error)),
            )
        ]


async def _probed(probe: bool | str, settings: RedisSettings, prefix: str) -> Verdict:
    if isinstance(probe, str):
        return await probing.try_queue(probe, settings, prefix)
    return await probing.try_server(settings, prefix)


class _Visit:
    """One diagnosis: connecting, looking, judging."""

    def __init__(
        self, diagnosis: Diagnosis, given: origins.Given, prefix: str, interval: float
    ) -> None:
        self.diagnosis = diagnosis
        self.settings = given.settings
        self.prefix = prefix
        self.interval = interval
        self.look = Look(given.settings, given.url, given.source)

    async def make(self) -> None:
        report = await self.connect()
        if report.identity is None and not report.ok:
            self.diagnosis.verdicts = [reaching.not_reached(report)]
            return
        try:
            asker = await Asker.open(self.settings, reading.CLIENT_NAME, key=self.key)
        except errors.RedisError as error:
            failed = Step("connect", False, error.message, 0.0, error)
            report = replace(report, steps=(*report.steps, failed))
            self.diagnosis.verdicts = [reaching.not_reached(report)]
            return
        try:
            await self.observe(asker)
        except errors.RedisError as error:
            failed = Step("look", False, error.message, 0.0, error)
            report = replace(report, steps=(*report.steps, failed))
            self.diagnosis.verdicts = [reaching.not_reached(report)]
        else:
            self.diagnosis.verdicts = self.judge()
        finally:
            self.diagnosis.commands += asker.commands
            await asker.close()

    @property
    def key(self) -> str | None:
        """A key that says which node of a cluster; None where the prefix does not tell."""
        return f"{self.prefix}:x" if "{" in self.prefix else None

    async def connect(self) -> ProbeReport:
        report = await connecting.probe(self.settings, deadline=CONNECT_WITHIN, key=self.key)
        diagnosis = self.diagnosis
        diagnosis.steps = report.steps
        # Each step from TLS on is one command; INFO asks for the client's id as well.
        diagnosis.commands += len(report.steps)
        self.look.identity = report.identity
        return report

    async def observe(self, asker: Asker) -> None:
        """Look at everything, wait, and look again."""
        look, diagnosis = self.look, self.diagnosis
        started = time.monotonic()
        look.servers.append(await reading.read_server(asker, look.forbidden))
        if not diagnosis.queues:
            found = await elsewhere.queues_here(asker, self.prefix)
            diagnosis.queues, diagnosis.left_out = found[:MOST_QUEUES], found[MOST_QUEUES:]
        look.queues = [QueueLook(look, self.prefix, name) for name in diagnosis.queues]
        suspects: dict[str, list[str]] = {}
        for queue in look.queues:
            await self.sample(asker, queue)
            suspects[queue.name] = await elsewhere.unlisted(asker, queue) if queue.samples else []
            if suspects[queue.name]:
                # Where they are now; only what is nowhere both times is lost.
                queue.samples.clear()
                await self.sample(asker, queue, suspects[queue.name])
        await self.watch(asker, started + self.interval)
        look.servers.append(await reading.read_server(asker, look.forbidden))
        for queue in look.queues:
            await self.sample(asker, queue, suspects[queue.name])
        look.registry = await registry.read(asker, [(q.prefix, q.name) for q in look.queues])
        search = elsewhere.Search(asker, look.all_clients())
        for queue in look.queues:
            if not queue.samples:
                continue
            if elsewhere.is_needed(queue):
                queue.elsewhere = await search.find(queue)
            for place in await elsewhere.children(asker, queue.last):
                if place != (queue.prefix, queue.name):
                    await self.child(asker, queue, place)
        diagnosis.look = look
        diagnosis.forbidden = look.forbidden

    async def sample(self, asker: Asker, queue: QueueLook, ids: Sequence[str] = ()) -> None:
        """One look at a queue; a server that does not let it be read is no reason to stop."""
        if queue.refusal:
            return
        try:
            queue.samples.append(await reading.read_queue(asker, queue.prefix, queue.name, ids))
        except errors.RedisUnavailableError:
            raise
        except errors.RedisError as error:
            queue.refusal = f"{error.message} {error.cause or ''}".strip()
            queue.samples.clear()

    async def child(self, asker: Asker, queue: QueueLook, place: tuple[str, str]) -> None:
        """Look at a queue that jobs wait for; one that cannot be read is left out."""
        try:
            queue.children[place] = await reading.read_queue(asker, *place)
        except errors.RedisUnavailableError:
            raise
        except errors.RedisError as error:
            log.debug("queue %s:%s cannot be read: %s", *place, error)

    async def watch(self, asker: Asker, ends: float) -> None:
        """Look at who is connected until then."""
        look = self.look
        while True:
            clients = await reading.read_clients(asker, look.forbidden)
            if clients is not None:
                look.clients.append((time.monotonic(), clients))
            left = ends - time.monotonic()
            if left <= 0:
                return
            is_long = clients is None or len(clients) > reading.MOST_CLIENTS
            await asyncio.sleep(left if is_long else min(BETWEEN, left))

    def judge(self) -> list[Verdict]:
        found: list[Verdict] = []
        for check in CHECKS.of_server:
            found += _said(check, self.look)
        for queue in self.look.queues:
            own = [reaching.unreadable(queue)] if queue.refusal else _of_queue(queue)
            found += [replace(verdict, queue=queue.name) for verdict in own]
        return ordered(found)
