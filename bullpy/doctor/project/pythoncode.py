"""Python code that makes queues and workers, of upstream's port, of bullpy and of redis-py."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

from bullpy.doctor.checks.urls import LOCALHOST, host_of, is_local
from bullpy.doctor.project import causes
from bullpy.doctor.project.project import Program, Project, QueueUse, Role
from bullpy.doctor.verdicts import Proof, Verdict

LONGEST_BLOCK = 10.0
"""Seconds that an idle worker may wait in one command."""

_ROLES: dict[str, Role] = {"Worker": "worker", "Queue": "producer", "QueueEvents": "events"}
_HEALTH = re.compile(r"health|readyz|livez|liveness|readiness|heartbeat", re.IGNORECASE)
_URL_NAME = re.compile(r"REDIS\w*UR[LI]")
_REDIS_PACKAGES = ("redis.", "redis")


def uses(program: Program) -> Iterator[QueueUse]:
    """The queues that a file makes."""
    constants = _constants(program)
    for call, package, kind in _made(program):
        role = _ROLES.get(kind)
        if role is None:
            continue
        name = _argument(call, 0, "name")
        options = _argument(call, 1 if kind == "Queue" else 2, "opts")
        yield QueueUse(
            role,
            f"python:{package}",
            None if name is None else _text(name, constants),
            _prefix(call, options, constants),
            program.at(call),
            program.file.path,
        )


def check(project: Project) -> Iterator[Verdict]:
    """All that Python code tells."""
    for program in project.programs:
        yield from _check_socket_timeout(program)
        yield from _check_localhost(program)
        if _HEALTH.search(program.file.path) or _HEALTH.search(program.file.text):
            yield from _check_keys(program)
        yield from _check_removal(program)


def _made(program: Program) -> Iterator[tuple[ast.Call, str, str]]:
    """Calls of names of `bullmq` and `bullpy`: the call, the package, the name."""
    for node in ast.walk(program.tree):
        if not isinstance(node, ast.Call):
            continue
        full = _full_name(node.func, program.imports)
        package, _, rest = full.partition(".")
        if package in ("bullmq", "bullpy") and rest:
            yield node, package, rest.rpartition(".")[2]


def _full_name(node: ast.expr, imports: Mapping[str, str]) -> str:
    """`redis.asyncio.from_url` of a call, whatever it is called here; "" if unknown."""
    members: list[str] = []
    while isinstance(node, ast.Attribute):
        members.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in imports:
        return ""
    return ".".join([imports[node.id], *reversed(members)])


def _constants(program: Program) -> dict[str, ast.expr]:
    """Names that are given one value once."""
    found: dict[str, ast.expr] = {}
    again: set[str] = set()
    for node in ast.walk(program.tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                continue
        if name in found:
            again.add(name)
        found[name] = value
    return {name: value for name, value in found.items() if name not in again}


def _argument(call: ast.Call, position: int, name: str) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    if any(isinstance(each, ast.Starred) for each in call.args):
        return None
    return call.args[position] if position < len(call.args) else None


def _value(node: ast.expr | None, constants: Mapping[str, ast.expr]) -> ast.expr | None:
    for _ in range(5):
        if not isinstance(node, ast.Name) or node.id not in constants:
            break
        node = constants[node.id]
    return node


def _text(node: ast.expr | None, constants: Mapping[str, ast.expr]) -> str | None:
    found = _value(node, constants)
    if isinstance(found, ast.Constant) and isinstance(found.value, str):
        return found.value
    return None


def _entries(
    node: ast.expr | None, constants: Mapping[str, ast.expr]
) -> dict[str, ast.expr] | None:
    """The entries of a dict; None if not all of them are known."""
    found = _value(node, constants)
    if not isinstance(found, ast.Dict):
        return None
    entries: dict[str, ast.expr] = {}
    for key, value in zip(found.keys, found.values, strict=True):
        name = None if key is None else _text(key, constants)
        if name is None:
            return None
        entries[name] = value
    return entries


def _prefix(
    call: ast.Call, options: ast.expr | None, constants: Mapping[str, ast.expr]
) -> str | None:
    if any(keyword.arg is None for keyword in call.keywords):
        return None
    for keyword in call.keywords:
        if keyword.arg == "prefix":
            return _text(keyword.value, constants)
    if options is None:
        return "bull" if not any(isinstance(each, ast.Starred) for each in call.args) else None
    entries = _entries(options, constants)
    if entries is None:
        return None
    return _text(entries["prefix"], constants) if "prefix" in entries else "bull"


def _check_socket_timeout(program: Program) -> Iterator[Verdict]:
    """Upstream's worker over redis-py; bullpy's own has its own time-outs."""
    constants = _constants(program)
    for call, package, kind in _made(program):
        if package != "bullmq" or kind not in ("Worker", "QueueEvents"):
            continue
        position = 2 if kind == "Worker" else 1
        options = _entries(_argument(call, position, "opts"), constants)
        timeout = _socket_timeout((options or {}).get("connection"), constants, program)
        if timeout is not None and timeout <= LONGEST_BLOCK:
            yield causes.SOCKET_TIMEOUT.verdict(
                f"The socket of this {kind} times out after {timeout:g} s, and it waits for up to "
                f"{LONGEST_BLOCK:g} s in one command.",
                Proof(program.at(call), f"socket_timeout: {timeout:g}"),
            )


def _socket_timeout(
    node: ast.expr | None, constants: Mapping[str, ast.expr], program: Program
) -> float | None:
    found = _value(node, constants)
    given: ast.expr | None = None
    if isinstance(found, ast.Dict):
        given = (_entries(found, constants) or {}).get("socket_timeout")
    elif isinstance(found, ast.Call) and _is_redis(found, program):
        given = next((each.value for each in found.keywords if each.arg == "socket_timeout"), None)
    value = _value(given, constants)
    number = value.value if isinstance(value, ast.Constant) else None
    return float(number) if isinstance(number, int | float) else None


def _is_redis(call: ast.Call, program: Program) -> bool:
    return _full_name(call.func, program.imports).startswith(_REDIS_PACKAGES)


def _check_localhost(program: Program) -> Iterator[Verdict]:
    """`os.environ.get("REDIS_URL", "redis://localhost")`, also with `or`."""
    if "not os.environ" in program.file.text or "not os.getenv" in program.file.text:
        return
    for node in ast.walk(program.tree):
        name, fallback = "", None
        if isinstance(node, ast.Call) and len(node.args) == 2:
            name, fallback = _variable(node, program), node.args[1]
        elif isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            name, fallback = _variable(node.values[0], program), node.values[-1]
        if (
            not name
            or not isinstance(fallback, ast.Constant)
            or not isinstance(fallback.value, str)
        ):
            continue
        if "://" in fallback.value and is_local(host_of(fallback.value)):
            yield LOCALHOST.verdict(
                f"Without {name} this code connects to its own machine.",
                Proof(program.at(node), f"{name}, else localhost"),
            )


def _variable(node: ast.AST, program: Program) -> str:
    """The name of the Redis URL's variable that an expression reads; "" if it does not."""
    if not isinstance(node, ast.Call) or not node.args:
        return ""
    full = _full_name(node.func, program.imports)
    name = node.args[0]
    if full not in ("os.environ.get", "os.getenv") or not isinstance(name, ast.Constant):
        return ""
    return name.value if isinstance(name.value, str) and _URL_NAME.search(name.value) else ""


def _check_keys(program: Program) -> Iterator[Verdict]:
    for node in ast.walk(program.tree):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="keys"), args=[ast.Constant(value=str() as pattern)]
            ) if "*" in pattern:
                yield causes.KEYS.verdict(
                    "A health check goes through all keys of the server.",
                    Proof(program.at(node), "keys(...)"),
                )
            case _:
                pass


def _check_removal(program: Program) -> Iterator[Verdict]:
    if not program.packages() & {"bullmq", "bullpy"}:
        return
    for node in ast.walk(program.tree):
        where: ast.AST | None = None
        match node:
            case ast.keyword(arg="remove_on_fail", value=ast.Constant(value=True) as value):
                where = value
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if (
                        isinstance(key, ast.Constant)
                        and key.value == "removeOnFail"
                        and isinstance(value, ast.Constant)
                        and value.value is True
                    ):
                        where = key
            case _:
                pass
        if where is not None:
            yield causes.REMOVED.verdict(
                "Jobs that fail are removed at once, with their reason.",
                Proof(program.at(where), "removeOnFail: true"),
            )
