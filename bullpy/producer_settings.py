"""What a `Queue` reads of the environment besides where Redis is."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from bullpy.setting_types import Pause, Settings


class ProducerSettings(Settings):
    """How a process that adds jobs lets itself be seen.

    Attributes:
        heartbeat: Shortest time between two records that it leaves in Redis, in seconds; 0 leaves
            none. As that of workers.
    """

    model_config = SettingsConfigDict(
        env_prefix="BULLPY_", env_ignore_empty=True, frozen=True, extra="forbid"
    )

    heartbeat: Pause = 15.0
