"""A diagnosis as people read it."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor.diagnose import Diagnosis
from bullpy.doctor.look import NO_KEY, QueueLook
from bullpy.doctor.project import ProjectReport
from bullpy.doctor.verdicts import Level, lines_of
from bullpy.terminal import printable

_WITHOUT = {
    "CLIENT LIST": "which workers are connected, and what they do",
    "INFO": "the server's memory, role and history",
    "ACL LOG": "who was refused by an ACL",
    "SLOWLOG": "which commands were slow",
}
"""What is not known without a command."""

LONGEST = 4000
"""Characters of a line."""


def lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The report, line by line; what could upset a terminal is escaped."""
    for line in _lines(diagnosis):
        yield printable(line, LONGEST)


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    yield from _connection(diagnosis)
    if diagnosis.look is not None:
        for queue in diagnosis.look.queues:
            yield _queue(queue)
        if not diagnosis.look.queues:
            yield "queues     none was found under this prefix; name one with --queue"
    if diagnosis.left_out:
        yield f"not seen   {len(diagnosis.left_out)} more queues; name them with --queue"
    for command, reason in diagnosis.forbidden.items():
        yield f"not known  {_WITHOUT[command]}: {command} is not allowed ({reason})"
    if diagnosis.project is not None:
        yield from _project(diagnosis.project)
    for verdict in diagnosis.verdicts:
        yield ""
        yield from lines_of(verdict)
    yield ""
    yield _summary(diagnosis)


def _connection(diagnosis: Diagnosis) -> Iterator[str]:
    for setting in diagnosis.settings:
        yield f"setting    {setting.name} = {setting.value} (from {setting.source})"
    for step in diagnosis.steps:
        mark = "ok" if step.ok else "FAILED"
        yield f"{step.name:10} {mark}, {step.detail} ({step.seconds * 1000:.0f} ms)"


def _queue(queue: QueueLook) -> str:
    if not queue.samples:
        return f"queue      {queue.name}: cannot be read: {queue.refusal}"
    last = queue.last
    counts = ", ".join(f"{number} {name}" for name, number in last.counts.items() if number)
    if not last.exists:
        return f"queue      {queue.name}: there is nothing of it under {queue.prefix}:"
    workers = f"{len(queue.workers())} worker connections"
    if not queue.look.knows_clients:
        alive = last.stalled_check_ttl != NO_KEY
        workers = "a worker is alive" if alive else "no sign of a worker"
    added = "no job was ever added" if last.added is None else f"{last.added} added"
    return f"queue      {queue.name}: {added}; {counts or 'no jobs'}; {workers}"


def _project(project: ProjectReport) -> Iterator[str]:
    yield f"project    {project.folder}: {len(project.read)} files read"
    for skipped in project.skipped:
        yield f"not read   {skipped.path}: {skipped.reason}"


def _summary(diagnosis: Diagnosis) -> str:
    cost = f"{diagnosis.commands} commands in {diagnosis.seconds:.1f} s"
    troubles = sum(verdict.level > Level.OK for verdict in diagnosis.verdicts)
    if not troubles:
        return f"OK: nothing is wrong with what was looked at ({cost})"
    return f"{diagnosis.level.word.upper()}: {troubles} found, the first is the cause ({cost})"
