"""Why a job ran again. What has no cause here is an unexplained duplicate."""

from __future__ import annotations

from benchmarks.torture.evidence import Evidence
from benchmarks.torture.faults import Deed
from benchmarks.torture.ledger import Run
from benchmarks.torture.plan import Spec

CLOCK = 0.05
"""Seconds by which times of different processes, and Redis's milliseconds, may be off."""

STORING = 0.5
"""Seconds that storing an outcome may take when nothing is broken."""

RECONNECTING = 1.0
"""Seconds after Redis is back until a worker must have noticed."""

CUT = 0.3
"""Seconds that a connection which was reset may cost."""

_OUTAGES = ("redis-term", "redis-kill", "redis-stop")
_RESETS = ("cut", "client-kill", "lose-fetch", "lose-finish")
_SILENT = ("half-open-command", "half-open-locks")
_REDIS_ERRORS = ("RedisUnavailableError", "ReplyLostError", "CommandTimeoutError")

AWAY = "away"
"""The cause of a run whose job lost its lock because Redis could not be reached."""

ATTEMPT = "attempt"
"""The cause of a run that the payload demands: an attempt had failed."""


class Causes:
    """Explains second runs by what the payload demands, and by the record of deeds."""

    def __init__(self, evidence: Evidence) -> None:
        self._deeds = evidence.deeds
        self._events = evidence.state.events
        self._renew = evidence.renew
        # A command on a connection that swallows everything is given up after a third of it.
        self._timeout = evidence.lock / 3
        self._disturbed: dict[int, list[Deed]] = {}
        self._child_kills = [deed for deed in evidence.deeds if deed.kind == "child-kill"]
        for deed in evidence.deeds:
            if deed.kind in ("worker-kill", "worker-stop", "worker-term") and deed.worker:
                self._disturbed.setdefault(deed.worker, []).append(deed)
        self._away = _merged([found for deed in evidence.deeds if (found := self._window(deed))])

    def of(self, spec: Spec, before: Run, after: Run) -> str | None:
        """Why the job ran again after `before`; None if nobody knows."""
        attempts = after.attempts_made - before.attempts_made
        if attempts == 1:
            return self._of_attempt(spec, before, after.start)
        if attempts:
            return None
        stored = self._stored(before.job)
        if stored is not None and stored < after.start - CLOCK:
            # It may have been fetched before, by a process that was stopped until now.
            return self._late_start(after)
        return (
            self._of_worker(before, after.start)
            or self._late_start(after)
            or self._of_outage(before.start, after.start)
        )

    def child_kills(self, run: Run) -> int:
        """How often the child was killed while it had this run, or just after."""
        end = run.start if run.end is None else run.end
        until = float("inf") if run.end is None else end + CLOCK
        return sum(
            deed.child == run.process and run.start - CLOCK <= deed.at <= until
            for deed in self._child_kills
            if run.process != run.worker
        )

    def asked_redis_in_vain(self, run: Run) -> bool:
        """Whether its processor itself raised what a call to Redis had raised."""
        error = run.error or ""
        return error.startswith(_REDIS_ERRORS) or any(name in error for name in _REDIS_ERRORS)

    def losses(self, runs: list[Run]) -> int:
        """How many of these runs ended with the loss of their worker or their lock."""
        return sum(
            self._of_worker(run, float("inf")) is not None
            or self._of_outage(run.start, run.end or run.start) is not None
            for run in runs
        )

    def _of_attempt(self, spec: Spec, before: Run, until: float) -> str | None:
        """Why an attempt was counted."""
        if before.planned:
            return ATTEMPT
        if self.child_kills(before):
            return "child-kill"
        if spec.demand.crashes and before.end is None:
            return ATTEMPT
        timed_out = before.end is None or not before.finished
        if spec.kind == "hang" and timed_out:
            return ATTEMPT
        if self.asked_redis_in_vain(before) and self._broken_during(before.start, until):
            return "redis-in-processor"
        return None

    def _of_worker(self, before: Run, until: float) -> str | None:
        """Whether its worker was killed or stopped while it held the job."""
        held = until if before.end is None else min(until, self._held_until(before.end))
        for deed in self._disturbed.get(before.worker, []):
            if deed.until >= before.start - CLOCK and deed.at <= held + CLOCK:
                return deed.kind
        return None

    def _late_start(self, after: Run) -> str | None:
        """Whether its worker was stopped between the fetch and the start."""
        for deed in self._disturbed.get(after.worker, []):
            if deed.kind == "worker-stop" and 0 <= after.start - deed.until + CLOCK <= STORING:
                return "worker-stop"
        return None

    def outage(self, start: float, end: float) -> float:
        """For how many seconds at a time workers could not reach Redis around these times."""
        return max(
            (
                until - since
                for since, until in self._away
                # A lock may have run out before its job began to run.
                if until >= start - self._renew and since <= end
            ),
            default=0.0,
        )

    def _of_outage(self, start: float, end: float) -> str | None:
        """Whether Redis was away for so long meanwhile that locks may have run out."""
        return AWAY if self.outage(start, end) >= self._renew else None

    def _held_until(self, end: float) -> float:
        """Until when an outcome may not have been stored."""
        held = end + STORING
        for deed in sorted(self._deeds, key=lambda deed: deed.at):
            if self._window(deed) and deed.at <= held and deed.until >= end - self._timeout:
                held = max(held, deed.until + self._timeout + RECONNECTING)
        return held

    def _broken_during(self, start: float, end: float) -> bool:
        return any(since <= end and until >= start for since, until in self._away)

    def _stored(self, job_id: str) -> float | None:
        """When its end was stored."""
        for event in self._events.get(job_id, []):
            if event.name in ("completed", "failed"):
                return event.at
        return None

    def _window(self, deed: Deed) -> tuple[float, float] | None:
        """When workers could not reach Redis because of this."""
        if deed.kind in _OUTAGES:
            return deed.at, deed.until + RECONNECTING
        if deed.kind == "black-hole":
            return deed.at, deed.until + self._timeout + CUT
        if deed.kind in _SILENT:
            return deed.at, deed.at + self._timeout + CUT
        if deed.kind in _RESETS:
            return deed.at, deed.at + CUT
        return (deed.at, deed.until) if deed.kind == "lag" else None


def _merged(windows: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same windows, with those that touch each other made one."""
    merged: list[tuple[float, float]] = []
    for since, until in sorted(windows):
        if merged and since <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], until)
        else:
            merged.append((since, until))
    return merged
