"""What a scene is: a situation made real, how the doctor is called there, and what it must say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from support.processes import bullpy

if TYPE_CHECKING:
    from support.scenes.stage import Stage

SEEN = frozenset({"certain", "watched"})
"""Redis proves it, at once or over some seconds."""

STATED = SEEN | {"stated"}
LIKELY = SEEN | {"probable"}
"""Redis alone leaves some causes open."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the doctor said.

    Attributes:
        verdicts: As `--json` has them, in order.
        level: The worst one's.
        exit_code: The command's, or what it would be.
        commands: Redis commands that it used.
        seconds: How long it took.
    """

    verdicts: Sequence[dict[str, Any]]
    level: str
    exit_code: int
    commands: int
    seconds: float

    @property
    def first(self) -> dict[str, Any] | None:
        """The first verdict."""
        return self.verdicts[0] if self.verdicts else None

    @property
    def others(self) -> list[str]:
        """The codes of further verdicts above ok."""
        return [each["code"] for each in self.verdicts[1:] if each["level"] != "ok"]

    def __str__(self) -> str:
        return (
            "\n".join(
                f"{each['level']} {each['code']} ({each['certainty']}): {each['message']}"
                for each in self.verdicts
            )
            or f"no verdict, level {self.level}"
        )


@dataclass(frozen=True, slots=True)
class Call:
    """How the doctor is called; see `diagnose`.

    Attributes:
        queue: The queue that is asked about.
        url: Where Redis is; None leaves it to the environment, which is empty.
        prefix: First part of its keys.
        interval: Seconds between the looks; None is the default.
        peer: The other side's page.
        environment: Variables of the command.
        is_command: Call `bullpy doctor` in a process, as people do, instead of `diagnose`.
    """

    queue: str
    url: str | None
    prefix: str = "bull"
    interval: float | None = None
    peer: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    is_command: bool = False

    async def make(self) -> Report:
        """Ask the doctor."""
        return await (self._run() if self.is_command else self._diagnose())

    @property
    def arguments(self) -> list[str]:
        """Those of `bullpy doctor`."""
        options = {
            "--redis": self.url,
            "--prefix": None if self.prefix == "bull" else self.prefix,
            "--interval": self.interval,
            "--peer": self.peer,
        }
        given = [(name, str(value)) for name, value in options.items() if value is not None]
        return ["doctor", "--queue", self.queue, *(part for pair in given for part in pair)]

    async def _diagnose(self) -> Report:
        from bullpy.doctor import diagnose

        options = {"interval": self.interval, "peer": self.peer}
        given = {name: value for name, value in options.items() if value is not None}
        found = await diagnose([self.queue], redis=self.url, prefix=self.prefix, **given)
        return _report(found.as_dict(), found.exit_code)

    async def _run(self) -> Report:
        ended = await asyncio.to_thread(
            bullpy, *self.arguments, "--json", timeout=60.0, env=self.environment
        )
        assert ended.stdout.startswith("{"), ended.stdout + ended.stderr
        return _report(json.loads(ended.stdout), ended.returncode)


def _report(found: dict[str, Any], exit_code: int) -> Report:
    return Report(found["verdicts"], found["level"], exit_code, found["commands"], found["seconds"])


Build = Callable[["Stage"], Awaitable[Call]]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A situation and what must be said about it.

    Attributes:
        number: The cause's row, 1 to 49; 0 for a healthy situation.
        code: The cause's code; empty for a healthy situation.
        title: The situation in words; tells scenes of one cause apart.
        certainties: Those that the verdict may have.
        also: Codes of further verdicts above ok that are right as well.
        is_long: Whether it takes long, so that it is begun first.
        is_heavy: Whether it takes a whole processor: one such scene at a time.
        build: Makes it real, and shows by Redis commands that it is.
    """

    number: int
    code: str
    title: str
    build: Build
    certainties: frozenset[str] = SEEN
    also: frozenset[str] = frozenset()
    is_long: bool = False
    is_heavy: bool = False

    @property
    def name(self) -> str:
        """Of the test."""
        head = f"D{self.number}-{self.code}" if self.number else "ok"
        return f"{head}-{self.build.__name__}".replace("_", "-")


SCENES: list[Scene] = []
"""All of them, filled by the modules beside this one."""


def cause(
    number: int, code: str, title: str = "", certainties: frozenset[str] = SEEN, **more: Any
) -> Callable[[Build], Build]:
    """Declare the function to be a scene of this cause; `more` as in `Scene`."""
    return _declare(number, code, title, certainties=certainties, **more)


def healthy(title: str = "", **more: Any) -> Callable[[Build], Build]:
    """Declare the function to be a situation in which nothing is wrong."""
    return _declare(0, "", title, **more)


def _declare(number: int, code: str, title: str, **more: Any) -> Callable[[Build], Build]:
    def declare(build: Build) -> Build:
        words = title or build.__name__.replace("_", " ")
        SCENES.append(Scene(number, code, words, build, **more))
        return build

    return declare
