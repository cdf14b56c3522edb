"""Scripts that start other processes: what they do with signals and exit codes."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor.project import causes
from bullpy.doctor.project.files import place
from bullpy.doctor.project.javascript import Span
from bullpy.doctor.project.modules import Module
from bullpy.doctor.project.project import Project
from bullpy.doctor.verdicts import Proof, Verdict

_SPAWNERS = frozenset(["spawn", "fork"])
_SIGNALS = frozenset(["SIGTERM", "SIGINT", "SIGHUP"])
_ENDS = frozenset(["exit", "close"])


def check(project: Project) -> Iterator[Verdict]:
    """All of them."""
    for module in project.modules.values():
        started = list(_started(module))
        if started:
            yield from _check_exit_codes(module)
            # One child may be a tool that is waited for; two are a start script.
            if len(started) > 1 and not _handles_sigterm(module):
                yield causes.ORPHANS.verdict(
                    f"This script starts {len(started)} processes and does not handle SIGTERM.",
                    *(
                        Proof(place(module.file.path, line), "a child is started")
                        for line in started[:2]
                    ),
                )


def _started(module: Module) -> Iterator[int]:
    """Lines on which children are started, through `child_process`, that live on beside it."""
    script = module.script
    names: set[str] = set()
    spaces: set[str] = set()
    for local, imported in module.imports.items():
        if imported.module in ("child_process", "node:child_process"):
            if imported.name in _SPAWNERS:
                names.add(local)
            elif imported.name in ("", "default"):
                spaces.add(local)
    for index in script.where(*names, *_SPAWNERS):
        text = script.text(index)
        bare = text in names and script.text(index - 1) not in (".", "?.", "function")
        member = (
            text in _SPAWNERS and script.text(index - 1) == "." and script.text(index - 2) in spaces
        )
        if (bare or member) and script.text(index + 1) == "(":
            yield script.line(index)


def _handles_sigterm(module: Module) -> bool:
    """Whether any code listens to SIGTERM, or to signals in a list."""
    script = module.script
    return any(
        token.kind in ("string", "template") and token.text == "SIGTERM" for token in script.tokens
    )


def _check_exit_codes(module: Module) -> Iterator[Verdict]:
    script = module.script
    for index in script.where("on", "once"):
        if script.text(index - 1) not in (".", "?."):
            continue
        if script.text(index - 2) == "process":
            continue
        arguments = script.arguments(index + 1)
        if not arguments or len(arguments) < 2 or script.literal(arguments[0]) not in _ENDS:
            continue
        wrong = _exit_without_code(module, arguments[1])
        if wrong is not None:
            line, written = wrong
            yield causes.EXIT_ZERO.verdict(
                "When a signal kills the child, this script ends with code 0.",
                Proof(place(module.file.path, line), written),
            )


def _exit_without_code(module: Module, handler: Span) -> tuple[int, str] | None:
    """Where a handler ends the process with a code that is null after a signal."""
    script = module.script
    opening = next(
        (i for i in range(*handler) if script.text(i) in ("(", "=>") or script.text(i + 1) == "=>"),
        handler[0],
    )
    if script.text(opening) == "(":
        parameters = script.parts(script.inside(opening) or (0, 0))
        body = (script.after(opening), handler[1])
    else:
        parameters = [(opening, opening + 1)]
        body = (opening + 1, handler[1])
    names = [script.text(start) for start, _ in parameters]
    if len(names) > 1 and any(script.text(index) == names[1] for index in range(*body)):
        return None  # It looks at the signal.
    code = names[0] if names else ""
    exits: list[tuple[int, str]] = []
    for index in range(*body):
        if script.text(index) == "if" and not _is_not_zero(module, index + 1, code):
            return None  # It tells cases apart; which, is not understood.
        if script.text(index) in ("??", "||", "null", "typeof", "?"):
            return None
        if (
            script.text(index) == "exit"
            and script.text(index - 1) == "."
            and script.text(index - 2) == "process"
        ):
            given = script.arguments(index + 1)
            word = script.word(given[0]) if given else ""
            if given is not None and (word in ("", "undefined") or (code and word == code)):
                exits.append((script.line(index), f"process.exit({word})"))
    return exits[0] if exits else None


def _is_not_zero(module: Module, index: int, code: str) -> bool:
    """Whether a condition is `(code !== 0)`, which holds for null."""
    script = module.script
    start, end = script.inside(index) or (0, 0)
    return (
        end - start == 3
        and script.text(start) == code
        and script.text(start + 1) in ("!==", "!=")
        and script.tokens[start + 2].text == "0"
    )
