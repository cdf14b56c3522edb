"""Which functions a child process can find, and how."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import isolated

from bullpy import errors
from bullpy.executors.target import Target


class Holder:
    @staticmethod
    def static(job: Any) -> Any:
        return job

    @classmethod
    def of_class(cls, job: Any) -> Any:
        return job

    def method(self, job: Any) -> Any:
        return job

    def __call__(self, job: Any) -> Any:
        return job

    class Inner:
        @staticmethod
        def deep(job: Any) -> Any:
            return job


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def around(job: Any) -> Any:
        return ("around", function(job))

    return around


@decorated
def wrapped(job: Any) -> Any:
    return job


def original(job: Any) -> Any:
    return job


replaced = original


def original(job: Any) -> Any:  # type: ignore[no-redef]
    return ("another", job)


@pytest.fixture(autouse=True)
def _same_modules() -> Iterator[None]:
    before, path = dict(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)


def test_function_of_a_module_is_found_by_its_name() -> None:
    target = Target.of(isolated.good)
    assert target == Target("support.isolated", None, "good")
    assert target.load() is isolated.good


@pytest.mark.parametrize(
    ("function", "qualname"),
    [
        (Holder.static, "Holder.static"),
        (Holder.of_class, "Holder.of_class"),
        (Holder.Inner.deep, "Holder.Inner.deep"),
        (wrapped, "wrapped"),
    ],
)
def test_what_hangs_on_a_module_is_found(function: Any, qualname: str) -> None:
    target = Target.of(function)
    assert target.qualname == qualname
    assert target.load()(5) == function(5)


def local() -> Callable[..., Any]:
    def inside(job: Any) -> Any:
        return job

    return inside


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda job: job, "lambda"),
        (local(), "local to a function"),
        (Holder().method, "something else"),
        (Holder(), "no function of a module"),
        (functools.partial(isolated.good), "no function of a module"),
        (replaced, "something else"),
        (print.__call__, ""),
    ],
    ids=["lambda", "local", "bound method", "instance", "partial", "replaced", "built-in method"],
)
def test_what_no_child_can_find_is_refused_with_the_reason(function: Any, why: str) -> None:
    with pytest.raises(errors.ProcessorError, match="cannot run in a child process") as raised:
        Target.of(function)
    assert why in str(raised.value)
    assert 'isolation="thread"' in str(raised.value)


def module_from(file: Path, name: str) -> ModuleType:
    """Load a file under a name, as scripts and the command line do."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def as_main(file: Path, spec: importlib.machinery.ModuleSpec | None = None) -> ModuleType:
    module = ModuleType("__main__")
    module.__file__ = str(file)
    module.__spec__ = spec
    sys.modules["__main__"] = module
    exec(compile(file.read_text(), file, "exec"), vars(module))
    return module


SOURCE = "def process(job):\n    return ('own', job)\n"


def test_file_that_no_name_finds_is_found_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "loaded_by_path.py"
    file.write_text(SOURCE)
    target = Target.of(module_from(file, "loaded_by_path").process)
    assert target == Target("loaded_by_path", str(file.resolve()), "process")
    del sys.modules["loaded_by_path"]
    assert target.load()(1) == ("own", 1)
    # Pickle and type hints look the module up by its name.
    assert "loaded_by_path" in sys.modules


def test_file_whose_name_finds_another_file_is_found_by_its_path(tmp_path: Path) -> None:
    # A user's queue.py, loaded by its path.
    file = tmp_path / "queue.py"
    file.write_text(SOURCE)
    target = Target.of(module_from(file, "queue").process)
    assert target.file == str(file.resolve())


def test_script_is_loaded_under_its_own_name(tmp_path: Path) -> None:
    file = tmp_path / "some_script.py"
    file.write_text(SOURCE + "is_main = __name__ == '__main__'\n")
    target = Target.of(as_main(file).process)
    assert target == Target("some_script", str(file.resolve()), "process")
    target.load()
    assert sys.modules["some_script"].is_main is False


def test_script_with_the_name_of_a_module_does_not_replace_it(tmp_path: Path) -> None:
    import json

    file = tmp_path / "json.py"
    file.write_text(SOURCE)
    target = Target.of(as_main(file).process)
    assert target.module != "json"
    assert target.load()(1) == ("own", 1)
    assert sys.modules["json"] is json


def test_module_that_is_run_is_found_by_its_real_name(tmp_path: Path) -> None:
    file = tmp_path / "worker.py"
    file.write_text(SOURCE)
    spec = importlib.machinery.ModuleSpec("package.worker", None, origin=str(file))
    assert Target.of(as_main(file, spec).process) == Target("package.worker", None, "process")


def test_what_was_typed_in_is_refused() -> None:
    module = ModuleType("__main__")
    module.__spec__ = None
    sys.modules["__main__"] = module
    exec(SOURCE, vars(module))
    with pytest.raises(errors.ProcessorError, match="typed in"):
        Target.of(module.process)


def test_function_that_is_gone_is_told(tmp_path: Path) -> None:
    file = tmp_path / "changed_later.py"
    file.write_text(SOURCE)
    target = Target.of(module_from(file, "changed_later").process)
    del sys.modules["changed_later"]
    file.write_text("process = 5  # no function any more\n")
    with pytest.raises(errors.ProcessorError, match=r"no function 'process'.*Restart"):
        target.load()


def test_module_that_raises_is_no_module_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "raising.py"
    file.write_text(SOURCE)
    target = Target.of(module_from(file, "raising").process)
    del sys.modules["raising"]
    file.write_text("raise KeyboardInterrupt('on import')  # longer\n")
    with pytest.raises(KeyboardInterrupt, match="on import"):
        target.load()
    assert "raising" not in sys.modules
    # Mended: another length, since a second is not enough for the cache of bytecode.
    file.write_text(SOURCE + "# mended\n")
    assert target.load()(1) == ("own", 1)


def test_module_in_a_package_that_was_found_by_its_path_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inside.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("some_package.inside")
    assert Target.of(module.process) == Target("some_package.inside", None, "process")
