"""What a queue or worker of a JavaScript file is given: its options, and its connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bullpy.doctor.project.modules import Construct, Modules, Options, Value

_OPTIONS_AT = {"Queue": 1, "Worker": 2, "QueueEvents": 1, "FlowProducer": 0, "JobScheduler": 1}
"""Which argument of a class of BullMQ its options are."""

BLOCKING = frozenset(["Worker", "QueueEvents"])
"""Classes that wait for Redis with a blocking command."""

_TEXTUAL = ("process.env.", "env.", "Bun.env.")


class Connection(NamedTuple):
    """A connection as code describes it.

    Attributes:
        options: The object literals that it is made of.
        instance: Whether it is a client that code makes itself, rather than options for one.
        complete: Whether all its options are known.
        at: `file:line` of where it is made.
    """

    options: tuple[Options, ...]
    instance: bool
    complete: bool
    at: str

    def value(self, name: str) -> tuple[Value, str] | None:
        """The value of an option and where it stands; None if it is not given."""
        for options in reversed(self.options):
            found = options.value(name)
            if found is not None:
                return found, options.at(name)
        return None

    def number(self, name: str) -> tuple[float, str] | None:
        """The number of an option and where it stands; None if it is none."""
        found = self.value(name)
        number = found[0].module.script.number(found[0].span) if found else None
        return None if found is None or number is None else (number, found[1])

    def is_false(self, name: str) -> str | None:
        """Where an option stands that says `false`."""
        found = self.value(name)
        if found is None or found[0].module.script.word(found[0].span) != "false":
            return None
        return found[1]


def options_of(construct: Construct) -> Options | None:
    """The options that a class of BullMQ is given; None if they are not known."""
    position = _OPTIONS_AT.get(construct.kind)
    if position is None:
        return None
    return construct.module.object(construct.argument(position))


def has_options(construct: Construct) -> bool:
    """Whether options are given at all, known or not."""
    position = _OPTIONS_AT.get(construct.kind, 0)
    return len(construct.arguments) > position


def connection_of(construct: Construct) -> Connection | None:
    """The connection that a class of BullMQ is given; None if it is not known."""
    options = options_of(construct)
    value = options.value("connection") if options else None
    if value is None:
        return None
    made = value.module.construct_at(value.span[0])
    if made is not None and made.library == "ioredis":
        return instance_of(made)
    plain = value.module.object(value)
    if plain is None:
        return None
    line = plain.literal.line
    return Connection((plain,), False, plain.literal.complete, f"{plain.module.file.path}:{line}")


def instance_of(made: Construct) -> Connection:
    """The connection that `new Redis(...)` makes."""
    found: list[Options] = []
    complete = made.kind == "Redis"
    for index in range(len(made.arguments)):
        value = made.argument(index)
        options = made.module.object(value)
        if options is not None:
            found.append(options)
            complete = complete and options.literal.complete
        elif value is not None and not _is_address(value):
            complete = False
    return Connection(tuple(found), True, complete, made.at)


def _is_address(value: Value) -> bool:
    """Whether a value is text or a number, such as a URL: no object with further options."""
    script = value.module.script
    if script.literal(value.span) is not None or script.number(value.span) is not None:
        return True
    start, end = value.span
    for mark in ("||", "??"):
        parts = script.parts(value.span, mark)
        if len(parts) > 1:
            return all(_is_address(Value(value.module, part)) for part in parts)
    path = script.path(value.span) or ""
    while end > start and script.text(end - 1) == "!":
        end -= 1
    return path.startswith(_TEXTUAL) or script.tokens[start].kind == "mixed"


def clients(modules: Modules) -> Iterator[Construct]:
    """Every client that the project makes of ioredis."""
    for module in modules.values():
        for made in module.constructs():
            if made.library == "ioredis" and made.kind in ("Redis", "Cluster"):
                yield made
