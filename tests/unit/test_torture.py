"""The torture test's own logic: a verdict must be able to fail, and must name what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.torture import controller, faults, ledger, plan, state, work
from benchmarks.torture.__main__ import main
from benchmarks.torture.controller import Result
from benchmarks.torture.crew import Exit
from benchmarks.torture.evidence import Evidence
from benchmarks.torture.faults import Deed, Deeds
from benchmarks.torture.ledger import PlannedError, Reader, Run
from benchmarks.torture.plan import Demand, Spec
from benchmarks.torture.state import Event, State, Stored
from benchmarks.torture.verdict import Verdict, judge

WORKER, OTHER, CHILD = 100, 200, 101


class Scene:
    """Evidence of one job after the other, in seconds from the start."""

    def __init__(self) -> None:
        self.evidence = Evidence(lock=3.0, renew=1.5, stalled_interval=1.5)

    def job(
        self,
        job_id: str = "a",
        *,
        place: str | None = "completed",
        attempts: int = 1,
        reason: str = "",
        kind: str = "plain",
        demand: Demand | None = None,
        result: Any = None,
        **options: Any,
    ) -> Scene:
        """A job that was added, and where it is now."""
        spec = Spec(job_id, kind, "plain", {}, {}, demand or Demand(), **options)
        self.evidence.specs[job_id] = spec
        self.evidence.acked.add(job_id)
        fields = {"atm": str(attempts), "failedReason": reason}
        if place == "completed":
            fields["returnvalue"] = json.dumps(result or {"id": job_id}, separators=(",", ":"))
        self.evidence.state.jobs[job_id] = Stored(fields, [place] if place else [])
        return self

    def run(
        self,
        start: float,
        end: float | None = None,
        *,
        job: str = "a",
        attempts_made: int = 0,
        worker: int = WORKER,
        process: int = WORKER,
        error: str | None = None,
        planned: bool = False,
    ) -> Scene:
        """A run of it."""
        number = str(len(self.evidence.runs))
        self.evidence.runs.append(
            Run(job, number, worker, process, attempts_made, start, end, error, planned)
        )
        return self

    def deed(self, kind: str, at: float, until: float | None = None, **whom: Any) -> Scene:
        """Something that was done."""
        self.evidence.deeds.append(Deed(kind, at, at if until is None else until, **whom))
        return self

    def event(self, name: str, at: float, job: str = "a") -> Scene:
        """An entry of the event stream."""
        self.evidence.state.events.setdefault(job, []).append(Event(at, name, job, ""))
        return self

    def verdict(self) -> Verdict:
        return judge(self.evidence)


def kinds(scene: Scene) -> list[str]:
    return [found.kind for found in scene.verdict().violations]


# -- all is well -----------------------------------------------------------------------------


def test_jobs_that_end_as_they_must_break_nothing() -> None:
    scene = Scene().job("a").run(1.0, 1.5).job("b", place="failed", attempts=2, reason="Planned")
    scene.evidence.specs["b"] = Spec(
        "b", "doomed", "plain", {}, {}, Demand("failed", 2, 2, reason="Planned")
    )
    scene.run(1.0, 1.1, job="b", error="PlannedError: attempt 0", planned=True)
    scene.run(1.3, 1.4, job="b", attempts_made=1, error="PlannedError: attempt 1", planned=True)
    found = scene.verdict()
    assert found.ok, found.violations
    assert found.again == {"attempt": 1}
    assert found.unexplained == 0


def test_job_that_was_never_acknowledged_need_not_exist() -> None:
    scene = Scene().job()
    scene.evidence.acked.clear()
    scene.evidence.state.jobs.clear()
    assert kinds(scene) == []


# -- every violation -------------------------------------------------------------------------


def test_lost_job_is_named() -> None:
    scene = Scene().job("a").run(1.0, 1.5).job("b").run(1.0, 1.5, job="b")
    del scene.evidence.state.jobs["b"]
    (found,) = scene.verdict().violations
    assert (found.kind, found.job) == ("lost", "b")


def test_job_that_could_not_be_added_is_named() -> None:
    scene = Scene()
    scene.evidence.unacknowledged = ["b"]
    assert kinds(scene) == ["not-acknowledged"]


def test_id_without_hash_is_lost() -> None:
    scene = Scene().job(place="wait")
    scene.evidence.state.jobs["a"].fields.clear()
    (found,) = scene.verdict().violations
    assert found.kind == "lost"
    assert "wait" in found.text


@pytest.mark.parametrize("place", ["active", "wait", "paused", "delayed", "prioritized"])
def test_stuck_job_is_named_with_its_place(place: str) -> None:
    (found,) = Scene().job(place=place).run(1.0, 1.5).verdict().violations
    assert (found.kind, found.job) == ("stuck", "a")
    assert place in found.text


def test_hash_that_stands_nowhere_is_an_orphan() -> None:
    assert kinds(Scene().job(place=None).run(1.0, 1.5)) == ["orphan"]


def test_job_in_two_places_is_named() -> None:
    scene = Scene().job().run(1.0, 1.5)
    scene.evidence.state.jobs["a"].places.append("wait")
    assert kinds(scene) == ["two-places"]


def test_lock_that_is_left_is_named() -> None:
    scene = Scene().job().run(1.0, 1.5)
    scene.evidence.state.locks.append("a")
    assert kinds(scene) == ["lock-left"]


def test_job_that_nobody_added_is_named() -> None:
    scene = Scene()
    scene.evidence.state.jobs["ghost"] = Stored({"atm": "1"}, ["completed"])
    scene.evidence.state.strange.append("bull:torture:what")
    assert kinds(scene) == ["unknown-job", "unknown-key"]


@pytest.mark.parametrize(
    ("scene", "kind"),
    [
        (Scene().job(place="failed", reason="stalled").run(1.0, 1.5), "failed-although-finished"),
        (Scene().job(place="failed", reason="stalled"), "failed-without-run"),
        (Scene().job(place="failed", reason="what").run(1.0), "wrong-ending"),
        (Scene().job(), "completed-without-run"),
        (Scene().job().run(1.0), "completed-without-end"),
        (Scene().job(attempts=2).run(1.0, 1.5), "wrong-attempts"),
        (Scene().job(result={"id": "b"}).run(1.0, 1.5), "wrong-result"),
        (
            Scene().job(demand=Demand("failed", reason="SIGSEGV")).run(1.0, 1.5),
            "wrong-ending",
        ),
        (
            Scene()
            .job(place="failed", reason="what", demand=Demand("failed", reason="SIGSEGV"))
            .run(1.0),
            "wrong-reason",
        ),
        (
            Scene()
            .job(place="failed", reason="no JSON", demand=Demand("failed", runs=False))
            .run(1.0, 1.5),
            "ran-in-vain",
        ),
    ],
)
def test_wrong_ending_is_named(scene: Scene, kind: str) -> None:
    assert kinds(scene) == [kind]


def test_parent_must_have_what_its_children_gave() -> None:
    demand = Demand(children=("c2", "c1"))
    right = Scene().job(demand=demand, result={"id": "a", "children": ["c1", "c2"]})
    wrong = Scene().job(demand=demand, result={"id": "a", "children": ["c1"]})
    assert kinds(right.run(1.0, 1.5)) == []
    assert kinds(wrong.run(1.0, 1.5)) == ["wrong-result"]


def test_worker_that_ends_by_itself_late_or_badly_is_named() -> None:
    scene = Scene()
    scene.evidence.exits = [
        Exit(1, 10.0, -9, "SIGKILL", 9.0),
        Exit(2, 10.0, 0, "SIGTERM", 9.0, 1.0),
        # Before it had its handlers.
        Exit(3, 10.0, -15, "SIGTERM", 0.3, 0.0),
        Exit(4, 10.0, 1, None, 9.0),
        Exit(5, 10.0, 1, "SIGTERM", 9.0, 1.0),
        Exit(6, 99.0, 0, "SIGTERM", 90.0, 60.0),
    ]
    assert kinds(scene) == ["worker-exit", "worker-exit-code", "worker-slow-end"]


def test_connections_deaf_workers_and_dead_schedulers_are_named() -> None:
    scene = Scene()
    scene.evidence.connections = {WORKER: 4, OTHER: 5}
    scene.evidence.deaf = [OTHER]
    scene.evidence.dead_schedulers = ["python-cron"]
    assert kinds(scene) == ["scheduler-dead", "connections", "deaf"]


def test_scheduler_may_neither_repeat_nor_skip() -> None:
    scene = Scene()
    for due, start in [(2000, 2.0), (2500, 2.5), (4000, 4.0), (20000, 20.0)]:
        job_id = f"repeat:python-cron:{due}"
        scene.job(job_id).run(start, start + 0.1, job=job_id)
        del scene.evidence.specs[job_id]
    assert kinds(scene) == ["iteration-twice", "scheduler-gap"]


def test_iteration_that_waited_is_no_gap() -> None:
    scene = Scene()
    # The first one began late, as its worker was busy; the next one is made when it begins.
    for due, start in [(2000, 17.0), (18000, 18.0)]:
        job_id = f"repeat:python-cron:{due}"
        scene.job(job_id).run(start, start + 0.1, job=job_id)
        del scene.evidence.specs[job_id]
    assert kinds(scene) == []


def test_workers_that_begin_nothing_although_a_job_waits_are_named() -> None:
    def scene() -> Scene:
        made = Scene().job("a").run(1.0, 1.5).job("b").run(21.0, 21.5, job="b")
        return made.event("waiting", 0.9, "a").event("waiting", 0.9, "b")

    found = scene().verdict()
    assert [v.kind for v in found.violations] == ["silence"]
    assert found.longest_silence == pytest.approx(20.0)
    assert kinds(scene().deed("pause", 2.0, 19.0)) == []
    assert kinds(scene().event("waiting", 20.9, "b")) == []


# -- second runs -----------------------------------------------------------------------------


def again(scene: Scene) -> tuple[dict[str, int], int]:
    found = scene.verdict()
    assert found.unexplained == sum(v.kind == "unexplained-duplicate" for v in found.violations)
    assert found.unexplained or found.ok, found.violations
    return dict(found.again), found.unexplained


def test_second_run_that_nothing_explains_is_named() -> None:
    scene = Scene().job().run(1.0, 1.5).run(2.0, 2.5, worker=OTHER)
    (found,) = scene.verdict().violations
    assert (found.kind, found.job) == ("unexplained-duplicate", "a")
    assert again(scene) == ({}, 1)


def test_worker_killed_in_the_middle_of_the_run_explains_it() -> None:
    scene = Scene().job().run(1.0).run(6.0, 6.5, worker=OTHER)
    assert again(scene.deed("worker-kill", 1.2, worker=WORKER)) == ({"worker-kill": 1}, 0)


@pytest.mark.parametrize(
    "deed",
    [
        lambda scene: scene.deed("worker-kill", 0.5, worker=WORKER),
        lambda scene: scene.deed("worker-kill", 4.0, worker=WORKER),
        lambda scene: scene.deed("worker-kill", 1.2, worker=OTHER),
        lambda scene: scene.deed("child-kill", 1.2, worker=WORKER, child=CHILD),
        lambda scene: scene.deed("cut", 1.2),
        lambda scene: scene.deed("half-open-locks", 1.2),
        lambda scene: scene.deed("redis-stop", 1.2, 1.5),
        lambda scene: scene.deed("redis-stop", 9.0, 19.0),
        lambda scene: scene.deed("script-flush", 1.2),
        lambda scene: scene.deed("pause", 1.2, 5.0),
    ],
    ids=range(10),
)
def test_deed_at_another_time_or_to_somebody_else_explains_nothing(
    deed: Callable[[Scene], Scene],
) -> None:
    scene = Scene().job().run(1.0, 1.5).run(6.0, 6.5, worker=OTHER)
    assert again(deed(scene)) == ({}, 1)


def test_worker_stopped_for_longer_than_the_lock_explains_it() -> None:
    scene = Scene().job().run(1.0, 6.0).run(5.0, 5.5, worker=OTHER)
    assert again(scene.deed("worker-stop", 1.2, 5.7, worker=WORKER)) == ({"worker-stop": 1}, 0)


def test_run_that_begins_late_because_its_worker_was_stopped_is_explained() -> None:
    scene = Scene().job().run(4.0, 4.5, worker=OTHER).event("completed", 4.5).run(6.0, 6.1)
    assert again(scene.deed("worker-stop", 1.0, 5.9, worker=WORKER)) == ({"worker-stop": 1}, 0)


def test_late_begin_between_an_attempt_and_the_next_hides_nothing() -> None:
    scene = Scene().job(attempts=2, demand=Demand(attempts=2, allowed=2))
    scene.run(5.0, 5.1, worker=OTHER, error="PlannedError: attempt 0", planned=True)
    scene.deed("worker-stop", 1.0, 6.0, worker=WORKER)
    scene.run(6.1, 6.2, worker=WORKER, error="JobCancelledError: lock lost")
    scene.run(9.0, 9.1, worker=OTHER, attempts_made=1)
    assert again(scene) == ({"worker-stop": 1, "attempt": 1}, 0)


def test_run_after_the_job_was_completed_is_not_explained_by_a_kill() -> None:
    scene = Scene().job().run(1.0, 1.5).event("completed", 1.5).run(6.0, 6.5, worker=OTHER)
    assert again(scene.deed("worker-kill", 1.6, worker=WORKER)) == ({}, 1)


def test_outage_as_long_as_the_time_between_renewals_explains_it_with_its_length() -> None:
    scene = Scene().job().run(1.0, 5.5).run(5.0, 5.5, worker=OTHER)
    scene.deed("redis-stop", 1.5, 3.5)
    assert again(scene) == ({"away": 1}, 0)
    assert scene.verdict().away == [pytest.approx(3.0)]


def test_outages_in_a_row_are_one() -> None:
    scene = Scene().job().run(1.0, 5.5).run(5.0, 5.5, worker=OTHER)
    scene.deed("half-open-locks", 1.5).deed("cut", 2.6).deed("half-open-locks", 2.8)
    assert again(scene) == ({"away": 1}, 0)


def test_outcome_that_could_not_be_stored_is_lost_with_its_worker() -> None:
    scene = Scene().job().run(1.0, 1.5).run(9.0, 9.5, worker=OTHER)
    scene.deed("redis-kill", 1.4, 2.4).deed("worker-kill", 3.0, worker=WORKER)
    assert again(scene) == ({"worker-kill": 1}, 0)


def test_attempt_that_was_not_demanded_is_not_explained() -> None:
    scene = Scene().job(attempts=2, demand=Demand(allowed=3))
    scene.run(1.0, 1.5).run(2.0, 2.5, attempts_made=1)
    found = scene.verdict()
    assert [v.kind for v in found.violations] == ["unexplained-duplicate", "wrong-attempts"]


def test_attempt_that_was_not_counted_is_not_explained() -> None:
    scene = Scene().job(attempts=2, demand=Demand(attempts=2, allowed=3))
    scene.run(1.0, 1.5, error="PlannedError", planned=True)
    assert again(scene.run(2.0, 2.5, attempts_made=0)) == ({}, 1)


def test_killed_child_uses_one_attempt() -> None:
    def scene() -> Scene:
        made = Scene().job(attempts=2, demand=Demand(allowed=3)).run(1.0, process=CHILD)
        return made.run(2.0, 2.5, attempts_made=1, process=CHILD + 1)

    killed = scene().deed("child-kill", 1.2, worker=WORKER, child=CHILD)
    assert again(killed) == ({"child-kill": 1}, 0)
    assert again(scene())[1] == 1


def test_killed_child_may_fail_the_job_only_if_no_attempt_is_left() -> None:
    def scene(allowed: int) -> Scene:
        made = Scene().job(place="failed", reason="SIGKILL", demand=Demand(allowed=allowed))
        made.run(1.0, process=CHILD)
        return made.deed("child-kill", 1.2, worker=WORKER, child=CHILD)

    assert kinds(scene(1)) == []
    assert kinds(scene(3)) == ["wrong-ending"]


def test_job_may_only_fail_as_stalled_when_it_lost_its_worker_often_enough() -> None:
    reason = "job stalled more than allowable limit"

    def scene(losses: int) -> Scene:
        made = Scene().job(place="failed", reason=reason)
        for number in range(losses):
            made.run(10.0 * number + 1, worker=number + 1)
            made.deed("worker-kill", 10.0 * number + 1.2, worker=number + 1)
        return made

    assert kinds(scene(4)) == []
    assert kinds(scene(3)) == ["wrong-ending"]


def test_parent_may_wait_for_a_child_that_was_killed_too_often() -> None:
    child = Spec("a-0", "flow-child", "isolated", {}, {}, Demand(allowed=1))

    def scene(*, is_killed: bool) -> Scene:
        made = Scene().job("a", place="waiting-children", children=(child,))
        made.job("a-0", place="failed", reason="was killed by SIGKILL")
        made.run(1.0, job="a-0", process=CHILD)
        if is_killed:
            made.deed("child-kill", 1.2, worker=WORKER, child=CHILD)
        return made

    assert kinds(scene(is_killed=True)) == []
    assert kinds(scene(is_killed=False)) == ["stuck", "wrong-ending"]


def test_history_has_events_runs_and_the_deeds_near_them_in_order() -> None:
    scene = Scene().job().event("added", 0.5).run(1.0, 1.5, error="OSError: no").deed("cut", 1.2)
    scene.deed("redis-kill", 90.0, 91.0).event("completed", 1.6)
    told = [line.split("s  ", 1)[1] for line in scene.evidence.history("a")]
    assert told == [
        "event    added",
        "run      began, attempts made 0, worker 100, process 100",
        "deed     cut",
        "run      OSError: no, process 100",
        "event    completed",
    ]


# -- what is told ----------------------------------------------------------------------------


async def broken_run(*_: object) -> Result:
    scene = Scene().job("a").run(1.0, 1.5).job("b", place="active").event("active", 2.0, "b")
    scene.deed("cut", 1.2)
    return Result(scene.evidence, Deeds())


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.setattr(controller, "run", broken_run)
    # `main` empties the environment for the processes that it starts.
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return ["--seed", "5", "--keep", str(tmp_path / "kept")]


def test_broken_run_ends_with_code_1_and_the_history_of_the_job(
    broken: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*broken, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], found["verdict"], found["broken"]) == (5, "fail", {"stuck": 1})
    (violation,) = found["violations"]
    assert (violation["kind"], violation["job"]) == ("stuck", "b")
    assert [line.split("s  ", 1)[1] for line in violation["history"]] == [
        "deed     cut",
        "event    active",
    ]
    assert json.loads((tmp_path / "kept" / "result.json").read_text()) == found


def test_broken_run_is_told_to_people_too(
    broken: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(broken) == 1
    told = capsys.readouterr().out
    assert "verdict     fail  1 stuck" in told
    assert "stuck: b it still stands in active" in told
    assert "event    active" in told


def test_folder_to_keep_must_be_empty(broken: list[str], tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "ledger").touch()
    assert main(broken) == 1


# -- the ledger ------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ledger.PATH_VARIABLE, str(tmp_path / "ledger"))
    monkeypatch.setenv(ledger.WORKER_VARIABLE, str(WORKER))
    return tmp_path / "ledger"


def job(job_id: str = "a", attempts_made: int = 0, **data: Any) -> Any:
    return SimpleNamespace(
        id=job_id, attemptsMade=attempts_made, data={"work": 0, "fails": 0} | data
    )


def test_ledger_tells_a_finished_run_from_a_failed_and_a_cut_one(written: Path) -> None:
    reader = Reader(written)
    reader.read()
    assert work.isolated(job()) == {"id": "a"}
    with pytest.raises(PlannedError):
        work.crunch(job("b", fails=1))
    with pytest.raises(TimeoutError), ledger.run_of(job("c", 2)):
        raise TimeoutError("too long")
    cut_off = ledger.run_of(job("d"))
    cut_off.__enter__()
    ledger.note("ready")
    reader.read()
    finished, planned, failed, cut = reader.runs
    assert (finished.job, finished.worker, finished.finished) == ("a", WORKER, True)
    assert (planned.planned, planned.finished) == (True, False)
    assert (failed.error, failed.planned, failed.attempts_made) == (
        *("TimeoutError: too long", False, 2),
    )
    assert cut.end is None
    assert reader.open_runs() == [cut]
    assert list(reader.ready) == [finished.process]


def test_ledger_waits_for_the_rest_of_a_line(written: Path) -> None:
    reader = Reader(written)
    written.write_text('{"event": "ready", "pid": 5, "at": 1.0}\n{"event": "rea')
    reader.read()
    assert reader.ready == {5: 1.0}
    with written.open("a") as file:
        file.write('dy", "pid": 6, "at": 2.0}\n')
    reader.read()
    assert reader.ready == {5: 1.0, 6: 2.0}


async def test_processors_do_what_the_payload_says(written: Path) -> None:
    assert await work.plain(job()) == {"id": "a"}

    async def children() -> dict[str, Any]:
        return {"x": {"id": "c2"}, "y": {"id": "c1"}}

    parent = job()
    parent.get_children_values = children
    assert await work.gather(parent) == {"id": "a", "children": ["c1", "c2"]}
    values = await children()
    parent.get_children_values = lambda: values
    assert work.gather_isolated(parent) == {"id": "a", "children": ["c1", "c2"]}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await work.hang_on_loop(job())


# -- the draw --------------------------------------------------------------------------------


def test_seed_decides_the_plan_and_the_faults() -> None:
    assert plan.draw(1, 10, 20, 4).entries == plan.draw(1, 10, 20, 4).entries
    assert plan.draw(1, 10, 20, 4).entries != plan.draw(2, 10, 20, 4).entries
    assert faults.draw(1, 30, 4) == faults.draw(1, 30, 4)
    assert faults.draw(1, 30, 4) != faults.draw(2, 30, 4)


def test_plan_has_all_kinds_in_time_order_and_as_many_bad_ones_as_asked() -> None:
    drawn = plan.draw(1, 60, 20, 4)
    assert len(drawn.entries) == 1200
    found = [spec.kind for spec in drawn.entries]
    assert set(found) == set(plan.GOOD_KINDS) | set(plan.BAD_KINDS)
    assert sum(kind in plan.BAD_KINDS for kind in found) == 48
    assert [spec.at for spec in drawn.entries] == sorted(spec.at for spec in drawn.entries)
    assert {spec.producer for spec in drawn.entries} == set(plan.PRODUCERS)
    assert len(drawn.jobs()) > 1200


def test_faults_are_all_done_before_one_is_done_again() -> None:
    drawn = [fault.kind for fault in faults.draw(3, 2 * len(faults.FAULTS), 4)]
    assert set(drawn[: len(faults.FAULTS)]) == set(faults.FAULTS)
    assert {drawn.count(kind) for kind in faults.FAULTS} == {2}


def test_deeds_are_counted_by_fault() -> None:
    seen: list[Deed] = []
    deeds = Deeds(seen.append)
    deeds.over(deeds.note("cut"))
    deeds.note("worker-ended")
    assert deeds.counts() == {"cut": 1}
    assert [deed.kind for deed in seen] == ["cut", "worker-ended"]


def test_names_of_schedulers_and_iterations_are_told_apart() -> None:
    assert state.is_scheduler("repeat:node-every")
    assert state.is_iteration("repeat:node-every:1795574354000")
    assert not state.is_iteration("t1")
    assert isinstance(State().jobs, dict)
