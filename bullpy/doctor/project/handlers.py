"""Code that asks BullMQ for what it does not give, and health checks that ask for too much."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bullpy.doctor.project import causes
from bullpy.doctor.project.files import place
from bullpy.doctor.project.javascript import Span
from bullpy.doctor.project.modules import Module
from bullpy.doctor.project.project import Project
from bullpy.doctor.verdicts import Proof, Verdict

_OF_A_JOB = frozenset(
    ["data", "id", "name", "opts", "attemptsMade", "failedReason", "moveToFailed"]
)
"""What a job has, and the text of an id has not."""

_HEALTH = re.compile(r"health|readyz|livez|liveness|readiness|heartbeat", re.IGNORECASE)
_CLIENT = re.compile(r"redis|client|connection|conn$", re.IGNORECASE)
_LISTENERS = frozenset(["on", "once", "addListener"])
_STATE_READERS = frozenset(["getJobs", "getJobCounts", "getJobCountByTypes", "clean"])


def check(project: Project) -> Iterator[Verdict]:
    """All of them."""
    for module in project.modules.values():
        if _speaks_bullmq(module):
            yield from _check_stalled_handlers(module)
            yield from _check_states(module)
        if "keys" in module.script.names and _is_about_health(module):
            yield from _check_keys(module)


def _is_about_health(module: Module) -> bool:
    return any(_HEALTH.search(text) for text in (module.file.path, module.file.text))


def _speaks_bullmq(module: Module) -> bool:
    """Whether its queues and workers, perhaps made in a file that it imports, are BullMQ's."""
    around = [module, *module.neighbours()]
    return any(each.uses("bullmq") for each in around) and not any(
        each.uses("bull") for each in around
    )


def _calls(module: Module, names: frozenset[str]) -> Iterator[tuple[int, list[Span]]]:
    """Calls of methods: the index of the method's name, and the arguments."""
    script = module.script
    for index in script.where(*names):
        if script.text(index - 1) in (".", "?."):
            arguments = script.arguments(index + 1)
            if arguments is not None:
                yield index, arguments


def _receiver(module: Module, index: int) -> str:
    """`this.worker` of `this.worker.on`, for the index of `on`."""
    script = module.script
    start = index - 2
    while start > 1 and script.text(start - 1) in (".", "?."):
        start -= 2
    return script.path((start, index - 1)) or ""


def _check_stalled_handlers(module: Module) -> Iterator[Verdict]:
    script = module.script
    made = {each.target: each for each in module.constructs() if each.target}
    for index, arguments in _calls(module, _LISTENERS):
        if len(arguments) < 2 or script.literal(arguments[0]) != "stalled":
            continue
        known = made.get(_receiver(module, index))
        if known is not None and (known.library, known.kind) != ("bullmq", "Worker"):
            continue
        used = _used_as_job(module, arguments[1], surely=known is not None)
        if used:
            yield causes.STALLED_ID.verdict(
                f"The handler of stalled gets an id, and takes {used} of it.",
                Proof(place(module.file.path, script.line(index)), "on('stalled', ...)"),
            )


def _used_as_job(module: Module, handler: Span, *, surely: bool) -> str:
    """What a handler takes of its first parameter that only a job has; "" if nothing."""
    script = module.script
    parameters, body = _function(module, handler)
    if parameters is None:
        return ""
    listed = script.parts(parameters)
    if not listed:
        return ""
    first = listed[0]
    if script.text(first[0]) == "{":
        # QueueEvents gives { jobId }: of an emitter that is not known, only `data` tells.
        keys = {script.text(start) for start, _ in script.parts(script.inside(first[0]) or (0, 0))}
        wrong = sorted(keys & _OF_A_JOB) if surely else sorted(keys & {"data"})
        return wrong[0] if wrong else ""
    name = script.text(first[0])
    wanted = _OF_A_JOB if surely else frozenset(["data"])
    for index in range(body[0], body[1]):
        if (
            script.text(index) == name
            and script.text(index - 1) not in (".", "?.")
            and script.text(index + 1) in (".", "?.")
            and script.text(index + 2) in wanted
        ):
            return script.text(index + 2)
        # const { jobId } = job.data is caught above; const { data } = job is this.
        if script.text(index) == name and script.text(index - 1) == "=" and surely:
            opening = script.pairs.get(index - 2, -1)
            inner = script.inside(opening) if script.text(opening) == "{" else None
            for start, _ in script.parts(inner or (0, 0)):
                if script.text(start) in _OF_A_JOB:
                    return script.text(start)
    return ""


def _function(module: Module, span: Span) -> tuple[Span | None, Span]:
    """Parameters and body of a function that a span is; no parameters if it is none."""
    script = module.script
    start, end = span
    if script.text(start) == "async":
        start += 1
    if script.text(start) == "function":
        start = next((i for i in range(start, end) if script.text(i) == "("), end)
    elif script.text(start + 1) == "=>":
        return (start, start + 1), (start + 2, end)
    parameters = script.inside(start) if script.text(start) == "(" else None
    return parameters, (script.after(start), end)


def _check_states(module: Module) -> Iterator[Verdict]:
    script = module.script
    for index, arguments in _calls(module, _STATE_READERS):
        for start, end in arguments:
            inner = script.inside(start) if script.text(start) == "[" else (start, end)
            if any(script.literal(part) == "stalled" for part in script.parts(inner or (0, 0))):
                method = script.text(index)
                yield causes.NO_STATE.verdict(
                    f"{method} is asked for jobs that are `stalled`, which is no state.",
                    Proof(place(module.file.path, script.line(index)), f"{method}('stalled')"),
                )


def _check_keys(module: Module) -> Iterator[Verdict]:
    script = module.script
    for index, arguments in _calls(module, frozenset(["keys"])):
        if len(arguments) != 1:
            continue
        start, end = arguments[0]
        written = script.tokens[start].text if end > start else ""
        is_text = end - start == 1 and script.tokens[start].kind in ("string", "template", "mixed")
        receiver = _receiver(module, index).rpartition(".")[2]
        if is_text and ("*" in written or _CLIENT.search(receiver)):
            yield causes.KEYS.verdict(
                "A health check goes through all keys of the server.",
                Proof(place(module.file.path, script.line(index)), "keys(...)"),
            )
