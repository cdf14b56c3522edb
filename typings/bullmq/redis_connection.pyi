from typing import Any

SCRIPT_DEFINITIONS: dict[str, str]

class RedisConnection:
    capabilities: dict[str, bool]
    version: str | None
    skipVersionCheck: bool
    commands: dict[str, Any]
    @property
    def conn(self) -> Any: ...
