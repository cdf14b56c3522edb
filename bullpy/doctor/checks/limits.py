"""The queue itself holds its workers back: a global concurrency, or a rate limit."""

from __future__ import annotations

from collections.abc import Iterator

from bullpy.doctor import repairs
from bullpy.doctor.checks import facts
from bullpy.doctor.look import NO_KEY, NO_TTL, QueueLook
from bullpy.doctor.verdicts import CHECKS, Cause, Certainty, Level, Proof, Verdict
from bullpy.doctor.wording import many, some, span

CONCURRENCY = Cause(
    code="concurrency-used-up",
    number=17,
    level=Level.BLOCKED,
    title="The queue's global concurrency is used up",
    symptom="Waiting jobs pile up, workers are idle, and the number of active jobs stays the same.",
    why="`setGlobalConcurrency(n)` lets all workers together run n jobs. Every id in `active` "
    "counts, also that of a job whose worker has died: without a lock nobody works on it, and it "
    "takes its place until a worker's stalled check puts it back.",
    fix="Free the place, or raise the global concurrency.",
    refutes=("a dead worker", "a paused queue"),
    rank=34,
    silences=frozenset({"active-without-owner", "worker-frozen", "worker-never-fetched"}),
)
RATE_LIMITED = Cause(
    code="rate-limited",
    number=23,
    level=Level.OK,
    title="A rate limit holds jobs back",
    symptom="Jobs wait although workers are idle, and start in bursts.",
    why="A limit (`max` jobs per `duration`) counts starts in the key `limiter`, and nothing "
    "starts until that key ends. `rateLimit(ms)` writes a huge number there to stop all for a "
    "while, for instance after an API answered 429. A limit that ends within a minute is normal "
    "work; a long one stops the queue.",
    fix="Wait until it ends, raise the limit, or remove it with removeRateLimitKey().",
    refutes=("a dead worker", "a paused queue"),
    rank=36,
    silences=frozenset({"worker-frozen", "worker-never-fetched", "too-few-workers"}),
)

BY_HAND = 2**31
"""A count that no limit reaches: `rateLimit()` writes 2^53 - 1."""

SHORT = 60.0
"""Seconds that a limit may last and be normal work."""

LONG = 600.0
"""Seconds above which a limit that was not configured so stops the queue."""


@CHECKS.queue(CONCURRENCY)
def concurrency_used_up(queue: QueueLook) -> Iterator[Verdict]:
    """Whether as many jobs are active as may be, and whether somebody works on them."""
    first, last = queue.first, queue.last
    limit = last.number("concurrency")
    waiting = facts.startable(last)
    if limit is None or not waiting:
        return
    if any(sample.counts["active"] < limit for sample in (first, last)):
        return
    proofs = [
        Proof(f"HGET {queue.key('meta')} concurrency", str(limit)),
        facts.count(queue, "active"),
    ]
    if limit == 0:
        yield CONCURRENCY.verdict(
            f"The global concurrency is 0: none of the {many(waiting, 'job')} may start.",
            *proofs,
            fix="queue.setGlobalConcurrency(n), or queue.removeGlobalConcurrency().",
        )
        return
    dead = facts.ownerless(queue)
    if dead:
        ids = some(job.id for job in dead)
        proofs += [Proof(f"PTTL {queue.key(dead[0].id)}:lock", "-2 (absent), in both looks")]
        ttl = last.stalled_check_ttl
        proofs.append(Proof(f"PTTL {queue.key('stalled-check')}", _ttl(ttl)))
        recovers = ttl != NO_KEY
        yield CONCURRENCY.verdict(
            f"The global concurrency of {limit} is used by {many(len(dead), 'job')} without owner "
            f"({ids}), and {many(waiting, 'job')} cannot start."
            + (f" A stalled check runs again in {span(ttl / 1000)}." if recovers else ""),
            *proofs,
            fix=repairs.command(queue, "active"),
            level=Level.BLOCKED if len(dead) >= limit and not recovers else Level.WARNING,
        )
        return
    busy = [job for job in last.active if job.lock]
    who = some(f"{job.id} (held by {facts.holder(job)})" for job in busy) or "none looked at"
    yield CONCURRENCY.verdict(
        f"The global concurrency of {limit} is at work: {who}. "
        f"Waiting for one: {many(waiting, 'job')}.",
        *proofs,
        level=Level.OK,
        fix="Wait, or raise it with queue.setGlobalConcurrency(n).",
    )


@CHECKS.queue(RATE_LIMITED)
def rate_limited(queue: QueueLook) -> Iterator[Verdict]:
    """Whether the limiter keeps jobs from starting, and for how long."""
    last = queue.last
    waiting = facts.startable(last)
    if last.limiter is None or not waiting or last.is_paused:
        return
    most = last.number("max")
    by_hand = last.limiter >= BY_HAND
    is_over = by_hand or (most is not None and last.limiter >= most)
    proofs = [
        Proof(f"GET {queue.key('limiter')}", str(last.limiter)),
        Proof(f"PTTL {queue.key('limiter')}", _ttl(last.limiter_ttl)),
    ]
    if most is not None:
        proofs.append(Proof(f"HGET {queue.key('meta')} max", str(most)))
    if last.limiter_ttl == NO_TTL:
        if is_over and queue.first.limiter_ttl == NO_TTL:
            yield RATE_LIMITED.verdict(
                "The rate limit's counter never ends, so BullMQ does not limit any more; another "
                "program that reads it may stop for ever.",
                *proofs,
                fix=repairs.command(queue, "limiter"),
                level=Level.WARNING,
                refutes=(),
            )
        return
    # Below its maximum it holds nothing back. Without one in `meta` it is the workers' own limit,
    # whose maximum Redis does not know: who moves jobs is not held back by it.
    if last.limiter_ttl <= 0 or (most is not None and not is_over):
        return
    if most is None and (queue.moves or not facts.startable(queue.first)):
        return
    seconds = last.limiter_ttl / 1000
    if by_hand:
        how = "somebody called rateLimit()"
    elif most is not None:
        how = f"{last.limiter} of {most} jobs have started in this window"
    else:
        how = f"{last.limiter} have started in this window of the workers' own limit"
    yield RATE_LIMITED.verdict(
        f"Rate limited for another {span(seconds)}: {how}. Waiting: {many(waiting, 'job')}.",
        *proofs,
        level=_level(seconds, (last.number("duration") or 0) / 1000, by_hand=by_hand),
        certainty=None if most is not None else Certainty.PROBABLE,
        fix="Wait until it ends."
        if seconds <= SHORT
        else f"Raise the limit, or release it: {_release(queue, by_hand=by_hand)}",
    )


def _level(seconds: float, window: float, *, by_hand: bool) -> Level:
    if seconds <= SHORT:
        return Level.OK
    is_configured = not by_hand and seconds <= window
    return Level.WARNING if is_configured or seconds <= LONG else Level.BLOCKED


def _release(queue: QueueLook, *, by_hand: bool) -> str:
    """The command that removes the limiter; one that counts jobs is removed only if asked to."""
    more = () if by_hand else ("--longer-than", f"{SHORT:g}")
    return repairs.command(queue, "limiter", *more)


def _ttl(ttl: int) -> str:
    return {NO_KEY: "-2 (absent)", NO_TTL: "-1 (never ends)"}.get(ttl, f"{ttl} ms")
