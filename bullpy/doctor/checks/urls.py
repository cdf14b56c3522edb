"""What the text of a Redis URL tells: D5, D6 and D7; also read by the checks of a project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote

from bullpy.doctor.look import QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict

READ_DIFFERENTLY = Cause(
    "url-read-differently",
    5,
    Level.WARNING,
    title="Node and Python read different databases out of one URL",
    symptom="API and worker have the very same REDIS_URL, and each sees another queue.",
    why=(
        "With both a path and `?db=`, ioredis and bullpy take the path and redis-py takes `?db=`. "
        "Without `redis://` in front, ioredis takes what follows the host for a unix socket, and "
        "redis-py refuses it."
    ),
    fix="Name the database once, as the path: redis://host:6379/0; remove ?db=.",
    certainty=Certainty.STATED,
    rank=5,
)

LOCALHOST = Cause(
    "localhost-default",
    6,
    Level.WARNING,
    title="Without REDIS_URL a process connects to its own machine",
    symptom="ECONNREFUSED 127.0.0.1:6379, or a worker content with an empty Redis beside it.",
    why=(
        "A missing or empty variable does not stop the process: `new Redis(undefined)`, "
        "`{ url: undefined }` and a fallback such as `|| 'redis://localhost:6379'` lead to "
        "localhost. In a container that is the container itself."
    ),
    fix="Set REDIS_URL in every service, and refuse to start without it.",
    certainty=Certainty.STATED,
    rank=30,
)

PARAMETERS = Cause(
    "url-parameters",
    7,
    Level.WARNING,
    title="The URL carries options that redis-py refuses",
    symptom="The Python side logs that it waits, and no client of it is listed.",
    why=(
        "redis-py passes options it does not know, such as `family` or `tls`, to its connection, "
        "which fails with `unexpected keyword argument`; upstream's worker then ends in silence. "
        "ioredis and bullpy read them."
    ),
    fix="Remove the options that only ioredis has; write rediss:// in place of ?tls=true.",
    certainty=Certainty.STATED,
    rank=6,
    silences=frozenset(["no-worker"]),
)

_LOCAL = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|::1|0\.0\.0\.0)\.?", re.IGNORECASE)

_REDIS_PY = frozenset(
    """
    db socket_timeout socket_connect_timeout socket_keepalive socket_read_size retry_on_timeout
    retry_on_error max_connections health_check_interval protocol timeout decode_responses encoding
    encoding_errors client_name lib_name lib_version username password host port path
    legacy_responses ssl_cert_reqs ssl_ca_certs ssl_ca_path ssl_ca_data ssl_certfile ssl_keyfile
    ssl_password ssl_check_hostname ssl_include_verify_flags ssl_exclude_verify_flags
    ssl_min_version ssl_ciphers ssl_validate_ocsp ssl_validate_ocsp_stapled
    """.split()  # noqa: SIM905 - a list of words reads better so
)
"""Options that redis-py 6 to 8 takes from a URL."""


def is_local(host: str) -> bool:
    """Whether a host is the machine or the container itself."""
    return _LOCAL.fullmatch(host.strip("[]")) is not None


def host_of(url: str) -> str:
    """The host that a URL names; "" if it names none."""
    _, _, rest = url.rpartition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    if authority.startswith("["):
        return authority.partition("]")[0].lstrip("[")
    return authority.partition(":")[0]


def two_databases(url: str) -> tuple[str, str] | None:
    """The databases that the path and `?db=` of a URL name, where they differ."""
    _, mark, rest = url.strip().partition("://")
    path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")[2].strip("/")
    wanted = dict(_query(url)).get("db", "")
    if not mark or not path.isdecimal() or not wanted.isdecimal() or int(path) == int(wanted):
        return None
    return path, wanted


def foreign_options(url: str) -> list[str]:
    """Names of the options of a URL at which redis-py fails."""
    return sorted({name for name, _ in _query(url) if name not in _REDIS_PY})


def _query(url: str) -> list[tuple[str, str]]:
    query = url.partition("?")[2].partition("#")[0]
    # Names are shown: they must not be able to hold what was meant to be a password.
    return [
        (unquote(name), value)
        for name, value in parse_qsl(query, keep_blank_values=True)
        if re.fullmatch(r"[A-Za-z][A-Za-z_]{0,40}", name)
    ]


def judge_url(url: str, at: str, *, redis_py: bool) -> Iterator[Verdict]:
    """Verdicts about the text of one URL.

    Args:
        url: The URL, which is not shown.
        at: What names it: a variable, or `file:line`.
        redis_py: Whether redis-py itself, rather than bullpy, reads it too.
    """
    databases = two_databases(url)
    if databases is not None:
        path, wanted = databases
        yield READ_DIFFERENTLY.verdict(
            f"One URL names two databases: ioredis takes {path}, redis-py takes {wanted}.",
            Proof(at, f"path /{path}, option db={wanted}"),
        )
    foreign = foreign_options(url)
    if foreign and redis_py:
        names = ", ".join(foreign)
        yield PARAMETERS.verdict(
            f"redis-py refuses the URL: it does not know {names}.", Proof(at, f"options: {names}")
        )


@CHECKS.queue(READ_DIFFERENTLY, PARAMETERS)
def check_url(queue: QueueLook) -> Iterator[Verdict]:
    """D5, D7: the doctor's own URL, as the other side reads it."""
    url, at = queue.look.url, queue.look.url_source or "the Redis URL"
    if not url or not queue.samples:
        return
    databases = two_databases(url)
    if databases is not None:
        yield from _judge_databases(queue, at, *databases)
    foreign = foreign_options(url)
    # bullpy and ioredis read these options. Where a worker lives, nothing is wrong with them.
    if foreign and queue.last.ready and queue.look.knows_clients and not queue.has_live_worker:
        names = ", ".join(foreign)
        yield PARAMETERS.verdict(
            f"No worker is connected, and the URL carries what redis-py does not know: {names}. A "
            "worker of the PyPI package bullmq that reads it has ended in silence.",
            Proof(at, f"options: {names}"),
            Proof("CLIENT LIST", f"no client is named as a worker of {queue.name}"),
            level=Level.BLOCKED,
            fix=f"Remove {names} from the URL, or use bullpy's Worker, and start it again.",
        )


def _judge_databases(queue: QueueLook, at: str, path: str, wanted: str) -> Iterator[Verdict]:
    other = int(wanted) if queue.db == int(path) else int(path)
    clients = [client for client in queue.workers_in_other_dbs() if client.db == other]
    places = queue.elsewhere.places if queue.elsewhere else ()
    there = [place for place in places if place.db == other and place.queue == queue.name]
    proofs = [Proof(at, f"path /{path}, option db={wanted}")]
    proofs += [Proof("CLIENT LIST", f"{each.name} is in db {each.db}") for each in clients[:1]]
    proofs += [Proof(f"SELECT {each.db}", f"the queue is there: {each}") for each in there[:1]]
    split = bool(clients or there)
    yield READ_DIFFERENTLY.verdict(
        f"One URL, two databases: ioredis takes {path}, redis-py takes {wanted}"
        + (f", and {queue.name} is used in both." if split else "."),
        *proofs,
        level=Level.BLOCKED if split else Level.WARNING,
        certainty=Certainty.CERTAIN if split else Certainty.STATED,
    )


@CHECKS.queue(LOCALHOST)
def check_localhost(queue: QueueLook) -> Iterator[Verdict]:
    """D6: the Redis that was asked is this machine's own, and knows nothing of the queue."""
    settings = queue.look.settings
    if settings.unix_socket or settings.sentinels or not is_local(settings.host or ""):
        return
    found = queue.elsewhere.places if queue.elsewhere else ()
    if queue.samples and not queue.last.exists and not queue.workers() and not found:
        at = queue.look.url_source or "settings"
        yield LOCALHOST.verdict(
            f"The Redis that was asked is this machine's own, and {queue.name} has left nothing "
            "there.",
            Proof(at, f"host {settings.host}"),
            Proof(f"EXISTS {queue.key('meta')}", "0"),
            certainty=Certainty.PROBABLE,
        )
