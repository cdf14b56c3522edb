from typing import Any

class QueueEvents:
    name: str
    opts: dict[str, Any]
    prefix: str
    keys: dict[str, str]
    qualifiedName: str
