"""Options of BullMQ and ioredis in JavaScript that keep a worker from its jobs."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor.checks.stuck import COMMAND_TIMEOUT
from bullpy.doctor.project import causes
from bullpy.doctor.project.connections import (
    BLOCKING,
    Connection,
    clients,
    connection_of,
    instance_of,
    options_of,
)
from bullpy.doctor.project.modules import Construct, Module, Options
from bullpy.doctor.project.project import Project
from bullpy.doctor.verdicts import Certainty, Proof, Verdict

LONGEST_BLOCK = 10_000
"""ms that a worker of BullMQ waits in one command while jobs are delayed."""

_OF_THE_TOP = (
    "stalledInterval",
    "maxStalledCount",
    "lockDuration",
    "lockRenewTime",
    "drainDelay",
    "concurrency",
    "limiter",
)
"""Options of a worker that Bull had in `settings`, or that people look for there."""


def check(project: Project) -> Iterator[Verdict]:
    """All of them."""
    for module in project.modules.values():
        for made in module.constructs():
            if made.library == "bullmq":
                yield from _check_connection(made)
                yield from _check_options(made)
            if made.kind in ("Queue", "Worker"):
                yield from _check_removal(made)
        if module.uses("bullmq"):
            yield from _check_added(module)
    yield from _check_shared_clients(project)


def _check_connection(made: Construct) -> Iterator[Verdict]:
    connection = connection_of(made)
    if connection is None:
        return
    prefix = connection.value("keyPrefix")
    if prefix is not None and prefix[0].module.script.literal(prefix[0].span):
        yield causes.KEY_PREFIX.verdict(
            f"The connection of this {made.kind} has ioredis' keyPrefix.",
            Proof(prefix[1], "keyPrefix is set"),
            Proof(made.at, f"new {made.kind}"),
        )
    if made.kind not in BLOCKING:
        return
    yield from _check_timeout(made, connection)
    yield from _check_retries(made, connection)
    off = connection.is_false("enableOfflineQueue")
    if off is not None:
        yield causes.OFFLINE_QUEUE.verdict(
            f"The connection of this {made.kind} refuses commands while it reconnects.",
            Proof(off, "enableOfflineQueue: false"),
            Proof(made.at, f"new {made.kind}"),
        )


def _check_timeout(made: Construct, connection: Connection) -> Iterator[Verdict]:
    timeout = connection.number("commandTimeout")
    if timeout is not None and 0 < timeout[0] <= LONGEST_BLOCK:
        yield COMMAND_TIMEOUT.verdict(
            f"The connection of this {made.kind} ends commands after {timeout[0] / 1000:g} s, and "
            f"it waits for jobs for up to {LONGEST_BLOCK / 1000:g} s in one command.",
            Proof(timeout[1], f"commandTimeout: {timeout[0]:g}"),
            Proof(made.at, f"new {made.kind}"),
            certainty=Certainty.STATED,
            fix="Leave commandTimeout out for workers and QueueEvents, or give 15000 or more.",
        )


def _check_retries(made: Construct, connection: Connection) -> Iterator[Verdict]:
    if not connection.instance:
        return
    given = connection.number("maxRetriesPerRequest")
    if given is not None and given[0] > 0:
        proof = Proof(given[1], f"maxRetriesPerRequest: {given[0]:g}")
    elif connection.complete and connection.value("maxRetriesPerRequest") is None:
        proof = Proof(connection.at, "no maxRetriesPerRequest: ioredis takes 20")
    else:
        return
    yield causes.MAX_RETRIES.verdict(
        f"BullMQ refuses the client that this {made.kind} is given.",
        proof,
        Proof(made.at, f"new {made.kind}"),
    )


def _check_shared_clients(project: Project) -> Iterator[Verdict]:
    """A short time-out in a module whose only client workers of other modules are likely given."""
    direct = {
        connection.at
        for module in project.modules.values()
        for made in module.constructs()
        if made.library == "bullmq" and (connection := connection_of(made)) is not None
    }
    by_module: dict[str, list[Construct]] = {}
    for client in clients(project.modules):
        by_module.setdefault(client.module.file.path, []).append(client)
    for path, made in by_module.items():
        connection = instance_of(made[0])
        timeout = connection.number("commandTimeout")
        if len(made) > 1 or connection.at in direct or timeout is None:
            continue
        worker = _blocking_importer(project, path)
        if worker is not None and 0 < timeout[0] <= LONGEST_BLOCK:
            yield COMMAND_TIMEOUT.verdict(
                f"Clients made here end commands after {timeout[0] / 1000:g} s; a module with a "
                f"{worker.kind}, which waits for up to {LONGEST_BLOCK / 1000:g} s in one command, "
                "imports them.",
                Proof(timeout[1], f"commandTimeout: {timeout[0]:g}"),
                Proof(worker.at, f"new {worker.kind}"),
                certainty=Certainty.PROBABLE,
                fix="Give workers and QueueEvents a client without commandTimeout.",
            )


def _blocking_importer(project: Project, path: str) -> Construct | None:
    """A worker or event reader whose module imports the file, and whose connection is not known."""
    for module in project.modules.values():
        if not any(other.file.path == path for other in module.neighbours()):
            continue
        for made in module.constructs():
            if made.library == "bullmq" and made.kind in BLOCKING and connection_of(made) is None:
                return made
    return None


def _check_options(made: Construct) -> Iterator[Verdict]:
    options = options_of(made)
    if options is None:
        return
    if made.kind == "Worker":
        yield from _check_settings(made, options)
        yield from _check_autorun(made, options)


def _check_settings(made: Construct, options: Options) -> Iterator[Verdict]:
    settings = options.module.object(options.value("settings"))
    if settings is None:
        return
    names = [name for name in _OF_THE_TOP if name in settings.literal.entries]
    if names:
        listed = ", ".join(names)
        yield causes.NESTED.verdict(
            f"BullMQ ignores what this worker has in settings: {listed}.",
            Proof(settings.at(names[0]), f"settings: {{ {listed} }}"),
            fix=f"Move {listed} out of settings, to the top of the worker's options.",
        )


def _check_autorun(made: Construct, options: Options) -> Iterator[Verdict]:
    value = options.value("autorun")
    if value is None or value.module.script.word(value.span) != "false":
        return
    around = [made.module, *_importers(made.module)]
    if any(_runs_a_worker(module) for module in around):
        return
    yield causes.NOT_RUN.verdict(
        "This worker is made with autorun: false, and nothing calls its run().",
        Proof(options.at("autorun"), "autorun: false"),
    )


def _importers(module: Module) -> Iterator[Module]:
    for path in module.others:
        other = module.others[path]
        if any(each is module for each in other.neighbours()):
            yield other


def _runs_a_worker(module: Module) -> bool:
    script = module.script
    return any(script.text(index - 1) in (".", "?.") for index in script.where("run", "getNextJob"))


def _check_removal(made: Construct) -> Iterator[Verdict]:
    options = options_of(made)
    if options is None:
        return
    for names in (("removeOnFail",), ("defaultJobOptions", "removeOnFail")):
        value = options.value(*names)
        if value is not None and value.module.script.word(value.span) == "true":
            holder = options
            if len(names) > 1:
                holder = options.module.object(options.value(names[0])) or options
            yield _removed(holder.at("removeOnFail"))


def _check_added(module: Module) -> Iterator[Verdict]:
    """`queue.add(name, data, { removeOnFail: true })`."""
    script = module.script
    for index in script.where("add"):
        if script.text(index - 1) not in (".", "?."):
            continue
        arguments = script.arguments(index + 1)
        options = script.object(arguments[2]) if arguments and len(arguments) > 2 else None
        entry = options.entries.get("removeOnFail") if options else None
        if entry is not None and script.word(entry.value) == "true":
            yield _removed(f"{module.file.path}:{entry.line}")


def _removed(at: str) -> Verdict:
    return causes.REMOVED.verdict(
        "Jobs that fail are removed at once, with their reason.", Proof(at, "removeOnFail: true")
    )
