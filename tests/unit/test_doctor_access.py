"""Verdicts about clients that the server refuses."""

from __future__ import annotations

from typing import Any

import pytest

from bullpy.doctor.look import NO_KEY, Look
from bullpy.doctor.verdicts import Certainty, Level
from tests.support.looks import codes, look, only, queue_look, sample, server, worker_row

ACCESS = {"auth-refused", "acl-denied"}


def entry(**fields: str) -> dict[str, str]:
    """An entry of ACL LOG, as `reading` gives it."""
    values = {
        "count": "5",
        "reason": "command",
        "context": "toplevel",
        "object": "bzpopmin",
        "username": "w2",
        "age-seconds": "3.2",
        "client-info": "id=9 addr=10.0.0.7:4711 name=bull:YXVkaW8= db=0 cmd=bzpopmin user=w2",
    }
    return values | {name.replace("_", "-"): value for name, value in fields.items()}


def login(**fields: str) -> dict[str, str]:
    """An entry of ACL LOG about a password."""
    info = "id=9 addr=10.0.0.7:4711 name= db=0 cmd=auth user=default"
    return entry(**({"reason": "auth", "object": "AUTH", "client_info": info} | fields))


def seen(
    *entries: dict[str, str],
    before: dict[str, int] | None = None,
    after: dict[str, int] | None = None,
    forbidden: dict[str, str] | None = None,
    served: bool = True,
) -> Look:
    servers = [
        server(at=94.0, errors=before or {}),
        server(errors=after or before or {}, acl_log=entries),
    ]
    whole = look(servers=servers, clients=[worker_row()] if served else [])
    whole.forbidden.update(forbidden or {})
    queue_look(
        sample(wait=0 if served else 3, stalled_check_ttl=9000 if served else NO_KEY), of=whole
    )
    return whole


# -- auth-refused ------------------------------------------------------------------------------


def test_client_with_a_wrong_password_is_told_with_its_address() -> None:
    verdict = only(seen(login(), before={"WRONGPASS": 2}, after={"WRONGPASS": 7}), "auth-refused")
    assert (verdict.level, verdict.certainty) == (Level.WARNING, Certainty.WATCHED)
    assert "at 10.0.0.7 " in verdict.message
    assert verdict.proofs[0].value == "errorstat_WRONGPASS grew by 5 in 6 s"


def test_refused_client_is_the_cause_where_a_worker_is_missing() -> None:
    assert only(seen(login(), served=False), "auth-refused").level is Level.BLOCKED


def test_refused_client_comes_before_the_missing_worker() -> None:
    whole = seen(login(), after={"WRONGPASS": 7}, served=False)
    first, second = only(whole, "auth-refused"), only(whole.queues[0], "no-worker")
    assert first.order < second.order


def test_client_without_password_is_told_without_acl_log() -> None:
    verdict = only(seen(after={"NOAUTH": 3}, forbidden={"ACL LOG": "NOPERM"}), "auth-refused")
    assert "without password" in verdict.message


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(seen(), id="nobody"),
        pytest.param(seen(before={"WRONGPASS": 900, "NOAUTH": 4}), id="long-ago"),
        pytest.param(seen(login(age_seconds="900")), id="in-the-log-for-15-min"),
        pytest.param(seen(login(count="1")), id="somebody-mistyped-once"),
    ],
)
def test_refusals_that_are_over_are_not_told(whole: Look) -> None:
    assert not codes(whole) & ACCESS


# -- acl-denied --------------------------------------------------------------------------------


def test_worker_that_may_not_run_a_command_is_told_with_its_user() -> None:
    verdict = only(seen(entry(), before={"NOPERM": 10}, after={"NOPERM": 8631}), "acl-denied")
    assert (verdict.level, verdict.certainty) == (Level.BLOCKED, Certainty.WATCHED)
    assert verdict.message == "The user w2 may not run bzpopmin, of bull:YXVkaW8=."
    assert "ACL SETUSER w2 +bzpopmin" in verdict.fix


def test_key_that_may_not_be_used_is_named() -> None:
    verdict = only(seen(entry(reason="key", object="prod:audio:meta"), served=False), "acl-denied")
    assert verdict.level is Level.BLOCKED
    assert "may not use the key prod:audio:meta" in verdict.message
    assert "~prod:*" in verdict.fix


def test_without_acl_log_the_pace_of_refusals_tells() -> None:
    whole = seen(after={"NOPERM": 8000}, forbidden={"ACL LOG": "NOPERM"})
    assert only(whole, "acl-denied").certainty is Certainty.PROBABLE


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(seen(before={"NOPERM": 9000}), id="long-ago"),
        pytest.param(seen(entry(age_seconds="400")), id="in-the-log-for-7-min"),
        pytest.param(seen(entry(object="client|list"), after={"NOPERM": 4}), id="dispensable"),
        pytest.param(seen(entry(object="info")), id="info"),
        pytest.param(
            seen(entry(object="slowlog", client_info="id=3 addr=10.0.0.9:1 name=bullpy:doctor")),
            id="the-doctor-itself",
        ),
        pytest.param(
            seen(after={"NOPERM": 9}, forbidden={"ACL LOG": "x", "SLOWLOG": "x"}),
            id="the-doctors-own-refusals",
        ),
    ],
)
def test_refusals_that_harm_no_worker_are_not_told(whole: Look) -> None:
    assert not codes(whole) & ACCESS


def test_log_of_an_unknown_shape_does_no_harm() -> None:
    odd: dict[str, Any] = {"reason": "command", "object": "get", "age-seconds": "?"}
    assert "acl-denied" in codes(seen(odd))
