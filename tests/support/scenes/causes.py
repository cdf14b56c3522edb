"""All scenes, in the order of the causes."""

from __future__ import annotations

from support.scenes import healthy, jobs, servers, where, workers
from support.scenes.scene import SCENES

MODULES = (where, workers, jobs, servers, healthy)
"""Importing them is what fills the list."""

ALL = tuple(sorted(SCENES, key=lambda scene: scene.number or 99))
"""Those of causes by number, then the healthy ones."""

OF_CAUSES = tuple(scene for scene in ALL if scene.number)
HEALTHY = tuple(scene for scene in ALL if not scene.number)
