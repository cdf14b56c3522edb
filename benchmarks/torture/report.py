"""The result of a run as one object, and as text."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

from benchmarks.torture.controller import Options, Result
from benchmarks.torture.evidence import Evidence
from benchmarks.torture.verdict import Verdict, Violation

MOST_HISTORIES = 20
"""Violations whose job's history is told; one defect can break thousands of jobs."""


def as_object(options: Options, result: Result, verdict: Verdict) -> dict[str, Any]:
    """Everything that is worth keeping, as JSON takes it."""
    evidence = result.evidence
    specs = evidence.all_specs()
    again = dict(sorted(verdict.again.items()))
    return {
        "benchmark": "torture",
        "seed": options.seed,
        "seconds": options.seconds,
        "bad_percent": options.bad_percent,
        "jobs": dict(sorted(Counter(spec.kind for spec in specs.values()).items())),
        "acknowledged": len(evidence.acked),
        "runs": len(evidence.runs),
        "states": _states(evidence),
        "faults": result.deeds.counts(),
        "lags": [round(d.until - d.at, 2) for d in evidence.deeds if d.kind == "lag"],
        "attempts_again": again.pop("attempt", 0),
        "duplicates": {
            "explained": sum(again.values()),
            "by_cause": again,
            "away_seconds": sorted(round(seconds, 1) for seconds in verdict.away),
            "unexplained": verdict.unexplained,
        },
        "stalled_events": sum(
            event.name == "stalled" for events in evidence.state.events.values() for event in events
        ),
        "worker_processes": len(evidence.exits),
        "connections": max(evidence.connections.values(), default=None),
        "longest_silence": round(verdict.longest_silence, 2),
        "settled_after": result.settled_after,
        "late_jobs_after": result.late_after,
        "verdict": "pass" if verdict.ok else "fail",
        "broken": dict(sorted(Counter(found.kind for found in verdict.violations).items())),
        "violations": [
            _violation(evidence, found, with_history=number < MOST_HISTORIES)
            for number, found in enumerate(verdict.violations)
        ],
    }


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    duplicates = found["duplicates"]
    causes = _counts(duplicates["by_cause"]) or "none"
    lines = [
        f"seed {found['seed']}, {found['seconds']:g} s, {found['bad_percent']:g} % bad jobs",
        f"jobs        {_counts(found['jobs'])}",
        f"faults      {_counts(found['faults'])}",
        f"states      {_counts(found['states'])}",
        f"runs        {found['runs']}, of them {found['attempts_again']} further attempts",
        f"duplicates  {duplicates['explained']} explained ({causes})",
        f"            {duplicates['unexplained']} unexplained",
        f"settled     after {found['settled_after']} s",
        f"late jobs   after {found['late_jobs_after']} s",
        f"connections {found['connections']} at most",
        f"silence     {found['longest_silence']} s at most",
        f"verdict     {found['verdict']}  {_counts(found['broken'])}".rstrip(),
    ]
    for violation in found["violations"]:
        lines += ["", f"{violation['kind']}: {violation['job'] or ''} {violation['text']}"]
        if violation["spec"] is not None:
            lines.append(f"  {violation['spec']}")
        lines += [f"  {line}" for line in violation["history"]]
    return "\n".join(lines)


def keep(options: Options, result: Result, found: dict[str, Any]) -> None:
    """Leave the result and the event stream in the run's folder."""
    (options.folder / "result.json").write_text(json.dumps(found, indent=1))
    events = [event for listed in result.evidence.state.events.values() for event in listed]
    # Anew: now it is known when each was over.
    deeds = (f"{json.dumps(asdict(deed))}\n" for deed in result.deeds.all)
    (options.folder / "deeds").write_text("".join(deeds))
    with (options.folder / "events").open("w") as file:
        for event in sorted(events, key=lambda event: event.at):
            file.write(f"{event.at:.3f} {event.job} {event.name} {event.text}\n")


def _violation(evidence: Evidence, found: Violation, *, with_history: bool) -> dict[str, Any]:
    spec = evidence.all_specs().get(found.job or "")
    history = evidence.history(found.job) if found.job and with_history else []
    return {
        "kind": found.kind,
        "job": found.job,
        "text": found.text,
        "spec": None if spec is None else f"{spec.kind} {spec.name} {spec.data} {spec.opts}",
        "history": history,
    }


def _states(evidence: Evidence) -> dict[str, int]:
    places = (place for stored in evidence.state.jobs.values() for place in stored.places)
    return dict(sorted(Counter(places).items()))


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counted.items())
