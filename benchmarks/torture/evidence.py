"""All that a verdict is made of, and what it says about a job in the order of time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from benchmarks.torture import program
from benchmarks.torture.crew import Exit
from benchmarks.torture.faults import Deed
from benchmarks.torture.ledger import Run
from benchmarks.torture.plan import Demand, Spec
from benchmarks.torture.state import State, is_iteration

NEARBY = 4.0
"""Seconds around a job's life in which deeds belong to its history."""


@dataclass(slots=True)
class Evidence:
    """What is known at the end of a run. Times are seconds since 1970.

    Attributes:
        specs: Every planned job by id.
        acked: Ids of jobs whose adding was acknowledged.
        unacknowledged: Ids of those that a producer could not add, although nothing was broken
            any more.
        runs: The ledger.
        deeds: What the controller did.
        state: What Redis holds.
        exits: The ends of worker processes.
        connections: Most connections that a live worker process had at two looks in a row, by
            process id.
        deaf: Process ids of workers that do not wait for jobs at the end.
        dead_schedulers: Schedulers that made no iteration after the last fault.
        began: When the load began.
        lock: Seconds that a lock lasts.
        renew: Seconds between its renewals.
        stalled_interval: Seconds between checks for stalled jobs.
    """

    specs: dict[str, Spec] = field(default_factory=dict)
    acked: set[str] = field(default_factory=set)
    unacknowledged: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    state: State = field(default_factory=State)
    exits: list[Exit] = field(default_factory=list)
    connections: dict[int, int] = field(default_factory=dict)
    deaf: list[int] = field(default_factory=list)
    dead_schedulers: list[str] = field(default_factory=list)
    began: float = 0.0
    lock: float = program.LOCK_DURATION
    renew: float = program.LOCK_DURATION / 2
    stalled_interval: float = program.STALLED_INTERVAL

    def runs_by_job(self) -> dict[str, list[Run]]:
        """The runs of each job, in the order of their starts."""
        found: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            found[run.job].append(run)
        return found

    def all_specs(self) -> dict[str, Spec]:
        """The planned jobs, and one for each iteration of a scheduler that there was."""
        known = {run.job for run in self.runs} | set(self.state.jobs)
        return self.specs | {
            job_id: Spec(job_id, "iteration", "plain", {}, {}, Demand())
            for job_id in sorted(known)
            if is_iteration(job_id)
        }

    def history(self, job_id: str) -> list[str]:
        """The job in the event stream and in the ledger, and the deeds around it."""
        lines = [
            (event.at, f"event    {event.name} {event.text}".rstrip())
            for event in self.state.events.get(job_id, [])
        ]
        for run in self.runs_by_job().get(job_id, []):
            where = f"worker {run.worker}, process {run.process}"
            lines.append((run.start, f"run      began, attempts made {run.attempts_made}, {where}"))
            if run.end is not None:
                lines.append((run.end, f"run      {run.error or 'ended'}, process {run.process}"))
        if not lines:
            return []
        first, last = min(lines)[0] - NEARBY, max(lines)[0] + NEARBY
        lines += [
            (deed.at, f"deed     {described(deed)}")
            for deed in self.deeds
            if deed.until >= first and deed.at <= last
        ]
        return [f"{at - self.began:8.3f} s  {text}" for at, text in sorted(lines)]


def described(deed: Deed) -> str:
    """A deed in one line."""
    whom = [f"worker {deed.worker}"] if deed.worker is not None else []
    whom += [f"child {deed.child}"] if deed.child is not None else []
    whom += [deed.note] if deed.note else []
    lasted = f" for {deed.until - deed.at:.2f} s" if deed.until > deed.at else ""
    return f"{deed.kind}{lasted}: {', '.join(whom)}" if whom else f"{deed.kind}{lasted}"
