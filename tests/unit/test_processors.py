"""Which functions can be processors, and what their annotations mean."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from bullpy import Isolation, Job, errors
from bullpy.limits import Limits
from bullpy.processors import ProcessorTable, plugin


class Model(BaseModel):
    key: str
    count: int = 1


@dataclasses.dataclass
class Record:
    key: str


class Typed(TypedDict):
    key: str


async def on_loop(job: Job[Any]) -> None: ...
def plain(job: Job[Any]) -> None: ...
async def as_upstream(job: Any, token: str) -> None: ...
async def with_signal(job: Any, token: str, signal: Any) -> None: ...
def with_more(job: Any, *, option: int = 1) -> None: ...


class AsyncInstance:
    async def __call__(self, job: Job[Model]) -> None: ...

    def method(self, job: Job[Model]) -> None: ...


@pytest.mark.parametrize(
    ("target", "isolation", "arguments"),
    [
        (on_loop, Isolation.LOOP, 1),
        (plain, Isolation.PROCESS, 1),
        (as_upstream, Isolation.LOOP, 2),
        (with_signal, Isolation.LOOP, 3),
        (with_more, Isolation.PROCESS, 1),
        (AsyncInstance(), Isolation.LOOP, 1),
        # No child process could find these by module and name.
        (lambda job: None, Isolation.THREAD, 1),
        (lambda *args: None, Isolation.THREAD, 3),
        (functools.partial(plain), Isolation.THREAD, 1),
        (AsyncInstance().method, Isolation.THREAD, 1),
    ],
)
def test_where_a_function_runs_and_what_it_is_given(
    target: Any, isolation: Isolation, arguments: int
) -> None:
    processor = ProcessorTable().add(target)
    processor.prepare()
    assert (processor.isolation, processor.arguments) == (isolation, arguments)
    assert processor.wants_signal is (arguments == 3)


def test_a_function_that_no_child_finds_is_said_to_run_in_a_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ProcessorTable().add(lambda job: None).prepare()
    assert "local to a function, or a lambda" in caplog.text
    assert "runs in a thread instead" in caplog.text


@pytest.mark.parametrize("options", [{"isolation": "process"}, {"limits": Limits.of(memory="1GB")}])
def test_a_function_that_only_a_child_may_run_must_be_found_by_one(options: Any) -> None:
    processor = ProcessorTable().add(lambda job: None, **options)
    with pytest.raises(errors.ProcessorError, match="imports its processor by module and name"):
        processor.prepare()


@pytest.mark.parametrize(
    ("default", "plain_where", "async_where"),
    [
        (Isolation.PROCESS, Isolation.PROCESS, Isolation.PROCESS),
        (Isolation.THREAD, Isolation.THREAD, Isolation.LOOP),
        (Isolation.LOOP, Isolation.LOOP, Isolation.LOOP),
    ],
)
def test_a_workers_isolation_is_for_processors_without_their_own(
    default: Isolation, plain_where: Isolation, async_where: Isolation
) -> None:
    table = ProcessorTable(default)
    assert table.add(plain, "plain").isolation is plain_where
    assert table.add(on_loop, "async").isolation is async_where
    assert table.add(plain, "own", isolation="thread").isolation is Isolation.THREAD


@pytest.mark.parametrize("limit", [{"memory": "1GB"}, {"cpu": 1.0}])
@pytest.mark.parametrize(("target", "isolation"), [("plain", "thread"), ("on_loop", None)])
def test_memory_and_cpu_are_limited_in_child_processes_alone(
    limit: Any, target: str, isolation: str | None
) -> None:
    function = {"plain": plain, "on_loop": on_loop}[target]
    with pytest.raises(errors.ProcessorError, match='isolation="process"'):
        ProcessorTable().add(function, isolation=isolation, limits=Limits.of(**limit))


@pytest.mark.parametrize(
    "target",
    [
        lambda: None,
        lambda a, b, c, d: None,
        lambda job, *, needed: None,
        "module:function",
        None,
    ],
    ids=["no argument", "four", "keyword without default", "text", "None"],
)
def test_what_cannot_be_called_with_a_job_is_refused(target: Any) -> None:
    with pytest.raises(errors.ProcessorError):
        ProcessorTable().add(target)


@pytest.mark.parametrize("isolation", ["thread", "elsewhere"])
def test_isolation_that_does_not_fit_is_refused(isolation: str) -> None:
    with pytest.raises(errors.ProcessorError):
        ProcessorTable().add(on_loop, isolation=isolation)


def test_each_name_has_one_processor_and_the_rest_goes_to_the_default() -> None:
    table = ProcessorTable()
    assert not table
    named, default = table.add(on_loop, "a"), table.add(plain)
    assert table
    assert table.job_names == ["a"]
    assert (table.find("a"), table.find("b")) == (named, default)
    with pytest.raises(errors.ProcessorError, match="already"):
        table.add(plain, "a")
    with pytest.raises(errors.ProcessorError, match="all other jobs"):
        table.add(on_loop)


def test_without_a_default_other_names_have_none() -> None:
    table = ProcessorTable()
    table.add(on_loop, "a")
    assert table.find("b") is None


def job_with(data: Any) -> Any:
    return SimpleNamespace(id="7", data=data)


def loaded(target: Any, data: Any) -> Any:
    processor = ProcessorTable().add(target)
    processor.prepare()
    job = job_with(data)
    processor.load_payload(job)
    return job.data


def takes_model(job: Job[Model]) -> None: ...
def takes_record(job: Job[Record]) -> None: ...
def takes_typed(job: Job[Typed]) -> None: ...
def takes_list(job: Job[list[int]]) -> None: ...
def takes_dict(job: Job[dict[str, Any]]) -> None: ...
def takes_any(job: Job[Any]) -> None: ...
def takes_unknown(job) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("target", "data", "expected"),
    [
        (takes_model, {"key": "a"}, Model(key="a")),
        (AsyncInstance(), {"key": "a"}, Model(key="a")),
        (AsyncInstance().method, {"key": "a"}, Model(key="a")),
        (takes_record, {"key": "a"}, Record("a")),
        (takes_typed, {"key": "a"}, {"key": "a"}),
        (takes_list, ["1", 2], [1, 2]),
        (takes_dict, {"any": 1}, {"any": 1}),
        (takes_any, 5, 5),
        (takes_unknown, None, None),
    ],
)
def test_data_becomes_what_the_annotation_says(target: Any, data: Any, expected: Any) -> None:
    assert loaded(target, data) == expected


@pytest.mark.parametrize(
    ("target", "data", "named"),
    [
        (takes_model, {"count": "many"}, ["key", "count", "Model"]),
        (takes_model, None, ["data", "Model"]),
        (takes_record, {}, ["key", "Record"]),
        (takes_typed, {}, ["key", "Typed"]),
        (takes_list, ["x"], ["0"]),
    ],
)
def test_data_that_breaks_the_model_names_the_fields(
    target: Any, data: Any, named: list[str]
) -> None:
    with pytest.raises(errors.PayloadError) as broken:
        loaded(target, data)
    assert all(name in str(broken.value) for name in named)


def test_annotations_that_cannot_be_resolved_are_told_before_the_first_job() -> None:
    def process(job: Job[NotThere]) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    table = ProcessorTable()
    table.add(process)
    with pytest.raises(errors.ProcessorError, match="NotThere"):
        table.prepare()


def test_types_that_pydantic_cannot_validate_are_told_before_the_first_job() -> None:
    def process(job: Job[list[SimpleNamespace]]) -> None: ...

    table = ProcessorTable()
    table.add(process)
    with pytest.raises(errors.ProcessorError, match="SimpleNamespace") as told:
        table.prepare()
    assert told.value.fix


def test_a_plugin_that_is_not_installed_is_told() -> None:
    with pytest.raises(errors.ProcessorError, match="No installed plugin"):
        plugin("not there")
