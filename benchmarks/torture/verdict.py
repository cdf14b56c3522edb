"""What must hold at the end of a run, judged over plan, ledger, deeds and Redis."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.torture.causes import AWAY, CLOCK, Causes
from benchmarks.torture.crew import LONGEST_STOP, STARTING
from benchmarks.torture.evidence import Evidence
from benchmarks.torture.ledger import Run
from benchmarks.torture.plan import MAX_CRASHES, SCHEDULERS, Spec
from benchmarks.torture.state import FINISHED, Stored

MAX_CONNECTIONS = 4
LONGEST_SILENCE = 8.0
"""Seconds in which no worker begins a job although some wait, Redis is there, and the queue is not
paused. All four workers may have to notice that their connections are dead."""
LOOK_AHEAD = 10
"""Among so many jobs that began after a silence, one must have waited through all of it."""
SCHEDULING = 1.0
"""Seconds that the making of the next iteration may take."""

MAX_STALLED_COUNT = 3
"""bullpy's default: a job that loses its worker more often fails."""

WORN_OUT = ("stalled more than allowable limit", "lost its worker process more than")


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be.

    Attributes:
        kind: A word for it; see `docs/reliability.md`.
        job: The job's id, if it is about one.
        text: What was found, and what should have been.
    """

    kind: str
    job: str | None
    text: str


@dataclass(slots=True)
class Verdict:
    """The judgement.

    Attributes:
        violations: Empty if all is well.
        again: How many runs were second ones, by cause; those of failed attempts are `attempt`.
        unexplained: How many of them nobody can explain.
        away: For how many seconds Redis was away, for each second run with that cause.
        longest_silence: The most seconds in which no job began although one waited.
    """

    violations: list[Violation] = field(default_factory=list)
    again: Counter[str] = field(default_factory=Counter)
    unexplained: int = 0
    away: list[float] = field(default_factory=list)
    longest_silence: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations


def judge(evidence: Evidence) -> Verdict:
    """Judge a run."""
    return _Judge(evidence).judge()


class _Judge:
    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._causes = Causes(evidence)
        self._runs = evidence.runs_by_job()
        self._specs = evidence.all_specs()
        self._verdict = Verdict()

    def judge(self) -> Verdict:
        for spec in self._specs.values():
            self._job(spec)
        self._strangers()
        self._schedulers()
        self._workers()
        self._silences()
        return self._verdict

    def _say(self, kind: str, job: str | None, text: str) -> None:
        self._verdict.violations.append(Violation(kind, job, text))

    # -- jobs ------------------------------------------------------------------------------

    def _job(self, spec: Spec) -> None:
        runs = self._runs.get(spec.id, [])
        for number, after in enumerate(runs[1:], 1):
            self._again(spec, runs[:number], after)
        stored = self._evidence.state.jobs.get(spec.id, Stored())
        if not stored.fields:
            if spec.id in self._evidence.acked or runs or stored.places:
                where = ", ".join(stored.places) or "no list or set"
                self._say("lost", spec.id, f"its hash is gone; its id stands in {where}")
        elif not stored.places:
            self._say("orphan", spec.id, "its hash is there, but its id stands in no list or set")
        elif len(stored.places) > 1:
            self._say("two-places", spec.id, f"it stands in {', '.join(stored.places)}")
        elif stored.places[0] in FINISHED:
            self._ending(spec, stored, runs)
        elif not (stored.places == ["waiting-children"] and self._may_wait_for_ever(spec)):
            self._say("stuck", spec.id, f"it still stands in {stored.places[0]}")

    def _again(self, spec: Spec, earlier: list[Run], after: Run) -> None:
        """A second run."""
        before = earlier[-1]
        cause = self._causes.of(spec, before, after)
        if cause is None and after.attempts_made > before.attempts_made:
            # Between an attempt and the next, a worker that was stopped may begin the first again.
            same = [run for run in earlier[:-1] if run.attempts_made == before.attempts_made]
            causes = (self._causes.of(spec, run, after) for run in reversed(same))
            cause = next((found for found in causes if found is not None), None)
        if cause is not None:
            self._verdict.again[cause] += 1
            if cause == AWAY:
                self._verdict.away.append(self._causes.outage(before.start, after.start))
            return
        self._verdict.unexplained += 1
        self._say(
            "unexplained-duplicate",
            spec.id,
            f"it began in worker {before.worker} with {before.attempts_made} attempts made, and "
            f"{after.start - before.start:.3f} s later in worker {after.worker} with "
            f"{after.attempts_made}, although nobody disturbed the first",
        )

    def _ending(self, spec: Spec, stored: Stored, runs: list[Run]) -> None:
        """A job that has ended: as its payload demands, or as what was done to it allows."""
        place, reason = stored.places[0], stored.fields.get("failedReason", "")
        finished = any(run.finished for run in runs)
        if place == "failed" and self._may_fail(spec, reason, runs):
            return
        if place != spec.demand.state:
            kind = "wrong-ending"
            if place == "failed":
                kind = "failed-although-finished" if finished else kind
                kind = kind if runs else "failed-without-run"
            self._say(kind, spec.id, f"it is {place} ({reason}), not {spec.demand.state}")
            return
        if not spec.demand.runs:
            if runs:
                self._say("ran-in-vain", spec.id, "it ran although its payload forbids it")
        elif not runs:
            self._say(f"{place}-without-run", spec.id, f"it is {place}, but never ran")
        elif place == "completed" and not finished:
            self._say("completed-without-end", spec.id, "no run of it came to its end")
        self._attempts(spec, stored, runs)
        if place == "completed":
            self._result(spec, stored)
        elif spec.demand.reason not in reason:
            self._say("wrong-reason", spec.id, f"{reason!r} does not say {spec.demand.reason!r}")

    def _may_fail(self, spec: Spec, reason: str, runs: list[Run]) -> bool:
        """Whether what was done to the job lets it fail in another way than it demands."""
        if any(text in reason for text in WORN_OUT):
            return self._causes.losses(runs) > MAX_STALLED_COUNT
        kills = self._kills(runs)
        if "SIGKILL" in reason and kills:
            exhausted = spec.demand.attempts + self._spoiled(runs) > spec.demand.allowed
            return exhausted or kills + spec.demand.crashes >= MAX_CRASHES
        return False

    def _may_wait_for_ever(self, spec: Spec) -> bool:
        """Whether one of its children failed, as what was done to that one allows."""
        return any(
            self._evidence.state.jobs.get(child.id, Stored()).places == ["failed"]
            and self._spoiled(self._runs.get(child.id, []))
            for child in spec.children
        )

    def _attempts(self, spec: Spec, stored: Stored, runs: list[Run]) -> None:
        spoiled = self._spoiled(runs)
        least, most = spec.demand.attempts, spec.demand.attempts + spoiled
        if spec.demand.state == "failed" and spoiled:
            # A killed child uses an attempt that the payload would have failed anyway.
            least, most = 1, spec.demand.allowed
        if not least <= stored.attempts_made <= most:
            demanded = f"{least}" if least == most else f"{least} to {most}"
            self._say(
                "wrong-attempts", spec.id, f"{stored.attempts_made} were counted, not {demanded}"
            )

    def _result(self, spec: Spec, stored: Stored) -> None:
        wanted: dict[str, object] = {"id": spec.id}
        if spec.demand.children:
            wanted["children"] = sorted(spec.demand.children)
        found = stored.fields.get("returnvalue", "")
        if found != json.dumps(wanted, separators=(",", ":")):
            self._say("wrong-result", spec.id, f"it gave {found[:200]!r}, not {wanted}")

    def _kills(self, runs: list[Run]) -> int:
        return sum(self._causes.child_kills(run) for run in runs)

    def _spoiled(self, runs: list[Run]) -> int:
        """How many attempts failed because of what was done to them."""
        in_vain = sum(self._causes.asked_redis_in_vain(run) for run in runs)
        return self._kills(runs) + in_vain

    # -- the queue -------------------------------------------------------------------------

    def _strangers(self) -> None:
        state = self._evidence.state
        for job_id in self._evidence.unacknowledged:
            self._say("not-acknowledged", job_id, "its producer could not add it")
        for job_id in state.locks:
            self._say("lock-left", job_id, "it is still locked")
        for job_id in set(state.jobs) - set(self._specs):
            self._say("unknown-job", job_id, "nobody added it")
        for key in state.strange:
            self._say("unknown-key", None, key)

    def _schedulers(self) -> None:
        for scheduler_id in self._evidence.dead_schedulers:
            self._say("scheduler-dead", None, f"{scheduler_id} made no iteration after the faults")
        times: dict[str, list[int]] = defaultdict(list)
        for job_id, spec in self._specs.items():
            if spec.kind == "iteration" and job_id in self._runs:
                _, scheduler_id, millis = job_id.split(":")
                times[scheduler_id].append(int(millis))
        for scheduler_id, found in times.items():
            step = SCHEDULERS[scheduler_id]["step_ms"]
            for before, after in pairwise(sorted(found)):
                self._between(scheduler_id, step, before, after)

    def _between(self, scheduler_id: str, step: int, before: int, after: int) -> None:
        """Two iterations, in milliseconds: neither the same one twice, nor a gap."""
        job_id = f"repeat:{scheduler_id}:{after}"
        if after - before < step / 2:
            self._say("iteration-twice", job_id, f"only {after - before} ms after the one before")
        # The next iteration is made when the one before begins, however late that is.
        began = self._runs[f"repeat:{scheduler_id}:{before}"][0].start
        allowed = step / 1000 + SCHEDULING + self._hindered(began - SCHEDULING, began)
        if (gap := after / 1000 - began) > allowed:
            text = f"it is due {gap:.1f} s after the one before began, allowed {allowed:.1f} s"
            self._say("scheduler-gap", job_id, text)

    def _hindered(self, start: float, end: float) -> float:
        """Seconds between these times in which no job could run."""
        return sum(
            max(0.0, min(end, deed.until) - max(start, deed.at))
            for deed in self._evidence.deeds
            if deed.kind.startswith("redis-") or deed.kind in ("pause", "black-hole", "lag")
        )

    def _silences(self) -> None:
        runs = sorted(self._evidence.runs, key=lambda run: run.start)
        for number, (before, after) in enumerate(pairwise(runs), 1):
            since, until = before.start, after.start
            silence = until - since - self._hindered(since, until)
            if silence <= self._verdict.longest_silence:
                continue
            if any(self._waited(run, since) for run in runs[number : number + LOOK_AHEAD]):
                self._verdict.longest_silence = silence
                if silence > LONGEST_SILENCE:
                    text = f"no job began for {silence:.1f} s before this one, although some waited"
                    self._say("silence", after.job, text)

    def _waited(self, run: Run, since: float) -> bool:
        """Whether the job stood ready from that time on until it ran."""
        waits = [
            event.at
            for event in self._evidence.state.events.get(run.job, [])
            if event.at <= run.start and event.name == "waiting"
        ]
        return bool(waits) and waits[-1] <= since + CLOCK

    # -- the workers -----------------------------------------------------------------------

    def _workers(self) -> None:
        for end in self._evidence.exits:
            if end.asked is None:
                self._say("worker-exit", None, f"worker {end.worker} ended with code {end.code}")
            elif end.asked == "SIGTERM":
                handled = end.age - (end.took or 0.0) > STARTING
                if end.code != 0 and (handled or end.code != -15):
                    text = f"worker {end.worker} ended with code {end.code} after SIGTERM"
                    self._say("worker-exit-code", None, text)
                if (end.took or 0.0) > LONGEST_STOP + CLOCK:
                    text = f"worker {end.worker} took {end.took:.1f} s to end after SIGTERM"
                    self._say("worker-slow-end", None, text)
        for worker, count in self._evidence.connections.items():
            if count > MAX_CONNECTIONS:
                text = f"worker {worker} has {count}, allowed {MAX_CONNECTIONS}"
                self._say("connections", None, text)
        for worker in self._evidence.deaf:
            self._say("deaf", None, f"worker {worker} does not wait for jobs")
