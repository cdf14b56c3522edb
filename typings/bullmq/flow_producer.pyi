from typing import Any

class FlowProducer:
    opts: dict[str, Any]
    prefix: str
    closing: bool
    async def add(self, flow: dict[str, Any], opts: dict[str, Any] = ...) -> dict[str, Any] | None: ...
    async def addBulk(self, flows: list[dict[str, Any]]) -> list[dict[str, Any]] | None: ...
