from typing import Any

class Worker:
    name: str
    opts: dict[str, Any]
    prefix: str
    keys: dict[str, str]
    qualifiedName: str
    id: str
    async def _scheduleNextIteration(self, job: Any) -> None: ...
