"""The server refuses somebody: a wrong password, or a user who may not do what workers do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bullpy import registry
from bullpy.doctor.clients import Client
from bullpy.doctor.look import Look
from bullpy.doctor.reading import CLIENT_NAME
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import some, span

AUTH_REFUSED = Cause(
    code="auth-refused",
    number=39,
    level=Level.BLOCKED,
    title="Redis refuses a password",
    symptom="Logs speak of WRONGPASS or NOAUTH, or a worker starts and is never listed.",
    why="The URL of that process has no password, an old one, or another user's. The password was "
    "changed on one side, or holds characters such as `@` or `/` that must be percent-encoded in a "
    "URL.",
    fix="Put the right user and password into the URL of the process at that address; "
    "percent-encode special characters.",
    refutes=("a network failure",),
    rank=14,
)
ACL_DENIED = Cause(
    code="acl-denied",
    number=40,
    level=Level.BLOCKED,
    title="A user may not run a command or touch a key that a worker needs",
    symptom="The worker is connected and repeats NOPERM, thousands of times a second with Node.",
    why="An ACL rule gives the user too few commands or keys. BullMQ needs all commands on "
    "`prefix:*`, among them EVALSHA and BZPOPMIN.",
    fix="Give the user what the entry names: `ACL SETUSER NAME ~bull:* &bull:* +@all -@dangerous "
    "+info +client|list`.",
    refutes=("a dead worker", "a wrong URL"),
    rank=13,
    silences=frozenset({"worker-never-fetched", "worker-frozen"}),
)

RECENT = 60
"""Seconds for which an entry of ACL LOG tells of something that goes on: clients try again within
20 s."""

_DISPENSABLE = frozenset(
    {
        "info",
        "hello",
        "client|setinfo",
        "client|setname",
        "client|list",
        "client|id",
        "client|tracking",
        "client|info",
        "config|get",
        "acl|log",
        "acl|whoami",
        "slowlog|get",
        "latency|latest",
        "command",
        "memory|usage",
        "scan",
        "keys",
    }
)
"""What workers do without, and what the doctor and dashboards ask for."""

_OWN = 20
"""Refusals of the doctor's own commands, at most, where something is forbidden to it."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of ACL LOG."""

    count: int
    reason: str
    subject: str
    user: str
    age: float
    client: Client

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> _Entry:
        count, age = fields.get("count", ""), fields.get("age-seconds", "")
        return cls(
            count=int(count) if count.isdecimal() else 1,
            reason=fields.get("reason", ""),
            subject=fields.get("object", ""),
            user=fields.get("username", ""),
            age=float(age) if age.replace(".", "", 1).isdecimal() else 0.0,
            client=Client.parse(fields.get("client-info", "")),
        )


@CHECKS.server(AUTH_REFUSED)
def auth_refused(look: Look) -> Iterator[Verdict]:
    """Somebody else tries to log in, and fails."""
    entries = [entry for entry in _recent(look) if entry.reason == "auth"]
    grown = {name: look.growth(name) for name in ("WRONGPASS", "NOAUTH")}
    refused = sum(grown.values())
    again = [entry for entry in entries if entry.count > 1]
    if refused <= 0 and not again:
        return
    proofs = [
        Proof("INFO errorstats", f"errorstat_{name} grew by {number} in {span(look.seconds)}")
        for name, number in grown.items()
        if number > 0
    ]
    known = {"default", look.settings.username, *(row.user for row in look.all_clients())}
    proofs += [
        Proof("ACL LOG", f"reason=auth username={user} count={entry.count}, from {addr}")
        for entry in entries[:2]
        if (addr := entry.client.addr or "an unknown address")
        # A name that nobody else has may be a password whose colon was forgotten.
        and (user := entry.user if entry.user in known else "***")
    ]
    who = some(entry.client.addr.rpartition(":")[0] for entry in entries if entry.client.addr)
    what = "with a wrong password or user" if entries or grown["WRONGPASS"] else "without password"
    yield AUTH_REFUSED.verdict(
        f"A client{f' at {who}' if who else ''} tries to use this Redis {what}, and is refused.",
        *proofs,
        level=Level.BLOCKED if _lacks_somebody(look) else Level.WARNING,
        certainty=Certainty.WATCHED if refused > 0 else None,
    )


@CHECKS.server(ACL_DENIED)
def acl_denied(look: Look) -> Iterator[Verdict]:
    """Somebody else is logged in, and may not do what a worker needs."""
    entries = [entry for entry in _recent(look) if _matters(entry)]
    own = _OWN + 5 * len(look.queues) if look.forbidden else 0
    grown = look.growth("NOPERM")
    goes_on = grown > own
    growth = Proof("INFO errorstats", f"errorstat_NOPERM grew by {grown} in {span(look.seconds)}")
    if not entries:
        # Without the log it is not known who; a worker that repeats is known by its pace.
        if "ACL LOG" in look.forbidden and grown > own + 100:
            yield ACL_DENIED.verdict(
                f"A client repeats a command that it may not run, {grown} times in "
                f"{span(look.seconds)}. ACL LOG, which names it, is forbidden here.",
                growth,
                certainty=Certainty.PROBABLE,
            )
        return
    entry = entries[0]
    name = f", of {entry.client.name}" if entry.client.name else ""
    thing = "run" if entry.reason == "command" else "use the " + entry.reason
    yield ACL_DENIED.verdict(
        f"The user {entry.user or '(unknown)'} may not {thing} {entry.subject}{name}.",
        *(
            Proof(
                "ACL LOG",
                f"reason={each.reason} object={each.subject} username={each.user} "
                f"count={each.count} age={span(each.age)} client={each.client.name or '(unnamed)'}",
            )
            for each in entries[:3]
        ),
        *([growth] if goes_on else ()),
        level=Level.BLOCKED if goes_on or _lacks_somebody(look) else Level.WARNING,
        certainty=Certainty.WATCHED if goes_on else None,
        fix=_rule(entry),
    )


def _recent(look: Look) -> list[_Entry]:
    """Entries of others from the last minute, the newest first."""
    entries = map(_Entry.of, look.server.acl_log)
    return [each for each in entries if each.age <= RECENT and each.client.name != CLIENT_NAME]


def _matters(entry: _Entry) -> bool:
    if entry.reason == "command":
        return entry.subject.lower() not in _DISPENSABLE
    return entry.reason in ("key", "channel") and not registry.is_own(entry.subject)


def _rule(entry: _Entry) -> str:
    user = entry.user or "NAME"
    if entry.reason == "key":
        rule = f"~{entry.subject.split(':')[0]}:*"
    elif entry.reason == "channel":
        rule = f"&{entry.subject.split(':')[0]}:*"
    else:
        rule = f"+{entry.subject.lower()}"
    return (
        f"Give the user what is missing: ACL SETUSER {user} {rule}, and save it where the ACL is "
        "kept. BullMQ needs all its commands and keys; run `bullpy doctor` again after that."
    )


def _lacks_somebody(look: Look) -> bool:
    """Whether a queue has no worker or never got a job: the one who is refused may be missing."""
    return any(
        bool(queue.samples)
        and (queue.last.added is None or (queue.last.ready > 0 and not queue.has_live_worker))
        for queue in look.queues
    )
