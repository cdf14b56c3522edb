"""The public names: each can be imported, and none costs anything before it is used."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import bullpy

ROOT = Path(bullpy.__file__).parents[1]


@pytest.mark.parametrize("name", bullpy.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    value = getattr(bullpy, name)
    assert name == "__version__" or callable(value)


def test_names_are_sorted_unique_and_shown() -> None:
    assert sorted(set(bullpy.__all__)) == bullpy.__all__
    assert dir(bullpy) == bullpy.__all__


def test_lazy_names_and_the_names_for_type_checkers_are_the_same() -> None:
    source = inspect.getsource(bullpy)
    block = source.split("if TYPE_CHECKING:", 2)[1].split("_HOMES")[0]
    for name in bullpy._HOMES:
        assert name in block, f"{name} is not imported for type checkers"
    assert {*bullpy._HOMES, "__version__"} == {*bullpy.__all__}


def test_every_public_class_of_a_home_module_is_exported() -> None:
    """A module that gives a name to the package gives all of its public classes."""
    exported = {getattr(bullpy, name) for name in bullpy._HOMES}
    # Public for who needs them by name, and documented there; not part of the front page.
    elsewhere = {"bullpy.errors", "bullpy.types", "bullpy.connection.identity", "bullpy.queue"}
    for home in {home.partition(":")[0] for home in bullpy._HOMES.values()} - elsewhere:
        if not home.startswith("bullpy"):
            continue
        for name, value in vars(importlib.import_module(home)).items():
            if name.startswith("_") or getattr(value, "__module__", "") != home:
                continue
            if inspect.isclass(value):
                assert value in exported, f"{home}.{name} is not exported by bullpy"


def test_unknown_names_raise_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Wroker'"):
        _ = bullpy.Wroker  # type: ignore[attr-defined]


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ["redis", "bullmq", "pydantic", "orjson", "numpy", "rich", "typer", "asyncio"]
    code = f"import sys, bullpy; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_rate_limit_error_is_upstreams_name_for_ours() -> None:
    assert bullpy.RateLimitError is bullpy.RateLimited
