"""The life of a job as people read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bullpy.joblife import NOTICED, PRODUCER, REDIS, WORKER
from bullpy.terminal import moment, printable

if TYPE_CHECKING:
    from bullpy.joblife import JobLife, Step

DATA_SHOWN = 4000
"""Characters of a job's data that are shown; `--json` shows all."""

REASON_SHOWN = 500


def life_lines(life: JobLife, *, timeline: bool) -> Iterator[str]:
    """A job: what it is now, and if asked for how it came to that."""
    state = str(life.state) if life.exists else "gone"
    yield f"job {printable(life.job_id, 200)} of queue {printable(life.queue, 200)}: {state}"
    for label, value in _facts(life):
        yield f"  {label:<9} {value}"
    if not timeline:
        return
    yield "  by Redis's clock, UTC:"
    for step in life.steps:
        yield f"  {step_line(step)}"
    if not life.reaches_back:
        yield f"  {_begins(life)}"


def _facts(life: JobLife) -> Iterator[tuple[str, str]]:
    if life.exists:
        yield "name", printable(life.name, 200)
        ended = f"{life.attempts_made} of {life.attempts} ended"
        yield "attempts", f"{ended}, started {life.starts} times, stalled {life.stalls} times"
    if life.worker:
        yield "worker", printable(life.worker, 200)
    if life.lock:
        until = "without end" if life.lock_for is None else f"for another {life.lock_for:.1f} s"
        yield "lock", f"{printable(life.lock, 100)} {until}"
    if life.due is not None:
        yield "due", moment(life.due)
    if life.delay or life.priority:
        yield "options", f"delay {life.delay:g} s, priority {life.priority}"
    if life.parent:
        yield "parent", printable(life.parent, 200)
    if life.children:
        yield "children", f"waits for {life.children}"
    if life.reason:
        earlier = "" if str(life.state) == "failed" else "an attempt failed: "
        yield "reason", earlier + printable(life.reason, REASON_SHOWN)
    if life.deferred:
        yield "fails", f"with its next worker: {printable(life.deferred, REASON_SHOWN)}"
    if life.logs:
        yield "log", f"{life.logs} lines"
    waited = life.seconds("waiting", "active")
    ran = next(filter(None, (life.seconds("active", end) for end in ("completed", "failed"))), None)
    if waited is not None or ran is not None:
        parts = [("waited", waited), ("ran", ran)]
        told = (f"{verb} {seconds:.3f} s" for verb, seconds in parts if seconds is not None)
        yield "took", ", ".join(told)
    for name, size in life.sizes.items():
        if name in life.data:
            yield name, printable(life.data[name], DATA_SHOWN) or "none"
        elif size:
            yield name, f"{size} bytes, shown with --data"


def step_line(step: Step, *, with_data: bool = False) -> str:
    """One step: when, how long after the one before, what."""
    after = "" if step.after is None else f"+{step.after:.3f} s"
    words = [f"{moment(step.at)} {after:>12}  {printable(step.name, 50)}"]
    words.extend(_details(step))
    if with_data and step.data:
        words.append(printable(step.data, DATA_SHOWN))
    if step.clock != REDIS:
        words.append(f"(by the {step.clock}'s clock; its event is not kept)")
    elif step.process_at is not None:
        whose = PRODUCER if step.name == "created" else WORKER
        ahead = "ahead" if step.skew > 0 else "behind"
        skew = f", {abs(step.skew):.1f} s {ahead}" if abs(step.skew) >= NOTICED else ""
        words.append(f"({whose}'s clock {moment(step.process_at)[11:]}{skew})")
    return " ".join(words)


def _details(step: Step) -> Iterator[str]:
    details = {name: printable(value, REASON_SHOWN) for name, value in step.details.items()}
    if "worker" in details:
        yield f"on {details['worker']}"
    if "attempt" in details:
        yield f"start {details['attempt']}"
    if step.name == "created" and details.get("job_name"):
        yield f"as {details['job_name']}"
    if details.get("from") and step.name in ("waiting", "retried", "removed"):
        yield f"from {details['from']}"
    if "progress" in details:
        yield details["progress"]
    if step.times > 1:
        yield f"after {step.times - 1} more"
    if details.get("due", "").isdigit():
        yield f"until {moment(int(details['due']))}"
    if details.get("reason"):
        yield f"- {details['reason']}"
    for name in ("attemptsMade", "deduplicationId", "deduplicatedJobId"):
        if name in details:
            yield f"{name} {details[name]}"


def _begins(life: JobLife) -> str:
    if life.oldest_event is None:
        return "the queue keeps no events: the job's hash alone tells of it"
    return (
        f"the {life.searched} events that were searched begin at {moment(life.oldest_event)}: "
        "what was before is known from the job's hash alone"
    )
