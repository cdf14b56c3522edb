"""Queues and workers of one project that do not meet: by name, by prefix, by library."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bullpy.doctor.project import causes
from bullpy.doctor.project.connections import has_options, options_of
from bullpy.doctor.project.files import place
from bullpy.doctor.project.modules import Construct, Module
from bullpy.doctor.project.project import Project, QueueUse, Role
from bullpy.doctor.verdicts import Proof, Verdict

_ROLES: dict[str, Role] = {"Worker": "worker", "Queue": "producer", "QueueEvents": "events"}
_ENVIRONMENTS = r"(?:dev|development|prod|production|stage|staging|test|testing|qa|local|v\d+)"
_SUFFIX = re.compile(rf"^{_ENVIRONMENTS}[-_.]|[-_.]{_ENVIRONMENTS}$", re.IGNORECASE)


def uses(module: Module) -> Iterator[QueueUse]:
    """The queues that a JavaScript file makes."""
    bull_workers = _processed(module)
    for made in module.constructs():
        role = _ROLES.get(made.kind)
        if role is None or made.library == "ioredis":
            continue
        name = module.string(made.argument(0))
        use = QueueUse(role, made.library, name, _prefix(made), made.at, module.file.path)
        yield use
        # In Bull one class is both; what has process() is a worker too.
        line = bull_workers.get(made.target) if made.library == "bull" else None
        if line is not None:
            yield use._replace(role="worker", at=place(module.file.path, line))


def _processed(module: Module) -> dict[str, int]:
    """Where `queue.process(...)` stands, by what it is called on."""
    script = module.script
    found: dict[str, int] = {}
    for index in script.where("process"):
        if script.text(index - 1) == ".":
            start = index - 2
            while start > 1 and script.text(start - 1) == ".":
                start -= 2
            found[script.path((start, index - 1)) or ""] = script.line(index)
    return found


def _prefix(made: Construct) -> str | None:
    if made.library == "bull":
        return None if len(made.arguments) > 1 else "bull"
    if not has_options(made):
        return "bull"
    options = options_of(made)
    if options is None or not options.literal.complete:
        return None
    if "prefix" not in options.literal.entries:
        return "bull"
    return made.module.string(options.value("prefix"))


def check(project: Project) -> Iterator[Verdict]:
    """All that can be said of the queues of the whole project."""
    yield from _check_libraries(project.uses)
    yield from _check_names(project.uses)
    yield from _check_prefixes(project.uses)


def _check_libraries(uses_: list[QueueUse]) -> Iterator[Verdict]:
    for name in sorted({use.name for use in uses_ if use.name is not None}):
        bull = [use for use in uses_ if use.name == name and use.library == "bull"]
        other = [use for use in uses_ if use.name == name and use.library != "bull"]
        if bull and other and _may_meet(bull[0], other[0]):
            yield causes.BULL_MIX.verdict(
                f"Bull and BullMQ are both used on the queue {name}.",
                Proof(bull[0].at, "Bull"),
                Proof(other[0].at, "BullMQ"),
            )


def _may_meet(one: QueueUse, other: QueueUse) -> bool:
    return None in (one.prefix, other.prefix) or one.prefix == other.prefix


def _check_names(uses_: list[QueueUse]) -> Iterator[Verdict]:
    """A producer without worker and a worker without producer whose names are nearly the same."""
    relevant = [use for use in uses_ if use.library != "bull"]
    produced = {use.name: use for use in relevant if use.role == "producer" and use.name}
    worked = {use.name: use for use in relevant if use.role == "worker" and use.name}
    for name, producer in produced.items():
        if name in worked:
            continue
        for other, worker in worked.items():
            difference = _difference(name, other) if other not in produced else ""
            if difference:
                yield causes.NAMES.verdict(
                    f"Jobs are added to {name}, and the worker listens to {other}: they differ by "
                    f"{difference}.",
                    Proof(producer.at, f"queue {name}"),
                    Proof(worker.at, f"worker {other}"),
                )


def _difference(one: str, other: str) -> str:
    """By what two names differ if somebody meant one; "" if they are different names."""
    if one.strip() == other.strip():
        return "a space"
    if one.casefold() == other.casefold():
        return "case"
    plain = [re.sub(r"[-_.: ]", "", name).casefold() for name in (one, other)]
    if plain[0] == plain[1]:
        return "punctuation"
    bare = [_SUFFIX.sub("", name).casefold() for name in (one, other)]
    if bare[0] == bare[1]:
        return "the name of an environment"
    letters = [re.sub(r"\d+", "0", name) for name in plain]
    # audio-1 and audio-2 are two names; short names are near to many.
    if min(map(len, plain)) >= 6 and letters[0] != letters[1] and _one_edit(*plain):
        return "spelling"
    return ""


def _one_edit(one: str, other: str) -> bool:
    """Whether one letter more, less, other, or two exchanged make one word of the other."""
    if len(one) > len(other):
        one, other = other, one
    if len(other) - len(one) > 1:
        return False
    start = 0
    while start < len(one) and one[start] == other[start]:
        start += 1
    if len(one) == len(other):
        exchanged = one[start : start + 2] == other[start : start + 2][::-1]
        same_rest = one[start + 2 :] == other[start + 2 :]
        return one[start + 1 :] == other[start + 1 :] or (exchanged and same_rest)
    return one[start:] == other[start + 1 :]


def _check_prefixes(uses_: list[QueueUse]) -> Iterator[Verdict]:
    for name in sorted({use.name for use in uses_ if use.name}):
        known = [use for use in uses_ if use.name == name and use.library != "bull"]
        producers = [use for use in known if use.role == "producer"]
        workers = [use for use in known if use.role == "worker"]
        if not producers or not workers or any(use.prefix is None for use in known):
            continue
        if {use.prefix for use in producers}.isdisjoint(use.prefix for use in workers):
            yield causes.PREFIXES.verdict(
                f"The queue {name} has the prefix {producers[0].prefix} where jobs are added, and "
                f"{workers[0].prefix} where they are taken.",
                Proof(producers[0].at, f"prefix {producers[0].prefix}"),
                Proof(workers[0].at, f"prefix {workers[0].prefix}"),
            )
