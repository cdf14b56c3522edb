"""Puts the compiled audio kernel into wheels, when it can be built; hatchling calls this.

A wheel with the kernel is for this platform and any Python 3 (it is loaded with ctypes);
without a compiler, or with BULLPY_BUILD_KERNEL=0, the wheel is pure Python. An editable
installation gets the kernel beside its sources.
"""

from __future__ import annotations

import platform
import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_KERNEL = "bullpy/audio/kernel"


class KernelHook(BuildHookInterface[Any]):
    """Builds the kernel before the files of a wheel are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build it, and name the platform in the wheel's tag when that went well."""
        kernel = runpy.run_path(str(Path(self.root, _KERNEL, "build.py")))
        if not kernel["wanted"]():
            return
        try:
            if version == "editable" and kernel["is_current"]():
                return
            library = kernel["build"]()
        except kernel["BuildError"] as error:
            self.app.display_warning(f"audio kernel: not built, numpy is used: {error}")
            return
        if version != "editable":
            build_data["force_include"][str(library)] = f"{_KERNEL}/{library.name}"
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform_tag()}"


def _platform_tag() -> str:
    # A universal Python on macOS builds for the machine it runs on.
    name = sysconfig.get_platform().replace("universal2", platform.machine())
    return name.replace("-", "_").replace(".", "_")
