"""What the doctor can say: causes, and verdicts with their proof."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any

from bullpy.redaction import redact

if TYPE_CHECKING:
    from bullpy.doctor.look import Look, QueueLook


class Level(IntEnum):
    """How bad it is; its number is the command's exit code.

    Attributes:
        OK: Nothing is wrong; a verdict of this level explains what is seen.
        WARNING: It works, and something is or will be wrong.
        BLOCKED: Jobs are not run, or are lost.
        UNREACHABLE: Redis cannot be used at all.
    """

    OK = 0
    WARNING = 1
    BLOCKED = 2
    UNREACHABLE = 3

    @property
    def word(self) -> str:
        """`ok`, `warning`, `blocked` or `unreachable`."""
        return self.name.lower()


class Certainty(StrEnum):
    """What a verdict rests on.

    Attributes:
        CERTAIN: What Redis itself holds proves it.
        WATCHED: It was seen to happen between several looks.
        STATED: A process, a URL or a file says so.
        PROBABLE: It is the likely explanation, and another one is possible.
    """

    CERTAIN = "certain"
    WATCHED = "watched"
    STATED = "stated"
    PROBABLE = "probable"


@dataclass(frozen=True, slots=True)
class Proof:
    """What was asked, and what came back.

    Attributes:
        command: A Redis command that shows it again, or the file and line of a static check.
        value: The answer, short, without secrets.
    """

    command: str
    value: str


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause of an outage: what the documentation says about it, and how it is judged.

    Attributes:
        code: Stable identifier in kebab-case.
        number: Its row in the table of causes, 1 to 49; 0 for those beyond the table.
        level: How bad it is.
        title: The cause, in a few words.
        symptom: What somebody sees, in their words.
        why: How it comes about, and how it is told from others; sentences.
        fix: What to do, as an instruction.
        certainty: What the verdict rests on, unless the check says otherwise.
        refutes: What the proof rules out, in words such as "a dead worker".
        rank: Among verdicts of one level and certainty the lower one comes first; 50 by default.
        silences: Codes of verdicts about the same queue that this one explains.
    """

    code: str
    number: int
    level: Level
    title: str
    symptom: str
    why: str
    fix: str
    certainty: Certainty = Certainty.CERTAIN
    refutes: tuple[str, ...] = ()
    rank: int = 50
    silences: frozenset[str] = frozenset()

    def verdict(
        self,
        message: str,
        *proofs: Proof,
        fix: str | None = None,
        level: Level | None = None,
        certainty: Certainty | None = None,
        refutes: tuple[str, ...] | None = None,
    ) -> Verdict:
        """A verdict of this cause.

        Args:
            message: What was found, with names and numbers; text that comes from Redis is
                redacted here.
            proofs: At least one.
            fix: In place of the cause's own, where names and values are known.
            level: In place of the cause's own.
            certainty: In place of the cause's own.
            refutes: In place of the cause's own.
        """
        return Verdict(
            self,
            redact(message),
            tuple(Proof(redact(proof.command), redact(proof.value)) for proof in proofs),
            fix=redact(fix or self.fix),
            level=self.level if level is None else level,
            certainty=certainty or self.certainty,
            refutes=self.refutes if refutes is None else refutes,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong, its proof, and what to do; made by `Cause.verdict`.

    Attributes:
        cause: Which cause it names.
        message: What was found.
        proofs: What proves it.
        fix: What to do, one thing.
        level: How bad it is.
        certainty: What it rests on.
        refutes: What it rules out.
        queue: The queue's name; None for the server as a whole.
    """

    cause: Cause
    message: str
    proofs: tuple[Proof, ...]
    fix: str
    level: Level
    certainty: Certainty
    refutes: tuple[str, ...] = ()
    queue: str | None = None

    @property
    def code(self) -> str:
        """The cause's stable identifier."""
        return self.cause.code

    @property
    def order(self) -> tuple[int, int, int, int]:
        """What comes first: the worse, the surer, then the cause's rank and number."""
        sure = list(Certainty).index(self.certainty)
        # Watched and stated are as good as certain: only what is guessed comes later.
        guessed = int(sure == len(Certainty) - 1)
        return (-self.level, guessed, self.cause.rank, self.cause.number or 99)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "code": self.code,
            "cause": f"D{self.cause.number}" if self.cause.number else None,
            "level": self.level.word,
            "certainty": self.certainty.value,
            "queue": self.queue,
            "message": self.message,
            "proofs": [{"command": each.command, "value": each.value} for each in self.proofs],
            "refutes": list(self.refutes),
            "fix": self.fix,
        }


QueueCheck = Callable[["QueueLook"], Iterable[Verdict]]
ServerCheck = Callable[["Look"], Iterable[Verdict]]


@dataclass(slots=True)
class Checks:
    """The checks that run, and the causes that they can name.

    Attributes:
        of_queue: Run once for each queue that was asked about.
        of_server: Run once.
        causes: All causes, by code.
    """

    of_queue: list[QueueCheck] = field(default_factory=list[QueueCheck])
    of_server: list[ServerCheck] = field(default_factory=list[ServerCheck])
    causes: dict[str, Cause] = field(default_factory=dict[str, Cause])

    def queue(self, *causes: Cause) -> Callable[[QueueCheck], QueueCheck]:
        """Decorate a check that looks at one queue and may name these causes."""
        self.declare(*causes)

        def register(function: QueueCheck) -> QueueCheck:
            self.of_queue.append(function)
            return function

        return register

    def server(self, *causes: Cause) -> Callable[[ServerCheck], ServerCheck]:
        """Decorate a check that looks at the server as a whole and may name these causes."""
        self.declare(*causes)

        def register(function: ServerCheck) -> ServerCheck:
            self.of_server.append(function)
            return function

        return register

    def declare(self, *causes: Cause) -> None:
        """Make causes known that are named elsewhere than by a check of Redis."""
        for cause in causes:
            known = self.causes.setdefault(cause.code, cause)
            if known is not cause:
                raise AssertionError(f"two causes have the code {cause.code}")


CHECKS = Checks()
"""All of them; `bullpy.doctor.checks` fills it."""


def ordered(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Verdicts in the order in which they are told; those that another explains are left out."""
    found = sorted(verdicts, key=lambda verdict: verdict.order)
    return [verdict for verdict in found if not any(_explains(other, verdict) for other in found)]


def _explains(one: Verdict, other: Verdict) -> bool:
    return other.code in one.cause.silences and one.queue in (other.queue, None)


def level_of(verdicts: Iterable[Verdict]) -> Level:
    """The worst of them; OK without any."""
    return max((verdict.level for verdict in verdicts), default=Level.OK)


def lines_of(verdict: Verdict) -> Iterator[str]:
    """A verdict as people read it."""
    where = f" [{verdict.queue}]" if verdict.queue else ""
    yield f"{verdict.level.word.upper()}{where} {verdict.message}"
    yield f"  code     {verdict.code} ({verdict.certainty.value})"
    for proof in verdict.proofs:
        yield f"  proof    {proof.command} -> {proof.value}"
    if verdict.refutes:
        yield f"  so not   {', '.join(verdict.refutes)}"
    yield f"  fix      {verdict.fix}"
