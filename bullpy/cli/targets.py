"""What `bullpy worker` is asked to run: workers in modules and files, processors of plugins."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import cast

from bullpy import errors
from bullpy.worker import Worker


def load(target: str) -> list[Worker]:
    """The workers that a target names.

    Args:
        target: `module`, `module:attribute`, `path/to/file.py` or `path/to/file.py:attribute`.
            The current folder is searched first, and for a file its own folder too.

    Raises:
        errors.ProcessorError: The module, the attribute or a worker in it is missing, or the
            module raises when it is loaded.
        errors.BullpyError: What the module itself raised of ours, such as a wrong setting.
    """
    name, _, attribute = target.partition(":")
    contents = _contents(name)
    if attribute:
        return [_named(contents, name, attribute)]
    found = [value for value in contents.values() if isinstance(value, Worker)]
    if not found:
        raise errors.ProcessorError(
            f"{name} holds no Worker.", fix="Create one there: worker = Worker('queue-name')."
        )
    return list(dict.fromkeys(found))


def of_plugins(job_names: list[str], queue: str) -> Worker:
    """A worker of that queue with the processors that plugins offer for these job names.

    Raises:
        errors.ProcessorError: No plugin offers one.
        errors.ConfigurationError: The queue's name or a setting is wrong.
    """
    worker = Worker(queue)
    for name in job_names:
        worker.add_plugin(name)
    return worker


def _named(contents: dict[str, object], name: str, attribute: str) -> Worker:
    first, *rest = attribute.split(".")
    found = contents.get(first)
    for part in rest:
        found = getattr(found, part, None)
    if isinstance(found, Worker):
        return found
    there = sorted(key for key, value in contents.items() if isinstance(value, Worker))
    raise errors.ProcessorError(
        f"{name} has no {attribute!r}."
        if found is None
        else f"{name}:{attribute} is a {type(found).__name__}, not a Worker.",
        cause=f"The workers there: {', '.join(there) or 'none'}.",
        fix="Correct the name after the colon.",
    )


def _contents(name: str) -> dict[str, object]:
    """Import a module by its name, or a file by its path; gives what it holds."""
    path = Path(name)
    _search_first(Path.cwd())
    is_file = path.suffix == ".py" or "/" in name
    if is_file:
        if not path.is_file():
            raise errors.ProcessorError(
                f"There is no file {name}.", fix="Give the path from the folder you are in."
            )
        _search_first(path.resolve().parent)
    try:
        module = _file(path) if is_file else importlib.import_module(name)
    except errors.BullpyError:
        raise
    except ModuleNotFoundError as missing:
        raise errors.ProcessorError(
            f"{name} cannot be loaded: {missing}.",
            cause="It is not installed, or the command runs in another folder.",
            fix="Run it where the module lies, or install it in this environment.",
        ) from missing
    except Exception as error:
        raise errors.ProcessorError(
            f"{name} cannot be loaded: {errors.describe(error)}",
            cause="The module raised this when it was imported.",
            fix="Correct it; --traceback shows where it happened.",
        ) from error
    return cast("dict[str, object]", vars(module))


def _file(path: Path) -> object:
    # A name of its own where the file is called like a module that is loaded, such as json.py.
    name = path.stem if path.stem not in sys.modules else f"bullpy_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Pickle and type hints look the module up by its name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _search_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
