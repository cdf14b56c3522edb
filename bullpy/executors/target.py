"""How a child process finds a processor: by module and name, never by pickling it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self, cast

from bullpy import errors


@dataclass(frozen=True, slots=True)
class Target:
    """Where a function is.

    Attributes:
        module: The name under which its module is imported.
        file: The module's file, where importing the name would not find it: a script, or a
            file that the command line loaded by its path.
        qualname: Its name in the module, such as `analyze` or `Analyzer.run`.
    """

    module: str
    file: str | None
    qualname: str

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Self:
        """Where this function is.

        Raises:
            errors.ProcessorError: A child process could not find it: it is a lambda, local to a
                function, a bound method, or its module is none that can be imported.
        """
        name = getattr(function, "__module__", None)
        qualname = getattr(function, "__qualname__", None)
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is None or not isinstance(qualname, str):
            raise _unreachable(function, "it is no function of a module")
        if "<" in qualname:
            raise _unreachable(function, "it is local to a function, or a lambda")
        found = _attribute(module, qualname)
        if found is not function and found != function:
            raise _unreachable(function, f"{qualname} of {name} is something else")
        return cls(*_place(function, module), qualname)

    def load(self) -> Callable[..., Any]:
        """Import the module and give the function. Raises whatever the module raises."""
        module = self._module()
        found = _attribute(module, self.qualname)
        if not callable(found):
            raise errors.ProcessorError(
                f"{self.module} has no function {self.qualname!r}.",
                cause="The file has changed since the worker started.",
                fix="Restart the worker.",
            )
        return cast("Callable[..., Any]", found)

    def _module(self) -> ModuleType:
        if self.module in sys.modules:
            return sys.modules[self.module]
        if self.file is None:
            return importlib.import_module(self.module)
        spec = importlib.util.spec_from_file_location(self.module, self.file)
        if spec is None or spec.loader is None:
            raise errors.ProcessorError(f"{self.file} cannot be loaded.", fix="Is it a .py file?")
        module = importlib.util.module_from_spec(spec)
        # Type hints and pickle look the module up by its name.
        sys.modules[self.module] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[self.module]
            raise
        return module


def _place(function: Callable[..., Any], module: ModuleType) -> tuple[str, str | None]:
    """The name to import, and the file where that would not find the module."""
    name, file = module.__name__, getattr(module, "__file__", None)
    if name == "__main__":
        spec = module.__spec__
        if spec is not None:
            # python -m package.module
            return spec.name, None
        if file is None:
            raise _unreachable(function, "it was typed in, not loaded from a file")
        path = Path(file).resolve()
        name = path.stem if path.stem not in sys.modules else f"bullpy_target_{path.stem}"
        return name, str(path)
    if file is not None and _found_by_name(name) != file:
        return name, str(Path(file).resolve())
    return name, None


def _found_by_name(name: str) -> str | None:
    """The file that importing the name in a new process would load."""
    parent, _, _ = name.rpartition(".")
    path: Any = None
    if parent:
        path = getattr(sys.modules.get(parent), "__path__", None)
    for finder in sys.meta_path:
        # Not importlib.util.find_spec: that asks sys.modules first, which knows the module.
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec.origin
    return None


def _attribute(module: ModuleType, qualname: str) -> object:
    found: object = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _unreachable(function: Callable[..., Any], why: str) -> errors.ProcessorError:
    name = getattr(function, "__qualname__", repr(function))
    return errors.ProcessorError(
        f"{name} cannot run in a child process: {why}.",
        cause="A child imports its processor by module and name.",
        fix='Make it a function of a module, or say isolation="thread".',
    )
