"""BullMQ's hot scripts, without making anew on every call the functions that a call rarely needs.

A script of Redis runs from its first line each time, and a `local function` is an allocation each
time. `moveToFinished` has 41, of which a job without a parent, a deduplication and so on calls
twelve: the others cost the server a tenth of its time for the script. Here those are made when
they are called. Nothing else of the text changes, and a text that is not understood stays as it
was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# What the script calls for every job, or nearly. Only speed depends on these names.
_FETCHING = {
    "addBaseMarkerIfNeeded",
    "getQueueMetadata",
    "getRateLimitTTL",
    "prepareJobForProcessing",
    "promoteDelayedJobs",
}
_OFTEN = {
    "addStandardJob": {
        "addBaseMarkerIfNeeded",
        "addJobInTargetList",
        "deduplicateJob",
        "getOrSetMaxEvents",
        "isQueuePausedOrMaxed",
        "storeJob",
    },
    "moveToActive": _FETCHING,
    "moveToFinished": _FETCHING
    | {
        "collectMetrics",
        "fetchNextJob",
        "getOrSetMaxEvents",
        "removeDeduplicationKeyIfNeededOnFinalization",
        "removeJob",
        "removeJobKeys",
        "removeJobsByMaxCount",
        "removeLock",
        "removeParentDependencyKey",
        "trimEvents",
        "updateJobFields",
    },
}

_BEGINS = re.compile(r"local (?:function (\w+)|(\w+) = function) ?(\(.*)")
_COMMENT = re.compile(r"--\[\[.*?\]\]|--[^\n]*", re.DOTALL)

_RARELY = """
local made = {{}}
rarely = function(name)
    local it = made[name]
    if it then return it end
    {branches}
    end
    made[name] = it
    return it
end
"""


@dataclass(slots=True)
class _Function:
    """A function at the top level of a script, from line `first` up to `end`, not included."""

    name: str
    head: str
    first: int
    end: int


def defer(name: str, source: str) -> str:
    """The script of that name, with its rarely called functions made when they are called.

    Args:
        name: The script.
        source: Its text in the installed package.

    Returns:
        A text that does the same; the same text for scripts that are not worth it.
    """
    often = _OFTEN.get(name)
    if often is None:
        return source
    lines = source.split("\n")
    functions = _functions(lines)
    if functions is None:
        return source
    rare = [it for it in _movable(lines, functions) if it.name not in often]
    if not rare:
        return source
    last = functions[-1].end
    calls = re.compile(rf"\b({'|'.join(it.name for it in rare)})\b(?= ?\()")

    def deferred(text: str) -> str:
        return calls.sub(r'rarely("\1")', text)

    moved = {number for it in rare for number in range(it.first, it.end)}
    kept = deferred("\n".join(line for at, line in enumerate(lines[:last]) if at not in moved))
    branches = "\n    elseif ".join(
        f'name == "{it.name}" then it = function{it.head}\n'
        + deferred("\n".join(lines[it.first + 1 : it.end]))
        for it in rare
    )
    made = _RARELY.format(branches=f"if {branches}")
    text = "\n".join(["local rarely", kept, made, deferred("\n".join(lines[last:]))])
    # A function that is named without being called (`pcall(name, ...)`) would be missing.
    called = re.compile(rf'(?<!rarely\(")(?<!name == ")\b({"|".join(it.name for it in rare)})\b')
    return source if called.search(_COMMENT.sub("", text)) else text


def _functions(lines: list[str]) -> list[_Function] | None:
    """The functions of the top level: from `local` to `end`, both at the beginning of a line.

    None where one is written in another way, so that it is not known where it ends.
    """
    found: list[_Function] = []
    number = 0
    while number < len(lines):
        begins = _BEGINS.match(lines[number])
        if begins:
            first = number
            number += 1
            while number < len(lines) and lines[number].rstrip() != "end":
                number += 1
            written = lines[first + 1 : number]
            if re.search(r"\bend\b", begins[3]) or any(map(_BEGINS.match, written)):
                return None
            found.append(_Function(begins[1] or begins[2], begins[3], first, number + 1))
        number += 1
    return found


def _movable(lines: list[str], functions: list[_Function]) -> list[_Function]:
    """Those that can be made after the last one: no variable is declared in between."""
    movable: list[_Function] = []
    for function, following in zip(reversed(functions), [None, *reversed(functions)], strict=False):
        between = lines[function.end : following.first] if following else []
        if _COMMENT.sub("", "\n".join(between)).strip():
            break
        movable.insert(0, function)
    return movable
